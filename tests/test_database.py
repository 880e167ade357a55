"""The single writer: many callers, one transaction, each with its own outcome."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from ebbtide.database import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "ebbtide.db")
    await database.write(
        lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    )
    yield database
    database.close()


def put(n: int) -> "object":
    return lambda connection: connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": n}).rowcount


def rows(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT n FROM t ORDER BY n")).scalars())


async def test_what_a_caller_was_told_is_on_disk_for_the_next_reader(database: Database) -> None:
    await database.write(put(1))

    assert await database.read(rows) == [1]


async def test_one_callers_failure_undoes_its_own_work_and_no_others(database: Database) -> None:
    def fails(connection: Connection) -> None:
        connection.execute(text("INSERT INTO t VALUES (100)"))
        raise LookupError("not this one")

    outcomes = await asyncio.gather(
        *(database.write(put(n)) for n in range(5)),
        database.write(fails),
        *(database.write(put(n)) for n in range(5, 10)),
        return_exceptions=True,
    )

    assert isinstance(outcomes[5], LookupError)
    assert await database.read(rows) == list(range(10))


async def test_writes_are_carried_out_in_the_order_they_were_asked_for(database: Database) -> None:
    seen = await asyncio.gather(
        *(
            database.write(
                lambda connection, n=n: (
                    connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": n}),
                    rows(connection),
                )[1]
            )
            for n in range(20)
        )
    )

    assert seen == [list(range(n + 1)) for n in range(20)]


async def test_a_caller_that_gives_up_does_not_undo_its_work(database: Database) -> None:
    task = asyncio.ensure_future(database.write(put(1)))
    await asyncio.sleep(0)
    task.cancel()

    await database.write(put(2))

    assert await database.read(rows) == [1, 2]


async def test_closing_finishes_what_was_submitted(tmp_path: Path) -> None:
    database = Database(tmp_path / "closing.db")
    await database.write(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER)")))
    writes = [asyncio.ensure_future(database.write(put(n))) for n in range(100)]
    await asyncio.sleep(0)

    await asyncio.to_thread(database.close)
    await asyncio.gather(*writes)

    again = Database(tmp_path / "closing.db")
    assert await again.read(rows) == list(range(100))
    again.close()
