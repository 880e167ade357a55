"""What a simulated run comes to: how long requests waited, what expired, what it cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebbtide.costs.attribution import share
from ebbtide.costs.minimum import minimum_s
from ebbtide.simulation.engine import Run
from ebbtide.simulation.load import Load
from ebbtide.simulation.setting import Fleet


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run in figures. Times in s; sojourn: from arrival to end, of those that were done; None for none.

    done_s: from the first arrival to the last end. always_on_s: as many instances as there were at most, all
    the time. minimum_s: no schedule could take less (costs.minimum). cost: USD; None without a price.
    """

    done: int
    expired: int
    wait_p50_s: float | None
    wait_p99_s: float | None
    sojourn_p50_s: float | None
    sojourn_p99_s: float | None
    sojourn_max_s: float | None
    done_s: float | None
    oldest_age_s: float
    most_instances: int
    acts: int
    instance_s: float
    starting_s: float
    idle_s: float
    always_on_s: float
    minimum_s: float
    cost: float | None


def outcome(load: Load, fleet: Fleet, run: Run, *, until: float) -> Outcome:
    """The figures of a run whose remaining instances run on until then."""
    claimed, finished = _times(run.claimed_at), _times(run.finished_at)
    accepted, service = np.asarray(load.at), np.asarray(load.service_s)
    done = ~np.isnan(finished)
    waits, sojourns = (claimed - accepted)[done], (finished - accepted)[done]
    total_s, starting_s = instance_seconds(run, until)
    most = max((look.desired for look in run.looks), default=0)
    return Outcome(
        done=int(done.sum()),
        expired=int((~done).sum()),
        wait_p50_s=_percentile(waits, 50),
        wait_p99_s=_percentile(waits, 99),
        sojourn_p50_s=_percentile(sojourns, 50),
        sojourn_p99_s=_percentile(sojourns, 99),
        sojourn_max_s=_percentile(sojourns, 100),
        done_s=float(finished[done].max() - accepted[0]) if len(waits) else None,
        oldest_age_s=max((look.oldest_age_s for look in run.looks), default=0.0),
        most_instances=most,
        acts=len(run.decisions),
        instance_s=total_s,
        starting_s=starting_s,
        idle_s=max(0.0, total_s - starting_s - _busy_s(run)),
        always_on_s=most * (until - float(accepted[0])),
        minimum_s=minimum_s(
            accepted[done],
            (accepted + np.asarray(load.ttl_s))[done],
            service[done],
            slots=fleet.slots,
            starting_s=fleet.starting_s,
        ),
        cost=None if fleet.price_per_s is None else fleet.price_per_s * total_s,
    )


def instance_seconds(run: Run, until: float) -> tuple[float, float]:
    """All of the instances' time, and that of their starts."""
    total_s = starting_s = 0.0
    for life in run.lives:
        end = until if life.ended_at is None else life.ended_at
        total_s += end - life.started_at
        starting_s += (end if life.in_service_at is None else life.in_service_at) - life.started_at
    return total_s, starting_s


def _busy_s(run: Run) -> float:
    """The time in which instances held anything."""
    held: list[list[tuple[float, float]]] = [[] for _ in run.lives]
    for instance, begin, end in zip(run.instance, run.claimed_at, run.finished_at, strict=True):
        if instance is not None and begin is not None and end is not None:
            held[instance].append((begin, end))
    return sum(float(share(holds).busy_s.sum()) for holds in held)


def _times(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)  # None becomes NaN


def _percentile(values: NDArray[np.float64], percent: float) -> float | None:
    return float(np.percentile(values, percent)) if len(values) else None
