"""Databases as earlier versions left them."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

import ebbtide.migrations


def fill_at(engine: Engine, revision: str, statements: str) -> None:
    """Bring an empty database to the schema of `revision`, and fill it. statements: each ends at a `;`."""
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(Path(ebbtide.migrations.__file__).parent))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        for statement in statements.split(";"):
            connection.exec_driver_sql(statement)
