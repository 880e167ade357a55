"""Expected times: what follows from slots, pace and those ahead."""

import pytest

from ebbtide.queue.estimates import Estimate, Service, Slots, claimed, measured, queued

NOW = 1000.0
AVERAGE = Service(service_s=2.0)
ONE = Slots(1, NOW)


@pytest.mark.parametrize(
    ("ahead", "in_flight", "slots", "service", "expected"),
    [
        pytest.param(0, 0, [ONE], AVERAGE, Estimate(1000.0, 1002.0), id="a free slot is taken"),
        pytest.param(0, 1, [ONE], AVERAGE, Estimate(1002.0, 1004.0), id="who leaves makes room"),
        pytest.param(9, 1, [ONE], AVERAGE, Estimate(1020.0, 1022.0), id="those ahead leave first"),
        pytest.param(9, 4, [Slots(4, NOW)], AVERAGE, Estimate(1005.0, 1007.0), id="slots work side by side"),
        pytest.param(
            3, 2, [Slots(4, NOW)], AVERAGE, Estimate(1001.0, 1003.0), id="free slots take those ahead"
        ),
        pytest.param(
            9,
            1,
            [ONE],
            Service(2.0, 10.0),
            Estimate(1001.0, 1003.0),
            id="a measured pace counts",
        ),
        pytest.param(
            0, 0, [Slots(2, 1010.0)], AVERAGE, Estimate(1010.0, 1012.0), id="at zero it waits for one"
        ),
        pytest.param(3, 0, [Slots(2, 1010.0)], AVERAGE, Estimate(1012.0, 1014.0), id="and then its slots"),
        pytest.param(
            20,
            1,
            [ONE, Slots(1, 1010.0)],
            AVERAGE,
            Estimate(1025.0, 1027.0),
            id="an instance that is coming up helps from then on",
        ),
        pytest.param(
            2,
            1,
            [ONE, Slots(9, 1100.0)],
            AVERAGE,
            Estimate(1006.0, 1008.0),
            id="not before it is there",
        ),
        pytest.param(0, 0, [], AVERAGE, Estimate(None, None), id="without instances nothing can be told"),
        pytest.param(0, 1, [ONE], Service(None), Estimate(None, None), id="nor without a pace"),
        pytest.param(0, 0, [ONE], Service(None), Estimate(1000.0, None), id="but a free slot is one"),
    ],
)
def test_a_queued_invocation_is_expected(ahead, in_flight, slots, service, expected):
    assert queued(ahead=ahead, in_flight=in_flight, slots=slots, service=service, now=NOW) == expected


@pytest.mark.parametrize(
    ("claimed_at", "end_at"),
    [
        pytest.param(999.0, 1001.0, id="after the mean time"),
        pytest.param(900.0, 1000.0, id="or any moment, when it has taken longer"),
    ],
)
def test_a_claimed_invocation_is_expected(claimed_at, end_at):
    assert claimed(claimed_at=claimed_at, service=AVERAGE, now=NOW) == Estimate(claimed_at, end_at)


def test_nothing_finished_tells_nothing():
    assert measured([], since=0.0) == Service(None, None)


def test_a_pace_is_told_by_enough_outcomes_that_had_waited():
    waited = [(0.0, 10.0 + n, 12.0 + n) for n in range(11)]

    assert measured(waited, since=0.0) == Service(2.0, 1.0)


@pytest.mark.parametrize(
    ("finished", "since"),
    [
        pytest.param([(0.0, 10.0 + n, 12.0 + n) for n in range(9)], 0.0, id="too few"),
        pytest.param([(10.0 + n, 10.0 + n, 12.0 + n) for n in range(20)], 0.0, id="slots that were idle"),
        pytest.param([(9.0 + n, 10.0 + n, 12.0 + n) for n in range(20)], 0.0, id="a queue that is short"),
        pytest.param([(0.0, 10.0 + n, 12.0 + n) for n in range(20)], 100.0, id="of another number of slots"),
        pytest.param([(0.0, 10.0, 12.0)] * 20, 0.0, id="all at once"),
    ],
)
def test_a_pace_is_not_told_by(finished, since):
    assert measured(finished, since=since) == Service(2.0, None)
