"""Invocations: the record, and the SQL that carries out its moves.

Every statement here is one move of the table `MOVES` (tables.py). Finishing proves ownership by the claim
count: an agent that lost its lease cannot undo the work of the one that replaced it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, String, bindparam, insert, text

from ebbtide import accounts
from ebbtide.database import Rows, Statement
from ebbtide.queue.fairness import Waiting, share
from ebbtide.queue.tables import tags
from ebbtide.values import value


class LeaseLost(Exception):
    """The claim is no longer held: its lease ran out, it was cancelled, or its endpoint was deleted."""


@value
class Invocation:
    """One accepted request. `body` is the inline input; else the input lies at `input_uri`.

    account: who asked, and is served in turn; priority: -100 to 100, among that account's own, higher first.
    """

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
    priority: int = 0
    digest: str | None = None
    redriven_from: str | None = None


@value
class Claim:
    """An invocation held under a lease.

    count: how often it was handed out, this time included. lost_count: how many of the earlier claims ended
    with a dead model server or agent.
    """

    invocation: Invocation
    count: int
    lost_count: int
    claimed_at: float


@value
class Phases:
    """When a claim's payload was opened, sent to the model server and answered; None if not reached."""

    opened_at: float | None = None
    sent_at: float | None = None
    answered_at: float | None = None


@value
class Ending:
    """A claimed invocation's end: its `state` after it, and for one that did not succeed the reason."""

    held: Claim
    state: str
    reason: str | None
    phases: Phases
    at: float


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

FIELDS = tuple(Invocation.__annotations__)
"""Of an Invocation, each a column of the same name."""

_COLUMNS = ", ".join(FIELDS)

_ACCEPT = Rows(
    f"INSERT INTO invocations ({_COLUMNS}, state, claim_count, lost_count) VALUES {{}}",
    f"({', '.join('?' for _ in FIELDS)}, 'queued', 0, 0)",
)
_values = attrgetter(*FIELDS)
_ADD_TAG = insert(tags)

_WAITING = Statement("SELECT account, queued, suspect, turn FROM invocation_depths WHERE endpoint_id = ?")
_SET_TURN = text(
    "UPDATE invocation_depths SET turn = :turn WHERE endpoint_id = :endpoint_id AND account = :account"
)

_CLAIM = f"""
UPDATE invocations
   SET state = 'claimed', claim_count = claim_count + 1, claimed_at = ?, lease_until = ?, instance_id = ?
 WHERE id IN (SELECT id FROM invocations
               WHERE endpoint_id = ? AND state = 'queued' AND expires_at > ? AND {{which}}
               LIMIT ? {{lock}})
RETURNING {_COLUMNS}, claim_count, lost_count
"""
# Servers beside this one pass over what it is about to take; SQLite has one writer anyway.
_LOCK = {"sqlite": "", "postgresql": "FOR UPDATE SKIP LOCKED"}
_CLAIM_IN_TURN = {
    dialect: Statement(
        _CLAIM.format(which="lost_count = 0 AND account = ? ORDER BY priority DESC, accepted_at", lock=lock)
    )
    for dialect, lock in _LOCK.items()
}
_CLAIM_SUSPECT = {
    dialect: Statement(_CLAIM.format(which="lost_count > 0 ORDER BY accepted_at", lock=lock))
    for dialect, lock in _LOCK.items()
}

_FIRST_BUSY = text(
    "SELECT min(instance_id) FROM invocations WHERE endpoint_id = :endpoint_id AND state = 'claimed'"
)

_RENEW = text(
    "UPDATE invocations SET lease_until = :lease_until "
    "WHERE id = :id AND state = 'claimed' AND claim_count = :claim_count"
)

_HELD = {
    dialect: Rows(
        f"SELECT id, claim_count FROM invocations WHERE id IN ({{}}) AND state = 'claimed' {lock}", "?"
    )
    for dialect, lock in {"sqlite": "", "postgresql": "FOR UPDATE"}.items()
}

_FINISH = Rows(
    """
WITH ended (id, state, at, reason, opened_at, sent_at, answered_at) AS (VALUES {})
UPDATE invocations
   SET state = ended.state, finished_at = ended.at, failure_reason = ended.reason, lease_until = NULL,
       opened_at = ended.opened_at, sent_at = ended.sent_at, answered_at = ended.answered_at,
       body = CASE WHEN ended.state = 'succeeded' THEN NULL ELSE body END
  FROM ended WHERE invocations.id = ended.id
""",
    # PostgreSQL takes the types of such values for text otherwise.
    "(?, ?, CAST(? AS double precision), ?, CAST(? AS double precision), CAST(? AS double precision), "
    "CAST(? AS double precision))",
)

