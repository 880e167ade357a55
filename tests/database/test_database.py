"""The single writer: many callers, one transaction, each with its own outcome, on either database."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import IntegrityError
from tests.postgresql import PostgreSQL

from ebbtide.database import Database, Statement, kinds, writer
from ebbtide.errors import Unavailable, Unconfirmed


@pytest.fixture
async def database(database: Database) -> Database:
    await database.write(
        lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    )
    return database


def put(n: int) -> Callable[[Connection], int]:
    return lambda connection: connection.execute(text("INSERT INTO t VALUES (:n)"), {"n": n}).rowcount


def rows(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT n FROM t ORDER BY n")).scalars())


async def test_what_a_caller_was_told_is_on_disk_for_the_next_reader(database: Database) -> None:
    await database.write(put(1))

    assert await database.read(rows) == [1]


async def test_nothing_is_accepted_into_a_file_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE_S", 0.0)
    path = tmp_path / "ebbtide.db"
    database = Database(path)
    await database.write(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER)")))
    path.unlink()

    with pytest.raises(Unavailable, match="removed or replaced"):
        await database.write(put(1))
    with pytest.raises(Unavailable, match="unable to open"):
        await database.write(put(1))

    assert not path.exists()
    database.close()


async def test_what_was_committed_outlives_a_write_ahead_log_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE_S", 0.0)
    path = tmp_path / "ebbtide.db"
    database = Database(path)
    await database.write(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER)")))
    await database.write(put(1))
    (tmp_path / "ebbtide.db-wal").unlink()

    for _ in range(2):
        with pytest.raises(Unavailable, match="-wal was removed or replaced"):
            await database.write(put(2))

    killed_here = Database(Path(shutil.copy(path, tmp_path / "copy.db")))
    assert await killed_here.read(rows) == [1]
    killed_here.close()
    database.close()


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


async def test_a_lone_failure_is_undone(database: Database) -> None:
    def fails(connection: Connection) -> None:
        connection.execute(text("INSERT INTO t VALUES (100)"))
        raise LookupError("not this one")

    with pytest.raises(LookupError):
        await database.write(fails)

    assert await database.read(rows) == []


async def test_a_statement_that_fails_is_its_callers_alone(database: Database) -> None:
    await database.write(put(3))

    outcomes = await asyncio.gather(*(database.write(put(n)) for n in range(6)), return_exceptions=True)

    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, IntegrityError)] == [3]
    assert await database.read(rows) == list(range(6))


async def test_a_drivers_own_statement_that_fails_is_its_callers_alone(database: Database) -> None:
    add = Statement("INSERT INTO t VALUES (?) RETURNING n")
    await database.write(put(3))

    outcomes = await asyncio.gather(
        *(database.write(lambda connection, n=n: add.execute(connection, (n,))) for n in range(6)),
        return_exceptions=True,
    )

    failed = sqlite3.IntegrityError, psycopg.IntegrityError
    assert [n for n, outcome in enumerate(outcomes) if isinstance(outcome, failed)] == [3]
    assert [outcome for n, outcome in enumerate(outcomes) if n != 3] == [[(n,)] for n in (0, 1, 2, 4, 5)]
    assert await database.read(rows) == list(range(6))


async def test_a_drivers_own_statement_outlasts_what_may_pass(database: Database) -> None:
    """A full disk, a server that ends: nothing is wrong in the statement, which is tried again."""
    tried = []

    def work(connection: Connection) -> None:
        tried.append(1)
        put(len(tried))(connection)
        if len(tried) > 1:
            return
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
            Statement("CREATE TABLE large AS SELECT zeroblob(?)").execute(connection, (1 << 20,))
        else:
            Statement("SELECT pg_terminate_backend(?)").execute(connection, (_backend(connection),))

    await database.write(work)

    assert len(tried) == 2
    assert await database.read(rows) == [2]


def _backend(connection: Connection) -> int:
    return int(connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


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


async def test_closing_finishes_what_was_submitted(database_place: Path | str) -> None:
    database = Database(database_place)
    await database.write(lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER)")))
    writes = [asyncio.ensure_future(database.write(put(n))) for n in range(100)]
    await asyncio.sleep(0)

    await asyncio.to_thread(database.close)
    await asyncio.gather(*writes)

    again = Database(database_place)
    assert await again.read(rows) == list(range(100))
    again.close()


async def test_what_several_servers_read_stays_true_until_they_have_written(database_place, database) -> None:
    """Each counts the rows and adds one with that number: two that had seen the same would collide."""
    other = Database(database_place)

    def add_next(connection: Connection) -> None:
        connection.execute(text("INSERT INTO t SELECT count(*) FROM t"))

    await asyncio.gather(*(one.write(add_next) for _ in range(50) for one in (database, other)))

    assert await database.read(rows) == list(range(100))
    other.close()


async def test_a_snapshot_does_not_change_while_it_is_read(database: Database) -> None:
    began, written = threading.Event(), threading.Event()

    def look_twice(connection: Connection) -> tuple[list[int], list[int]]:
        before = rows(connection)
        began.set()
        written.wait()
        return before, rows(connection)

    looking = asyncio.ensure_future(database.read(look_twice))
    await asyncio.to_thread(began.wait)
    await database.write(put(1))
    written.set()

    assert await looking == ([], [])


async def test_texts_sort_by_their_bytes(database: Database) -> None:
    await database.write(
        lambda connection: connection.execute(
            text("INSERT INTO buckets (name, account, region, created_at) VALUES (:name, 'a', 'r', 0)"),
            [{"name": name} for name in ("b", "B", "a-b", "ab", "ä", "a", "Z")],
        )
    )

    names = await database.read(
        lambda connection: list(connection.execute(text("SELECT name FROM buckets ORDER BY name")).scalars())
    )

    assert names == ["B", "Z", "a", "a-b", "ab", "b", "ä"]


async def test_a_text_with_nul_that_got_this_far_stops_nothing(database: Database) -> None:
    await database.write(
        lambda connection: connection.execute(
            text("INSERT INTO buckets (name, account, region, created_at) VALUES (:name, 'a', 'r', 0)"),
            {"name": "words\0of a model"},
        )
    )

    [name] = await database.read(lambda c: list(c.execute(text("SELECT name FROM buckets")).scalars()))
    assert name in ("words\0of a model", "words\N{REPLACEMENT CHARACTER}of a model")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers are told at the first failure that the database cannot be used."""
    monkeypatch.setattr(writer, "PATIENCE_S", 0.0)


