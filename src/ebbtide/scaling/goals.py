"""What an endpoint is to reach beyond AWS's policies: a deadline, a budget, readiness for what usually comes.

A deadline stands in the place of the policies that follow metrics, a budget lowers the most instances that
there may be, a forecast raises the fewest. None of them leaves what MinCapacity and MaxCapacity allow, and
scheduled actions go on moving those. Pure: `decide` takes what was measured as values.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from statistics import fmean
from typing import Any

from ebbtide.scaling import policies, schedules
from ebbtide.scaling.policies import Decision, Limits, Observation, Readings, within_limits

MARGIN = 1.25
"""By how much work may take longer than measured before a deadline is missed."""

LOOK_S = 2.0
"""A start is put off no longer than this before the last moment: the next look may be that late."""

RUN_S = 60.0
"""An instance is started within a budget only if that lasts for so long."""

WINDOW_S = 300.0
"""The stretch of earlier weeks that a forecast looks at: what came from this time of the week on."""

WEEK_S = 7 * 86_400.0

MAX_WITHIN_S = 30 * 86_400.0

MAX_WEEKS = 8
"""A forecast's. Longer ago things were different."""

UTILISATION = 0.8
"""The part of an instance's pace that a forecast counts on."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """What is queued is to be done within `within_s` of its acceptance, or each time `by` is due."""

    within_s: float | None = None
    by: str | None = None
    timezone: str | None = None

    def due_at(self, oldest_accepted_at: float, now: float) -> float | None:
        """When what is queued must be done; None where `by` never comes again."""
        if self.within_s is not None:
            return oldest_accepted_at + self.within_s
        assert self.by is not None
        schedule = schedules.parse(self.by, self.timezone)
        return schedules.next_after(schedule, now, origin=0.0)


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that an endpoint's instances may take in a day (UTC): one of the two."""

    instance_s_per_day: float | None = None
    usd_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """Be ready for what came at this time of the week, in as many weeks back."""

    weeks: int = 4


@dataclass(frozen=True, slots=True)
class Goals:
    """An endpoint's goals; None of those that it has not."""

    deadline: Deadline | None = None
    budget: Budget | None = None
    forecast: Forecast | None = None

    @classmethod
    def from_given(cls, given: Mapping[str, Any]) -> "Goals":
        """Of values by name, as they are stored and as the API tells them; absent or null: none."""
        deadline, budget, forecast = (given.get(name) for name in ("deadline", "budget", "forecast"))
        return cls(
            deadline=Deadline(**deadline) if deadline else None,
            budget=Budget(**budget) if budget else None,
            forecast=Forecast(**forecast) if forecast else None,
        )


NO_GOALS = Goals()


@dataclass(frozen=True, slots=True)
class Measured:
    """What the goals are weighed by.

    rate_per_s: outcomes a second of one busy instance; None before there were any. starting_s: from an
    instance's request to its first work. slots: invocations that it works on at a time. spent: the day's
    instance-seconds or US dollars so far, as the budget counts; spent_per_instance_s: what one instance
    costs a second in the same, None where no price is known. arrivals: in the window of each earlier week
    that is known.
    """

    oldest_accepted_at: float | None = None
    rate_per_s: float | None = None
    starting_s: float = 0.0
    slots: int = 1
    spent: float = 0.0
    spent_per_instance_s: float | None = 1.0
    arrivals: Sequence[float] = ()


def decide(
    goals: Goals,
    measured: Measured,
    limits: Limits,
    readings: Readings,
    seen: Observation,
    *,
    stepping_out: Sequence[str] = (),
) -> Decision:
    """`policies.decide`, within the budget, ready for the forecast, and by the deadline if there is one."""
    limits = afford(goals.budget, measured, foresee(goals.forecast, measured, limits), limits, seen)
    if goals.deadline is None:
        return policies.decide(limits, readings, seen, stepping_out=stepping_out)
    if limits.clamp(seen.desired) != seen.desired:
        return within_limits(limits, seen)
    wanted, cause = meet(goals.deadline, measured, seen)
    if wanted > seen.desired and not limits.scale_out_suspended:
        allowed = limits.clamp(wanted)
        at_max = None if allowed > seen.desired else policies.ALREADY_AT_MAX
        return Decision(allowed, cause, at_max)
    if wanted < seen.desired and not limits.scale_in_suspended:
        return Decision(limits.clamp(wanted), cause)
    return Decision(seen.desired, cause)


