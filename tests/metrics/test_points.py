"""Points are kept exactly, age into coarser ones, and are there only if what they count is."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide import metrics
from ebbtide.identifiers import ACCOUNT
from ebbtide.metrics import Point, StatisticSet, query
from ebbtide.metrics.points import DAY_S, bucket
from ebbtide.metrics.query import Metric

LATENCY = Metric("AWS/SageMaker", "ModelLatency", (("EndpointName", "e"), ("VariantName", "v")))
NOON = 1_800_000_000 // 86_400 * 86_400 + 43_200


def latency(value: float, at: float, unit: str = "Microseconds") -> Point:
    return Point(ACCOUNT, LATENCY.namespace, LATENCY.name, LATENCY.dimensions, value, unit, at)


def read(connection, statistic, *, start=NOON, end=NOON + 3600, period_s=60, unit=None):
    return query.statistics(
        connection, ACCOUNT, LATENCY, statistic, period_s=period_s, start=start, end=end, unit=unit
    )


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        ("SampleCount", {NOON: 3, NOON + 60: 1}),
        ("Sum", {NOON: 9, NOON + 60: 10}),
        ("Average", {NOON: 3, NOON + 60: 10}),
        ("Minimum", {NOON: 1, NOON + 60: 10}),
        ("Maximum", {NOON: 6, NOON + 60: 10}),
        ("p50", {NOON: 2, NOON + 60: 10}),
    ],
)
async def test_statistics_of_a_period_are_those_of_its_samples(database, statistic, expected):
    samples = [latency(1, NOON), latency(2, NOON + 30), latency(6, NOON + 59.9), latency(10, NOON + 60)]
    await database.write(lambda connection: metrics.record(connection, samples))

    found = await database.read(lambda connection: read(connection, statistic))

    assert found == pytest.approx(expected)


async def test_points_of_a_transaction_that_fails_are_not_counted(database):
    def record_and_fail(connection):
        metrics.record(connection, [latency(1, NOON)])
        raise RuntimeError

    await database.write(lambda connection: metrics.record(connection, [latency(5, NOON)]))
    with pytest.raises(RuntimeError):
        await database.write(record_and_fail)

    assert await database.read(lambda connection: read(connection, "Sum")) == {NOON: 5}


async def test_the_order_of_dimensions_does_not_tell_metrics_apart(database):
    turned = replace(latency(3, NOON), dimensions=LATENCY.dimensions[::-1])

    await database.write(lambda connection: metrics.record(connection, [latency(1, NOON), turned]))

    assert await database.read(lambda connection: read(connection, "Sum")) == {NOON: 4}


async def test_what_two_accounts_call_the_same_are_two_metrics(database):
    anothers = Point("333333333333", LATENCY.namespace, LATENCY.name, LATENCY.dimensions, 9, "None", NOON)

    await database.write(lambda connection: metrics.record(connection, [latency(1, NOON), anothers]))

    assert await database.read(lambda connection: read(connection, "Sum")) == {NOON: 1}
    assert await database.read(lambda connection: query.find(connection, "333333333333")) == [LATENCY]


async def test_the_first_unit_counts_unless_one_is_asked_for(database):
    samples = [latency(1, NOON), latency(10, NOON, unit="None")]
    await database.write(lambda connection: metrics.record(connection, samples))

    first = await database.read(lambda connection: read(connection, "Sum"))
    one = await database.read(lambda connection: read(connection, "Sum", unit="None"))

    assert first == {NOON: 1}
    assert one == {NOON: 10}


async def test_a_statistic_set_adds_its_samples(database):
    summed = StatisticSet(
        *[ACCOUNT, LATENCY.namespace, LATENCY.name, LATENCY.dimensions], "None", NOON, 4, 20, 2, 9
    )

    await database.write(lambda connection: metrics.record_sets(connection, [summed]))

    assert await database.read(lambda connection: read(connection, "Average")) == {NOON: 5}
    assert await database.read(lambda connection: read(connection, "Maximum")) == {NOON: 9}


@pytest.mark.parametrize(
    ("age_s", "resolutions_s"),
    [
        pytest.param(3600, [1], id="a second for three hours"),
        pytest.param(4 * 3600, [60], id="then a minute for 15 days"),
        pytest.param(16 * DAY_S, [300], id="then five minutes for 63 days"),
        pytest.param(64 * DAY_S, [3600], id="then an hour for 455 days"),
        pytest.param(456 * DAY_S, [], id="then nothing"),
    ],
)
async def test_points_grow_coarser_with_age_and_lose_no_sample(database, age_s, resolutions_s):
    samples = [latency(value, NOON + value) for value in range(1, 31)]
    await database.write(lambda connection: metrics.record(connection, samples))

    for now in (NOON + 3600, NOON + 4 * 3600, NOON + 16 * DAY_S, NOON + 64 * DAY_S, NOON + 456 * DAY_S):
        if now <= NOON + age_s:
            await database.write(lambda connection, now=now: metrics.roll_up(connection, now))

    resolutions = await database.read(
        lambda connection: (
            connection.exec_driver_sql("SELECT DISTINCT resolution_s FROM metric_points").scalars().all()
        )
    )
    sums = await database.read(lambda connection: read(connection, "Sum", period_s=3600))
    medians = await database.read(lambda connection: read(connection, "p50", period_s=3600))
    assert resolutions == resolutions_s
    assert sums == ({NOON: 465} if resolutions_s else {})
    assert medians == pytest.approx({NOON: 15} if resolutions_s else {}, rel=0.01)


async def test_a_point_that_comes_after_its_time_was_rolled_up_still_counts(database):
    for value in (1, 2):
        await database.write(
            lambda connection, value=value: metrics.record(connection, [latency(value, NOON)])
        )
        await database.write(lambda connection: metrics.roll_up(connection, NOON + 4 * 3600))

    assert await database.read(lambda connection: read(connection, "Sum")) == {NOON: 3}


async def test_metrics_are_found_by_any_of_their_dimensions(database):
    other = Point(ACCOUNT, "Mine", "Tides", (("Harbour", "Brest"),), 1, "None", NOON)
    await database.write(lambda connection: metrics.record(connection, [latency(1, NOON), other]))

    by_value = await database.read(lambda c: query.find(c, ACCOUNT, dimensions={"EndpointName": "e"}))
    by_name = await database.read(lambda c: query.find(c, ACCOUNT, dimensions={"Harbour": None}))
    active = await database.read(lambda c: query.find(c, ACCOUNT, active_since=NOON + 1))

    assert by_value == [LATENCY]
    assert by_name == [Metric("Mine", "Tides", (("Harbour", "Brest"),))]
    assert active == []


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_buckets_sort_as_their_values_do_and_hold_values_within_one_percent(values):
    low, high = sorted(values)

    assert bucket(low) <= bucket(high)
    if bucket(low) == bucket(high) and abs(low) > 1e-300:
        assert math.isclose(low, high, rel_tol=0.0101)