def lock(database: Database) -> Callable[[], None]:
    """Keep all others from writing, as another program on the database may; returns what ends it."""
    if database.engine.dialect.name == "sqlite":
        holder = sqlite3.connect(str(database.engine.url.database), isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        return holder.close
    locker = database.engine.raw_connection()
    locker.cursor().execute(f"SELECT pg_advisory_xact_lock({kinds.WRITER_LOCK})")
    return locker.close


async def test_a_database_that_stays_locked_answers_unavailable_and_resumes(database, impatient) -> None:
    release = lock(database)

    with pytest.raises(Unavailable, match=r"^The database cannot be used now: "):
        await database.write(put(1))
    assert await database.read(rows) == []

    release()
    await database.write(put(2))
    assert await database.read(rows) == [2]


async def test_work_waits_for_a_lock_that_ends_in_time(database: Database) -> None:
    release = lock(database)
    writing = [asyncio.ensure_future(database.write(put(n))) for n in range(3)]
    await asyncio.sleep(0)

    release()

    assert await asyncio.gather(*writing) == [1, 1, 1]


def test_a_killed_postgresql_is_reached_again_and_has_what_was_confirmed(own_postgresql: PostgreSQL) -> None:
    """Kill -9 under load, five times: a number that was confirmed is there, one refused with Unavailable is
    not, and one whose commit was lost on the way may be either."""
    confirmed, refused, unknown = set(), set(), set()

    async def load(database: Database, numbers: range, stop: asyncio.Event) -> None:
        for n in numbers:
            try:
                await database.write(put(n))
            except Unconfirmed:
                unknown.add(n)
            except Unavailable:
                refused.add(n)
            else:
                confirmed.add(n)
            if stop.is_set():
                return

    async def storm(database: Database) -> None:
        await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)")))
        stop = asyncio.Event()
        loads = [
            asyncio.create_task(load(database, range(k * 10**6, (k + 1) * 10**6), stop)) for k in range(8)
        ]
        for _ in range(5):
            before = len(confirmed)
            while len(confirmed) < before + 50:
                await asyncio.sleep(0.01)
            own_postgresql.kill()
            own_postgresql.start()
        stop.set()
        await asyncio.gather(*loads)
        there = set(await database.read(rows))
        assert confirmed <= there <= confirmed | unknown
        assert not refused & there

    database = Database(own_postgresql.url("postgres"))
    asyncio.run(storm(database))
    database.close()


