"""Goals that the tags of an endpoint choose."""

import pytest

from ebbtide.errors import ServiceError
from ebbtide.scaling.endpoint_goals import of_tags
from ebbtide.scaling.goals import NO_GOALS, Budget, Deadline, Forecast, Goals


@pytest.mark.parametrize(
    ("tags", "chosen"),
    [
        pytest.param({"team": "law"}, NO_GOALS, id="other tags are their owner's"),
        pytest.param({"ebbtide:deadline-within-s": "3600"}, Goals(Deadline(within_s=3600)), id="within"),
        pytest.param(
            {"ebbtide:deadline-by": "06:30"}, Goals(Deadline(by="cron(30 6 * * ? *)")), id="by a time in UTC"
        ),
        pytest.param(
            {"ebbtide:deadline-by": "6:00 Europe/Paris"},
            Goals(Deadline(by="cron(0 6 * * ? *)", timezone="Europe/Paris")),
            id="by a time somewhere",
        ),
        pytest.param(
            {"ebbtide:budget-usd-per-day": "2.5", "ebbtide:forecast-weeks": "4"},
            Goals(budget=Budget(usd_per_day=2.5), forecast=Forecast(4)),
            id="several",
        ),
        pytest.param(
            {"ebbtide:budget-instance-s-per-day": "7200"},
            Goals(budget=Budget(instance_s_per_day=7200)),
            id="a budget of time",
        ),
    ],
)
def test_tags_choose_goals(tags, chosen):
    assert of_tags(tags) == chosen


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        pytest.param({"deadline-within-s": "soon"}, "a number above 0, 2592000 at most", id="no number"),
        pytest.param({"deadline-within-s": "0"}, "not '0'", id="nothing"),
        pytest.param({"deadline-within-s": "2592001"}, "2592000 at most", id="beyond what is kept"),
        pytest.param({"budget-usd-per-day": "-5"}, "above 0, not '-5'", id="negative"),
        pytest.param({"budget-usd-per-day": "inf"}, "not 'inf'", id="endless"),
        pytest.param({"budget-usd-per-day": "9" * 400}, "above 0", id="more than a float holds"),
        pytest.param({"deadline-by": "25:00"}, "must be as in '06:00", id="no time of day"),
        pytest.param({"deadline-by": "dawn"}, "'dawn' is no time of day", id="no time at all"),
        pytest.param({"deadline-by": "06:00 Mars/Olympus"}, "Mars/Olympus", id="no time zone"),
        pytest.param({"forecast-weeks": "9"}, "from 1 to 8, not '9'", id="too many weeks"),
        pytest.param({"forecast-weeks": "1.5"}, "from 1 to 8", id="no whole weeks"),
        pytest.param(
            {"deadline-by": "06:00", "deadline-within-s": "60"}, "At most one of the tags", id="two deadlines"
        ),
        pytest.param(
            {"budget-usd-per-day": "1", "budget-instance-s-per-day": "1"}, "At most one", id="two budgets"
        ),
    ],
)
def test_a_tag_that_chooses_nothing_is_refused_by_name(tags, words):
    given = {f"ebbtide:{key}": value for key, value in tags.items()}

    with pytest.raises(ServiceError) as caught:
        of_tags(given)

    assert words in caught.value.message
    assert any(key in caught.value.message for key in given)
