"""Failure objects that are owed to outside buckets, and the messages that follow them.

An invocation that ends without an agent (cancelled, expired, its agents dead too often) ends at once. An
object in an outside bucket cannot be part of that transaction, and its store may be down for hours: so what
is owed becomes a row in it. The step here puts the object in place, then one transaction settles the row and
writes the message: each exactly once, whoever dies in between.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Column, Connection, Float, Integer, String, Table, Text, insert, text

from ebbtide import endpoints
from ebbtide.database import Database, metadata
from ebbtide.endpoints import Endpoint
from ebbtide.errors import Unavailable
from ebbtide.identifiers import parse_location
from ebbtide.objects.store import ObjectStore
from ebbtide.queue.invocations import FIELDS, Invocation
from ebbtide.queue.outcomes import Outcome, deliver, publish, stage_failure

log = logging.getLogger(__name__)

BATCH = 50
IDLE_S = 1.0

PATIENCE_S = 10.0
"""How long an outside store may take for a failure object: others are delivered beside it, not behind it."""

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Between tries to reach a store that is not available."""

owed = Table(
    "owed_outcomes",
    metadata,
    Column("invocation_id", String, primary_key=True),
    # The failure object's.
    Column("code", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("waiting_reason", Text),
)

_COLUMNS = ", ".join(f"i.{name}" for name in FIELDS)
_DUE = text(
    f"""
SELECT i.state, i.finished_at, i.failure_reason, i.claimed_at, o.code, o.tries, {_COLUMNS}
  FROM owed_outcomes o JOIN invocations i ON i.id = o.invocation_id
 WHERE o.due_at <= :now ORDER BY o.due_at LIMIT :limit
"""
)
_WAITING_REASON = text("SELECT waiting_reason FROM owed_outcomes WHERE invocation_id = :id")
_POSTPONE = text(
    "UPDATE owed_outcomes SET due_at = :due_at, tries = tries + 1, waiting_reason = :reason "
    "WHERE invocation_id = :id"
)
_SETTLE = text("DELETE FROM owed_outcomes WHERE invocation_id = :id")
_OWE = insert(owed)


@dataclass(frozen=True, slots=True)
class _Debt:
    """An ended invocation whose failure object is still to be put in place."""

    endpoint: Endpoint
    invocation: Invocation
    state: str
    finished_at: float
    failure_reason: str
    claimed_at: float | None
    code: int
    tries: int


def publish_or_owe(
    connection: Connection, objects: ObjectStore, outcomes: Sequence[Outcome], *, code: int
) -> None:
    """Publish the outcomes of invocations that the caller has just moved to their ends: now, or, where the
    failure object goes to an outside bucket, as soon as that store takes it.

    code: the failure object's, as in `stage_failure`.
    """
    now: list[Outcome] = []
    later: list[Outcome] = []
    for outcome in outcomes:
        (later if _goes_outside(objects, outcome.invocation) else now).append(outcome)
    if later:
        connection.execute(
            _OWE,
            [
                {"invocation_id": each.invocation.id, "code": code, "due_at": each.at, "tries": 0}
                for each in later
            ],
        )
    publish(connection, now)


def waiting_reason(connection: Connection, invocation_id: str) -> str | None:
    """Why the failure object of one that has ended is not where it belongs yet; None when it is."""
    return connection.execute(_WAITING_REASON, {"id": invocation_id}).scalar()


def _goes_outside(objects: ObjectStore, invocation: Invocation) -> bool:
    uri = invocation.failure_uri
    return uri is not None and objects.outside(parse_location(uri).bucket) is not None


class Owed:
    """Its step delivers what is due. `deliveries_wake` is called when notifications were committed."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        deliveries_wake: Callable[[], None],
        *,
        region: str,
    ) -> None:
        self._database = database
        self._objects = objects
        self._deliveries_wake = deliveries_wake
        self._region = region

    async def step(self, now: float) -> float:
        """Deliver one batch; returns the delay until the next step, in s."""
        due = await self._database.read(lambda connection: _due(connection, now))
        delivered = await asyncio.gather(*(self._deliver(debt, now) for debt in due))
        done = [outcome for outcome in delivered if outcome is not None]

        def settle(connection: Connection) -> None:
            publish(connection, [each for each in done if _settle(connection, each.invocation.id)])

        if done:
            await self._database.write(settle)
            self._deliveries_wake()
        return 0.0 if len(due) == BATCH else IDLE_S

    async def _deliver(self, debt: _Debt, now: float) -> Outcome | None:
        """The outcome once its object is in place; None while its store is not available."""

        async def hold() -> float:
            return PATIENCE_S  # nobody else writes for what has ended

        invocation = debt.invocation
        outcome = Outcome(
            endpoint=debt.endpoint,
            variant=debt.endpoint.variants[0].name,
            region=self._region,
            invocation=invocation,
            state=debt.state,
            response=await stage_failure(self._objects, debt.failure_reason, debt.code),
            at=debt.finished_at,
            reason=debt.failure_reason,
            claimed_at=debt.claimed_at,
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await deliver(self._objects, outcome, hold)
        except (Unavailable, TimeoutError) as error:
            reason = str(error) or f"its outside store did not answer within {PATIENCE_S:.0f} s"
            log.warning("%s: its failure object waits: %s", invocation.inference_id, reason)
            wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** min(debt.tries, 10))
            values = {"id": invocation.id, "due_at": now + wait_s, "reason": reason}
            await self._database.write(lambda connection: connection.execute(_POSTPONE, values))
            return None


def _due(connection: Connection, now: float) -> list[_Debt]:
    known: dict[str, Endpoint | None] = {}
    debts = []
    for state, finished_at, reason, claimed_at, code, tries, *values in connection.execute(
        _DUE, {"now": now, "limit": BATCH}
    ):
        invocation = Invocation(*values)
        if invocation.endpoint_id not in known:
            known[invocation.endpoint_id] = endpoints.find_endpoint(connection, invocation.endpoint_id)
        endpoint = known[invocation.endpoint_id]
        if endpoint is not None:  # else it goes with its endpoint
            debts.append(_Debt(endpoint, invocation, state, finished_at, reason, claimed_at, code, tries))
    return debts


def _settle(connection: Connection, invocation_id: str) -> bool:
    """Strike it off; False when another server did, or it has gone with its endpoint."""
    return bool(connection.execute(_SETTLE, {"id": invocation_id}).rowcount)
