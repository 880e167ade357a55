"""The schema's history: Alembic's revisions, applied when a server starts on an older or empty database."""

import logging
from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text

log = logging.getLogger(__name__)

HEAD = "0012"
"""The newest revision, so that a start on a current database need not load Alembic."""

MIGRATION_LOCK = 0x656262_02
"""PostgreSQL's advisory lock of the server that changes the schema."""

LONGEST_PAUSE = "10min"
"""A server that says nothing for so long in the middle of a change is taken for gone: it is undone."""


class NewerDatabase(Exception):
    """The database was written by a newer ebbtide than this one."""


def migrate(engine: Engine) -> None:
    """Bring the database's schema to `HEAD`. Raises NewerDatabase when it is beyond."""
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            _wait_for_turn(connection)
        revision = _revision(connection)
        if revision == HEAD:
            return
        if revision is not None and revision > HEAD:
            raise NewerDatabase(f"The database has schema {revision}; this ebbtide knows up to {HEAD}")
        _upgrade(connection)


def _wait_for_turn(connection: Connection) -> None:
    """Of servers that start together the first does it, and the others find it done: however long that takes
    it, on a large database or a slow machine. The bounds of other transactions on waiting for a lock and on
    pausing are for requests.
    """
    set_locally = text("SELECT set_config(:name, :value, true)")
    bound = connection.execute(text("SELECT current_setting('lock_timeout')")).scalar_one()
    pause = {"name": "idle_in_transaction_session_timeout", "value": LONGEST_PAUSE}
    connection.execute(set_locally, pause)
    connection.execute(set_locally, {"name": "lock_timeout", "value": "0"})
    connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
    connection.execute(set_locally, {"name": "lock_timeout", "value": bound})


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    # Alembic tells of its own plugins at INFO; what an operator wants to know is the one line below.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    log.info("the database has schema %s", HEAD)
