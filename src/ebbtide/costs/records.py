"""What costs are made of, read from the database: when instances ran, and which invocations they held.

One endpoint's day is read at a time, so that what is in memory does not grow with the time asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, text

from ebbtide.identifiers import first_id

REACH_S = 2 * 86_400.0
"""How long after its acceptance an invocation may be worked on: 6 h of queue and some hours' attempts."""


@dataclass(frozen=True, slots=True)
class Ran:
    """An instance that was started; `ended_at` is None while it runs."""

    id: str
    endpoint_id: str
    endpoint: str
    instance_type: str | None
    starting_at: float
    in_service_at: float | None
    ended_at: float | None


class Hold(NamedTuple):
    """An invocation's time on an instance. `outcome`: it ended with the invocation's own end."""

    invocation_id: str
    account: str
    instance_id: str
    accepted_at: float
    expires_at: float
    begin: float
    end: float
    outcome: bool


_RAN = text(
    """
SELECT i.id, i.endpoint_id, coalesce(i.endpoint_name, e.name, i.endpoint_id), i.instance_type,
       i.starting_at, i.in_service_at, i.ended_at
  FROM instances i LEFT JOIN endpoints e ON e.id = i.endpoint_id
 WHERE coalesce(i.account, e.account) = :account AND i.starting_at < :until
   AND (i.ended_at IS NULL OR i.ended_at > :since)
 ORDER BY i.starting_at, i.id
"""
)

# By state, which is what the index of an endpoint's invocations begins with.
_HELD = text(
    """
SELECT id, account, instance_id, accepted_at, expires_at, claimed_at, coalesce(finished_at, :now),
       finished_at IS NOT NULL
  FROM invocations
 WHERE endpoint_id = :endpoint_id AND state IN ('claimed', 'succeeded', 'failed', 'cancelled')
   AND accepted_at >= :reach AND accepted_at < :until AND claimed_at < :until
   AND coalesce(finished_at, :now) > :since AND instance_id IS NOT NULL
"""
)
_HELD_IN_VAIN = text(
    """
SELECT i.id, i.account, a.instance_id, i.accepted_at, i.expires_at, a.claimed_at, a.ended_at, 1 = 0
  FROM invocations i JOIN invocation_attempts a ON a.invocation_id = i.id
 WHERE i.endpoint_id = :endpoint_id AND i.claim_count > 0
   AND i.state IN ('queued', 'claimed', 'succeeded', 'failed', 'cancelled', 'expired')
   AND i.accepted_at >= :reach AND i.accepted_at < :until AND a.claimed_at < :until AND a.ended_at > :since
   AND a.instance_id IS NOT NULL
"""
)
_TAGGED = text(
    "SELECT invocation_id, value FROM invocation_tags "
    "WHERE key = :key AND invocation_id >= :first AND invocation_id < :last"
)
_FIRST_WANTED = text("SELECT endpoint_id, min(created_at) FROM instances GROUP BY endpoint_id")


def ran(connection: Connection, account: str, *, since: float, until: float) -> list[Ran]:
    """The instances of an account's endpoints that ran at any time in since..until, oldest first."""
    values = {"account": account, "since": since, "until": until}
    return [Ran(*row) for row in connection.execute(_RAN, values)]


def held(
    connection: Connection, endpoint_id: str, *, since: float, until: float, now: float
) -> dict[str, list[Hold]]:
    """Instance id -> what it held at any time in since..until, cut to that."""
    values = {
        "endpoint_id": endpoint_id,
        "since": since,
        "until": until,
        "reach": since - REACH_S,
        "now": now,
    }
    found: dict[str, list[Hold]] = {}
    for statement in (_HELD, _HELD_IN_VAIN):
        # All at once: row by row the driver's part takes twice as long.
        for row in connection.execute(statement, values).all():
            id_, account, instance_id, accepted_at, expires_at, begin, end, outcome = row
            found.setdefault(instance_id, []).append(
                Hold(
                    id_,
                    account,
                    instance_id,
                    accepted_at,
                    expires_at,
                    max(begin, since),
                    min(end, until),
                    bool(outcome) and end <= until,
                )
            )
    return found


def tagged(connection: Connection, key: str, *, since: float, until: float) -> Mapping[str, str]:
    """Invocation id -> its value of that tag, of all that may have been worked on in since..until."""
    values = {"key": key, "first": first_id(max(0.0, since - REACH_S)), "last": first_id(until)}
    return {row[0]: row[1] for row in connection.execute(_TAGGED, values)}


def first_wanted_at(connection: Connection) -> Mapping[str, float]:
    """Endpoint id -> when it first wanted an instance."""
    return {row[0]: row[1] for row in connection.execute(_FIRST_WANTED)}


def exist(connection: Connection) -> Sequence[str]:
    """The ids of the endpoints there are."""
    return connection.execute(text("SELECT id FROM endpoints")).scalars().all()
