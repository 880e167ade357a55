"""The least instance-seconds that any schedule could have used for the same arrivals and service times. Pure.

The problem. Job i must begin on a free slot of some instance between `earliest` and `latest` (its arrival and
the end of its time to live) and then holds that slot for `service` seconds without a break. There may be any
number of instances, each with `slots` slots; one that is started takes jobs after `starting_s` seconds, and
may be stopped and started again. A schedule costs the time from each start of an instance to its stop. A
clairvoyant one knows all jobs beforehand, and may let them wait until their latest moment.

To find the cheapest schedule is NP-hard (with one slot, so many starts as bins in bin packing), therefore
`minimum_s` is a bound from below: no schedule costs less. It is the cost itself where one instance with one
slot could have done all jobs in one go. Why it holds:

1. A slot works on one job at a time, so instances are in service for sum(service) / slots at least; and for
   the longest service, since a job is not divided.
2. Before the first job an instance has to start.
3. Take jobs whose windows [earliest, latest] are disjoint, in order. From the moment when one must be over,
   latest + service, to the next one's `earliest` is a gap. Either there is a moment in it without any
   instance: then one more start comes before the next job. Or there is always one: then so much of the gap as
   is not filled by jobs that could run in it (their service / slots) is paid and not worked in. Gaps do not
   overlap, and no start that a gap brings about falls into another: what each costs at least adds up.
"""

import numpy as np
from numpy.typing import NDArray

Seconds = NDArray[np.float64]


def minimum_s(
    earliest: Seconds, latest: Seconds, service: Seconds, *, slots: int, starting_s: float
) -> float:
    """The bound in instance-seconds, for jobs in any order: float64 [jobs] each, latest >= earliest."""
    if not len(service):
        return 0.0
    worked = float(service.sum()) / slots
    gaps = _gaps(earliest, latest, service, slots=slots, starting_s=starting_s)
    return starting_s + max(float(service.max()), worked + gaps)


def _gaps(earliest: Seconds, latest: Seconds, service: Seconds, *, slots: int, starting_s: float) -> float:
    """What the gaps between disjoint windows cost at least; taken by their ends, there are most of them."""
    begins, ends = _disjoint(earliest, latest, service)
    if len(begins) < 2:
        return 0.0
    over, coming = ends[:-1], begins[1:]
    # Jobs that could run within a gap: all that come before its end, but for those over before its beginning.
    by_earliest, by_end = np.argsort(earliest), np.argsort(latest + service)
    come = np.concatenate(([0.0], np.cumsum(service[by_earliest])))
    gone = np.concatenate(([0.0], np.cumsum(service[by_end])))
    before = come[np.searchsorted(earliest[by_earliest], coming, side="left")]
    done = gone[np.searchsorted((latest + service)[by_end], over, side="right")]
    unfilled = (coming - over) - (before - done) / slots
    return float(np.clip(unfilled, 0.0, starting_s)[coming > over].sum())


def _disjoint(earliest: Seconds, latest: Seconds, service: Seconds) -> tuple[Seconds, Seconds]:
    """Of the most jobs with disjoint windows: when each may begin, and when it must be over."""
    begins, ends = [], []
    taken_to = -np.inf
    # Of windows that end together the shortest leaves the widest gap before it; of equal ones the longest job
    # leaves none of the others' work in the gap behind it.
    order = np.lexsort((-service, -earliest, latest))
    for begin, last, took in zip(
        earliest[order].tolist(), latest[order].tolist(), service[order].tolist(), strict=True
    ):
        if begin > taken_to:
            begins.append(begin)
            ends.append(last + took)
            taken_to = last
    return np.array(begins), np.array(ends)
