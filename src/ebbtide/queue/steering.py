"""What a user does to invocations after their acceptance: cancel, purge, redrive, change the priority.

SageMaker has none of it. Each function changes what is in a state that allows it (`tables.MOVES`) and
passes over the rest; that decides in the transaction, so a claim or an outcome at the same time is no race.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from sqlalchemy import BindParameter, Connection, String, bindparam, select, text

from ebbtide import endpoints
from ebbtide.database import Database
from ebbtide.endpoints import Endpoint
from ebbtide.errors import ServiceError
from ebbtide.identifiers import time_ordered_id
from ebbtide.objects.store import ObjectStore
from ebbtide.queue import invocations
from ebbtide.queue.changes import Change, Changes
from ebbtide.queue.completion import change
from ebbtide.queue.invocations import FIELDS, Invocation
from ebbtide.queue.outcomes import Outcome, Response, stage_failure
from ebbtide.queue.owed import publish_or_owe
from ebbtide.queue.tables import tags
from ebbtide.queue.wakeups import Wakeups

BATCH = 200
"""Most invocations changed in one transaction: others get their turn in between."""

CANCELLED = "ClientError: The invocation was cancelled."
PURGED = "The queue was purged."

REDRIVABLE = ("failed", "expired", "cancelled")

MIN_PRIORITY, MAX_PRIORITY = -100, 100

_COLUMNS = ", ".join(FIELDS)
_IDS: BindParameter[str] = bindparam("ids", expanding=True, type_=String)
_UNFINISHED = {
    dialect: text(
        f"SELECT {_COLUMNS}, state, claimed_at FROM invocations "
        f"WHERE id IN :ids AND state IN ('queued', 'claimed') {lock}"
    ).bindparams(_IDS)
    for dialect, lock in {"sqlite": "", "postgresql": "FOR UPDATE"}.items()
}
CANCEL = text(
    "UPDATE invocations SET state = 'cancelled', finished_at = :now, failure_reason = :reason, "
    "lease_until = NULL WHERE id = :id AND state IN ('queued', 'claimed')"
)
_PURGE = text(
    """
UPDATE invocations SET state = 'cancelled', finished_at = :now, failure_reason = :reason, body = NULL
 WHERE id IN (SELECT id FROM invocations WHERE endpoint_id = :endpoint_id AND state = 'queued' LIMIT :limit)
RETURNING id, account
"""
)
_REDRIVABLE = text(
    f"SELECT {_COLUMNS} FROM invocations WHERE id IN :ids AND state IN :states ORDER BY id"
).bindparams(_IDS, bindparam("states", expanding=True, type_=String))
_TAGS = select(tags).where(tags.c.invocation_id.in_(_IDS))
_SET_PRIORITY = text(
    "UPDATE invocations SET priority = :priority WHERE id = :id AND state IN ('queued', 'claimed')"
)


class CannotRedrive(ServiceError):
    """A request cannot be sent again; the message says why."""

    code = "ValidationError"


class Steering:
    """Carries the changes out. `deliveries_wake` is called when notifications were committed."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        changes: Changes,
        wakeups: Wakeups,
        deliveries_wake: Callable[[], None],
        *,
        region: str,
    ) -> None:
        self._database = database
        self._objects = objects
        self._changes = changes
        self._wakeups = wakeups
        self._deliveries_wake = deliveries_wake
        self._region = region

    async def cancel(self, ids: Sequence[str], now: float) -> list[str]:
        """Cancel those that have no outcome yet; their ids. What is worked on is stopped at once.

        Each is published: a failure object, a message of invocationStatus Cancelled to the error topic. Where
        the object goes to an outside bucket, both follow (owed.py).
        """
        cancelled: list[Outcome] = []
        for begin in range(0, len(ids), BATCH):
            batch = ids[begin : begin + BATCH]
            # Few enough bytes to lie in memory: nothing is left over of those that are not used.
            responses = {id_: await stage_failure(self._objects, CANCELLED, 400) for id_ in batch}
            done = await self._database.write(
                partial(_cancel, objects=self._objects, responses=responses, region=self._region, now=now)
            )
            self._changes.tell(map(change, done))
            cancelled += done
        if cancelled:
            self._deliveries_wake()
        return [each.invocation.id for each in cancelled]

    async def purge(self, endpoint_id: str, now: float) -> int:
        """Drop all that an endpoint has queued, without outcomes; how many. What is worked on goes on."""
        purged = 0
        values = {"endpoint_id": endpoint_id, "limit": BATCH, "now": now, "reason": PURGED}
        while rows := await self._database.write(lambda connection: connection.execute(_PURGE, values).all()):
            self._changes.tell(Change(row.id, endpoint_id, row.account, "cancelled", now) for row in rows)
            purged += len(rows)
        return purged

    async def redrive(
        self, ids: Sequence[str], now: float, *, to: Endpoint | None = None
    ) -> Mapping[str, str]:
        """Submit those that failed, expired or were cancelled anew, `to` another endpoint or their own.

        Returns id -> the id of the new invocation. It keeps its inference id, its time limits, its priority
        and tags; its output goes where the first one's would have gone, or where the other endpoint's do.
        Raises CannotRedrive for an endpoint that is real-time.
        """
        if to is not None and to.async_config is None:
            raise CannotRedrive(f"Endpoint {to.name} is not asynchronous.")
        redriven: dict[str, str] = {}
        for begin in range(0, len(ids), BATCH):
            batch = ids[begin : begin + BATCH]
            accepted = await self._database.write(partial(_redrive, ids=batch, to=to, now=now))
            self._changes.tell(
                Change(each.id, each.endpoint_id, each.account, "queued", now) for each in accepted
            )
            for endpoint_id in {each.endpoint_id for each in accepted}:
                self._wakeups.notify(endpoint_id)
            redriven |= {each.redriven_from: each.id for each in accepted if each.redriven_from}
        return redriven

    async def set_priority(self, id_: str, priority: int) -> bool:
        """Change an invocation's priority; False when it has its outcome already."""
        assert MIN_PRIORITY <= priority <= MAX_PRIORITY
        values = {"id": id_, "priority": priority}
        return bool(
            await self._database.write(lambda connection: connection.execute(_SET_PRIORITY, values).rowcount)
        )


