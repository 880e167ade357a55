"""How many instances a variant should have, as pure functions of what is seen.

A target-tracking policy reads its metric (`read_backlog`, `read_datapoints`), `decide` weighs all policies of
a scalable target; a step policy answers an alarm (`step`). AWS's parameters and meanings throughout, but
for two things: the backlog is exact and seen at once, so that no three minutes of alarm come first, and a
request for a variant without instances wakes it whatever its policies say.
Source: reference autoscaling.md, 3 and 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, trunc

LOW_FRACTION = 0.9
"""Scale-in needs the metric below this part of the target: the AlarmLow of AWS's own policies."""

HIGH_PERIODS, LOW_PERIODS = 3, 15
"""Periods of a minute for which a stored metric must be above or below. Source: the same alarms."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a scalable target allows, whatever its policies say."""

    min_capacity: int
    max_capacity: int
    scale_in_suspended: bool = False
    scale_out_suspended: bool = False

    def clamp(self, count: int) -> int:
        return max(self.min_capacity, min(count, self.max_capacity))


@dataclass(frozen=True, slots=True)
class Observation:
    """A variant, as its scaler sees it.

    desired: instances asked for, those still starting included. others: the same of the endpoint's other
    variants, which work on the same queue. backlog: requests queued or in process. last_scaled_at: the last
    scaling act, out or in, if there was one; before_scale_out: what was desired before the last one out.
    """

    at: float
    desired: int
    others: int
    backlog: int
    last_scaled_at: float | None = None
    last_scale_out_at: float | None = None
    before_scale_out: int | None = None


@dataclass(frozen=True, slots=True)
class TargetTracking:
    """A target-tracking policy. `since` is when it was put: a policy acts on no older calm than itself."""

    name: str
    target_value: float
    scale_out_cooldown_s: float
    scale_in_cooldown_s: float
    disable_scale_in: bool
    since: float


@dataclass(frozen=True, slots=True)
class Reading:
    """What a policy's metric says: whether it is above or well below its target, and the count wanted."""

    wanted: int
    high: bool
    low: bool
    text: str


@dataclass(frozen=True, slots=True)
class Decision:
    """How many instances should be desired, and the cause an operator will read."""

    desired: int
    cause: str


def read_backlog(policy: TargetTracking, seen: Observation) -> Reading:
    """ApproximateBacklogSizePerInstance, from the live queue: backlog / target instances are called for.

    AWS's formula is current x metric / target, which is the same count, but undefined at zero instances.
    """
    wanted = max(0, ceil(seen.backlog / policy.target_value) - seen.others)
    supply = policy.target_value * (seen.desired + seen.others)
    return Reading(
        wanted,
        high=seen.backlog > supply,
        # Without demand there is nothing to divide: 0 of 0 instances is low too.
        low=seen.backlog < LOW_FRACTION * supply or seen.backlog == 0,
        text=f"backlog of {seen.backlog} at target {policy.target_value:g} per instance",
    )


def read_datapoints(
    policy: TargetTracking, minutes: Sequence[float | None], seen: Observation
) -> Reading | None:
    """A stored metric's last minutes, oldest first: current x metric / target instances are called for.

    minutes: at least LOW_PERIODS, None where there is no data. None when the last HIGH_PERIODS are not all
    there: no data, no opinion.
    """
    recent = minutes[-HIGH_PERIODS:]
    latest = recent[-1]
    if latest is None or None in recent:
        return None
    base = seen.desired
    # The metric answers a scale-out only later: until the cooldown is over what it asks for is counted from
    # what there was before, or each minute would multiply the count again.
    cooling = (
        seen.last_scale_out_at is not None and seen.at - seen.last_scale_out_at < policy.scale_out_cooldown_s
    )
    if cooling and seen.before_scale_out is not None:
        base = seen.before_scale_out
    target = policy.target_value
    return Reading(
        ceil(max(base, 1) * latest / target),
        high=all(value is not None and value > target for value in recent),
        low=all(value is not None and value < LOW_FRACTION * target for value in minutes[-LOW_PERIODS:]),
        text=f"metric at {latest:g}, target {target:g}",
    )


def decide(
    limits: Limits, readings: Sequence[tuple[TargetTracking, Reading | None]], seen: Observation
) -> Decision:
    """What a scalable target's policies come to.

    Out, if any policy says so, to the highest count; in, only when every policy that may scale in agrees,
    its cooldown since the last scaling act is over, and never to zero with work in the backlog.
    """
    if limits.clamp(seen.desired) != seen.desired:
        return _within_limits(limits, seen)
    out = _scale_out(limits, readings, seen)
    if out is not None:
        return out
    return _scale_in(limits, readings, seen) or Decision(seen.desired, "nothing to change")


