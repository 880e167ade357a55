"""Goals beyond AWS's policies, each rule a row; docs/scaling.md says what they mean."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.scaling.goals import Budget, Deadline, Forecast, Goals, Measured, decide, meet
from ebbtide.scaling.policies import Limits, Observation

NOW = datetime(2027, 1, 4, 5, 0, tzinfo=UTC).timestamp()
LIMITS = Limits(0, 5)


def seen(backlog=0, desired=0, **given) -> Observation:
    return Observation(**{"at": NOW, "desired": desired, "others": 0, "backlog": backlog} | given)


def measured(**given) -> Measured:
    """One request a second of each instance, which takes 10 s to start; the oldest has come just now."""
    known = {"oldest_accepted_at": NOW, "rate_per_s": 1.0, "starting_s": 10.0}
    return Measured(**known | given)


def decided(goals, limits=LIMITS, observation=None, **given):
    return decide(goals, measured(**given), limits, [], observation or seen())


@pytest.mark.parametrize(
    ("deadline", "observation", "known", "count"),
    [
        pytest.param(Deadline(within_s=600), seen(100), {}, 0, id="a start waits while there is time"),
        pytest.param(Deadline(within_s=136), seen(100), {}, 1, id="one starts when that is the last moment"),
        pytest.param(Deadline(within_s=60), seen(100), {}, 3, id="as many as it takes start at once"),
        pytest.param(Deadline(within_s=5), seen(4), {}, 4, id="too late is as many as have work"),
        pytest.param(Deadline(within_s=200), seen(100, 1), {}, 1, id="one that makes it stays alone"),
        pytest.param(Deadline(within_s=120), seen(100, 1), {}, 2, id="one that would be late gets another"),
        pytest.param(Deadline(within_s=120), seen(2, 4), {}, 2, id="those without work end at once"),
        pytest.param(Deadline(within_s=120), seen(0, 2), {}, 0, id="with no work all end"),
        pytest.param(
            Deadline(within_s=600),
            seen(100),
            {"rate_per_s": None},
            1,
            id="the first tells how long one takes",
        ),
        pytest.param(
            Deadline(within_s=600),
            seen(100),
            {"oldest_accepted_at": NOW - 500},
            2,
            id="the oldest request's time counts",
        ),
        pytest.param(
            Deadline(by="cron(0 6 * * ? *)"), seen(100), {}, 0, id="a nightly batch waits for its hour"
        ),
        pytest.param(
            Deadline(by="cron(2 5 * * ? *)"), seen(100), {}, 2, id="and is done when the hour has come"
        ),
        pytest.param(
            Deadline(by="cron(30 6 * * ? *)", timezone="Europe/Paris"),
            seen(2_000),
            {},
            2,
            id="the hour is that of the time zone",
        ),
        pytest.param(Deadline(within_s=60), seen(100, 1, others=1), {}, 2, id="other variants do their part"),
    ],
)
def test_a_deadline(deadline, observation, known, count):
    assert meet(deadline, measured(**known), observation)[0] == count


@given(st.integers(1, 10_000), st.integers(0, 20), st.floats(1, 10_000), st.floats(0.01, 100))
def test_what_a_deadline_wants_stays_within_the_limits(backlog, desired, within_s, rate_per_s):
    limits = Limits(2, 20)
    decision = decided(
        Goals(deadline=Deadline(within_s=within_s)), limits, seen(backlog, desired), rate_per_s=rate_per_s
    )

    assert 2 <= decision.desired <= 20


@pytest.mark.parametrize(
    ("budget", "limits", "observation", "known", "count"),
    [
        pytest.param(Budget(instance_s_per_day=3_600), LIMITS, seen(9), {}, 1, id="a fresh day"),
        pytest.param(
            Budget(instance_s_per_day=3_600), LIMITS, seen(9), {"spent": 3_599}, 0, id="used up: none wakes"
        ),
        pytest.param(
            Budget(instance_s_per_day=3_600), LIMITS, seen(9, 4), {"spent": 3_480}, 2, id="a minute for two"
        ),
        pytest.param(
            Budget(instance_s_per_day=60),
            Limits(1, 5),
            seen(9, 1),
            {"spent": 80_000},
            1,
            id="the minimum stays, whatever it costs",
        ),
        pytest.param(
            Budget(usd_per_day=1.0),
            LIMITS,
            seen(9, 2),
            {"spent": 0.9, "spent_per_instance_s": 0.001},
            1,
            id="money",
        ),
        pytest.param(
            Budget(usd_per_day=1.0), LIMITS, seen(9), {"spent_per_instance_s": None}, 0, id="no price"
        ),
    ],
)
def test_a_budget(budget, limits, observation, known, count):
    assert decided(Goals(budget=budget), limits, observation, **known).desired == count


@pytest.mark.parametrize(
    ("limits", "observation", "known", "count"),
    [
        pytest.param(LIMITS, seen(), {"arrivals": [600, 600]}, 3, id="the mean of the weeks, at their pace"),
        pytest.param(LIMITS, seen(), {"arrivals": []}, 0, id="no earlier week"),
        pytest.param(LIMITS, seen(), {"arrivals": [1, 0]}, 0, id="less than one request is no forecast"),
        pytest.param(LIMITS, seen(), {"arrivals": [9e9]}, 5, id="no more than the maximum"),
        pytest.param(
            Limits(0, 5, scale_out_suspended=True), seen(), {"arrivals": [600]}, 0, id="scale-out suspended"
        ),
        pytest.param(LIMITS, seen(), {"arrivals": [600], "rate_per_s": None}, 0, id="no pace known"),
    ],
)
def test_a_forecast(limits, observation, known, count):
    assert decided(Goals(forecast=Forecast()), limits, observation, **known).desired == count


def test_a_budget_bounds_a_forecast():
    both = Goals(budget=Budget(instance_s_per_day=100), forecast=Forecast())

    decision = decided(both, arrivals=[600.0])

    assert decision.desired == 1


@pytest.mark.parametrize(
    ("goals", "observation", "known", "cause"),
    [
        pytest.param(
            Goals(deadline=Deadline(within_s=60)),
            seen(100),
            {},
            "deadline: 100 queued take 125 s of an instance, due in 60 s",
            id="deadline",
        ),
        pytest.param(
            Goals(budget=Budget(instance_s_per_day=3_600)),
            seen(9, 4),
            {"spent": 3_480},
            "budget: 120 of the day's 3600 instance-seconds are left",
            id="budget",
        ),
        pytest.param(
            Goals(forecast=Forecast()),
            seen(),
            {"arrivals": [500, 700]},
            "forecast: 600 requests in 300 s, the mean of 2 earlier weeks",
            id="forecast",
        ),
    ],
)
def test_a_goal_says_why(goals, observation, known, cause):
    assert decided(goals, LIMITS, observation, **known).cause == cause
