"""Metric math: what an expression makes of three minutes of two metrics."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.metrics.expressions import ExpressionError, Scope, Series, evaluate

TIMES = range(0, 240, 60)
M1 = Series("one", 60, {0: 1.0, 60: 2.0, 180: 4.0})
M2 = Series("two", 60, {0: 10.0, 60: 0.0, 120: 30.0})
EMPTY = Series("none", 60, {})
IDS = {"m1": M1, "m2": M2, "empty": EMPTY}
SCOPE = Scope(IDS.__getitem__, {"m1": M1, "m2": M2}, lambda _period_s: TIMES)


def points(value):
    return [dict(series.points) for series in value] if isinstance(value, list) else dict(value.points)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("m1", {0: 1, 60: 2, 180: 4}),
        ("m1 + 1", {0: 2, 60: 3, 180: 5}),
        ("m1 + m2", {0: 11, 60: 2}),
        ("-m1 * 2", {0: -2, 60: -4, 180: -8}),
        ("2 ^ 3 ^ 2 - 2^9 + m1", {0: 1, 60: 2, 180: 4}),
        ("m1 - 1 - 1", {0: -1, 60: 0, 180: 2}),
        ("(m1 + 1) * 10 / 2", {0: 10, 60: 15, 180: 25}),
        pytest.param("m1 / m2", {0: 0.1}, id="a division by zero has no point"),
        ("m1 >= 2", {0: 0, 60: 1, 180: 1}),
        ("m1 > 1 AND m1 < 4", {0: 0, 60: 1, 180: 0}),
        ("m1 == 1 || m1 == 4", {0: 1, 60: 0, 180: 1}),
        ("[m1, m2]", [M1.points, M2.points]),
        ("METRICS()", [M1.points, M2.points]),
        ("METRICS('2')", [M2.points]),
        ("METRICS() * 2", [{0: 2, 60: 4, 180: 8}, {0: 20, 60: 0, 120: 60}]),
        pytest.param("SUM(METRICS())", {0: 11, 60: 2, 120: 30, 180: 4}, id="a sum takes what there is"),
        ("AVG([m1, m2])", {0: 5.5, 60: 1, 120: 30, 180: 4}),
        ("MAX(METRICS())", {0: 10, 60: 2, 120: 30, 180: 4}),
        pytest.param("m1 / MAX(m1)", {0: 0.25, 60: 0.5, 180: 1}, id="of one series a number"),
        ("m1 * 0 + SUM(m1)", {0: 7, 60: 7, 180: 7}),
        pytest.param("m1 + AVG(empty)", {}, id="the average of nothing does not exist"),
        ("FILL(m1, 0)", {0: 1, 60: 2, 120: 0, 180: 4}),
        ("FILL(m1, REPEAT)", {0: 1, 60: 2, 120: 2, 180: 4}),
        ("FILL(m1, LINEAR)", {0: 1, 60: 2, 120: 3, 180: 4}),
        ("FILL(m1, m2)", {0: 1, 60: 2, 120: 30, 180: 4}),
        ("FILL(empty, 3)", {0: 3, 60: 3, 120: 3, 180: 3}),
        ("FILL(METRICS(), 0)", [{0: 1, 60: 2, 120: 0, 180: 4}, {0: 10, 60: 0, 120: 30, 180: 0}]),
        ("IF(m1 > 1, m1, 0)", {0: 0, 60: 2, 180: 4}),
        pytest.param("IF(m1 > 1, m1)", {60: 2, 180: 4}, id="without an else no point"),
        pytest.param(
            "IF(m1 < 3, m2, 7)", {0: 10, 60: 0, 180: 7}, id="only the chosen side must have a point"
        ),
        ("DIFF(m1)", {60: 1, 180: 2}),
        ("DIFF_TIME(m1)", {60: 60, 180: 120}),
        ("RATE(m1)", {60: 1 / 60, 180: 2 / 120}),
        ("RUNNING_SUM(m1)", {0: 1, 60: 3, 180: 7}),
        ("CEIL(m1 / 3)", {0: 1, 60: 1, 180: 2}),
        ("m1 * PERIOD(m1)", {0: 60, 60: 120, 180: 240}),
        ("MINUTE(m1)", {0: 0, 60: 1, 180: 3}),
        ("m1 * 0 + METRIC_COUNT(METRICS())", {0: 2, 60: 2, 180: 2}),
        ("m1 * 0 + DATAPOINT_COUNT(m1)", {0: 3, 60: 3, 180: 3}),
        ("REMOVE_EMPTY([m1, empty])", [M1.points]),
        ("FIRST(METRICS())", M1.points),
        ("SLICE(METRICS(), 1)", [M2.points]),
        ("TIME_SERIES(5)", dict.fromkeys(TIMES, 5)),
    ],
)
def test_an_expression_gives(expression, expected):
    assert points(evaluate(expression, SCOPE)) == expected


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("m3", "undefined variable m3"),
        ("m1 +", "unexpected end"),
        ("m1 m2", "unexpected m2"),
        ("(m1", "expected )"),
        ("m1 $ 2", "unexpected character"),
        ("SEARCH('x', 'Average', 60)", "the function SEARCH is not supported"),
        ("SUM()", "SUM does not take these arguments"),
        ("RATE(2)", "a number stands where a time series must"),
        ("METRICS() + [m1]", "different number"),
        ("FILL(m1, METRICS())", "FILL takes"),
        ("(" * 1500 + "m1" + ")" * 1500, "nested too deeply"),
    ],
)
def test_an_expression_that_has_no_value_says_why(expression, reason):
    with pytest.raises(ExpressionError, match=reason.replace("(", r"\(").replace(")", r"\)")):
        evaluate(expression, SCOPE)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_arithmetic_is_that_of_numbers(a, b, c):
    scope = Scope({"a": a, "b": b, "c": c}.__getitem__, {}, lambda _period_s: ())

    assert evaluate("a - b * (c + 2) - a", scope) == pytest.approx(a - b * (c + 2) - a, nan_ok=True)


@given(st.text(alphabet="m12+-*/^()[], .<>=&|ABFILSUMETRCX\"'", max_size=60))
def test_any_text_is_an_expression_or_an_expression_error(text):
    try:
        value = evaluate(text, SCOPE)
    except ExpressionError:
        return
    for series in value if isinstance(value, list) else [value]:
        assert isinstance(series, float) or all(math.isfinite(v) for v in series.points.values())
