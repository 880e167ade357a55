"""The queue's moves on a real database: what may be claimed, by whom, and who may end it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from ebbtide.database import Database, metadata
from ebbtide.queue import invocations
from ebbtide.queue.invocations import NOTHING, Backlog, Claim, Invocation, LeaseLost

ENDPOINT = "endpoint-1"
REQUEST = Invocation(
    id="a",
    inference_id="given-by-the-caller",
    account="123456789012",
    endpoint_id=ENDPOINT,
    accepted_at=100.0,
    expires_at=160.0,
    timeout_s=900,
    input_uri="s3://in/a.json",
    content_type="application/json",
    accept=None,
    custom_attributes=None,
    output_uri="s3://out/a.out",
    failure_uri="s3://out/a-error.out",
    body=None,
)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "ebbtide.db")
    with database.engine.begin() as connection:
        metadata.create_all(connection)
    yield database
    database.close()


async def accept(database: Database, *requests: Invocation) -> None:
    await database.write(lambda connection: invocations.accept(connection, requests))


async def claim(
    database: Database, *, limit: int = 10, now: float = 101.0, suspect: bool = False
) -> list[Claim]:
    return await database.write(
        lambda connection: invocations.claim(
            connection,
            endpoint_id=ENDPOINT,
            instance_id="i-1",
            limit=limit,
            lease_s=30.0,
            now=now,
            suspect=suspect,
        )
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
    await database.write(lambda connection: invocations.release(connection, late, lost=True))
    [successor] = await claim(database, suspect=True)

    with pytest.raises(LeaseLost):
        await database.write(
            lambda connection: invocations.finish(connection, late, "succeeded", reason=None, now=103.0)
        )

    await database.write(
        lambda connection: invocations.finish(connection, successor, "succeeded", reason=None, now=104.0)
    )
    assert successor.lost_count == 1
    assert await backlog(database) == Backlog(0, 0, None)


async def test_what_died_with_a_model_server_is_claimed_as_a_suspect_only(database: Database) -> None:
    await accept(database, REQUEST, replace(REQUEST, id="b"))
    [held] = await claim(database, limit=1)
    await database.write(lambda connection: invocations.release(connection, held, lost=True))

    others, suspects = await claim(database), await claim(database, suspect=True)

    assert [one.invocation.id for one in others] == ["b"]
    assert [one.invocation.id for one in suspects] == ["a"]


async def test_an_outcome_is_final(database: Database) -> None:
    await accept(database, REQUEST)
    [held] = await claim(database)
    await database.write(
        lambda connection: invocations.finish(connection, held, "failed", reason="it broke", now=102.0)
    )

    with pytest.raises(LeaseLost):
        await database.write(
            lambda connection: invocations.finish(connection, held, "succeeded", reason=None, now=103.0)
        )
    assert await claim(database) == []


async def test_what_waited_past_its_ttl_is_expired_not_claimed(database: Database) -> None:
    await accept(database, REQUEST)

    taken = await claim(database, now=160.0)
    due = await database.read(lambda connection: invocations.expiring(connection, now=160.0, limit=10))
    ended = await database.write(
        lambda connection: invocations.expire(connection, "a", reason="too late", now=160.0)
    )

    assert taken == []
    assert due == [REQUEST]
    assert ended == REQUEST


async def test_the_ttl_counts_waiting_only(database: Database) -> None:
    await accept(database, REQUEST)
    await claim(database, now=159.0)

    ended = await database.write(
        lambda connection: invocations.expire(connection, "a", reason="too late", now=170.0)
    )

    assert ended is None


async def test_a_lease_that_is_renewed_does_not_lapse(database: Database) -> None:
    await accept(database, REQUEST, replace(REQUEST, id="b"))
    renewed, forgotten = await claim(database, now=101.0)
    await database.write(lambda connection: invocations.renew(connection, [renewed], lease_s=30.0, now=120.0))

    lapsed = await database.read(lambda connection: invocations.lapsed(connection, now=131.5, limit=10))

    assert [held.invocation.id for held in lapsed] == [forgotten.invocation.id]


async def test_renewing_tells_which_claims_were_lost(database: Database) -> None:
    await accept(database, REQUEST)
    [held] = await claim(database)
    await database.write(lambda connection: invocations.release(connection, held, lost=False))

    lost = await database.write(
        lambda connection: invocations.renew(connection, [held], lease_s=30.0, now=102.0)
    )

    assert lost == [held]


async def test_the_backlog_counts_waiting_and_running_from_the_oldest_of_both(database: Database) -> None:
    assert await backlog(database) == NOTHING
    await accept(database, *(replace(REQUEST, id=str(n), accepted_at=100.0 + n) for n in range(5)))
    held, *_ = await claim(database, limit=2)

    before = await backlog(database)
    await database.write(
        lambda connection: invocations.finish(connection, held, "succeeded", reason=None, now=110.0)
    )
    after = await backlog(database)

    assert before == Backlog(queued=3, claimed=2, oldest_accepted_at=100.0)
    assert after == Backlog(queued=3, claimed=1, oldest_accepted_at=101.0)


async def test_a_server_that_starts_again_puts_back_what_its_agents_held_and_blames_nobody(
    database: Database,
) -> None:
    await accept(database, REQUEST)
    [before] = await claim(database)

    await database.write(invocations.release_all)
    [again] = await claim(database)

    assert again.invocation == before.invocation
    assert (again.count, again.lost_count) == (2, 0)


async def test_a_deleted_endpoints_invocations_are_forgotten(database: Database) -> None:
    await accept(database, REQUEST, replace(REQUEST, id="b"))
    [held] = await claim(database, limit=1)

    await database.write(lambda connection: invocations.drop_endpoint(connection, ENDPOINT))

    assert await backlog(database) == NOTHING
    with pytest.raises(LeaseLost):
        await database.write(
            lambda connection: invocations.finish(connection, held, "succeeded", reason=None, now=103.0)
        )


async def test_claiming_reads_the_queue_by_its_index_whatever_its_length(database: Database) -> None:
    def explain(connection: object) -> str:
        rows = connection.execute(  # type: ignore[attr-defined]
            text(
                "EXPLAIN QUERY PLAN SELECT id FROM invocations WHERE endpoint_id = 'e' AND state = 'queued' "
                "AND expires_at > 1 ORDER BY accepted_at LIMIT 4"
            )
        )
        return " ".join(row[-1] for row in rows)

    plan = await database.read(explain)

    assert "invocations_queued" in plan
    assert "TEMP B-TREE" not in plan
