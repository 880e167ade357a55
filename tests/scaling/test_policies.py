"""The rules of scaling, each a row: what is seen, and how many instances should be desired.

Each names its source: an operation, a member or a mechanism of target tracking and step scaling as the
Application Auto Scaling User Guide has them (formula and alarms: as AWS's policies are seen to have them), or
"ours", which docs/scaling.md gives the reason of.
"""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.scaling.policies import (
    Limits,
    Observation,
    Peaks,
    Reading,
    StepAdjustment,
    StepScaling,
    TargetTracking,
    aggregate,
    decide,
    read_backlog,
    read_datapoints,
    step,
    why_not_stepped,
)

NOW = 10_000.0
LIMITS = Limits(0, 5)


def rule(*values, says: str, source: str):
    """A row of a table of rules."""
    return pytest.param(*values, id=f"{says} ({source})")


def policy(**given) -> TargetTracking:
    rules = {
        "name": "tracking",
        "target_value": 5.0,
        "scale_out_cooldown_s": 300.0,
        "scale_in_cooldown_s": 300.0,
        "disable_scale_in": False,
        "since": 0.0,
    }
    return TargetTracking(**rules | given)


def seen(backlog=0, desired=0, **given) -> Observation:
    return Observation(**{"at": NOW, "desired": desired, "others": 0, "backlog": backlog} | given)


def decided(limits, policies, observation) -> int:
    readings = [(policy, read_backlog(policy, observation)) for policy in policies]
    return decide(limits, readings, observation).desired


@pytest.mark.parametrize(
    ("observation", "desired"),
    [
        rule(seen(0, 0), 0, says="nothing to do, nothing there", source="Formula"),
        rule(seen(1, 0), 1, says="one request wakes one instance", source="ours: wake"),
        rule(seen(5, 0), 1, says="a backlog at the target needs one", source="Formula"),
        rule(seen(6, 0), 2, says="a backlog above the target needs two", source="Formula"),
        rule(seen(999, 0), 5, says="a burst goes straight to the maximum", source="Formula"),
        rule(seen(999, 5), 5, says="the maximum holds", source="Formula"),
        rule(seen(11, 2), 3, says="more than the target per instance scales out", source="High"),
        rule(seen(10, 2), 2, says="at the target nothing changes", source="High"),
        rule(seen(9, 2), 2, says="nine tenths of the target are not low enough to scale in", source="Low"),
        rule(seen(8, 3), 2, says="well below the target scales in to what is needed", source="Low"),
        rule(seen(3, 5), 1, says="work in the backlog keeps one instance", source="ours: drain"),
        rule(seen(0, 5), 0, says="without a backlog all go", source="To zero"),
        rule(
            seen(11, 2, last_scaled_at=NOW - 1),
            3,
            says="scale-out waits for no cooldown",
            source="Cooldown out",
        ),
        rule(
            seen(0, 3, last_scaled_at=NOW - 299),
            3,
            says="scale-in waits out its cooldown",
            source="Cooldown in",
        ),
        rule(
            seen(0, 3, last_scaled_at=NOW - 300),
            0,
            says="scale-in after its cooldown",
            source="Cooldown in",
        ),
        rule(
            seen(11, 1, others=1),
            2,
            says="variants share the queue: a third instance is missing",
            source="ours: variants",
        ),
        rule(seen(3, 1, others=2), 0, says="other variants' instances do the rest", source="ours: variants"),
        rule(
            seen(3, 0, others=1),
            0,
            says="another variant's instance needs no waking",
            source="ours: variants",
        ),
    ],
)
def test_target_tracking_of_the_backlog(observation, desired):
    assert decided(LIMITS, [policy()], observation) == desired


