"""The queue's moves on a real database: what may be claimed, by whom, and who may end it."""

from dataclasses import replace

import pytest
from sqlalchemy import Connection, text
from tests.queue.accepted import invocation

from ebbtide.database import Database
from ebbtide.queue import invocations, retention, tables
from ebbtide.queue.invocations import NOTHING, Backlog, Claim, Ending, Invocation, Phases

ENDPOINT = "endpoint-1"
REQUEST = invocation("a", ENDPOINT, 100.0, expires_at=160.0)


async def accept(database: Database, *requests: Invocation) -> None:
    await database.write(lambda connection: invocations.accept(connection, requests))


async def claim(
    database: Database,
    *,
    limit: int = 10,
    now: float = 101.0,
    alone: bool = False,
    instance_id: str = "i-1",
) -> list[Claim]:
    return await database.write(
        lambda connection: invocations.claim(
            connection,
            endpoint_id=ENDPOINT,
            instance_id=instance_id,
            limit=limit,
            lease_s=30.0,
            now=now,
            alone=alone,
        )
    )


async def end(database: Database, held: Claim, state: str, *, at: float = 102.0) -> bool:
    """End a claim if it is still held; whether it was."""

    def work(connection: Connection) -> bool:
        if not invocations.still_held(connection, [held]):
            return False
        invocations.finish(connection, [Ending(held, state, None, Phases(), at)])
        return True

    return await database.write(work)


async def put_back(database: Database, held: Claim, *, lost: bool) -> bool:
    return await database.write(
        lambda connection: invocations.release(connection, held, reason="it died", now=102.0, lost=lost)
    )


async def expire(database: Database, *, now: float) -> bool:
    return await database.write(
        lambda connection: invocations.expire(connection, REQUEST, "too late", now=now)
    )


async def backlog(database: Database) -> Backlog:
    return await database.read(lambda connection: invocations.backlog(connection, ENDPOINT))


async def test_claims_go_to_the_oldest_first_and_at_most_as_many_as_asked(database: Database) -> None:
    await accept(
        database, *(replace(REQUEST, id=one, accepted_at=at) for one, at in [("c", 3), ("a", 1), ("b", 2)])
    )

    taken = await claim(database, limit=2)

    assert [held.invocation.id for held in taken] == ["a", "b"]
    assert [held.invocation.id for held in await claim(database)] == ["c"]


async def test_a_late_agent_cannot_end_what_its_successor_holds(database: Database) -> None:
    await accept(database, REQUEST)
    [late] = await claim(database)
    await put_back(database, late, lost=True)
    [successor] = await claim(database, alone=True)

    assert not await end(database, late, "succeeded")

    assert await end(database, successor, "succeeded")
    assert successor.lost_count == 1
    assert await backlog(database) == Backlog(0, 0, None)


async def test_what_died_with_a_model_server_is_handed_out_alone_to_an_instance_that_has_nothing_else(
    database: Database,
) -> None:
    await accept(database, REQUEST, replace(REQUEST, id="b"))
    [held] = await claim(database, limit=1)
    await put_back(database, held, lost=True)

    others, suspects = await claim(database), await claim(database, alone=True)

    assert [one.invocation.id for one in others] == ["b"]
    assert [one.invocation.id for one in suspects] == ["a"]


async def test_under_constant_load_one_instance_makes_room_for_a_suspect_and_the_others_go_on(
    database: Database,
) -> None:
    await accept(database, *(replace(REQUEST, id=one) for one in "abcdef"))
    [suspect] = await claim(database, limit=1)
    await put_back(database, suspect, lost=True)
    await claim(database, limit=1, instance_id="i-1")
    await claim(database, limit=1, instance_id="i-2")

    assert await claim(database, limit=1, instance_id="i-1") == []
    assert len(await claim(database, limit=1, instance_id="i-2")) == 1


async def test_accounts_are_served_in_turn_and_of_each_the_highest_priority_and_the_oldest(
    database: Database,
) -> None:
    many = [replace(REQUEST, id=f"a{n}", accepted_at=float(n)) for n in range(6)]
    few = [replace(REQUEST, id=f"b{n}", account="222222222222", accepted_at=10.0 + n) for n in range(3)]
    await accept(database, *many, *few, replace(few[0], id="b-urgent", priority=5, accepted_at=20.0))

    order = [(await claim(database, limit=1))[0].invocation.id for _ in range(10)]

    assert order == ["a0", "b-urgent", "a1", "b0", "a2", "b1", "a3", "b2", "a4", "a5"]


