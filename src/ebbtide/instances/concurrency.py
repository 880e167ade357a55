"""How many invocations an instance works on at a time: as asked for, or as found to be best. Pure.

Throughput rises with concurrency up to a knee; beyond it requests only wait inside the instance, where they
cost memory and cannot go to another one. The knee is searched for while there is always work waiting: the
limit goes up by halves as long as that finishes noticeably more a second, down as long as it costs next to
nothing, and then stays where the fewest at a time do nearly the most. What is found holds for a while.
"""

from collections.abc import Callable
from math import ceil

GAIN = 0.05
"""More throughput than this is worth more requests at a time; less lost is worth fewer."""

STEP = 1.5
"""From one limit to the next."""

MOST = 32
"""The most at a time that is searched for: threads of a model server that starts."""

SEARCH_AGAIN_S = 600.0
"""How long a knee is believed."""

WINDOW_ROUNDS, WINDOW_COUNT, WINDOW_S = 8, 32, 20.0
"""A throughput is measured over so many completions of each slot, and so many in all or so many s."""

Room = Callable[[int, int], str | None]
"""Given the limit now and another: why so many do not fit into the instance's memory; None when they do."""


class Concurrency:
    """One instance's limit. `limit`: invocations at a time; `cause`: why so many, for an operator."""

    def __init__(self, limit: int, cause: str) -> None:
        self.limit = limit
        self.cause = cause

    def finished(self, now: float, *, saturated: bool) -> None:
        """An invocation is done; saturated: all slots were in use, and more work was waiting."""


class Search(Concurrency):
    """Looks for the knee. Its `settled` is None while it searches, else when it was found."""

    def __init__(self, start: int, room: Room, *, most: int = MOST) -> None:
        super().__init__(start, f"searching, from {start} at a time")
        self.settled: float | None = None
        self._most = most
        self._room = room
        self._measured: dict[int, float] = {}
        self._full: str | None = None
        self._begin()

    def finished(self, now: float, *, saturated: bool) -> None:
        if self.settled is not None:
            if now - self.settled < SEARCH_AGAIN_S:
                return
            self.settled, self._full, self._measured = None, None, {}
            self._begin()
        if not saturated:
            self._begin()
            return
        # What finishes first was begun under another limit.
        self._count += 1
        if self._count <= self.limit:
            self._since = now
            return
        count, elapsed_s = self._count - self.limit, now - self._since
        enough = count >= WINDOW_ROUNDS * self.limit and (count >= WINDOW_COUNT or elapsed_s >= WINDOW_S)
        if enough and elapsed_s > 0:
            self._measured[self.limit] = count / elapsed_s
            self._go_on(now)

    def _begin(self) -> None:
        """Measure from here."""
        self._count = 0
        self._since = 0.0

    def _go_on(self, now: float) -> None:
        """Try the next limit, or settle."""
        self._begin()
        limit = self._up()
        if limit is None:
            limit = self._down()
        if limit is None:
            self._settle(now)
        else:
            self.limit = limit
            self.cause = f"searching: {self._told()}"

    def _up(self) -> int | None:
        """More at a time than ever tried, while the latest increase was worth it."""
        tried = sorted(self._measured)
        highest = tried[-1]
        below = self._measured[tried[-2]] if len(tried) > 1 else 0.0
        if highest >= self._most or self._measured[highest] < (1 + GAIN) * below:
            return None
        limit = min(self._most, ceil(highest * STEP))
        self._full = self._room(self.limit, limit)
        return None if self._full else limit

    def _down(self) -> int | None:
        """Fewer at a time than ever tried, while the fewest tried do nearly the most."""
        fewest = min(self._measured)
        if fewest == 1 or self._measured[fewest] < (1 - GAIN) * max(self._measured.values()):
            return None
        return max(1, int(fewest / STEP))

    def _settle(self, now: float) -> None:
        best = max(self._measured.values())
        enough = [limit for limit, rate in self._measured.items() if rate >= (1 - GAIN) * best]
        self.limit = min(enough)
        self.settled = now
        self.cause = f"found: {self._told()}"
        if self._full:
            self.cause += f"; {self._full}"

    def _told(self) -> str:
        rates = [f"{limit} at a time finish {rate:.4g}/s" for limit, rate in sorted(self._measured.items())]
        return ", ".join(rates)


def room(
    *, idle_bytes: int, resident_bytes: int, limit_bytes: int | None, limit: int, count: int
) -> str | None:
    """Why `count` at a time would not fit, where `limit` now take what was not there when idle; else None."""
    if limit_bytes is None:
        return None
    each_bytes = max(0, resident_bytes - idle_bytes) / limit
    expected_bytes = idle_bytes + each_bytes * count
    if expected_bytes <= limit_bytes:
        return None
    return f"{count} at a time would take {expected_bytes / 2**30:.1f} of {limit_bytes / 2**30:.1f} GiB"
