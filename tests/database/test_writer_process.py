"""What every invocation pays for is written by a process of its own while there is much of it."""

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import Connection, text
from tests.database import writing

from ebbtide.database import Database, kinds, writer_process
from ebbtide.errors import Unconfirmed

ROOT = Path(__file__).parents[2]
MUCH = writer_process.MUCH


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(writer_process, "PAUSE_S", 0.0)


@pytest.fixture
async def database(database_place: Path | str) -> AsyncIterator[Database]:
    database = Database(database_place)
    await database.write(
        lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    )
    yield database
    database.close()


def rows(connection: Connection) -> list[int]:
    return list(connection.execute(text("SELECT n FROM t ORDER BY n")).scalars())


async def moved(database: Database, first: int) -> tuple[int, int]:
    """Write from `first` on until a process of its own does; returns its id and the next number."""
    for n in range(first, sys.maxsize):
        with suppress(Unconfirmed):
            process = await database.write_much(partial(writing.put, n=n), of=MUCH)
            if process != os.getpid():
                return process, n + 1
    raise AssertionError


async def test_much_work_moves_to_a_process_and_nothing_is_lost_on_the_way(database: Database) -> None:
    _, end = await moved(database, 0)

    assert await database.read(rows) == list(range(end))


async def test_works_about_few_stay_where_they_are_answered_sooner(database: Database) -> None:
    _, n = await moved(database, 0)

    assert await database.write_much(partial(writing.put, n=n), of=1) == os.getpid()


async def test_one_callers_failure_undoes_its_own_work_and_no_others_there(database: Database) -> None:
    _, n = await moved(database, 0)
    works = [
        partial(writing.put, n=n),
        partial(writing.put_and_refuse, n=n + 1),
        partial(writing.put, n=n),
        partial(writing.fail),
        partial(writing.put, n=n + 2),
    ]
    before = await database.read(rows)

    outcomes = await asyncio.gather(
        *(database.write_much(work, of=MUCH) for work in works), return_exceptions=True
    )

    assert await database.read(rows) == [*before, n, n + 2]
    refused, doubled, unheard = outcomes[1:4]
    assert isinstance(refused, writing.Refused)
    assert (refused.code, refused.message, refused.members) == (
        "Refused",
        f"{n + 1} is refused",
        {"N": n + 1},
    )
    assert type(doubled).__name__ == "IntegrityError"
    assert isinstance(unheard, RuntimeError)
    assert "Locked" in str(unheard)


async def test_both_writers_take_turns(database: Database) -> None:
    process, _ = await moved(database, 0)
    before = len(await database.read(rows))

    by = await asyncio.gather(
        *(database.write_much(partial(writing.put_next), of=of) for _ in range(100) for of in (1, MUCH))
    )

    # Each saw what the other had written: none took a number that was taken.
    assert len(await database.read(rows)) == before + 200
    assert set(by) == {os.getpid(), process}


async def test_a_lost_process_leaves_its_callers_unsure_and_the_rest_goes_on(database: Database) -> None:
    process, n = await moved(database, 0)
    os.kill(process, signal.SIGSTOP)
    waiting = asyncio.ensure_future(database.write_much(partial(writing.put, n=n), of=MUCH))
    await asyncio.sleep(0)
    os.kill(process, signal.SIGKILL)

    with pytest.raises(Unconfirmed, match="was done or was not"):
        await waiting

    another, end = await moved(database, n + 1)
    assert another != process
    assert set(range(n + 1, end)) <= set(await database.read(rows))


async def test_what_was_confirmed_is_there_however_often_the_process_is_killed(database: Database) -> None:
    confirmed: list[int] = []
    n = 0
    for _ in range(3):
        process, n = await moved(database, n)
        works = [
            asyncio.ensure_future(database.write_much(partial(writing.put, n=n + i), of=MUCH))
            for i in range(300)
        ]
        await works[0]
        os.kill(process, signal.SIGKILL)
        outcomes = await asyncio.gather(*works, return_exceptions=True)
        confirmed += [n + i for i, outcome in enumerate(outcomes) if isinstance(outcome, int)]
        assert all(isinstance(outcome, int | Unconfirmed) for outcome in outcomes)
        n += 300

    assert set(confirmed) <= set(await database.read(rows))


async def test_a_process_that_says_nothing_is_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    process, n = await moved(database, 0)
    monkeypatch.setattr(writer_process, "SILENT_S", 0.1)
    os.kill(process, signal.SIGSTOP)

    with pytest.raises(Unconfirmed):
        await database.write_much(partial(writing.put, n=n), of=MUCH)

    assert await database.write(partial(writing.put, n=n + 1)) == os.getpid()


async def test_it_ends_when_nothing_comes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    process, n = await moved(database, 0)
    monkeypatch.setattr(writer_process, "IDLE_S", 0.0)
    there = psutil.Process(process)

    await asyncio.to_thread(psutil.wait_procs, [there], 60)

    assert not there.is_running()
    assert await database.write_much(partial(writing.put, n=n), of=MUCH) == os.getpid()


async def test_closing_ends_it(database_place: Path | str) -> None:
    database = Database(database_place)
    await database.write(
        lambda connection: connection.execute(text("CREATE TABLE t (n INTEGER PRIMARY KEY)"))
    )
    process, _ = await moved(database, 0)

    database.close()

    assert not psutil.pid_exists(process)


async def test_what_it_logs_is_in_the_servers_log(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    await moved(database, 0)

    await database.write_much(partial(writing.say, words="all is well"), of=MUCH)

    assert ("ebbtide.tests", logging.WARNING, "all is well") in caplog.record_tuples


SERVER = """
import asyncio, os, sys
from functools import partial
from pathlib import Path
from ebbtide.database import Database
from ebbtide.database.writer_process import MUCH
from tests.database import writing

async def serve(place):
    database = Database(place)
    n = 0
    while (process := await database.write_much(partial(writing.put, n=n), of=MUCH)) == os.getpid():
        n += 1
    print(n, flush=True)
    sys.stdin.readline()
    asked = asyncio.ensure_future(database.write_much(partial(writing.put, n=-1), of=MUCH))
    await asyncio.sleep(0)
    print(process, flush=True)
    await asked

where = sys.argv[1]
asyncio.run(serve(where if "://" in where else Path(where)))
"""


async def test_what_a_killed_server_had_asked_for_is_not_done_under_its_successor(
    database: Database, database_place: Path | str
) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(database_place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin
    assert server.stdout
    server.stdout.readline()
    with turn_of_another(database_place):
        server.stdin.write("go\n")
        server.stdin.flush()
        process = psutil.Process(int(server.stdout.readline()))
        server.kill()
        server.wait()
    await asyncio.to_thread(psutil.wait_procs, [process], 60)

    assert -1 not in await database.read(rows)


@contextmanager
def turn_of_another(place: Path | str) -> Iterator[None]:
    """Nobody else writes meanwhile."""
    if isinstance(place, Path):
        with Path(f"{place}-turn").open("w") as turn:
            fcntl.flock(turn, fcntl.LOCK_EX)
            yield
        return
    with psycopg.connect(place) as connection:
        connection.execute(f"SELECT pg_advisory_xact_lock({kinds.WRITER_LOCK})")
        yield
