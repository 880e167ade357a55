"""The rules of scaling, each a row: what is seen, and how many instances should be desired."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.scaling.policies import (
    Limits,
    Observation,
    Reading,
    StepAdjustment,
    StepScaling,
    TargetTracking,
    decide,
    read_backlog,
    read_datapoints,
    step,
)

NOW = 10_000.0
LIMITS = Limits(0, 5)


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
        pytest.param(seen(0, 0), 0, id="nothing to do, nothing there"),
        pytest.param(seen(1, 0), 1, id="one request wakes one instance"),
        pytest.param(seen(5, 0), 1, id="a backlog at the target needs one"),
        pytest.param(seen(6, 0), 2, id="a backlog above the target needs two"),
        pytest.param(seen(999, 0), 5, id="a burst goes straight to the maximum"),
        pytest.param(seen(999, 5), 5, id="the maximum holds"),
        pytest.param(seen(11, 2), 3, id="more than the target per instance scales out"),
        pytest.param(seen(10, 2), 2, id="at the target nothing changes"),
        pytest.param(seen(9, 2), 2, id="nine tenths of the target are not low enough to scale in"),
        pytest.param(seen(8, 3), 2, id="well below the target scales in to what is needed"),
        pytest.param(seen(3, 5), 1, id="work in the backlog keeps one instance"),
        pytest.param(seen(0, 5), 0, id="without a backlog all go"),
        pytest.param(seen(11, 2, last_scaled_at=NOW - 1), 3, id="scale-out waits for no cooldown"),
        pytest.param(seen(0, 3, last_scaled_at=NOW - 299), 3, id="scale-in waits out its cooldown"),
        pytest.param(seen(0, 3, last_scaled_at=NOW - 300), 0, id="scale-in after its cooldown"),
        pytest.param(seen(11, 1, others=1), 2, id="variants share the queue: a third instance is missing"),
        pytest.param(seen(3, 1, others=2), 0, id="other variants' instances do the rest"),
        pytest.param(seen(3, 0, others=1), 0, id="another variant's instance needs no waking"),
    ],
)
def test_target_tracking_of_the_backlog(observation, desired):
    assert decided(LIMITS, [policy()], observation) == desired


@pytest.mark.parametrize(
    ("limits", "policies", "observation", "desired"),
    [
        pytest.param(Limits(2, 5), [], seen(0, 0), 2, id="below the minimum it rises without a policy"),
        pytest.param(Limits(0, 3), [], seen(0, 4), 3, id="above the maximum it falls without a policy"),
        pytest.param(Limits(1, 5), [policy()], seen(0, 3), 1, id="scale-in ends at the minimum"),
        pytest.param(Limits(0, 5), [], seen(7, 0), 1, id="an arrival wakes one without a policy"),
        pytest.param(Limits(0, 0), [policy()], seen(7, 0), 0, id="no capacity, no waking"),
        pytest.param(
            Limits(0, 5, scale_out_suspended=True), [policy()], seen(7, 0), 0, id="scale-out suspended"
        ),
        pytest.param(
            Limits(0, 5, scale_in_suspended=True), [policy()], seen(0, 3), 3, id="scale-in suspended"
        ),
        pytest.param(
            LIMITS, [policy(disable_scale_in=True)], seen(0, 3), 3, id="a policy that never scales in"
        ),
        pytest.param(
            LIMITS, [policy(disable_scale_in=True)], seen(20, 3), 4, id="a policy that only scales out"
        ),
        pytest.param(
            LIMITS,
            [policy(disable_scale_in=True), policy()],
            seen(0, 3),
            0,
            id="a policy that never scales in does not keep others from it",
        ),
        pytest.param(
            LIMITS,
            [policy(target_value=5.0), policy(target_value=2.0)],
            seen(10, 2),
            5,
            id="the highest of several wins",
        ),
        pytest.param(
            LIMITS,
            [policy(target_value=5.0), policy(target_value=2.0)],
            seen(4, 4),
            2,
            id="in to the highest of several",
        ),
        pytest.param(
            LIMITS,
            [policy(), policy(scale_in_cooldown_s=900.0)],
            seen(0, 3, last_scaled_at=NOW - 600),
            3,
            id="scale-in needs every policy's agreement",
        ),
        pytest.param(LIMITS, [], seen(0, 3), 3, id="without a policy nothing scales in"),
        pytest.param(
            LIMITS, [policy(since=NOW - 10)], seen(0, 1), 1, id="a new policy waits out its own cooldown"
        ),
    ],
)
def test_limits_and_several_policies(limits, policies, observation, desired):
    assert decided(limits, policies, observation) == desired


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
        pytest.param([5.0] * 12 + [10.0] * 3, seen(desired=2), (4, True, False), id="three minutes above"),
        pytest.param([10.0] * 13 + [5.0, 10.0], seen(desired=2), (4, False, False), id="two of three above"),
        pytest.param([4.0] * 15, seen(desired=5), (4, False, True), id="fifteen minutes below nine tenths"),
        pytest.param([4.6] * 15, seen(desired=5), (5, False, False), id="below, but not by a tenth"),
        pytest.param([9.0] + [4.0] * 14, seen(desired=5), (4, False, False), id="fourteen minutes below"),
        pytest.param([4.0] * 14 + [MISSING], seen(desired=5), None, id="no data, no opinion"),
        pytest.param([MISSING] + [4.0] * 14, seen(desired=5), (4, False, False), id="a gap is not below"),
        pytest.param(
            [10.0] * 15,
            seen(desired=4, before_scale_out=2, last_scale_out_at=NOW - 60),
            (4, True, False),
            id="in its cooldown a scale-out is not multiplied again",
        ),
        pytest.param(
            [10.0] * 15,
            seen(desired=4, before_scale_out=2, last_scale_out_at=NOW - 300),
            (8, True, False),
            id="after its cooldown it is",
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
    ("rule", "distance", "observation", "desired"),
    [
        pytest.param(OUT, 0, seen(desired=1), 2, id="a lower bound of a positive range is inclusive"),
        pytest.param(OUT, 9.9, seen(desired=1), 2, id="within the first step"),
        pytest.param(OUT, 10, seen(desired=1), 4, id="an upper bound of a positive range is exclusive"),
        pytest.param(OUT, 1e9, seen(desired=1), 4, id="an open end"),
        pytest.param(OUT, -1, seen(desired=1), None, id="no step covers it"),
        pytest.param(IN, 0, seen(desired=4), 3, id="an upper bound of a negative range is inclusive"),
        pytest.param(IN, -10, seen(desired=4), 1, id="a lower bound of a negative range is exclusive"),
        pytest.param(OUT, 20, seen(desired=4), 5, id="no further than the maximum"),
        pytest.param(OUT, 20, seen(desired=5), None, id="at the maximum there is nothing to do"),
        pytest.param(IN, -20, seen(desired=2, backlog=1), 1, id="work in the backlog keeps one instance"),
        pytest.param(
            OUT,
            5,
            seen(desired=2, before_scale_out=1, last_scale_out_at=NOW - 60, last_scaled_at=NOW - 60),
            None,
            id="in its cooldown the same step does nothing more",
        ),
        pytest.param(
            OUT,
            20,
            seen(desired=2, before_scale_out=1, last_scale_out_at=NOW - 60, last_scaled_at=NOW - 60),
            4,
            id="in its cooldown a greater step goes as far as it would have",
        ),
        pytest.param(
            IN, -5, seen(desired=3, last_scaled_at=NOW - 60), None, id="scale-in waits out its cooldown"
        ),
        pytest.param(
            steps((0, None, 2), type_="ExactCapacity"), 0, seen(desired=4), 2, id="an exact capacity"
        ),
    ],
)
def test_step_scaling(rule, distance, observation, desired):
    decision = step(LIMITS, rule, distance, observation)

    assert (decision and decision.desired) == desired


@pytest.mark.parametrize(
    ("count", "percent", "magnitude", "desired"),
    [
        pytest.param(10, 25, 0, 12, id="above 1 rounds down"),
        pytest.param(10, 5, 0, 11, id="0 to 1 rounds up to 1"),
        pytest.param(10, -5, 0, 9, id="-1 to 0 rounds down to -1"),
        pytest.param(10, -67, 0, 4, id="below -1 rounds up"),
        pytest.param(10, 10, 3, 13, id="at least the minimum magnitude"),
        pytest.param(10, -10, 3, 7, id="at least the minimum magnitude downwards"),
    ],
)
def test_percentages_round_as_documented(count, percent, magnitude, desired):
    rule = steps((None, None, percent), type_="PercentChangeInCapacity", magnitude=magnitude)

    decision = step(Limits(0, 100), rule, 0, seen(desired=count))

    assert decision is not None
    assert decision.desired == desired


def test_step_scaling_may_be_suspended_each_way():
    out = step(Limits(0, 5, scale_out_suspended=True), OUT, 5, seen(desired=1))
    back = step(Limits(0, 5, scale_in_suspended=True), IN, -5, seen(desired=3))

    assert (out, back) == (None, None)


def test_a_reading_of_nothing_is_low():
    assert read_backlog(policy(), seen(0, 0)) == Reading(
        0, high=False, low=True, text="backlog of 0 at target 5 per instance", kept=0
    )