async def test_an_attempt_that_ended_without_an_outcome_is_kept_with_its_reason(database: Database) -> None:
    await accept(database, REQUEST)
    [held] = await claim(database)
    await put_back(database, held, lost=True)

    kept = await database.read(lambda connection: connection.execute(tables.attempts.select()).all())

    assert [tuple(row) for row in kept] == [("a", 1, "i-1", 101.0, 102.0, "it died")]


async def test_an_outcome_is_final(database: Database) -> None:
    await accept(database, REQUEST)
    [held] = await claim(database)
    assert await end(database, held, "failed")

    assert not await end(database, held, "succeeded")
    assert await claim(database) == []


async def test_what_waited_past_its_ttl_is_expired_not_claimed(database: Database) -> None:
    await accept(database, REQUEST)

    taken = await claim(database, now=160.0)
    due = await database.read(lambda connection: invocations.expiring(connection, now=160.0, limit=10))

    assert taken == []
    assert due == [REQUEST]
    assert await expire(database, now=160.0)


async def test_the_ttl_counts_waiting_only(database: Database) -> None:
    await accept(database, REQUEST)
    await claim(database, now=159.0)

    assert not await expire(database, now=170.0)


@pytest.mark.parametrize("by", ["its agent", "the next server"])
async def test_what_is_put_back_has_what_was_left_of_its_ttl_when_it_was_claimed(
    database: Database, by: str
) -> None:
    await accept(database, REQUEST)
    [held] = await claim(database, now=150.0)

    def put_back_at_400(connection: Connection) -> None:
        if by == "its agent":
            invocations.release(connection, held, reason="it died", now=400.0, lost=False)
        else:
            invocations.release_all(connection, now=400.0)

    await database.write(put_back_at_400)

    assert not await expire(database, now=409.0)
    assert await expire(database, now=410.0)


async def test_a_lease_that_is_renewed_does_not_lapse(database: Database) -> None:
    await accept(database, REQUEST, replace(REQUEST, id="b"))
    renewed, forgotten = await claim(database, now=101.0)
    await database.write(lambda connection: invocations.renew(connection, [renewed], lease_s=30.0, now=120.0))

    lapsed = await database.read(lambda connection: invocations.lapsed(connection, now=131.5, limit=10))

    assert [held.invocation.id for held, _ in lapsed] == [forgotten.invocation.id]


async def test_renewing_tells_which_claims_were_lost(database: Database) -> None:
    await accept(database, REQUEST)
    [held] = await claim(database)
    await put_back(database, held, lost=False)

    lost = await database.write(
        lambda connection: invocations.renew(connection, [held], lease_s=30.0, now=102.0)
    )

    assert lost == [held]


async def test_the_backlog_counts_waiting_and_running_from_the_oldest_of_both(database: Database) -> None:
    assert await backlog(database) == NOTHING
    await accept(database, *(replace(REQUEST, id=str(n), accepted_at=100.0 + n) for n in range(5)))
    held, *_ = await claim(database, limit=2)

    before = await backlog(database)
    assert await end(database, held, "succeeded")
    after = await backlog(database)

    assert before == Backlog(queued=3, claimed=2, oldest_accepted_at=100.0)
    assert after == Backlog(queued=3, claimed=1, oldest_accepted_at=101.0)


async def test_a_server_that_starts_again_puts_back_what_its_agents_held_and_blames_nobody(
    database: Database,
) -> None:
    await accept(database, REQUEST)
    [before] = await claim(database)

    await database.write(lambda connection: invocations.release_all(connection, now=102.0))
    [again] = await claim(database)

    assert again.invocation.id == before.invocation.id
    assert (again.count, again.lost_count) == (2, 0)


async def test_a_deleted_endpoints_invocations_are_forgotten(database: Database) -> None:
    await accept(database, REQUEST, replace(REQUEST, id="b"))
    [held] = await claim(database, limit=1)

    await database.write(lambda connection: retention.drop_endpoint(connection, ENDPOINT))

    assert await backlog(database) == NOTHING
    assert not await end(database, held, "succeeded")


@pytest.mark.parametrize("database_place", ["sqlite"], indirect=True)
async def test_claiming_reads_the_queue_by_its_index_whatever_its_length(database: Database) -> None:
    def explain(connection: object) -> str:
        rows = connection.execute(  # type: ignore[attr-defined]
            text(
                "EXPLAIN QUERY PLAN SELECT id FROM invocations WHERE endpoint_id = 'e' AND account = 'a' "
                "AND state = 'queued' AND expires_at > 1 AND lost_count = 0 "
                "ORDER BY priority DESC, accepted_at LIMIT 4"
            )
        )
        return " ".join(row[-1] for row in rows)

    plan = await database.read(explain)

    assert "invocations_by_turn" in plan
    assert "TEMP B-TREE" not in plan
