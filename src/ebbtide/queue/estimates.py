"""When a queued invocation will be worked on, and when it will be done: a fluid estimate. Pure.

Work leaves at a rate: what the endpoint's slots have lately finished a second, or while that is not known the
slots divided by the mean time that one invocation holds its slot. An invocation starts when as many have left
as are ahead of it, beyond the slots that are free; instances that are coming up add their slots when they are
expected. Nothing is known of what else will arrive with a higher priority, or of how long this one's input
takes: it is taken for an average one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

MIN_MEASURED = 10
"""Completions from which on their rate is trusted."""


@dataclass(frozen=True, slots=True)
class Slots:
    """An instance's slots, from `ready_at` on."""

    count: int
    ready_at: float


@dataclass(frozen=True, slots=True)
class Service:
    """How an endpoint has worked lately.

    service_s: mean time from claim to outcome; None when nothing has finished. rate_per_s: outcomes a second
    while there was always work waiting; None when that was not so.
    """

    service_s: float | None
    rate_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected times in epoch seconds; None for what cannot be told."""

    start_at: float | None
    end_at: float | None


def measured(finished: Sequence[tuple[float, float, float]], *, since: float) -> Service:
    """What the latest successes tell: (accepted_at, claimed_at, finished_at) of each, in any order.

    since: when the endpoint's slots were last another number; what finished before tells no rate.
    """
    if not finished:
        return Service(None)
    service_s = fmean(end - start for _, start, end in finished)
    ends = sorted(end for _, start, end in finished if end >= since)
    # Below its limit an endpoint finishes what arrives, which tells nothing: its limit shows when all wait.
    waited = all(start - accepted >= service_s for accepted, start, end in finished if end >= since)
    if len(ends) < MIN_MEASURED or not waited or ends[-1] == ends[0]:
        return Service(service_s)
    return Service(service_s, (len(ends) - 1) / (ends[-1] - ends[0]))


def queued(*, ahead: int, in_flight: int, slots: Sequence[Slots], service: Service, now: float) -> Estimate:
    """When one with so many ahead of it will be claimed, and have its outcome."""
    ready = sum(each.count for each in slots if each.ready_at <= now)
    per_slot = _rate_per_slot(ready, service)
    rate = ready * per_slot
    # Completions, and slots that come up, until it is its turn.
    missing: float = ahead + 1 - max(0, ready - in_flight)
    at = now
    for coming in sorted((each for each in slots if each.ready_at > now), key=lambda each: each.ready_at):
        if missing <= rate * (coming.ready_at - at):
            break
        missing -= rate * (coming.ready_at - at) + coming.count
        at = coming.ready_at
        ready += coming.count
        rate = ready * per_slot
    if missing > 0:
        if rate == 0:
            return Estimate(None, None)
        at += missing / rate
    return Estimate(at, None if service.service_s is None else at + service.service_s)


def claimed(*, claimed_at: float, service: Service, now: float) -> Estimate:
    """When one that is being worked on will have its outcome; now, if it takes longer than most."""
    if service.service_s is None:
        return Estimate(claimed_at, None)
    return Estimate(claimed_at, max(now, claimed_at + service.service_s))


def _rate_per_slot(ready: int, service: Service) -> float:
    """Outcomes a second and slot; 0 when nothing is known of it."""
    if service.rate_per_s is not None and ready:
        return service.rate_per_s / ready
    return 1 / max(service.service_s, 1e-3) if service.service_s is not None else 0.0
