"""A database that was migrated is the one that the modules declare."""

import importlib
import pkgutil
import re
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

import ebbtide
from ebbtide import database
from ebbtide.database import Database
from ebbtide.migrations import HEAD, NewerDatabase, migrate

WITHOUT_TABLES = (
    "ebbtide.runtime",
    "ebbtide.migrations",
    "ebbtide.cli",
    "ebbtide.__main__",
    "ebbtide.pytest",
)


def schema(path: Path) -> dict[str, list[str]]:
    """Name -> the SQL that made it, clause by clause in a fixed order, for every table, index and trigger."""
    with create_engine(f"sqlite:///{path}").connect() as connection:
        rows = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name <> 'alembic_version'")
        )
        return {name: sorted(re.sub(r'[\s"]+', "", sql).replace(")", "").split(",")) for name, sql in rows}


def test_the_migrations_lead_to_the_declared_tables(tmp_path: Path) -> None:
    for found in pkgutil.walk_packages(ebbtide.__path__, "ebbtide."):
        if not found.name.startswith(WITHOUT_TABLES):
            importlib.import_module(found.name)
    declared = create_engine(f"sqlite:///{tmp_path / 'declared.db'}")
    database.metadata.create_all(declared)
    migrated = Database(tmp_path / "migrated.db")
    migrate(migrated.engine)
    migrated.close()

    assert schema(tmp_path / "migrated.db") == schema(tmp_path / "declared.db")


def test_a_current_database_is_left_as_it_is(tmp_path: Path) -> None:
    opened = Database(tmp_path / "ebbtide.db")
    migrate(opened.engine)
    before = schema(tmp_path / "ebbtide.db")

    migrate(opened.engine)

    opened.close()
    assert schema(tmp_path / "ebbtide.db") == before


def test_a_newer_database_is_refused_by_name(tmp_path: Path) -> None:
    opened = Database(tmp_path / "ebbtide.db")
    migrate(opened.engine)
    with opened.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(NewerDatabase, match=f"schema 9999; this ebbtide knows up to {HEAD}"):
        migrate(opened.engine)

    opened.close()
