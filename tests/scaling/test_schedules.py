"""When scheduled actions are due. Sources: PutScheduledAction; AWS's guides on cron and rate expressions."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from ebbtide.scaling.schedules import next_after, parse


def epoch_s(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


@pytest.mark.parametrize(
    ("expression", "after", "due"),
    [
        pytest.param("at(2027-03-31T22:00:00)", "2027-01-01T00:00", "2027-03-31T22:00", id="at, once"),
        pytest.param("at(2027-03-31T22:00:00)", "2027-03-31T22:00", None, id="at, never again"),
        pytest.param("rate(5 minutes)", "2027-01-01T00:01", "2027-01-01T00:05", id="rate in minutes"),
        pytest.param("rate(1 hour)", "2027-01-01T01:00", "2027-01-01T02:00", id="rate in hours"),
        pytest.param("rate(7 days)", "2027-01-01T00:00", "2027-01-08T00:00", id="rate in days"),
        pytest.param("cron(15 10 * * ? *)", "2027-01-01T10:15", "2027-01-02T10:15", id="every day"),
        pytest.param("cron(0/15 * * * ? *)", "2027-01-01T10:16", "2027-01-01T10:30", id="steps"),
        pytest.param("cron(0 18 ? * MON-FRI *)", "2027-01-01T18:00", "2027-01-04T18:00", id="weekdays"),
        pytest.param("cron(0 8 1 * ? *)", "2027-01-02T00:00", "2027-02-01T08:00", id="a day of the month"),
        pytest.param("cron(0 0 L * ? *)", "2027-02-01T00:00", "2027-02-28T00:00", id="the month's last day"),
        pytest.param(
            "cron(0 0 LW * ? *)", "2027-02-01T00:00", "2027-02-26T00:00", id="the month's last weekday"
        ),
        pytest.param(
            "cron(0 0 3W * ? *)", "2027-01-01T00:00", "2027-01-04T00:00", id="the weekday nearest to a Sunday"
        ),
        pytest.param(
            "cron(0 0 1W * ? *)", "2027-05-01T12:00", "2027-05-03T00:00", id="nearest, within the month"
        ),
        pytest.param("cron(0 0 ? * 6L *)", "2027-01-01T00:00", "2027-01-29T00:00", id="the last Friday"),
        pytest.param("cron(0 0 ? * TUE#2 *)", "2027-01-01T00:00", "2027-01-12T00:00", id="a second Tuesday"),
        pytest.param("cron(0 9 ? JAN,jul SUN 2028)", "2027-07-01T00:00", "2028-01-02T09:00", id="names"),
        pytest.param("cron(0 0 29 2 ? *)", "2027-03-01T00:00", "2028-02-29T00:00", id="a leap day"),
        pytest.param("cron(0 0 30 2 ? *)", "2027-03-01T00:00", None, id="a day that never comes"),
        pytest.param("cron(0 0 1 1 ? 2026)", "2027-03-01T00:00", None, id="a year that is over"),
    ],
)
def test_a_schedule_is_due_next(expression, after, due):
    origin = epoch_s("2027-01-01T00:00")

    found = next_after(parse(expression), epoch_s(after), origin=origin)

    assert found == (due and epoch_s(due))


def test_a_rate_begins_at_its_start():
    origin = epoch_s("2027-01-01T00:00")

    assert next_after(parse("rate(1 day)"), origin - 5, origin=origin) == origin


@pytest.mark.parametrize(
    ("after", "due"),
    [
        pytest.param("2027-01-01T12:00", "2027-01-02T02:30", id="winter"),
        pytest.param("2027-03-27T12:00", "2027-03-28T03:30", id="a time left out is due an hour later"),
        pytest.param("2027-07-01T12:00", "2027-07-02T02:30", id="summer"),
    ],
)
def test_times_are_those_of_the_time_zone(after, due):
    paris = "Europe/Paris"

    found = next_after(parse("cron(30 2 * * ? *)", paris), epoch_s(after, paris), origin=0)

    assert found == epoch_s(due, paris)


def test_a_time_that_comes_twice_is_due_once():
    paris = "Europe/Paris"
    schedule = parse("cron(30 2 * * ? *)", paris)

    first = next_after(schedule, epoch_s("2027-10-30T12:00", paris), origin=0)
    second = next_after(schedule, first, origin=0)

    assert second - first == 25 * 3600


@pytest.mark.parametrize(
    ("expression", "timezone", "words"),
    [
        pytest.param("every(5 minutes)", None, "neither at", id="another kind"),
        pytest.param("at(tomorrow)", None, "at.yyyy-mm-dd", id="no date"),
        pytest.param("rate(0 minutes)", None, "positive number", id="no rate"),
        pytest.param("rate(5 weeks)", None, "minutes, hours or days", id="an unknown unit"),
        pytest.param("cron(0 8 * * ?)", None, "six fields, not 5", id="five fields"),
        pytest.param("cron(0 8 * * * *)", None, "must be [?]", id="both days"),
        pytest.param("cron(60 8 * * ? *)", None, "from 0 to 59", id="out of range"),
        pytest.param("cron(0/0 8 * * ? *)", None, "values, ranges and steps", id="a step of nothing"),
        pytest.param("cron(x 8 * * ? *)", None, "where a number belongs", id="no number"),
        pytest.param("cron(0 8 * * ? *)", "Mars/Base", "time zone", id="no such zone"),
    ],
)
def test_a_schedule_that_means_nothing_says_why(expression, timezone, words):
    with pytest.raises(ValueError, match=words):
        parse(expression, timezone)