# The TTL counts queue time: while it was claimed it did not run.
_BACK = (
    "state = 'queued', lease_until = NULL, instance_id = NULL, claimed_at = NULL, "
    "expires_at = expires_at + (:now - claimed_at)"
)
_RELEASE = text(
    f"UPDATE invocations SET {_BACK}, lost_count = lost_count + :lost "
    "WHERE id = :id AND state = 'claimed' AND claim_count = :claim_count"
)
_END_ATTEMPT = text(
    """
INSERT INTO invocation_attempts (invocation_id, claim_count, instance_id, claimed_at, ended_at, reason)
SELECT id, claim_count, instance_id, claimed_at, :now, :reason FROM invocations
 WHERE id = :id AND state = 'claimed' AND claim_count = :claim_count
"""
)

_UNENDED = text("SELECT id FROM invocations WHERE id IN :ids AND state IN ('queued', 'claimed')").bindparams(
    bindparam("ids", expanding=True, type_=String)
)

_EXPIRE = text(
    "UPDATE invocations SET state = 'expired', finished_at = :now, failure_reason = :reason "
    "WHERE id = :id AND state = 'queued' AND expires_at <= :now"
)

_EXPIRING = text(
    f"SELECT {_COLUMNS} FROM invocations i WHERE state = 'queued' AND expires_at <= :now "
    # Those of an endpoint that was deleted have no depth, and are about to go.
    "AND EXISTS (SELECT 1 FROM invocation_depths d WHERE d.endpoint_id = i.endpoint_id) "
    "ORDER BY expires_at LIMIT :limit"
)

_LAPSED = text(
    f"""
SELECT {", ".join(f"i.{name}" for name in FIELDS)}, i.claim_count, i.lost_count, i.claimed_at, i.instance_id
  FROM invocation_depths d
  JOIN invocations i ON i.endpoint_id = d.endpoint_id AND i.account = d.account AND i.state = 'claimed'
 WHERE d.claimed > 0 AND i.lease_until <= :now LIMIT :limit
"""
)

_END_ALL_ATTEMPTS = text(
    """
INSERT INTO invocation_attempts (invocation_id, claim_count, instance_id, claimed_at, ended_at, reason)
SELECT id, claim_count, instance_id, claimed_at, :now, :reason FROM invocations WHERE state = 'claimed'
"""
)
_RELEASE_ALL = text(f"UPDATE invocations SET {_BACK} WHERE state = 'claimed'")

_BACKLOGS = """
SELECT d.endpoint_id, sum(d.queued), sum(d.claimed),
       (SELECT min(accepted_at) FROM invocations WHERE endpoint_id = d.endpoint_id AND state = 'queued'),
       (SELECT min(accepted_at) FROM invocations WHERE endpoint_id = d.endpoint_id AND state = 'claimed')
  FROM invocation_depths d {}
 GROUP BY d.endpoint_id
"""
_ALL_BACKLOGS = text(_BACKLOGS.format(""))
_BACKLOG = text(_BACKLOGS.format("WHERE d.endpoint_id = :endpoint_id"))

_QUEUED_BY = text("SELECT sum(queued) FROM invocation_depths WHERE account = :account")


