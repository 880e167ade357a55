"""Which state datapoints call for; X breaches, 0 does not, - is missing. The rows are CloudWatch's own."""

import pytest

from ebbtide.metrics.evaluation import ALARM, INSUFFICIENT_DATA, OK, evaluate

POINTS = {"X": 10.0, "0": 0.0, "-": None}
TREATMENTS = ("missing", "ignore", "breaching", "notBreaching")


def definition(needed, to_alarm, treatment="missing", **changed):
    return {
        "EvaluationPeriods": needed,
        "DatapointsToAlarm": to_alarm,
        "Threshold": 5.0,
        "ComparisonOperator": "GreaterThanThreshold",
        "TreatMissingData": treatment,
    } | changed


def datapoints(picture):
    return [POINTS[mark] for mark in picture.replace(" ", "")]


@pytest.mark.parametrize(
    ("needed", "to_alarm", "picture", "states"),
    [
        (3, 3, "0 - X - X", (OK, OK, OK, OK)),
        (3, 3, "0 - - - -", (OK, OK, OK, OK)),
        (3, 3, "- - - - -", (INSUFFICIENT_DATA, None, ALARM, OK)),
        (3, 3, "0 X X - X", (ALARM, ALARM, ALARM, ALARM)),
        (3, 3, "- - X - -", (ALARM, None, ALARM, OK)),
        (3, 3, "- - - - X", (None, None, ALARM, OK)),
        (3, 2, "0 - X - X", (ALARM, ALARM, ALARM, ALARM)),
        (3, 2, "0 0 X 0 X", (ALARM, ALARM, ALARM, ALARM)),
        (3, 2, "0 - X - -", (OK, OK, ALARM, OK)),
        (3, 2, "- - - - 0", (OK, OK, ALARM, OK)),
        (3, 2, "- - - X -", (ALARM, None, ALARM, OK)),
        (1, 1, "0 0 X", (ALARM, ALARM, ALARM, ALARM)),
        (1, 1, "X X 0", (OK, OK, OK, OK)),
    ],
)
def test_the_state_by_treatment_of_missing_data(needed, to_alarm, picture, states):
    found = tuple(
        evaluate(definition(needed, to_alarm, treatment), datapoints(picture)).state
        for treatment in TREATMENTS
    )

    assert found == states


@pytest.mark.parametrize(
    ("operator", "value", "state"),
    [
        ("GreaterThanThreshold", 5, OK),
        ("GreaterThanThreshold", 5.1, ALARM),
        ("GreaterThanOrEqualToThreshold", 5, ALARM),
        ("LessThanThreshold", 5, OK),
        ("LessThanThreshold", 4.9, ALARM),
        ("LessThanOrEqualToThreshold", 5, ALARM),
    ],
)
def test_a_datapoint_is_compared_as_the_operator_says(operator, value, state):
    assert evaluate(definition(1, 1, ComparisonOperator=operator), [value]).state == state


def test_the_reason_tells_the_values_newest_first():
    verdict = evaluate(definition(2, 2), [7.0, 8.0])

    assert verdict.reason == (
        "Threshold Crossed: 2 out of the last 2 datapoints were greater than the threshold (5): [8, 7]."
    )


def test_the_reason_tells_what_missing_datapoints_count_as():
    verdict = evaluate(definition(2, 2, TreatMissingData="notBreaching"), [None, None])

    assert verdict.reason == (
        "Threshold Crossed: no datapoints were received for 2 periods and 2 missing datapoints were treated "
        "as [NonBreaching]."
    )
