"""An instance's life in the database: its legal moves, what it costs, what a killed server leaves."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine
from tests.instances.recorded import instances_of

from ebbtide.database import metadata
from ebbtide.instances import records
from ebbtide.instances.records import LEGAL_MOVES, IllegalMove, Instance, State


def connect() -> Connection:
    connection = create_engine("sqlite://").connect()
    metadata.create_all(connection, tables=[records.instances])
    return connection


@pytest.fixture
def connection() -> Iterator[Connection]:
    with connect() as connection:
        yield connection


def add(connection: Connection, name: str = "i-1", *, created_at: float = 0.0, variant: str = "main") -> None:
    records.add(
        connection,
        Instance(
            id=name,
            endpoint_id="endpoint",
            generation=1,
            variant=variant,
            state=State.PENDING,
            cause="wanted",
            instance_type="ml.m5.xlarge",
            model_digest="model",
            peak_memory_bytes=None,
            pid=None,
            created_at=created_at,
        ),
    )


def walk(connection: Connection, name: str, *moves: tuple[State, float]) -> None:
    for state, at in moves:
        records.move(connection, name, state, cause="", at=at)


def only(connection: Connection) -> Instance:
    (instance,) = instances_of(connection, "endpoint")
    return instance


@given(wishes=st.lists(st.sampled_from(list(State)[1:]), max_size=8))
def test_an_instance_makes_only_legal_moves(wishes):
    with connect() as connection:
        add(connection)
        state = State.PENDING
        for wish in wishes:
            if wish in LEGAL_MOVES[state]:
                records.move(connection, "i-1", wish, cause="", at=1.0)
                state = wish
            else:
                with pytest.raises(IllegalMove, match=f"i-1 cannot become {wish}"):
                    records.move(connection, "i-1", wish, cause="", at=1.0)
            assert only(connection).state == state


def test_each_state_is_stamped_with_its_time(connection):
    add(connection, created_at=1.0)

    walk(
        connection,
        "i-1",
        (State.STARTING, 2.0),
        (State.IN_SERVICE, 3.0),
        (State.DRAINING, 4.0),
        (State.STOPPED, 5.0),
    )

    ended = only(connection)
    assert (ended.created_at, ended.starting_at, ended.in_service_at, ended.draining_at, ended.ended_at) == (
        1.0,
        2.0,
        3.0,
        4.0,
        5.0,
    )
    assert records.active(connection) == []


def test_instance_seconds_run_from_the_start_to_the_end_or_to_now(connection):
    add(connection, "ended")
    add(connection, "running")
    add(connection, "never-started")
    walk(connection, "ended", (State.STARTING, 10.0), (State.FAILED, 15.0))
    walk(connection, "running", (State.STARTING, 20.0), (State.IN_SERVICE, 21.0))
    walk(connection, "never-started", (State.STOPPED, 90.0))

    assert records.instance_seconds(connection, "endpoint", now=100.0) == 5.0 + 80.0
    assert records.instance_seconds(connection, "another", now=100.0) == 0.0


def test_what_a_killed_server_left_ends_as_failed_when_it_was_last_seen(connection):
    add(connection)
    walk(connection, "i-1", (State.STARTING, 10.0), (State.IN_SERVICE, 11.0))
    records.see(connection, {"i-1": 1000}, at=40.0)

    assert records.end_left_over(connection, "the server stopped") == 1

    left = only(connection)
    assert (left.state, left.cause, left.ended_at) == (State.FAILED, "the server stopped", 40.0)


def test_a_pending_instance_says_what_it_waits_for_and_one_that_started_does_not(connection):
    add(connection, "i-1")
    add(connection, "i-2")
    walk(connection, "i-2", (State.STARTING, 1.0))

    records.hold(connection, {"i-1": "waits for memory", "i-2": "waits for memory"})

    waiting, started = records.active(connection)
    assert waiting.cause == "waits for memory"
    assert started.cause == ""


def test_a_models_peak_is_the_largest_of_its_latest_instances(connection):
    for n, peak in enumerate([5000, *[300] * 10, 700, *[300] * 10]):
        add(connection, f"i-{n}", created_at=float(n))
        records.see(connection, {f"i-{n}": peak}, at=1.0)

    assert records.peak_memory_bytes(connection, "model") == 700
    assert records.peak_memory_bytes(connection, "unmeasured") is None
