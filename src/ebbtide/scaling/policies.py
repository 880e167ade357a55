"""How many instances a variant should have, as pure functions of what is seen.

A target-tracking policy reads its metric (`read_backlog`, `read_datapoints`), `decide` weighs all policies of
a scalable target; a step policy answers an alarm (`step`). AWS's parameters and meanings throughout, but
for three things: the backlog is exact and seen at once, so that no three minutes of alarm come first; its
scale-in cooldown is how long fewer instances must have been enough; and a request for a variant without
instances wakes it whatever its policies say.
Source: Application Auto Scaling User Guide, Target tracking and Step scaling policies.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, inf, trunc
from statistics import fmean

PEAKS_KEPT_S = 4 * 3600.0
"""How long a peak of the backlog is remembered."""

LOW_FRACTION = 0.9
"""Scale-in needs the metric below this part of the target: the AlarmLow of AWS's own policies."""

HIGH_PERIODS, LOW_PERIODS = 3, 15
"""Periods of a minute for which a stored metric must be above or below. Source: the same alarms."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a scalable target allows, whatever its policies say. `why_min`, `why_max`: what set the bound,
    where it was not the target itself.
    """

    min_capacity: int
    max_capacity: int
    scale_in_suspended: bool = False
    scale_out_suspended: bool = False
    why_min: str | None = None
    why_max: str | None = None

    def clamp(self, count: int) -> int:
        return max(self.min_capacity, min(count, self.max_capacity))

    def moved(self, minimum: int | None, maximum: int | None) -> "Limits":
        """As a scheduled action sets them; None leaves a bound, which follows where they would cross."""
        most = self.max_capacity if maximum is None else maximum
        least = self.min_capacity if minimum is None else minimum
        if maximum is None:
            most = max(least, most)
        return replace(self, min_capacity=min(least, most), max_capacity=most)


@dataclass(frozen=True, slots=True)
class Observation:
    """A variant, as its scaler sees it.

    desired: instances asked for, those still starting included. others: the same of the endpoint's other
    variants, which work on the same queue. backlog: requests queued or in process. last_scaled_at: the last
    scaling act, out or in, if there was one; before_scale_out: what was desired before the last one out.
    peaks: the highest backlogs up to now, as `Peaks` tells them, seen without a gap since watched_since;
    None where nobody has watched.
    """

    at: float
    desired: int
    others: int
    backlog: int
    last_scaled_at: float | None = None
    last_scale_out_at: float | None = None
    before_scale_out: int | None = None
    peaks: tuple[tuple[float, int], ...] = ()
    watched_since: float | None = None

    def peak(self, within_s: float) -> int:
        """The highest backlog of that time; where it was not watched, of the time that was."""
        since = self.at - within_s
        return max([self.backlog, *(backlog for at, backlog in self.peaks if at > since)])

    def watched(self, within_s: float) -> bool:
        """Whether `peak` tells the whole of that time."""
        return self.watched_since is not None and self.watched_since <= self.at - within_s


class Peaks:
    """The highest backlogs of any time up to now: each that was higher than all after it, oldest first."""

    def __init__(self, since: float) -> None:
        """since: when the watch began."""
        self._since = since
        self._steps: deque[tuple[float, int]] = deque()

    def add(self, at: float, backlog: int) -> None:
        """A backlog that was seen, at a time no earlier than the last one's."""
        while self._steps and self._steps[-1][1] <= backlog:
            self._steps.pop()
        self._steps.append((at, backlog))
        while self._steps[0][0] <= at - PEAKS_KEPT_S:
            self._steps.popleft()
        self._since = max(self._since, at - PEAKS_KEPT_S)

    @property
    def since(self) -> float:
        return self._since

    @property
    def steps(self) -> tuple[tuple[float, int], ...]:
        """(at, backlog), for `Observation.peaks`."""
        return tuple(self._steps)


