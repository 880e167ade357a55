"""What a load is let through: how it is scaled, and what its instances are like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ebbtide.metrics.alarm_states import REPEAT_S, Alarm
from ebbtide.metrics.data import Query
from ebbtide.metrics.evaluation import EXTRA_PERIODS
from ebbtide.scaling.configurations import COOLDOWN_S, PERIOD_S, Resource
from ebbtide.scaling.goals import NO_GOALS, Goals
from ebbtide.scaling.policies import LOW_PERIODS, Limits, TargetTracking
from ebbtide.scaling.schedules import Schedule, next_after
from ebbtide.scaling.targets import Policy

NOBODYS = Resource("", "")


@dataclass(frozen=True, slots=True)
class Scheduled:
    """Limits from each time that a schedule is due on; None leaves a bound as it is. Start and end bound the
    times, in epoch seconds; a rate counts from the start, else from the first request.
    """

    schedule: Schedule
    min_capacity: int | None = None
    max_capacity: int | None = None
    start_at: float | None = None
    end_at: float | None = None

    def next_at(self, after: float, *, origin: float) -> float | None:
        """When it is due next."""
        origin = origin if self.start_at is None else self.start_at
        if self.start_at is not None:
            after = max(after, self.start_at - 1.0)
        at = next_after(self.schedule, after, origin=origin)
        return None if at is None or (self.end_at is not None and at > self.end_at) else at


@dataclass(frozen=True, slots=True)
class Scaling:
    """What is compared: policies and scheduled actions of one scalable target, the goals of its endpoint.

    tracking: policies on the live backlog. stored: those on recorded metrics, each with its queries.
    stepping: step policies, which alarms set off. resource: whose metrics alarms and queries name.
    """

    name: str
    limits: Limits
    tracking: tuple[TargetTracking, ...] = ()
    goals: Goals = NO_GOALS
    scheduled: tuple[Scheduled, ...] = ()
    stored: tuple[tuple[TargetTracking, Sequence[Query]], ...] = ()
    stepping: tuple[Policy, ...] = ()
    alarms: tuple[Alarm, ...] = ()
    resource: Resource = NOBODYS

    @property
    def settling_s(self) -> float:
        """So long without an act, and none of the policies has anything left to do."""
        waits = [each.scale_in_cooldown_s for each in self.tracking]
        waits += [each.scale_in_cooldown_s + LOW_PERIODS * PERIOD_S for each, _ in self.stored]
        cooldowns_s = [each.configuration.get("Cooldown", COOLDOWN_S) for each in self.stepping]
        for alarm in self.alarms:
            periods = alarm.definition["EvaluationPeriods"] + EXTRA_PERIODS
            waits.append(max(cooldowns_s, default=0) + periods * alarm.period_s + REPEAT_S)
        return max(waits, default=0.0)


@dataclass(frozen=True, slots=True)
class Fleet:
    """What instances are like: invocations at a time, seconds from wanted to in service, price of a second.

    weights: of accounts that share the endpoint, 1 of those that are not named.
    """

    slots: int = 1
    starting_s: float = 1.0
    price_per_s: float | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