@pytest.mark.parametrize(
    ("limits", "policies", "observation", "desired"),
    [
        rule(
            Limits(2, 5),
            [],
            seen(0, 0),
            2,
            says="below the minimum it rises without a policy",
            source="RegisterScalableTarget",
        ),
        rule(
            Limits(0, 3),
            [],
            seen(0, 4),
            3,
            says="above the maximum it falls without a policy",
            source="RegisterScalableTarget",
        ),
        rule(Limits(1, 5), [policy()], seen(0, 3), 1, says="scale-in ends at the minimum", source="Formula"),
        rule(
            Limits(0, 5), [], seen(7, 0), 1, says="an arrival wakes one without a policy", source="ours: wake"
        ),
        rule(
            Limits(0, 0),
            [policy()],
            seen(7, 0),
            0,
            says="no capacity, no waking",
            source="RegisterScalableTarget",
        ),
        rule(
            Limits(0, 5, scale_out_suspended=True),
            [policy()],
            seen(7, 0),
            0,
            says="scale-out suspended",
            source="Suspended",
        ),
        rule(
            Limits(0, 5, scale_in_suspended=True),
            [policy()],
            seen(0, 3),
            3,
            says="scale-in suspended",
            source="Suspended",
        ),
        rule(
            LIMITS,
            [policy(disable_scale_in=True)],
            seen(0, 3),
            3,
            says="a policy that never scales in",
            source="DisableScaleIn",
        ),
        rule(
            LIMITS,
            [policy(disable_scale_in=True)],
            seen(20, 3),
            4,
            says="a policy that only scales out",
            source="DisableScaleIn",
        ),
        rule(
            LIMITS,
            [policy(disable_scale_in=True), policy()],
            seen(0, 3),
            0,
            says="a policy that never scales in does not keep others from it",
            source="Several policies",
        ),
        rule(
            LIMITS,
            [policy(target_value=5.0), policy(target_value=2.0)],
            seen(10, 2),
            5,
            says="the highest of several wins",
            source="Several policies",
        ),
        rule(
            LIMITS,
            [policy(target_value=5.0), policy(target_value=2.0)],
            seen(4, 4),
            2,
            says="in to the highest of several",
            source="Several policies",
        ),
        rule(
            LIMITS,
            [policy(), policy(scale_in_cooldown_s=900.0)],
            seen(0, 3, last_scaled_at=NOW - 600),
            3,
            says="scale-in needs every policy's agreement",
            source="Several policies",
        ),
        rule(LIMITS, [], seen(0, 3), 3, says="without a policy nothing scales in", source="Several policies"),
        rule(
            LIMITS,
            [policy(most_at_once=1)],
            seen(0, 4),
            3,
            says="ManagedInstanceScaling gives up as many at once as its MaximumStepSize",
            source="ProductionVariantManagedInstanceScaling",
        ),
        rule(
            LIMITS,
            [policy(since=NOW - 10)],
            seen(0, 1),
            1,
            says="a new policy waits out its own cooldown",
            source="ours: new policies",
        ),
    ],
)
def test_limits_and_several_policies(limits, policies, observation, desired):
    assert decided(limits, policies, observation) == desired


def watched(backlog, desired, *peaks, since=0.0, **given) -> Observation:
    """Seen since long ago, with the backlogs of so many s before."""
    steps = tuple((NOW - before_s, height) for before_s, height in peaks)
    return seen(backlog, desired, peaks=steps, watched_since=since, **given)


@pytest.mark.parametrize(
    ("observation", "desired"),
    [
        rule(
            watched(0, 3, (299, 15)),
            3,
            says="a wave within the cooldown keeps what it needed",
            source="ours: calm",
        ),
        rule(watched(0, 3, (300, 15)), 0, says="one before it does not", source="ours: calm"),
        rule(
            watched(0, 5, (200, 8)), 2, says="scale-in leaves what the last wave needed", source="ours: calm"
        ),
        rule(
            watched(0, 2, (400, 25), last_scaled_at=NOW - 5, last_scale_out_at=NOW - 500),
            0,
            says="a second step down waits for no second cooldown",
            source="ours: calm",
        ),
        rule(
            watched(0, 2, last_scaled_at=NOW - 5, last_scale_out_at=NOW - 5),
            2,
            says="a scale-out is waited out",
            source="Cooldown in",
        ),
        rule(
            watched(0, 2, since=NOW - 10, last_scaled_at=NOW - 5),
            2,
            says="what was not watched is taken from the last scaling act",
            source="Cooldown in",
        ),
    ],
)
def test_scale_in_goes_by_the_highest_backlog_of_its_cooldown(observation, desired):
    assert decided(LIMITS, [policy()], observation) == desired


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(1, 100))
def test_peaks_tell_the_highest_backlog_of_any_time_up_to_now(backlogs, within_s):
    peaks = Peaks(0.0)
    for at, backlog in enumerate(backlogs):
        peaks.add(float(at), backlog)

    now = len(backlogs) - 1
    told = Observation(float(now), 0, 0, 0, peaks=peaks.steps, watched_since=peaks.since).peak(within_s)

    assert told == max(backlogs[-within_s:])


