"""For whom an instance ran: the time in which it worked goes to what it worked on, no more and no less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.costs.attribution import share, span

moments = st.floats(0, 1000, allow_nan=False)
holds = st.lists(st.tuples(moments, moments).map(lambda two: (min(two), max(two))), max_size=30)


def covered_s(given_holds: list[tuple[float, float]]) -> float:
    """The time in which anything is held."""
    total, reached = 0.0, -1.0
    for begin, end in sorted(given_holds):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


@given(holds)
def test_shares_add_up_to_the_time_in_which_anything_was_held(given_holds):
    assert share(given_holds).busy_s.sum() == pytest.approx(covered_s(given_holds))


@given(holds)
def test_nobody_has_more_than_its_own_time(given_holds):
    busy_s = share(given_holds).busy_s

    assert all(part <= end - begin + 1e-9 for part, (begin, end) in zip(busy_s, given_holds, strict=True))


@pytest.mark.parametrize(
    ("given_holds", "parts", "most"),
    [
        pytest.param([(0, 4)], [4], 1, id="alone it has all"),
        pytest.param([(0, 4), (0, 4)], [2, 2], 2, id="two side by side have half each"),
        pytest.param([(0, 4), (1, 2)], [3.5, 0.5], 2, id="a short one halves only its own time"),
        pytest.param([(0, 4), (4, 6)], [4, 2], 1, id="those that follow one another do not overlap"),
        pytest.param([], [], 0, id="nothing held"),
    ],
)
def test_moments_are_divided_equally(given_holds, parts, most):
    shares = share(given_holds)

    assert shares.busy_s.tolist() == parts
    assert shares.most_held == most


@pytest.mark.parametrize(
    ("since", "until", "total_s", "starting_s"),
    [
        pytest.param(0, 100, 40, 10, id="all of it"),
        pytest.param(15, 100, 35, 5, id="from the middle of its start"),
        pytest.param(0, 15, 5, 5, id="to the middle of its start"),
        pytest.param(30, 40, 10, 0, id="while it served"),
    ],
)
def test_an_instances_time_is_cut_to_what_is_asked(since, until, total_s, starting_s):
    found = span(starting_at=10, in_service_at=20, ended_at=50, since=since, until=until)

    assert found is not None
    assert (found.total_s, found.starting_s) == (total_s, starting_s)


def test_one_that_never_came_up_was_starting_all_the_time():
    found = span(starting_at=10, in_service_at=None, ended_at=50, since=0, until=100)

    assert found is not None
    assert found.starting_s == 40


def test_one_that_ran_before_is_not_counted():
    assert span(starting_at=10, in_service_at=20, ended_at=50, since=50, until=100) is None