def _within_limits(limits: Limits, seen: Observation) -> Decision:
    if seen.desired < limits.min_capacity:
        return Decision(limits.min_capacity, f"minimum capacity was set to {limits.min_capacity}")
    return Decision(limits.max_capacity, f"maximum capacity was set to {limits.max_capacity}")


def _scale_out(
    limits: Limits, readings: Sequence[tuple[TargetTracking, Reading | None]], seen: Observation
) -> Decision | None:
    if limits.scale_out_suspended:
        return None
    wanted, cause = seen.desired, ""
    for policy, reading in readings:
        if reading is not None and reading.high and reading.wanted > wanted:
            wanted, cause = reading.wanted, f"policy {policy.name}: {reading.text}"
    if seen.desired + seen.others == 0 and seen.backlog:
        arrival = "a request arrived while there was no instance"
        wanted, cause = max(wanted, 1), f"{arrival}; {cause}" if cause else arrival
    wanted = limits.clamp(wanted)
    return Decision(wanted, cause) if wanted > seen.desired else None


def _scale_in(
    limits: Limits, readings: Sequence[tuple[TargetTracking, Reading | None]], seen: Observation
) -> Decision | None:
    voting = [(policy, reading) for policy, reading in readings if not policy.disable_scale_in]
    if limits.scale_in_suspended or not voting:
        return None
    wanted, cause = 0, ""
    for policy, reading in voting:
        calm_since = max(policy.since, seen.last_scaled_at or 0.0)
        if reading is None or not reading.low or seen.at - calm_since < policy.scale_in_cooldown_s:
            return None
        if reading.wanted >= wanted:
            wanted, cause = reading.wanted, f"policy {policy.name}: {reading.text}"
    if seen.backlog and not seen.others:
        wanted = max(wanted, 1)
    wanted = limits.clamp(wanted)
    return Decision(wanted, cause) if wanted < seen.desired else None


@dataclass(frozen=True, slots=True)
class StepAdjustment:
    """What to do when the metric is this far from its alarm's threshold; None is no bound."""

    lower_bound: float | None
    upper_bound: float | None
    adjustment: int

    @property
    def negative(self) -> bool:
        return self.upper_bound is not None and self.upper_bound <= 0

    def covers(self, distance: float) -> bool:
        """Bounds of a positive range include the lower, of a negative one the upper."""
        lower = -inf if self.lower_bound is None else self.lower_bound
        upper = inf if self.upper_bound is None else self.upper_bound
        return lower < distance <= upper if self.negative else lower <= distance < upper


@dataclass(frozen=True, slots=True)
class StepScaling:
    """A step policy. `adjustment_type`: ChangeInCapacity, PercentChangeInCapacity or ExactCapacity."""

    name: str
    adjustment_type: str
    steps: tuple[StepAdjustment, ...]
    min_adjustment_magnitude: int
    cooldown_s: float


def step(limits: Limits, policy: StepScaling, distance: float, seen: Observation) -> Decision | None:
    """What a step policy makes of an alarm: None when no step covers the distance, or nothing is to change.

    distance: the metric's value less the alarm's threshold. In its cooldown a scale-out still goes as far as
    it would have gone from before the last one, and a scale-in does not happen.
    """
    covering = [adjustment for adjustment in policy.steps if adjustment.covers(distance)]
    if not covering:
        return None
    adjustment = covering[0].adjustment
    cooling = seen.last_scaled_at is not None and seen.at - seen.last_scaled_at < policy.cooldown_s
    base = seen.desired
    if cooling and seen.before_scale_out is not None and seen.last_scale_out_at == seen.last_scaled_at:
        base = seen.before_scale_out
    wanted = limits.clamp(_adjusted(policy, base, adjustment))
    if wanted > seen.desired and not limits.scale_out_suspended:
        return Decision(wanted, f"policy {policy.name}")
    if seen.backlog and not seen.others:
        wanted = max(wanted, min(1, seen.desired))
    if wanted < seen.desired and _falls(policy, base, adjustment) and not cooling:
        return None if limits.scale_in_suspended else Decision(wanted, f"policy {policy.name}")
    return None


def _falls(policy: StepScaling, base: int, adjustment: int) -> bool:
    return _adjusted(policy, base, adjustment) < base


def _adjusted(policy: StepScaling, count: int, adjustment: int) -> int:
    if policy.adjustment_type == "ExactCapacity":
        return adjustment
    if policy.adjustment_type == "ChangeInCapacity":
        return count + adjustment
    change = count * adjustment / 100
    # Between -1 and 1 away from zero, so that something happens; beyond towards zero.
    whole = trunc(change) if abs(change) > 1 else ceil(change) if change > 0 else floor(change)
    magnitude = max(abs(whole), policy.min_adjustment_magnitude)
    return count + (magnitude if adjustment > 0 else -magnitude)