@pytest.mark.parametrize(
    ("limits", "observation", "code"),
    [
        rule(
            Limits(0, 5),
            seen(99, 5),
            "AlreadyAtMaxCapacity",
            says="more than the maximum",
            source="NotScaledReasons",
        ),
        rule(
            Limits(2, 5),
            seen(0, 2),
            "AlreadyAtMinCapacity",
            says="fewer than the minimum",
            source="NotScaledReasons",
        ),
        rule(Limits(0, 5), seen(10, 2), None, says="as many as wanted", source="NotScaledReasons"),
        rule(Limits(0, 5), seen(0, 0), None, says="nothing at zero", source="NotScaledReasons"),
        rule(
            Limits(0, 5), seen(99, 0), None, says="what is scaled needs no excuse", source="NotScaledReasons"
        ),
    ],
)
def test_a_change_that_cannot_be_has_awss_reason(limits, observation, code):
    readings = [(policy(), read_backlog(policy(), observation))]

    assert decide(limits, readings, observation).not_scaled == code


def test_a_step_policy_whose_alarm_asks_for_more_agrees_to_no_scale_in():
    """Source: target tracking, several policies."""
    observation = seen(0, 3)
    readings = [(policy(), read_backlog(policy(), observation))]

    assert decide(LIMITS, readings, observation, stepping_out=["wake"]).desired == 3


def test_a_policy_without_data_keeps_others_from_scaling_in():
    observation = seen(0, 3)
    readings = [(policy(), read_backlog(policy(), observation)), (policy(name="blind"), None)]

    assert decide(LIMITS, readings, observation).desired == 3


def test_the_cause_of_a_wake_names_the_arrival_and_the_policy():
    observation = seen(11, 0)

    decision = decide(LIMITS, [(policy(), read_backlog(policy(), observation))], observation)

    assert decision.desired == 3
    assert decision.cause == (
        "a request arrived while there was no instance; "
        "policy tracking: backlog of 11 at target 5 per instance"
    )


@given(
    st.integers(0, 10_000),
    st.integers(0, 50),
    st.integers(0, 50),
    st.integers(0, 50),
    st.floats(0.1, 1_000),
    st.floats(0, 2 * NOW),
)
def test_whatever_is_seen_the_count_stays_within_limits_and_work_keeps_an_instance(
    backlog, desired, minimum, span, target, last_scaled_at
):
    limits = Limits(minimum, minimum + span)
    observation = seen(backlog, desired, last_scaled_at=last_scaled_at)

    count = decided(limits, [policy(target_value=target)], observation)

    assert limits.min_capacity <= count <= limits.max_capacity
    assert count > 0 or backlog == 0 or limits.max_capacity == 0


@given(st.integers(0, 10_000), st.integers(0, 50), st.floats(0.1, 1_000))
def test_a_decision_needs_no_second(backlog, desired, target):
    """The same backlog seen again after scaling changes nothing: no flapping."""
    limits = Limits(0, 50)
    first = decided(limits, [policy(target_value=target)], seen(backlog, desired))

    assert decided(limits, [policy(target_value=target)], seen(backlog, first)) == first


MISSING = None


