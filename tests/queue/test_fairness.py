"""Turns between accounts: tables of who is served, and what holds whatever waits."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.queue.fairness import Waiting, share


def shares(*waiting: Waiting, slots: int) -> dict[str, int]:
    return {each.account: each.count for each in share(waiting, slots)}


@pytest.mark.parametrize(
    ("waiting", "slots", "expected"),
    [
        pytest.param([], 4, {}, id="nobody waits"),
        pytest.param([Waiting("a", 2, 0)], 4, {"a": 2}, id="one who waits gets no more than it has"),
        pytest.param(
            [Waiting("a", 9, 0), Waiting("b", 9, 0)], 4, {"a": 2, "b": 2}, id="equals share equally"
        ),
        pytest.param(
            [Waiting("a", 9, 0, 3), Waiting("b", 9, 0, 1)], 8, {"a": 6, "b": 2}, id="weights are proportions"
        ),
        pytest.param(
            [Waiting("a", 9, 0), Waiting("b", 1, 0)], 6, {"a": 5, "b": 1}, id="what one leaves goes to others"
        ),
        pytest.param(
            [Waiting("a", 100_000, 500.0), Waiting("b", 1, 0)], 1, {"b": 1}, id="who comes new is next"
        ),
        pytest.param(
            [Waiting("a", 9, 500.0), Waiting("b", 9, 0)], 4, {"a": 2, "b": 2}, id="nobody is paid back"
        ),
    ],
)
def test_slots_go_by_turns(waiting, slots, expected):
    assert shares(*waiting, slots=slots) == expected


weights = st.sampled_from([0.5, 1.0, 2.0, 3.0])


@given(st.lists(st.tuples(st.integers(0, 40), weights), min_size=1, max_size=5), st.integers(0, 60))
def test_no_slot_stays_free_while_someone_waits(accounts, slots):
    waiting = [Waiting(str(n), queued, 0.0, weight) for n, (queued, weight) in enumerate(accounts)]

    assert sum(shares(*waiting, slots=slots).values()) == min(slots, sum(each.queued for each in waiting))


@given(st.lists(weights, min_size=2, max_size=5), st.lists(st.integers(1, 7), min_size=1, max_size=40))
def test_while_all_wait_each_gets_its_proportion_to_within_a_turn_however_the_slots_come(weighing, claims):
    turns = dict.fromkeys(range(len(weighing)), 0.0)
    served: Counter[int] = Counter()
    for slots in claims:
        waiting = [Waiting(str(n), 1000, turns[n], weight) for n, weight in enumerate(weighing)]
        for each in share(waiting, slots):
            served[int(each.account)] += each.count
            turns[int(each.account)] = each.turn

    normalised = [served[n] / weight for n, weight in enumerate(weighing)]
    assert max(normalised) - min(normalised) <= 2 / min(weighing) + 1e-9
