"""What every server beside one database must have the same of, kept in it.

The operator's access key, and the key that signs notifications: a client may be answered by any server. And,
no secret, the id of the directory that the objects lie in.
"""

from sqlalchemy import Column, Engine, String, Table, text

from ebbtide.database import metadata

Table(
    "shared_secrets",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", String, nullable=False),
)

_OFFER = text("INSERT INTO shared_secrets (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING")
_GET = text("SELECT value FROM shared_secrets WHERE name = :name")


def shared(engine: Engine, name: str) -> str | None:
    """What all servers use; None before any was offered. Blocks."""
    with engine.begin() as connection:
        return connection.execute(_GET, {"name": name}).scalar()


def share(engine: Engine, name: str, value: str) -> str:
    """The secret that all servers use: the one offered first. Blocks."""
    with engine.begin() as connection:
        connection.execute(_OFFER, {"name": name, "value": value})
        return str(connection.execute(_GET, {"name": name}).scalar_one())