@pytest.mark.parametrize(
    ("minutes", "observation", "reading"),
    [
        rule(
            [5.0] * 12 + [10.0] * 3,
            seen(desired=2),
            (4, True, False),
            says="three minutes above",
            source="High",
        ),
        rule(
            [10.0] * 13 + [5.0, 10.0],
            seen(desired=2),
            (4, False, False),
            says="two of three above",
            source="High",
        ),
        rule(
            [4.0] * 15,
            seen(desired=5),
            (4, False, True),
            says="fifteen minutes below nine tenths",
            source="Low",
        ),
        rule([4.6] * 15, seen(desired=5), (5, False, False), says="below, but not by a tenth", source="Low"),
        rule(
            [9.0] + [4.0] * 14,
            seen(desired=5),
            (4, False, False),
            says="fourteen minutes below",
            source="Low",
        ),
        rule(
            [4.0] * 14 + [MISSING], seen(desired=5), None, says="no data, no opinion", source="Missing data"
        ),
        rule(
            [MISSING] + [4.0] * 14,
            seen(desired=5),
            (4, False, False),
            says="a gap is not below",
            source="Missing data",
        ),
        rule(
            [10.0] * 15,
            seen(desired=4, before_scale_out=2, last_scale_out_at=NOW - 60),
            (4, True, False),
            says="in its cooldown a scale-out is not multiplied again",
            source="Cooldown out",
        ),
        rule(
            [10.0] * 15,
            seen(desired=4, before_scale_out=2, last_scale_out_at=NOW - 300),
            (8, True, False),
            says="after its cooldown it is",
            source="Cooldown out",
        ),
    ],
)
def test_a_stored_metric_is_read_as_the_alarms_would(minutes, observation, reading):
    read = read_datapoints(policy(), minutes, observation)

    assert reading == (read and (read.wanted, read.high, read.low))


def steps(*bounds_and_adjustments, type_="ChangeInCapacity", magnitude=0) -> StepScaling:
    adjustments = tuple(StepAdjustment(*each) for each in bounds_and_adjustments)
    return StepScaling("step", type_, adjustments, magnitude, cooldown_s=300.0)


OUT = steps((0, 10, 1), (10, None, 3))
IN = steps((None, -10, -3), (-10, 0, -1))


@pytest.mark.parametrize(
    ("rule_", "distance", "observation", "desired"),
    [
        rule(
            OUT,
            0,
            seen(desired=1),
            2,
            says="a lower bound of a positive range is inclusive",
            source="StepAdjustments",
        ),
        rule(OUT, 9.9, seen(desired=1), 2, says="within the first step", source="StepAdjustments"),
        rule(
            OUT,
            10,
            seen(desired=1),
            4,
            says="an upper bound of a positive range is exclusive",
            source="StepAdjustments",
        ),
        rule(OUT, 1e9, seen(desired=1), 4, says="an open end", source="StepAdjustments"),
        rule(OUT, -1, seen(desired=1), None, says="no step covers it", source="StepAdjustments"),
        rule(
            IN,
            0,
            seen(desired=4),
            3,
            says="an upper bound of a negative range is inclusive",
            source="StepAdjustments",
        ),
        rule(
            IN,
            -10,
            seen(desired=4),
            1,
            says="a lower bound of a negative range is exclusive",
            source="StepAdjustments",
        ),
        rule(
            OUT, 20, seen(desired=4), 5, says="no further than the maximum", source="RegisterScalableTarget"
        ),
        rule(
            OUT,
            20,
            seen(desired=5),
            None,
            says="at the maximum there is nothing to do",
            source="RegisterScalableTarget",
        ),
        rule(
            IN,
            -20,
            seen(desired=2, backlog=1),
            1,
            says="work in the backlog keeps one instance",
            source="ours: drain",
        ),
        rule(
            OUT,
            5,
            seen(desired=2, before_scale_out=1, last_scale_out_at=NOW - 60, last_scaled_at=NOW - 60),
            None,
            says="in its cooldown the same step does nothing more",
            source="Cooldown",
        ),
        rule(
            OUT,
            20,
            seen(desired=2, before_scale_out=1, last_scale_out_at=NOW - 60, last_scaled_at=NOW - 60),
            4,
            says="in its cooldown a greater step goes as far as it would have",
            source="Cooldown",
        ),
        rule(
            IN,
            -5,
            seen(desired=3, last_scaled_at=NOW - 60),
            None,
            says="scale-in waits out its cooldown",
            source="Cooldown in",
        ),
        rule(
            steps((0, None, 2), type_="ExactCapacity"),
            0,
            seen(desired=4),
            2,
            says="an exact capacity",
            source="AdjustmentType",
        ),
    ],
)
def test_step_scaling(rule_, distance, observation, desired):
    decision = step(LIMITS, rule_, distance, observation)

    assert (decision and decision.desired) == desired