def accept(
    connection: Connection,
    accepted: Sequence[Invocation],
    tagged: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Queue them. The caller has found their endpoints in the same transaction. tagged: id -> its tags."""
    _ACCEPT.execute(connection, [_values(one) for one in accepted])
    rows = [
        {"invocation_id": id_, "key": key, "value": value}
        for id_, each in tagged.items()
        for key, value in each.items()
    ]
    if rows:
        connection.execute(_ADD_TAG, rows)


def claim(
    connection: Connection,
    *,
    endpoint_id: str,
    instance_id: str,
    limit: int,
    lease_s: float,
    now: float,
    alone: bool = False,
) -> list[Claim]:
    """Take up to `limit` queued invocations for `lease_s` seconds: accounts in their turns, and of each its
    highest priority and oldest first.

    alone: the instance has nothing else in it. Only then is a suspect handed out, one whose model server has
    died under it before, and only one: it must not take its neighbours with it again.
    """
    dialect = connection.dialect.name
    taken = (now, now + lease_s, instance_id, endpoint_id, now)
    rows = _WAITING.execute(connection, (endpoint_id,))
    claims: list[Claim] = []
    if any(suspect for _, _, suspect, _ in rows):
        if alone:
            claims = _claims(_CLAIM_SUSPECT[dialect].execute(connection, (*taken, 1)), now)
        if claims or (not alone and _makes_room(connection, endpoint_id, instance_id)):
            return claims
    waiting = {account: Waiting(account, queued - suspect, turn) for account, queued, suspect, turn in rows}
    if sum(each.queued > 0 for each in waiting.values()) > 1:
        weights = accounts.weights(connection)
        waiting = {name: replace(each, weight=weights.get(name, 1.0)) for name, each in waiting.items()}
    while len(claims) < limit and (shares := share(list(waiting.values()), limit - len(claims))):
        for each in shares:
            values = (*taken, each.account, each.count)
            found = _claims(_CLAIM_IN_TURN[dialect].execute(connection, values), now)
            claims += found
            # What is past its TTL still counts as queued: an account may have less than that for us.
            left = waiting[each.account].queued - each.count if len(found) == each.count else 0
            waiting[each.account] = replace(waiting[each.account], queued=left, turn=each.turn)
        if len(waiting) > 1:
            connection.execute(
                _SET_TURN,
                [{"endpoint_id": endpoint_id, "account": s.account, "turn": s.turn} for s in shares],
            )
    return claims


def _makes_room(connection: Connection, endpoint_id: str, instance_id: str) -> bool:
    """Whether this instance is the one to finish what it has and take no more, so that a suspect gets one
    alone: under constant load none would ever be.
    """
    return bool(connection.execute(_FIRST_BUSY, {"endpoint_id": endpoint_id}).scalar() == instance_id)


def _claims(rows: Sequence[Any], now: float) -> list[Claim]:
    claims = [Claim(Invocation(*row[:-2]), row[-2], row[-1], now) for row in rows]
    return sorted(claims, key=lambda held: (-held.invocation.priority, held.invocation.accepted_at))


def renew(connection: Connection, claims: list[Claim], *, lease_s: float, now: float) -> list[Claim]:
    """Hold the claims for another `lease_s`; returns those that were lost meanwhile."""
    return [
        held
        for held in claims
        if not connection.execute(_RENEW, {**_ownership(held), "lease_until": now + lease_s}).rowcount
    ]


def still_held(connection: Connection, claims: Iterable[Claim]) -> set[str]:
    """The ids of those that nobody took away, to be ended in this transaction."""
    counts = {held.invocation.id: held.count for held in claims}
    rows = _HELD[connection.dialect.name].execute(connection, [(id_,) for id_ in counts])
    return {id_ for id_, count in rows if counts[id_] == count}


def finish(connection: Connection, endings: Sequence[Ending]) -> None:
    """Move claimed invocations to their ends; the caller has seen that they are `still_held`."""
    rows = [
        (
            each.held.invocation.id,
            each.state,
            each.at,
            each.reason,
            each.phases.opened_at,
            each.phases.sent_at,
            each.phases.answered_at,
        )
        for each in endings
    ]
    _FINISH.execute(connection, rows)


def release(connection: Connection, held: Claim, *, reason: str, now: float, lost: bool) -> bool:
    """Put a claimed invocation back into the queue; False when it was no longer held.

    reason: why the attempt ended. lost: with a dead model server or agent, which may be this request's doing.
    """
    connection.execute(_END_ATTEMPT, {**_ownership(held), "reason": reason, "now": now})
    values = {**_ownership(held), "lost": int(lost), "now": now}
    return bool(connection.execute(_RELEASE, values).rowcount)


def expire(connection: Connection, invocation: Invocation, reason: str | None, *, now: float) -> bool:
    """Move one that waited past its TTL to its end; False when it was claimed or finished meanwhile."""
    values = {"id": invocation.id, "reason": reason, "now": now}
    return bool(connection.execute(_EXPIRE, values).rowcount)


def expiring(connection: Connection, *, now: float, limit: int) -> list[Invocation]:
    """Queued invocations whose TTL is over, the longest over first."""
    return [Invocation(*row) for row in connection.execute(_EXPIRING, {"now": now, "limit": limit})]


def ended(connection: Connection, ids: Sequence[str]) -> set[str]:
    """Those of the ids on whose invocations nobody works any more, nor will."""
    return set(ids) - set(connection.execute(_UNENDED, {"ids": list(ids)}).scalars())


def lapsed(connection: Connection, *, now: float, limit: int) -> list[tuple[Claim, str]]:
    """Claims whose lease has run out, each with its instance, whose agent is dead, cut off, or unaware."""
    rows = connection.execute(_LAPSED, {"now": now, "limit": limit})
    return [(Claim(Invocation(*row[:-4]), row[-4], row[-3], row[-2]), row[-1]) for row in rows]


def release_all(connection: Connection, *, now: float) -> None:
    """Put every claimed invocation back. For the start of a server whose agents are the only ones: those that
    held them died with the former server, through no request's fault.
    """
    connection.execute(_END_ALL_ATTEMPTS, {"reason": "the server that worked on it ended", "now": now})
    connection.execute(_RELEASE_ALL, {"now": now})


def backlogs(connection: Connection) -> dict[str, Backlog]:
    """Each endpoint's backlog, by endpoint id; endpoints that never had a request are absent."""
    return {row[0]: _backlog(row) for row in connection.execute(_ALL_BACKLOGS)}


def backlog(connection: Connection, endpoint_id: str) -> Backlog:
    """One endpoint's backlog."""
    row = connection.execute(_BACKLOG, {"endpoint_id": endpoint_id}).one_or_none()
    return _backlog(row) if row else NOTHING


def queued_by(connection: Connection, account: str) -> int:
    """How many invocations an account has queued, at all endpoints."""
    return connection.execute(_QUEUED_BY, {"account": account}).scalar() or 0


def _ownership(held: Claim) -> dict[str, Any]:
    return {"id": held.invocation.id, "claim_count": held.count}


def _backlog(row: Any) -> Backlog:
    oldest = [at for at in (row[3], row[4]) if at is not None]
    return Backlog(int(row[1]), int(row[2]), min(oldest) if oldest else None)
