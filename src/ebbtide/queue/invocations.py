"""Invocations: the record, its states and moves, and the SQL that carries them out.

Every statement here is one move of the table `MOVES`. Finishing proves ownership by the claim count: an
agent that lost its lease cannot undo the work of the one that replaced it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    DDL,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    event,
    text,
)

from ebbtide.database import metadata

MOVES = {
    "queued": {"claimed", "expired", "cancelled"},
    # Back to queued when the lease runs out, or is handed back by an agent that cannot go on.
    "claimed": {"queued", "succeeded", "failed", "cancelled"},
    "succeeded": set(),
    "failed": set(),
    "expired": set(),
    "cancelled": set(),
}
"""State -> the states it may move to. An invocation in a state without moves has its outcome."""

invocations = Table(
    "invocations",
    metadata,
    Column("id", String, primary_key=True),
    Column("inference_id", String, nullable=False),
    Column("account", String, nullable=False),
    Column("endpoint_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("accepted_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("timeout_s", Integer, nullable=False),
    Column("input_uri", String),
    Column("content_type", String),
    Column("accept", String),
    Column("custom_attributes", String),
    Column("output_uri", String, nullable=False),
    Column("failure_uri", String),
    # The fence: grows with each claim and never falls, so a late agent's count is not its successor's.
    Column("claim_count", Integer, nullable=False),
    # Claims that ended with a dead model server or agent: too many, and the request is taken for poisonous.
    Column("lost_count", Integer, nullable=False),
    Column("lease_until", Float),
    Column("instance_id", String),
    Column("claimed_at", Float),
    Column("finished_at", Float),
    Column("failure_reason", String),
    # Last, since it is large: SQLite reads the columns before it without it. Gone with the outcome.
    Column("body", LargeBinary),
)
Index(
    "invocations_queued",
    invocations.c.endpoint_id,
    invocations.c.accepted_at,
    sqlite_where=text("state = 'queued'"),
)
Index(
    "invocations_claimed",
    invocations.c.endpoint_id,
    invocations.c.accepted_at,
    sqlite_where=text("state = 'claimed'"),
)
Index(
    "invocations_suspect",
    invocations.c.endpoint_id,
    invocations.c.accepted_at,
    sqlite_where=text("state = 'queued' AND lost_count > 0"),
)
Index("invocations_expiring", invocations.c.expires_at, sqlite_where=text("state = 'queued'"))

depths = Table(
    "invocation_depths",
    metadata,
    Column("endpoint_id", String, primary_key=True),
    Column("queued", Integer, nullable=False),
    Column("claimed", Integer, nullable=False),
)
"""How many invocations of an endpoint are queued and claimed, kept by triggers: the scaler asks every second,
and counting a backlog of a million rows each time would cost more than the work itself."""

TRIGGERS = (
    """CREATE TRIGGER invocation_arrives AFTER INSERT ON invocations BEGIN
        INSERT INTO invocation_depths VALUES (NEW.endpoint_id, NEW.state = 'queued', NEW.state = 'claimed')
            ON CONFLICT (endpoint_id) DO UPDATE
            SET queued = queued + excluded.queued, claimed = claimed + excluded.claimed;
    END""",
    """CREATE TRIGGER invocation_moves AFTER UPDATE OF state ON invocations BEGIN
        UPDATE invocation_depths
           SET queued = queued + (NEW.state = 'queued') - (OLD.state = 'queued'),
               claimed = claimed + (NEW.state = 'claimed') - (OLD.state = 'claimed')
         WHERE endpoint_id = NEW.endpoint_id;
    END""",
    """CREATE TRIGGER invocation_goes AFTER DELETE ON invocations BEGIN
        UPDATE invocation_depths
           SET queued = queued - (OLD.state = 'queued'), claimed = claimed - (OLD.state = 'claimed')
         WHERE endpoint_id = OLD.endpoint_id;
    END""",
)
for _trigger in TRIGGERS:
    event.listen(invocations, "after_create", DDL(_trigger))  # type: ignore[no-untyped-call]


class LeaseLost(Exception):
    """The claim is no longer held: its lease ran out, or its endpoint was deleted."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One accepted request. `body` is the inline input; else the input lies at `input_uri`."""

    id: str
    inference_id: str
    account: str
    endpoint_id: str
    accepted_at: float
    expires_at: float
    timeout_s: int
    input_uri: str | None
    content_type: str | None
    accept: str | None
    custom_attributes: str | None
    output_uri: str
    failure_uri: str | None
    body: bytes | None


