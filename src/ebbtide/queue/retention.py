"""Forgets invocations: the finished ones after a time, all of an endpoint's when it is deleted.

In small transactions, one after the other: each is over before anyone who waits for the writer notices.
"""

from collections.abc import Sequence

from sqlalchemy import Column, Connection, Float, String, Table, bindparam, delete, select, text

from ebbtide import clock
from ebbtide.database import Database, metadata
from ebbtide.identifiers import time_ordered_id
from ebbtide.queue.deduplication import switches
from ebbtide.queue.owed import owed
from ebbtide.queue.progress import progress
from ebbtide.queue.tables import attempts, depths, invocations, tags

BATCH = 250
"""Most invocations forgotten in one transaction; measured to take less than 20 ms."""

PAUSE_S = 0.05
IDLE_S = 60.0

dropped_endpoints = Table(
    "dropped_endpoints",
    metadata,
    Column("endpoint_id", String, primary_key=True),
    Column("dropped_at", Float, nullable=False),
)
"""Deleted endpoints whose invocations are still to be forgotten."""

# Ids are in the order of acceptance, so the oldest come first; what is queued or owed is passed over.
_FINISHED = text(
    "SELECT id FROM invocations WHERE id < :accepted_before AND finished_at < :before "
    "AND NOT EXISTS (SELECT 1 FROM owed_outcomes WHERE invocation_id = id) ORDER BY id LIMIT :limit"
)
_OF_ENDPOINT = text("SELECT id FROM invocations WHERE endpoint_id = :endpoint_id LIMIT :limit")
_FORGET = [
    delete(table).where(column.in_(bindparam("ids", expanding=True)))
    for table, column in (
        (tags, tags.c.invocation_id),
        (attempts, attempts.c.invocation_id),
        (owed, owed.c.invocation_id),
        (progress, progress.c.invocation_id),
        (invocations, invocations.c.id),
    )
]


def drop_endpoint(connection: Connection, endpoint_id: str) -> None:
    """Forget a deleted endpoint's invocations, queued ones included, as SageMaker does.

    What is being worked on loses its claim at once; the rows go by and by.
    """
    connection.execute(
        delete(invocations).where(invocations.c.endpoint_id == endpoint_id, invocations.c.state == "claimed")
    )
    connection.execute(delete(depths).where(depths.c.endpoint_id == endpoint_id))
    connection.execute(delete(switches).where(switches.c.endpoint_id == endpoint_id))
    connection.execute(dropped_endpoints.insert().values(endpoint_id=endpoint_id, dropped_at=clock.now()))


class Retention:
    """Its step forgets one batch."""

    def __init__(self, database: Database, *, retention_s: float) -> None:
        self._database = database
        self._retention_s = retention_s

    async def step(self, now: float) -> float:
        """Forget some invocations; returns the delay before the next step, in s."""
        before = now - self._retention_s

        def forget(connection: Connection) -> int:
            return _forget_dropped(connection) or _forget_finished(connection, before)

        return PAUSE_S if await self._database.write(forget) else IDLE_S


def _forget_dropped(connection: Connection) -> int:
    endpoint_id = connection.execute(select(dropped_endpoints.c.endpoint_id).limit(1)).scalar()
    if endpoint_id is None:
        return 0
    values = {"endpoint_id": endpoint_id, "limit": BATCH}
    ids = connection.execute(_OF_ENDPOINT, values).scalars().all()
    _forget(connection, ids)
    if len(ids) < BATCH:
        connection.execute(delete(dropped_endpoints).where(dropped_endpoints.c.endpoint_id == endpoint_id))
    return 1


def _forget_finished(connection: Connection, before: float) -> int:
    values = {"accepted_before": time_ordered_id(before), "before": before, "limit": BATCH}
    ids = connection.execute(_FINISHED, values).scalars().all()
    _forget(connection, ids)
    return len(ids)


def _forget(connection: Connection, ids: Sequence[str]) -> None:
    for statement in _FORGET:
        connection.execute(statement, {"ids": ids})
