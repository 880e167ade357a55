"""For whom an instance ran. Pure.

While an instance works, each moment belongs to the invocations that it holds just then, in equal parts: with
four of them, a quarter to each. What it took to start, and the time in which it held none, is borne by those
that it worked for on the same day (UTC), in proportion to the time that was theirs. Where there are none, it
is nobody's: the endpoint's owner bears it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Span:
    """An instance's time within some bounds: `begin` to `end`, of which it took `starting_s` to start."""

    begin: float
    end: float
    starting_s: float

    @property
    def total_s(self) -> float:
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Shares:
    """What each hold has of the instance's working time, in s, and the most holds at a time."""

    busy_s: NDArray[np.float64]
    most_held: int


def span(
    *, starting_at: float, in_service_at: float | None, ended_at: float, since: float, until: float
) -> Span | None:
    """An instance's time within since..until; None when it did not run then."""
    begin, end = max(starting_at, since), min(ended_at, until)
    if begin >= end:
        return None
    came_up = ended_at if in_service_at is None else in_service_at
    return Span(begin, end, max(0.0, min(came_up, end) - begin))


def share(holds: Sequence[tuple[float, float]]) -> Shares:
    """Divide the time in which an instance holds invocations among them. holds: (begin, end) of each."""
    count = len(holds)
    if not count:
        return Shares(np.empty(0), 0)
    begins, ends = np.array(holds, dtype=np.float64).T
    times = np.concatenate((begins, ends))
    # At one moment ends come first: then nothing is held twice by those that follow one another.
    order = np.lexsort((np.arange(2 * count) < count, times))
    held = np.cumsum(np.where(order < count, 1, -1))
    elapsed = np.diff(times[order])
    # How much one that is held all the time would have by each moment: the difference is what each has.
    of_one = np.concatenate(([0.0], np.cumsum(elapsed / np.maximum(held[:-1], 1) * (held[:-1] > 0))))
    at = np.empty(2 * count)
    at[order] = of_one
    return Shares(at[count:] - at[:count], int(held.max()))