@dataclass(frozen=True, slots=True)
class Claim:
    """An invocation held under a lease.

    count: how often it was handed out, this time included. lost_count: how many of the earlier claims ended
    with a dead model server or agent.
    """

    invocation: Invocation
    count: int
    lost_count: int
    claimed_at: float


@dataclass(frozen=True, slots=True)
class Backlog:
    """What an endpoint has to do: queued (Lq), being worked on, and since when the oldest of both waits."""

    queued: int
    claimed: int
    oldest_accepted_at: float | None

    @property
    def size(self) -> int:
        return self.queued + self.claimed


NOTHING = Backlog(0, 0, None)

_COLUMNS = (
    "id, inference_id, account, endpoint_id, accepted_at, expires_at, timeout_s, input_uri, content_type, "
    "accept, custom_attributes, output_uri, failure_uri, body"
)

_ACCEPT = text(
    f"INSERT INTO invocations ({_COLUMNS}, state, claim_count, lost_count) "
    "VALUES (:id, :inference_id, :account, :endpoint_id, :accepted_at, :expires_at, :timeout_s, :input_uri, "
    ":content_type, :accept, :custom_attributes, :output_uri, :failure_uri, :body, 'queued', 0, 0)"
)

_CLAIM = f"""
UPDATE invocations
   SET state = 'claimed', claim_count = claim_count + 1, claimed_at = :now, lease_until = :lease_until,
       instance_id = :instance_id
 WHERE id IN (SELECT id FROM invocations
               WHERE endpoint_id = :endpoint_id AND state = 'queued' AND lost_count {{}} AND expires_at > :now
               ORDER BY accepted_at LIMIT :limit)
RETURNING {_COLUMNS}, claim_count, lost_count
"""
_CLAIM_NEW = text(_CLAIM.format("= 0"))
_CLAIM_SUSPECT = text(_CLAIM.format("> 0"))

_RENEW = text(
    "UPDATE invocations SET lease_until = :lease_until "
    "WHERE id = :id AND state = 'claimed' AND claim_count = :claim_count"
)

_FINISH = text(
    "UPDATE invocations SET state = :state, finished_at = :now, failure_reason = :reason, "
    "lease_until = NULL, body = NULL WHERE id = :id AND state = 'claimed' AND claim_count = :claim_count"
)

_RELEASE = text(
    "UPDATE invocations SET state = 'queued', lease_until = NULL, instance_id = NULL, "
    "lost_count = lost_count + :lost "
    "WHERE id = :id AND state = 'claimed' AND claim_count = :claim_count"
)

_EXPIRE = text(
    f"""
UPDATE invocations SET state = 'expired', finished_at = :now, failure_reason = :reason, body = NULL
 WHERE id = :id AND state = 'queued' AND expires_at <= :now
RETURNING {_COLUMNS}
"""
)

_EXPIRING = text(
    f"SELECT {_COLUMNS} FROM invocations WHERE state = 'queued' AND expires_at <= :now "
    "ORDER BY expires_at LIMIT :limit"
)

_LAPSED = text(
    f"SELECT {_COLUMNS}, claim_count, lost_count, claimed_at FROM invocations "
    "WHERE state = 'claimed' AND lease_until <= :now LIMIT :limit"
)

_RELEASE_ALL = text(
    "UPDATE invocations SET state = 'queued', lease_until = NULL, instance_id = NULL WHERE state = 'claimed'"
)

_BACKLOGS = text(
    """
SELECT d.endpoint_id, d.queued, d.claimed,
       (SELECT min(accepted_at) FROM invocations
         WHERE endpoint_id = d.endpoint_id AND state = 'queued'),
       (SELECT min(accepted_at) FROM invocations
         WHERE endpoint_id = d.endpoint_id AND state = 'claimed')
  FROM invocation_depths d WHERE :endpoint_id IS NULL OR d.endpoint_id = :endpoint_id
"""
)


def accept(connection: Connection, accepted: Sequence[Invocation]) -> None:
    """Queue them. The caller has found their endpoints in the same transaction."""
    connection.execute(
        _ACCEPT, [{name: getattr(one, name) for name in Invocation.__slots__} for one in accepted]
    )