@dataclass(frozen=True, slots=True)
class TargetTracking:
    """A target-tracking policy. `since` is when it was put: a policy acts on no older calm than itself.

    `most_at_once`: how many instances it gives up in one act at most; None for all that are too many.
    """

    name: str
    target_value: float
    scale_out_cooldown_s: float
    scale_in_cooldown_s: float
    disable_scale_in: bool
    since: float
    most_at_once: int | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a policy's metric says: whether it is above or well below its target, and the count wanted.

    `kept`: the count that a scale-in leaves; None for `wanted`. `looked_back`: low and kept hold for the
    whole of the scale-in cooldown, not only for now.
    """

    wanted: int
    high: bool
    low: bool
    text: str
    kept: int | None = None
    looked_back: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """How many instances should be desired, and the cause an operator will read.

    `not_scaled`: where a policy called for a change that could not be, AWS's code of the reason.
    """

    desired: int
    cause: str
    not_scaled: str | None = None


ALREADY_AT_MAX, ALREADY_AT_MIN, ALREADY_AT_DESIRED, UNSCALABLE = (
    "AlreadyAtMaxCapacity",
    "AlreadyAtMinCapacity",
    "AlreadyAtDesiredCapacity",
    "TargetServicePutResourceAsUnscalable",
)
"""Source: NotScaledReason."""


def read_backlog(policy: TargetTracking, seen: Observation) -> Reading:
    """ApproximateBacklogSizePerInstance, from the live queue: backlog / target instances are called for.

    AWS's formula is current x metric / target, which is the same count, but undefined at zero instances.
    Scale-in goes by the highest backlog of the cooldown: by the last look alone a noisy load would lose an
    instance with each dip, and start it again with the next wave.
    """

    def called_for(backlog: int) -> int:
        return max(0, ceil(backlog / policy.target_value) - seen.others)

    supply = policy.target_value * (seen.desired + seen.others)
    peak = seen.peak(policy.scale_in_cooldown_s)
    text = f"backlog of {seen.backlog} at target {policy.target_value:g} per instance"
    return Reading(
        called_for(seen.backlog),
        high=seen.backlog > supply,
        # Without demand there is nothing to divide: 0 of 0 instances is low too.
        low=peak < LOW_FRACTION * supply or peak == 0,
        text=text if peak == seen.backlog else f"{text}, at most {peak} in its cooldown",
        kept=called_for(peak),
        looked_back=seen.watched(policy.scale_in_cooldown_s),
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


Readings = Sequence[tuple[TargetTracking, Reading | None]]
"""What the target-tracking policies of a scalable target read; None from one whose metric has no data."""


def decide(
    limits: Limits, readings: Readings, seen: Observation, *, stepping_out: Collection[str] = ()
) -> Decision:
    """What a scalable target's policies come to.

    Out, if any policy says so, to the highest count; in, only when every policy that may scale in agrees,
    its cooldown is over, and never to zero with work in the backlog. stepping_out: names of the step policies
    whose alarms last and ask for more: they agree to no scale-in.
    """
    if limits.clamp(seen.desired) != seen.desired:
        return within_limits(limits, seen)
    out = _scale_out(limits, readings, seen)
    if out is not None:
        return out
    if stepping_out:
        return Decision(seen.desired, f"policy {min(stepping_out)} is scaling out")
    return _scale_in(limits, readings, seen) or Decision(seen.desired, "nothing to change")


def within_limits(limits: Limits, seen: Observation) -> Decision:
    """The nearest count that the limits allow, for one that they do not."""
    if seen.desired < limits.min_capacity:
        cause = limits.why_min or f"minimum capacity was set to {limits.min_capacity}"
        return Decision(limits.min_capacity, cause)
    cause = limits.why_max or f"maximum capacity was set to {limits.max_capacity}"
    return Decision(limits.max_capacity, cause)


def _scale_out(limits: Limits, readings: Readings, seen: Observation) -> Decision | None:
    if limits.scale_out_suspended:
        return None
    wanted, cause = seen.desired, ""
    for policy, reading in readings:
        if reading is not None and reading.high and reading.wanted > wanted:
            wanted, cause = reading.wanted, f"policy {policy.name}: {reading.text}"
    if seen.desired + seen.others == 0 and seen.backlog:
        arrival = "a request arrived while there was no instance"
        wanted, cause = max(wanted, 1), f"{arrival}; {cause}" if cause else arrival
    allowed = limits.clamp(wanted)
    if allowed > seen.desired:
        return Decision(allowed, cause)
    return Decision(seen.desired, cause, ALREADY_AT_MAX) if wanted > seen.desired else None


def _scale_in(limits: Limits, readings: Readings, seen: Observation) -> Decision | None:
    voting = [(policy, reading) for policy, reading in readings if not policy.disable_scale_in]
    if limits.scale_in_suspended or not voting:
        return None
    wanted, cause = 0, ""
    for policy, reading in voting:
        if reading is None or not reading.low:
            return None
        # What has been low for as long as the cooldown needs no second one after each step down.
        last_at = seen.last_scale_out_at if reading.looked_back else seen.last_scaled_at
        if seen.at - max(policy.since, last_at or 0.0) < policy.scale_in_cooldown_s:
            return None
        kept = reading.wanted if reading.kept is None else reading.kept
        if policy.most_at_once is not None:
            kept = max(kept, seen.desired - policy.most_at_once)
        if kept >= wanted:
            wanted, cause = kept, f"policy {policy.name}: {reading.text}"
    if seen.backlog and not seen.others:
        wanted = max(wanted, 1)
    allowed = limits.clamp(wanted)
    if allowed < seen.desired:
        return Decision(allowed, cause)
    return Decision(seen.desired, cause, ALREADY_AT_MIN) if wanted < seen.desired else None


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
    """A step policy. `adjustment_type`: ChangeInCapacity, PercentChangeInCapacity or ExactCapacity;
    `aggregation`: Average, Minimum or Maximum.
    """

    name: str
    adjustment_type: str
    steps: tuple[StepAdjustment, ...]
    min_adjustment_magnitude: int
    cooldown_s: float
    aggregation: str = "Average"


AGGREGATIONS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "Average": fmean,
    "Minimum": min,
    "Maximum": max,
}


def aggregate(policy: StepScaling, datapoints: Sequence[float]) -> float:
    """The one value of an alarm's evaluated datapoints that the policy's steps are measured by.

    Source: StepScalingPolicyConfiguration, MetricAggregationType.
    """
    return AGGREGATIONS[policy.aggregation](datapoints)


def steps_out(policy: StepScaling, distance: float, count: int) -> bool:
    """Whether what the policy makes of the distance is more than the count."""
    adjustment = _adjustment(policy, distance)
    return adjustment is not None and _adjusted(policy, count, adjustment) > count


def step(
    limits: Limits, policy: StepScaling, distance: float, seen: Observation, readings: Readings = ()
) -> Decision | None:
    """What a step policy makes of an alarm: None when no step covers the distance, or nothing is to change.

    distance: the metric's value less the alarm's threshold. In its cooldown a scale-out still goes as far as
    it would have gone from before the last one, and a scale-in does not happen. readings: of the target's
    other policies; none is scaled in below what one of them wants.
    """
    adjustment = _adjustment(policy, distance)
    if adjustment is None:
        return None
    cooling = seen.last_scaled_at is not None and seen.at - seen.last_scaled_at < policy.cooldown_s
    base = seen.desired
    if cooling and seen.before_scale_out is not None and seen.last_scale_out_at == seen.last_scaled_at:
        base = seen.before_scale_out
    wanted = limits.clamp(_adjusted(policy, base, adjustment))
    if wanted > seen.desired and not limits.scale_out_suspended:
        return Decision(wanted, f"policy {policy.name}")
    if seen.backlog and not seen.others:
        wanted = max(wanted, min(1, seen.desired))
    wanted = max([wanted, *(limits.clamp(reading.wanted) for _, reading in readings if reading is not None)])
    if wanted < seen.desired and _adjusted(policy, base, adjustment) < base and not cooling:
        return None if limits.scale_in_suspended else Decision(wanted, f"policy {policy.name}")
    return None


def why_not_stepped(limits: Limits, policy: StepScaling, distance: float, seen: Observation) -> str | None:
    """AWS's code of why `step` changed nothing; None for reasons it has none for, such as a cooldown."""
    adjustment = _adjustment(policy, distance)
    if adjustment is None:
        return None
    wanted = _adjusted(policy, seen.desired, adjustment)
    if wanted > seen.desired >= limits.max_capacity:
        return ALREADY_AT_MAX
    if wanted < seen.desired <= limits.min_capacity:
        return ALREADY_AT_MIN
    return ALREADY_AT_DESIRED if wanted == seen.desired else None


def _adjustment(policy: StepScaling, distance: float) -> int | None:
    return next((step.adjustment for step in policy.steps if step.covers(distance)), None)


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
