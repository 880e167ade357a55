"""A database that was migrated is the one that the modules declare."""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Connection, Engine, inspect, text

import ebbtide
from ebbtide import migrations
from ebbtide.database import Database, kinds, metadata
from ebbtide.migrations import HEAD, NewerDatabase, migrate
from tests.postgresql import PostgreSQL

WITHOUT_TABLES = (
    "ebbtide.runtime",
    "ebbtide.migrations",
    "ebbtide.cli",
    "ebbtide.__main__",
    "ebbtide.pytest",
)


def schema(engine: Engine) -> dict[str, object]:
    """What makes up every table, index and trigger, by name, in a form that does not depend on its writer."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            return {name: what for query in POSTGRESQL for name, what in connection.execute(text(query))}
        rows = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'")
        )
        return {name: sorted(re.sub(r'[\s"]+', "", sql).replace(")", "").split(",")) for name, sql in rows}


POSTGRESQL = (
    """
SELECT table_name || '.' || column_name,
       array[data_type, is_nullable, collation_name, column_default]
  FROM information_schema.columns WHERE table_schema = 'public'
""",
    """
SELECT CAST(CAST(conrelid AS regclass) AS text) || '.' || pg_get_constraintdef(oid), ''
  FROM pg_constraint WHERE connamespace = CAST('public' AS regnamespace)
""",
    "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
    "SELECT tgname, pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
    r"""
SELECT proname, regexp_replace(prosrc, '\s+', ' ', 'g') FROM pg_proc
 WHERE pronamespace = CAST('public' AS regnamespace)
""",
)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Path | str]]:
    """Where an empty database lies, by a name for it."""
    with ExitStack() as made:

        def place(name: str) -> Path | str:
            if request.param == "sqlite":
                return tmp_path / f"{name}.db"
            return made.enter_context(request.getfixturevalue("postgresql").database())

        yield place


def test_the_migrations_lead_to_the_declared_tables(empty: Callable[[str], Path | str]) -> None:
    for found in pkgutil.walk_packages(ebbtide.__path__, "ebbtide."):
        if not found.name.startswith(WITHOUT_TABLES):
            importlib.import_module(found.name)
    declared, migrated = Database(empty("declared")), Database(empty("migrated"))
    metadata.create_all(declared.engine)
    migrate(migrated.engine)

    expected, got = schema(declared.engine), schema(migrated.engine)

    declared.close()
    migrated.close()
    assert {name: what for name, what in got.items() if not name.startswith("alembic_version")} == expected
    assert {"invocation_arrives", "invocations_by_turn"} <= expected.keys()


def test_a_current_database_is_left_as_it_is(database: Database) -> None:
    before = schema(database.engine)

    migrate(database.engine)

    assert schema(database.engine) == before


def test_servers_that_start_together_make_the_schema_once(postgresql: PostgreSQL) -> None:
    with postgresql.database() as url, ThreadPoolExecutor() as starting:
        opened = [Database(url) for _ in range(3)]
        list(starting.map(lambda one: migrate(one.engine), opened))

        for one in opened:
            one.close()


PAUSES = """
SELECT count(*) FROM pg_stat_activity
 WHERE datname = current_database() AND state = 'idle in transaction'
   AND now() - state_change > interval '1.2s'
"""
WAITS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def test_servers_that_start_together_wait_however_long_the_first_one_takes(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request's bounds on waiting for a lock, and on pausing in a transaction, are not a change's."""
    bounds = "SET lock_timeout = '1ms'; SET idle_in_transaction_session_timeout = '1s'"
    monkeypatch.setattr(kinds.PostgreSQL, "SESSION", bounds)
    starts: list[Future[None]] = []
    with postgresql.database() as url, ThreadPoolExecutor() as starting:

        def slowly(connection: Connection) -> None:
            with psycopg.connect(url, autocommit=True) as other:
                for what in (PAUSES, WAITS):
                    while other.execute(what).fetchone() == (0,) and not any(one.done() for one in starts):
                        pass
            upgrade(connection)

        upgrade = migrations._upgrade
        monkeypatch.setattr(migrations, "_upgrade", slowly)
        opened = [Database(url) for _ in range(2)]
        starts += [starting.submit(migrate, one.engine) for one in opened]
        for start in starts:
            start.result()

        assert "buckets" in inspect(opened[0].engine).get_table_names()
        for one in opened:
            one.close()


def test_a_newer_database_is_refused_by_name(tmp_path: Path) -> None:
    opened = Database(tmp_path / "ebbtide.db")
    migrate(opened.engine)
    with opened.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(NewerDatabase, match=f"schema 9999; this ebbtide knows up to {HEAD}"):
        migrate(opened.engine)

    opened.close()