def _cancel(
    connection: Connection,
    *,
    objects: ObjectStore,
    responses: Mapping[str, Response],
    region: str,
    now: float,
) -> list[Outcome]:
    """responses: by invocation id, what each of them is answered by."""
    cancelled = []
    found: dict[str, Endpoint | None] = {}
    for row in connection.execute(_UNFINISHED[connection.dialect.name], {"ids": list(responses)}).all():
        invocation, claimed_at = Invocation(*row[:-2]), row[-1]
        if invocation.endpoint_id not in found:
            found[invocation.endpoint_id] = endpoints.find_endpoint(connection, invocation.endpoint_id)
        endpoint = found[invocation.endpoint_id]
        if endpoint is None or endpoint.async_config is None:
            continue  # it goes with its endpoint
        cancelled.append(
            Outcome(
                endpoint=endpoint,
                variant=endpoint.variants[0].name,
                region=region,
                invocation=invocation,
                state="cancelled",
                response=responses[invocation.id],
                at=now,
                reason=CANCELLED,
                claimed_at=claimed_at,
            )
        )
    if cancelled:
        connection.execute(
            CANCEL, [{"id": each.invocation.id, "now": now, "reason": CANCELLED} for each in cancelled]
        )
        publish_or_owe(connection, objects, cancelled, code=400)
    return cancelled


def _redrive(
    connection: Connection, *, ids: Sequence[str], to: Endpoint | None, now: float
) -> list[Invocation]:
    rows = connection.execute(_REDRIVABLE, {"ids": ids, "states": REDRIVABLE})
    accepted = []
    for row in rows:
        old = Invocation(*row)
        own = endpoints.find_endpoint(connection, old.endpoint_id)
        endpoint = to or own
        if endpoint is None or endpoint.async_config is None:
            continue
        if old.body is None and old.input_uri is None:
            continue  # purged: its input was dropped
        accepted.append(_again(old, own, endpoint, now))
    if accepted:
        kept: dict[str, dict[str, str]] = {}
        new_ids = {each.redriven_from: each.id for each in accepted}
        for id_, key, value in connection.execute(_TAGS, {"ids": list(new_ids)}):
            kept.setdefault(new_ids[id_], {})[key] = value
        invocations.accept(connection, accepted, kept)
    return accepted


def _again(old: Invocation, own: Endpoint | None, endpoint: Endpoint, now: float) -> Invocation:
    """The invocation anew, at an endpoint that may be another."""
    config = endpoint.async_config
    assert config is not None
    id_ = time_ordered_id(now)
    own_output = own.async_config.output_uri if own is not None and own.async_config is not None else None
    name = f"{old.id}.out"
    if own_output is not None and old.output_uri.startswith(own_output):
        name = old.output_uri.removeprefix(own_output).lstrip("/")
    return replace(
        old,
        id=id_,
        inference_id=id_ if old.inference_id == old.id else old.inference_id,
        endpoint_id=endpoint.id,
        accepted_at=now,
        expires_at=now + (old.expires_at - old.accepted_at),
        output_uri=f"{config.output_uri.rstrip('/')}/{name.replace(old.id, id_)}",
        failure_uri=config.failure_uri and f"{config.failure_uri.rstrip('/')}/{id_}-error.out",
        digest=None,
        redriven_from=old.id,
    )