def claim(
    connection: Connection,
    *,
    endpoint_id: str,
    instance_id: str,
    limit: int,
    lease_s: float,
    now: float,
    suspect: bool = False,
) -> list[Claim]:
    """Take up to `limit` queued invocations, oldest first, for `lease_s` seconds.

    suspect: take from those whose model server has died under them before, else from the others. Whoever
    takes suspects runs each alone: the one that kills must not take its neighbours with it again.
    """
    rows = connection.execute(
        _CLAIM_SUSPECT if suspect else _CLAIM_NEW,
        {
            "endpoint_id": endpoint_id,
            "instance_id": instance_id,
            "limit": limit,
            "lease_until": now + lease_s,
            "now": now,
        },
    ).all()
    claims = [Claim(Invocation(*row[:-2]), row[-2], row[-1], now) for row in rows]
    return sorted(claims, key=lambda held: held.invocation.accepted_at)


def renew(connection: Connection, claims: list[Claim], *, lease_s: float, now: float) -> list[Claim]:
    """Hold the claims for another `lease_s`; returns those that were lost meanwhile."""
    return [
        held
        for held in claims
        if not connection.execute(_RENEW, {**_ownership(held), "lease_until": now + lease_s}).rowcount
    ]


def finish(connection: Connection, held: Claim, state: str, *, reason: str | None, now: float) -> None:
    """Move a claimed invocation to its end. Raises LeaseLost when another holds it now."""
    assert state in MOVES["claimed"]
    values = {**_ownership(held), "state": state, "reason": reason, "now": now}
    if not connection.execute(_FINISH, values).rowcount:
        raise LeaseLost(held.invocation.id)


def release(connection: Connection, held: Claim, *, lost: bool) -> bool:
    """Put a claimed invocation back into the queue; False when it was no longer held.

    lost: the claim ended with a dead model server or agent, which may be this request's doing.
    """
    return bool(connection.execute(_RELEASE, {**_ownership(held), "lost": int(lost)}).rowcount)


def expire(connection: Connection, invocation_id: str, *, reason: str, now: float) -> Invocation | None:
    """Move one that waited past its TTL to its end; None when it was claimed or finished meanwhile."""
    row = connection.execute(_EXPIRE, {"id": invocation_id, "reason": reason, "now": now}).one_or_none()
    return Invocation(*row) if row else None


def expiring(connection: Connection, *, now: float, limit: int) -> list[Invocation]:
    """Queued invocations whose TTL is over, the longest over first."""
    return [Invocation(*row) for row in connection.execute(_EXPIRING, {"now": now, "limit": limit})]


def lapsed(connection: Connection, *, now: float, limit: int) -> list[Claim]:
    """Claims whose lease has run out: their agent is dead or cut off."""
    rows = connection.execute(_LAPSED, {"now": now, "limit": limit})
    return [Claim(Invocation(*row[:-3]), row[-3], row[-2], row[-1]) for row in rows]


def release_all(connection: Connection) -> None:
    """Put every claimed invocation back. For the start of a server that is alone on its database: the agents
    that held them died with the former server, through no request's fault.
    """
    connection.execute(_RELEASE_ALL)


def backlogs(connection: Connection) -> dict[str, Backlog]:
    """Each endpoint's backlog, by endpoint id; endpoints that never had a request are absent."""
    return {row[0]: _backlog(row) for row in connection.execute(_BACKLOGS, {"endpoint_id": None})}


def backlog(connection: Connection, endpoint_id: str) -> Backlog:
    """One endpoint's backlog."""
    row = connection.execute(_BACKLOGS, {"endpoint_id": endpoint_id}).one_or_none()
    return _backlog(row) if row else NOTHING


def drop_endpoint(connection: Connection, endpoint_id: str) -> None:
    """Forget a deleted endpoint's invocations, queued ones included, as SageMaker does."""
    for table in (invocations, depths):
        connection.execute(table.delete().where(table.c.endpoint_id == endpoint_id))


def _ownership(held: Claim) -> dict[str, Any]:
    return {"id": held.invocation.id, "claim_count": held.count}


def _backlog(row: Any) -> Backlog:
    oldest = [at for at in (row[3], row[4]) if at is not None]
    return Backlog(row[1], row[2], min(oldest) if oldest else None)