async def test_a_server_without_postgresql_answers_unavailable_at_once_when_it_was_waited_for(
    own_postgresql: PostgreSQL, impatient
) -> None:
    database = Database(own_postgresql.url("postgres"))
    own_postgresql.kill()

    with pytest.raises(Unavailable):
        await database.write(lambda connection: connection.execute(text("SELECT 1")).scalar())
    with pytest.raises(Unavailable):
        await database.read(lambda connection: connection.execute(text("SELECT 1")).scalar())

    database.close()


async def test_a_postgresql_that_falls_silent_is_given_up_and_reached_again(
    own_postgresql: PostgreSQL, impatient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As past a proxy that swallows what it gets: the connection never ends, and no answer comes."""
    monkeypatch.setattr(kinds, "ANSWER_S", 0.2)
    database = Database(own_postgresql.url("postgres"))
    await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)")))
    assert await database.read(rows) == []

    with own_postgresql.silent():
        async with asyncio.timeout(60):
            with pytest.raises(Unavailable, match="not answered"):
                await database.write(put(1))
            with pytest.raises(Unavailable, match="not answered"):
                await database.read(rows)

    await database.write(put(2))
    assert await database.read(rows) == [2]
    database.close()


@pytest.mark.parametrize(
    ("setting", "says"),
    [("default_transaction_read_only = on", "read-only"), ("statement_timeout = 1", "statement timeout")],
)
async def test_what_postgresqls_operator_forbids_for_now_is_unavailable_and_done_later(
    own_postgresql: PostgreSQL, impatient, setting: str, says: str
) -> None:
    def slow(connection: Connection) -> None:
        put(1)(connection)
        connection.execute(text("SELECT pg_sleep(0.05)"))

    url = own_postgresql.url("postgres")
    database = Database(url)
    await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)")))
    with psycopg.connect(url, autocommit=True) as operator:
        operator.execute(f"ALTER DATABASE postgres SET {setting}".encode())
        operator.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
        with pytest.raises(Unavailable):  # its connection was ended
            await database.write(slow)

        with pytest.raises(Unavailable, match=says):
            await database.write(slow)
        operator.execute("ALTER DATABASE postgres RESET ALL")

    await database.write(slow)
    assert await database.read(rows) == [1]
    database.close()


async def test_a_deadlock_with_another_program_is_tried_again(own_postgresql: PostgreSQL) -> None:
    url = own_postgresql.url("postgres")
    database = Database(url)
    await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)")))
    await asyncio.gather(database.write(put(1)), database.write(put(2)))
    held = threading.Event()
    tries = 0

    def both(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        connection.execute(text("UPDATE t SET n = 10 WHERE n = 1"))
        held.set()
        connection.execute(text("UPDATE t SET n = 20 WHERE n = 2"))

    with psycopg.connect(url) as other:
        # It finds the deadlock last, so that ours is the one that is given up.
        other.execute("SET deadlock_timeout = '1min'")
        other.execute("UPDATE t SET n = 2 WHERE n = 2")
        writing = asyncio.ensure_future(database.write(both))
        await asyncio.to_thread(held.wait)
        await asyncio.to_thread(other.execute, "UPDATE t SET n = 1 WHERE n = 1")
        other.commit()
    await writing

    assert tries > 1
    assert await database.read(rows) == [10, 20]
    database.close()


async def test_an_error_that_a_work_kept_to_itself_is_not_taken_for_success(own_postgresql) -> None:
    """PostgreSQL answers the COMMIT of a transaction in which a statement has failed with a rollback."""
    database = Database(own_postgresql.url("postgres"))
    await database.write(lambda c: c.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)")))

    def careless(connection: Connection) -> None:
        put(1)(connection)
        with pytest.raises(IntegrityError):
            put(1)(connection)

    with pytest.raises(RuntimeError, match="error was not raised"):
        await database.write(careless)
    await database.write(put(2))

    assert await database.read(rows) == [2]
    database.close()
