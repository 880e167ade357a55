"""Loads through the real rules in virtual time."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.queue.fairness import Waiting, share
from ebbtide.scaling.goals import Deadline, Goals
from ebbtide.scaling.policies import Limits, TargetTracking
from ebbtide.scaling.schedules import parse
from ebbtide.simulation.engine import Run, simulate
from ebbtide.simulation.load import Arrival, Load, load, storm
from ebbtide.simulation.outcome import outcome
from ebbtide.simulation.setting import Fleet, Scaling, Scheduled

POST = Scaling("the post's", Limits(0, 5), (TargetTracking("backlog", 5.0, 120, 120, False, since=0.0),))


def fixed(count: int) -> Scaling:
    return Scaling(f"{count} always on", Limits(count, count))


def let_through(arrivals: Iterable[Arrival], scaling: Scaling = POST, **fleet: object) -> tuple[Load, Run]:
    made = load(arrivals)
    return made, simulate(made, Fleet(**fleet), scaling)  # type: ignore[arg-type]


def order_of_claims(run: Run) -> list[int]:
    """The numbers of the arrivals, as they were claimed."""
    claimed = [(at, number) for number, at in enumerate(run.claimed_at) if at is not None]
    return [number for _, number in sorted(claimed)]


def test_the_posts_storm_rises_to_five_and_sinks_to_zero():
    made, run = let_through(storm(10_000, over_s=10), starting_s=1.0)

    found = outcome(made, Fleet(), run, until=run.ended_at)
    assert (found.done, found.expired, found.most_instances) == (10_000, 0, 5)
    assert run.looks[-1].desired == run.looks[-1].in_service == 0


def test_a_lone_request_waits_for_one_start():
    _, run = let_through([Arrival(100.0, 2.0)], starting_s=3.0)

    assert (run.claimed_at, run.finished_at) == ([103.0], [105.0])


def test_what_waits_too_long_expires_and_nothing_else():
    made, run = let_through([Arrival(0.0, 100.0, ttl_s=500)] + [Arrival(1.0, 1.0, ttl_s=50)] * 3, fixed(1))

    found = outcome(made, Fleet(), run, until=run.ended_at)
    assert (found.done, found.expired) == (1, 3)
    assert all(at is not None and at >= 51 for at in run.expired_at[1:])


def test_higher_priorities_go_first_and_of_equals_the_older():
    arrivals = [Arrival(number, 100.0, priority) for number, priority in enumerate([0, 0, 5, 0, 5])]

    _, run = let_through(arrivals, fixed(1), starting_s=0.0)

    assert order_of_claims(run) == [0, 2, 4, 1, 3]


def test_accounts_share_slots_as_the_queue_lets_them():
    arrivals = [Arrival(number / 1000, 1.0, account="Law" if number < 8 else "Arts") for number in range(16)]

    made, run = let_through(arrivals, fixed(1), weights={"Arts": 3.0})

    # The first is served on arrival; whose turn it is is asked when it is done, and all others wait.
    queued, turns, expected = {"Law": 7, "Arts": 8}, {"Law": 1.0, "Arts": 0.0}, ["Law"]
    for _ in range(15):
        weights = {"Law": 1.0, "Arts": 3.0}
        [each] = share([Waiting(name, queued[name], turns[name], weights[name]) for name in queued], 1)
        queued[each.account] -= 1
        turns[each.account] = each.turn
        expected.append(each.account)
    assert [made.account[number] for number in order_of_claims(run)] == expected


def test_a_start_that_is_no_longer_wanted_is_given_up_and_paid_for_so_far():
    goals = Scaling("deadline", Limits(0, 1), goals=Goals(deadline=Deadline(within_s=10.0)))

    _, run = let_through([Arrival(0.0, 1.0, ttl_s=4.0)], goals, starting_s=60.0)

    [life] = run.lives
    assert life.in_service_at is None
    assert life.ended_at == pytest.approx(4.0, abs=1.0)


def test_scheduled_actions_move_the_limits_when_they_are_due():
    morning = Scheduled(parse("at(1970-01-01T00:01:00)"), min_capacity=2)
    evening = Scheduled(parse("at(1970-01-01T00:05:00)"), min_capacity=0, max_capacity=1)
    scaling = replace(POST, scheduled=(morning, evening))

    _, run = let_through([Arrival(0.5, 0.1), Arrival(600.0, 0.1)], scaling, starting_s=0.0)

    desired = {look.at: look.desired for look in run.looks}
    assert (desired[59.0], desired[60.0], desired[299.0], desired[300.0]) == (1, 2, 2, 1)


def test_running_work_is_never_cut():
    _, run = let_through([Arrival(0.0, 5_000.0)], POST, starting_s=1.0)

    assert run.finished_at == [5_001.0]


@given(
    st.lists(
        st.builds(
            Arrival,
            at=st.floats(0, 300),
            service_s=st.floats(0, 40),
            priority=st.integers(-2, 2),
            account=st.sampled_from(["", "Law", "Arts"]),
            ttl_s=st.floats(1, 200),
        ),
        min_size=1,
        max_size=40,
    ),
    st.integers(1, 3),
    st.floats(0, 30),
    st.integers(1, 4),
)
def test_every_arrival_has_one_end_and_no_instance_more_than_its_slots(arrivals, slots, starting_s, most):
    tracking = (TargetTracking("backlog", 2.0, 30, 30, False, since=0.0),)
    fleet = Fleet(slots=slots, starting_s=starting_s)
    made = load(arrivals)

    run = simulate(made, fleet, Scaling("any", Limits(0, most), tracking))

    held: dict[int, list[tuple[float, int]]] = {}
    for number, at in enumerate(made.at):
        begin, end, expired = run.claimed_at[number], run.finished_at[number], run.expired_at[number]
        assert (end is None) != (expired is None)
        if begin is not None and end is not None:
            life = run.lives[run.instance[number]]
            assert at <= begin < at + made.ttl_s[number]
            assert life.in_service_at <= begin <= end <= life.ended_at
            held.setdefault(life.number, []).extend([(begin, 1), (end, -1)])
    for changes in held.values():
        running = 0
        for _, change in sorted(changes):
            running += change
            assert running <= slots
    assert max(look.desired for look in run.looks) <= most
    found = outcome(made, fleet, run, until=run.ended_at)
    assert found.minimum_s <= found.instance_s + 1e-6
    assert found.starting_s + found.idle_s <= found.instance_s + 1e-6


def test_the_same_load_comes_to_the_same_run():
    assert let_through(storm(500, over_s=60))[1] == let_through(storm(500, over_s=60))[1]