def meet(deadline: Deadline, measured: Measured, seen: Observation) -> tuple[int, str]:
    """The fewest instances that have the backlog done in time, started as late as that allows, and why.

    The work takes the same instance-seconds whenever it is done. What can be saved is each start, by waiting
    for company, and idle time, by ending instances as soon as they have nothing to do.
    """
    if not seen.backlog or measured.oldest_accepted_at is None:
        return 0, "deadline: nothing is queued"
    due_at = deadline.due_at(measured.oldest_accepted_at, seen.at)
    if due_at is None:
        return seen.desired, "deadline: it is over, and never comes again"
    left_s = due_at - seen.at
    # More than one request each is not theirs to have: an instance without one would only idle.
    useful = max(1, ceil(seen.backlog / measured.slots) - seen.others)
    if measured.rate_per_s is None:
        return max(1, min(seen.desired, useful)), "deadline: the first request tells how long one takes"
    work_s = MARGIN * seen.backlog / measured.rate_per_s
    cause = f"deadline: {seen.backlog} queued take {work_s:.0f} s of an instance, due in {left_s:.0f} s"
    there = seen.desired + seen.others
    if there and work_s <= there * left_s:
        return min(seen.desired, useful), cause
    if not there and measured.starting_s + work_s + LOOK_S < left_s:
        return 0, f"{cause}: there is time to wait for more"
    left_s -= measured.starting_s
    count = ceil(work_s / left_s) - seen.others if left_s > 0 else useful
    return max(seen.desired, min(max(1, count), useful)), cause


def afford(
    budget: Budget | None, measured: Measured, raised: Limits, limits: Limits, seen: Observation
) -> Limits:
    """The limits lowered to what the rest of the day's budget lets run for `RUN_S`, if not below the minimum.

    raised: the limits with a forecast's minimum, which a budget may lower again to that of `limits`.
    """
    if budget is None or limits.scale_in_suspended:
        return raised
    total = budget.usd_per_day if budget.instance_s_per_day is None else budget.instance_s_per_day
    assert total is not None
    left = max(0.0, total - measured.spent)
    price = measured.spent_per_instance_s
    affordable = 0 if price is None else int(left / (price * RUN_S))
    most = max(limits.min_capacity, min(raised.max_capacity, affordable - seen.others))
    if most >= raised.max_capacity:
        return raised
    unit = "USD" if budget.instance_s_per_day is None else "instance-seconds"
    why = f"budget: {left:.4g} of the day's {total:.6g} {unit} are left"
    if price is None:
        why = "budget: no price of the instance type is known"
    return replace(raised, max_capacity=most, min_capacity=min(raised.min_capacity, most), why_max=why)


def foresee(forecast: Forecast | None, measured: Measured, limits: Limits) -> Limits:
    """The limits with the minimum raised to what the arrivals of earlier weeks will need."""
    if forecast is None or not measured.arrivals or limits.scale_out_suspended:
        return limits
    expected = fmean(measured.arrivals)
    if expected < 1 or measured.rate_per_s is None:
        return limits
    needed = ceil(expected / WINDOW_S / (measured.rate_per_s * UTILISATION))
    fewest = min(limits.max_capacity, max(limits.min_capacity, needed))
    if fewest == limits.min_capacity:
        return limits
    weeks = len(measured.arrivals)
    why = f"forecast: {expected:.0f} requests in {WINDOW_S:.0f} s, the mean of {weeks} earlier weeks"
    return replace(limits, min_capacity=fewest, why_min=why)
