"""The clairvoyant minimum: never above the cheapest schedule, found by trying all; often equal to it."""

from collections.abc import Iterator
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.costs.minimum import minimum_s

Job = tuple[int, int, int]
"""Earliest and latest begin, service."""

jobs = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 3), st.integers(1, 4)).map(
        lambda job: (job[0], job[0] + job[1], job[2])
    ),
    min_size=1,
    max_size=3,
)


def bound(given_jobs: list[Job], slots: int, starting: int) -> float:
    earliest, latest, service = np.array(given_jobs, dtype=np.float64).T
    return minimum_s(earliest, latest, service, slots=slots, starting_s=starting)


def cheapest(given_jobs: list[Job], slots: int, starting: int) -> int:
    """Every job on every instance at every moment. Whole moments suffice, since all times are whole."""
    moments = product(*(range(earliest, latest + 1) for earliest, latest, _ in given_jobs))
    placings = list(_placings(len(given_jobs)))
    return min(
        sum(
            cost
            for instance in set(placing)
            if (
                cost := _cost(
                    [
                        (begin, begin + service)
                        for begin, (_, _, service), on in zip(begins, given_jobs, placing, strict=True)
                        if on == instance
                    ],
                    slots,
                    starting,
                )
            )
        )
        for begins in moments
        for placing in placings
    )


def _placings(count: int) -> Iterator[tuple[int, ...]]:
    """On which instance each job is; they are alike, so the first job is on the first."""
    for placing in product(range(count), repeat=count):
        if all(on <= max(placing[:number], default=-1) + 1 for number, on in enumerate(placing)):
            yield placing


def _cost(held: list[tuple[int, int]], slots: int, starting: int) -> int:
    """One instance's: between jobs it stays, or is stopped and started again. Far too much for too many."""
    moments = sorted((moment, change) for begin, end in held for moment, change in ((begin, 1), (end, -1)))
    running, cost = 0, starting
    for (at, change), (then, _) in pairwise([*moments, moments[-1]]):
        running += change
        if running > slots:
            return 1_000_000
        cost += then - at if running else min(then - at, starting)
    return cost


@given(jobs, st.integers(1, 3), st.integers(0, 6))
def test_no_schedule_costs_less(given_jobs, slots, starting):
    assert bound(given_jobs, slots, starting) <= cheapest(given_jobs, slots, starting) + 1e-9


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 6))
def test_it_is_exact_where_one_slot_does_all_in_one_go(services, starting):
    given_jobs = [(0, sum(services), service) for service in services]

    assert bound(given_jobs, 1, starting) == cheapest(given_jobs, 1, starting) == sum(services) + starting


@given(jobs, st.integers(0, 6))
def test_it_does_not_depend_on_the_order_of_jobs(given_jobs, starting):
    assert bound(given_jobs, 1, starting) == pytest.approx(bound(given_jobs[::-1], 1, starting))


@pytest.mark.parametrize(
    ("given_jobs", "slots", "starting", "seconds"),
    [
        pytest.param([(0, 0, 2), (9, 9, 2)], 1, 3, 3 + 2 + 3 + 2, id="far apart: stopped and started again"),
        pytest.param([(0, 0, 2), (4, 4, 2)], 1, 3, 3 + 2 + 2 + 2, id="near: it stays between them"),
        pytest.param([(0, 0, 2), (1, 9, 5), (9, 9, 2)], 1, 3, 3 + 2 + 5 + 2 + 2, id="work fills a gap"),
        pytest.param([(0, 9, 2), (9, 9, 2)], 1, 3, 3 + 2 + 2, id="the first waits for the second"),
        pytest.param([(0, 5, 4), (0, 5, 4)], 2, 3, 3 + 4, id="two slots work side by side"),
        pytest.param([(0, 5, 8)], 4, 1, 1 + 8, id="a job has one slot, however many there are"),
        pytest.param([(3, 3, 1)], 1, 9, 9 + 1, id="one job, and a start longer than it"),
        pytest.param([(0, 0, 1), (2, 2, 1), (4, 4, 1)], 1, 9, 9 + 5, id="it stays where starts are long"),
        pytest.param([(0, 2, 1)] * 3, 1, 4, 4 + 3, id="all at once, one after the other"),
    ],
)
def test_small_cases_worked_out_by_hand(given_jobs, slots, starting, seconds):
    assert bound(given_jobs, slots, starting) == seconds == cheapest(given_jobs, slots, starting)


def test_without_work_nothing_is_needed():
    assert minimum_s(np.empty(0), np.empty(0), np.empty(0), slots=1, starting_s=9.0) == 0.0