@pytest.mark.parametrize(
    ("count", "percent", "magnitude", "desired"),
    [
        rule(10, 25, 0, 12, says="above 1 rounds down", source="Percent rounding"),
        rule(10, 5, 0, 11, says="0 to 1 rounds up to 1", source="Percent rounding"),
        rule(10, -5, 0, 9, says="-1 to 0 rounds down to -1", source="Percent rounding"),
        rule(10, -67, 0, 4, says="below -1 rounds up", source="Percent rounding"),
        rule(10, 10, 3, 13, says="at least the minimum magnitude", source="MinAdjustmentMagnitude"),
        rule(10, -10, 3, 7, says="at least the minimum magnitude downwards", source="MinAdjustmentMagnitude"),
    ],
)
def test_percentages_round_as_documented(count, percent, magnitude, desired):
    percentage = steps((None, None, percent), type_="PercentChangeInCapacity", magnitude=magnitude)

    decision = step(Limits(0, 100), percentage, 0, seen(desired=count))

    assert decision is not None
    assert decision.desired == desired


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [
        rule("Average", 4.0, says="the average, by default", source="MetricAggregationType"),
        rule("Minimum", 1.0, says="the minimum", source="MetricAggregationType"),
        rule("Maximum", 9.0, says="the maximum", source="MetricAggregationType"),
    ],
)
def test_steps_are_measured_by_one_value_of_the_datapoints(aggregation, value):
    assert aggregate(replace(OUT, aggregation=aggregation), [1.0, 9.0, 2.0]) == value


def test_a_step_policy_scales_in_no_further_than_other_policies_want():
    """Source: target tracking, several policies."""
    observation = seen(9, 4)
    others = [(policy(), read_backlog(policy(), observation))]

    decision = step(LIMITS, IN, -20, observation, others)

    assert decision is not None
    assert decision.desired == 2


@pytest.mark.parametrize(
    ("rule_", "distance", "observation", "code"),
    [
        rule(
            OUT, 5, seen(desired=5), "AlreadyAtMaxCapacity", says="at the maximum", source="NotScaledReasons"
        ),
        rule(
            IN, -5, seen(desired=0), "AlreadyAtMinCapacity", says="at the minimum", source="NotScaledReasons"
        ),
        rule(
            steps((0, None, 2), type_="ExactCapacity"),
            1,
            seen(desired=2),
            "AlreadyAtDesiredCapacity",
            says="as many as it asks for",
            source="NotScaledReasons",
        ),
        rule(OUT, -5, seen(desired=5), None, says="no step covers it", source="NotScaledReasons"),
    ],
)
def test_a_step_that_cannot_be_has_awss_reason(rule_, distance, observation, code):
    assert why_not_stepped(LIMITS, rule_, distance, observation) == code


def test_step_scaling_may_be_suspended_each_way():
    out = step(Limits(0, 5, scale_out_suspended=True), OUT, 5, seen(desired=1))
    back = step(Limits(0, 5, scale_in_suspended=True), IN, -5, seen(desired=3))

    assert (out, back) == (None, None)


def test_a_reading_of_nothing_is_low():
    assert read_backlog(policy(), seen(0, 0)) == Reading(
        0, high=False, low=True, text="backlog of 0 at target 5 per instance", kept=0
    )


@pytest.mark.parametrize(
    ("minimum", "maximum", "moved"),
    [
        pytest.param(2, None, (2, 5), id="a minimum alone"),
        pytest.param(7, None, (7, 7), id="a minimum takes a lower maximum along"),
        pytest.param(None, 3, (1, 3), id="a maximum alone"),
        pytest.param(None, 0, (0, 0), id="a maximum takes a higher minimum along"),
        pytest.param(0, 9, (0, 9), id="both"),
    ],
)
def test_a_scheduled_action_moves_the_limits_it_names(minimum, maximum, moved):
    limits = Limits(1, 5).moved(minimum, maximum)

    assert (limits.min_capacity, limits.max_capacity) == moved
