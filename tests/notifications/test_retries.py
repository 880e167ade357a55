"""When a failed delivery is attempted again."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.errors import ServiceError
from ebbtide.notifications.retries import (
    BACKOFF_FUNCTIONS,
    GIVE_UP_AFTER_S,
    LONGEST_DELAY_S,
    DeliveryPolicy,
    default_delay_s,
    parse_delivery_policy,
)


@pytest.mark.parametrize(
    ("failed_count", "age_s", "delay_s"),
    [
        pytest.param(1, 0, 1, id="the first retry comes after a second"),
        pytest.param(2, 1, 2, id="delays double"),
        pytest.param(8, 127, 128, id="delays go on doubling"),
        pytest.param(13, 5_000, 3_600, id="up to an hour"),
        pytest.param(5_000, 86_400 * 13, 3_600, id="for days"),
        pytest.param(5_001, GIVE_UP_AFTER_S, None, id="and end after two weeks"),
    ],
)
def test_without_a_policy_retries_go_on_for_days(failed_count, age_s, delay_s):
    assert default_delay_s(failed_count, age_s) == delay_s


def delays(policy):
    return [policy.delay_s(failed_count) for failed_count in range(1, policy.num_retries + 2)]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        pytest.param(DeliveryPolicy(), [20, 20, 20, None], id="the default is three, 20 s apart"),
        pytest.param(DeliveryPolicy(num_retries=0), [None], id="no retries at all"),
        pytest.param(
            DeliveryPolicy(
                5, 25, 6, num_no_delay_retries=1, num_min_delay_retries=2, num_max_delay_retries=1
            ),
            [0, 5, 5, 5, 25, 25, None],
            id="phases follow one another",
        ),
        pytest.param(DeliveryPolicy(10, 50, 5), [10, 20, 30, 40, 50, None], id="a linear rise"),
        pytest.param(
            DeliveryPolicy(1, 16, 5, backoff_function="geometric"), [1, 2, 4, 8, 16, None], id="geometric"
        ),
        pytest.param(
            DeliveryPolicy(0, 15, 5, backoff_function="exponential"), [0, 1, 3, 7, 15, None], id="exponential"
        ),
    ],
)
def test_a_policy_says_each_delay(policy, expected):
    assert delays(policy) == pytest.approx(expected)


@given(st.integers(0, 60), st.integers(0, 600), st.integers(0, 50), st.sampled_from(BACKOFF_FUNCTIONS))
def test_delays_rise_from_the_least_to_the_longest(least, span, retries, backoff):
    policy = DeliveryPolicy(least, least + span, retries, backoff_function=backoff)
    *waits, last = delays(policy)

    assert last is None
    assert waits == pytest.approx(sorted(waits))
    assert all(least <= wait <= least + span for wait in waits)


@given(st.integers(1, 10**6), st.floats(0, 2 * GIVE_UP_AFTER_S))
def test_every_wait_is_bounded(failed_count, age_s):
    delay = default_delay_s(failed_count, age_s)

    assert delay is None or 0 < delay <= LONGEST_DELAY_S


def test_a_policy_is_read_from_a_subscription_and_from_a_topic():
    retry = {"numRetries": 5, "minDelayTarget": 1, "maxDelayTarget": 9, "backoffFunction": "geometric"}
    expected = DeliveryPolicy(1, 9, 5, backoff_function="geometric")

    of_subscription = parse_delivery_policy(json.dumps({"healthyRetryPolicy": retry}))
    of_topic = parse_delivery_policy(
        json.dumps(
            {
                "http": {
                    "defaultHealthyRetryPolicy": retry,
                    "defaultRequestPolicy": {"headerContentType": "application/json"},
                }
            }
        )
    )

    assert of_subscription == (expected, None)
    assert of_topic == (expected, "application/json")


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        pytest.param("{", "parse JSON", id="no JSON"),
        pytest.param('{"healthyRetryPolicy": {"numRetries": 101}}', "num_retries", id="too many retries"),
        pytest.param('{"healthyRetryPolicy": {"numRetries": "3"}}', "num_retries", id="a text for a number"),
        pytest.param('{"healthyRetryPolicy": {"retries": 3}}', "has no retries", id="an unknown member"),
        pytest.param(
            '{"healthyRetryPolicy": {"minDelayTarget": 30}}', "minDelayTarget", id="least over longest"
        ),
        pytest.param('{"healthyRetryPolicy": {"numNoDelayRetries": 4}}', "sum", id="phases over the total"),
        pytest.param(
            '{"healthyRetryPolicy": {"backoffFunction": "random"}}', "one of", id="unknown back-off"
        ),
        pytest.param('{"throttlePolicy": {"maxReceivesPerSecond": 1}}', "not supported", id="throttling"),
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused(policy, says):
    with pytest.raises(ServiceError, match=says):
        parse_delivery_policy(policy)
