"""CloudWatch's statistics, in a table over the samples 1 to 100, each once."""

import pytest

from ebbtide.metrics.statistics import Samples, parse

HUNDRED = [Samples(1, value, value, value) for value in range(1, 101)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SampleCount", 100),
        ("Sum", 5050),
        ("Average", 50.5),
        ("Minimum", 1),
        ("Maximum", 100),
        ("p0", 1),
        ("p50", 50),
        ("p99", 99),
        ("p99.5", 100),
        ("p100", 100),
        ("tm90", 45.5),
        ("TM(10%:90%)", 50.5),
        ("tc90", 90),
        ("TC(10%:90%)", 80),
        ("ts50", 1275),
        ("IQM", 50.5),
        ("wm98", 50.47),
        ("TS(:50%)", 1275),
        ("TS(50%:)", 3775),
    ],
)
def test_a_statistic_of_a_hundred_samples(name, expected):
    assert parse(name).of(HUNDRED) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("name", ["", "Mean", "average", "p101", "p", "PR(:300)", "TM(90%:10%)", "tm"])
def test_an_unknown_statistic_is_refused(name):
    with pytest.raises(ValueError, match="statistic"):
        parse(name)


def test_a_percentile_within_an_element_lies_between_its_extremes():
    assert parse("p50").of([Samples(4, 40, 5, 15)]) == 10
