"""What is told of invocations: one of them whole, pages of many, a place in the queue.

A page costs what it shows, not what lies behind it: it reads the newest rows of an index, and where a filter
has no index of its own it looks at no more than `MAX_SCANNED` rows. Then it may hold fewer rows than asked
for, even none, and still have a next page.
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from math import floor
from typing import Any

from sqlalchemy import BindParameter, Connection, TextClause, bindparam, text

from ebbtide import accounts
from ebbtide.identifiers import first_id, time_of_id
from ebbtide.queue.changes import Change
from ebbtide.queue.tables import MOVES

UNFINISHED = frozenset(state for state, targets in MOVES.items() if targets)

MAX_SCANNED = 2_000
"""Most rows looked at for one page: 30 ms or so."""

MAX_COUNTED = 100_000
"""Most invocations counted to tell a position: 10 ms or so."""

MAX_INDEX_SCANS = 64
"""Up to so many endpoints x states each is read from its index; more are told apart row by row."""

_CHUNK = 250
_SMALL_CHUNK = 50

_COLUMNS = (
    "id, inference_id, account, endpoint_id, state, priority, accepted_at, expires_at, timeout_s, input_uri, "
    "content_type, output_uri, failure_uri, redriven_from, claim_count, instance_id, claimed_at, opened_at, "
    "sent_at, answered_at, finished_at, failure_reason"
)
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
_BY_IDS = text(f"SELECT {_COLUMNS} FROM invocations WHERE id IN :ids").bindparams(_IDS)
_TAGS = text("SELECT invocation_id, key, value FROM invocation_tags WHERE invocation_id IN :ids").bindparams(
    _IDS
)
_BY_INFERENCE_ID = text(
    "SELECT id FROM invocations WHERE inference_id = :inference_id AND inference_id <> id AND id < :before "
    "ORDER BY id DESC LIMIT :limit"
)
_BY_STATE = text(
    """
SELECT accepted_at, id FROM invocations
 WHERE endpoint_id = :endpoint_id AND state = :state AND accepted_at >= :since
   AND accepted_at <= :before_at AND (accepted_at < :before_at OR id < :before)
 ORDER BY accepted_at DESC, id DESC LIMIT :limit
"""
)
_BY_TAG = text(
    "SELECT invocation_id AS id FROM invocation_tags WHERE key = :key AND value = :value "
    "AND invocation_id < :before AND invocation_id >= :from_id ORDER BY invocation_id DESC LIMIT :limit"
)
_BY_ID = text(
    "SELECT id FROM invocations WHERE id < :before AND id >= :from_id ORDER BY id DESC LIMIT :limit"
)
_ENDPOINTS = text(
    """
SELECT id, name, account FROM endpoints
 WHERE account = :account
    OR id IN (SELECT endpoint_id FROM invocation_depths WHERE account = :submitter)
"""
)
_ATTEMPTS = text(
    "SELECT claim_count, instance_id, claimed_at, ended_at, reason FROM invocation_attempts "
    "WHERE invocation_id = :id ORDER BY claim_count"
)
_HIGHER = text(
    """
SELECT count(*) FROM
 (SELECT 1 FROM invocations
   WHERE endpoint_id = :endpoint_id AND state = 'queued' AND account = :account AND priority > :priority
   LIMIT :limit) AS higher
"""
)
_OLDER = text(
    """
SELECT count(*) FROM
 (SELECT 1 FROM invocations
   WHERE endpoint_id = :endpoint_id AND state = 'queued' AND account = :account AND priority = :priority
     AND accepted_at < :accepted_at
   LIMIT :limit) AS older
"""
)
_STATE = text("SELECT state FROM invocations WHERE id = :id")
_FINISHED = text(
    "SELECT accepted_at, claimed_at, finished_at FROM invocations "
    "WHERE endpoint_id = :endpoint_id AND state = 'succeeded' AND claimed_at IS NOT NULL "
    "ORDER BY accepted_at DESC LIMIT :limit"
)
_ARRIVED = text(
    """
SELECT count(*) FROM
 (SELECT 1 FROM invocations
   WHERE endpoint_id = :endpoint_id AND state = :state AND accepted_at >= :since LIMIT :limit) AS arrived
"""
)
_DEPTHS = text(
    "SELECT account, queued, claimed FROM invocation_depths "
    "WHERE endpoint_id = :endpoint_id AND queued + claimed > 0 ORDER BY account"
)
_WAITING = text(
    "SELECT account, queued, turn FROM invocation_depths WHERE endpoint_id = :endpoint_id AND queued > 0"
)


@dataclass(frozen=True, slots=True)
class Shown:
    """One invocation as it is now, without its input."""

    id: str
    inference_id: str
    account: str
    endpoint_id: str
    state: str
    priority: int
    accepted_at: float
    expires_at: float
    timeout_s: int
    input_uri: str | None
    content_type: str | None
    output_uri: str
    failure_uri: str | None
    redriven_from: str | None
    claim_count: int
    instance_id: str | None
    claimed_at: float | None
    opened_at: float | None
    sent_at: float | None
    answered_at: float | None
    finished_at: float | None
    failure_reason: str | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """A claim that ended without an outcome."""

    claim_count: int
    instance_id: str | None
    claimed_at: float | None
    ended_at: float
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """The endpoints of whose invocations a caller sees: those of its resources, and those where its own
    account has submitted something. Of the latter it sees its own only.
    """

    submitter: str
    names: Mapping[str, str]
    """Endpoint id -> name."""
    owned: frozenset[str]

    def sees(self, one: Shown | Change) -> bool:
        return one.endpoint_id in self.owned or (
            one.endpoint_id in self.names and one.account == self.submitter
        )

    def id_of(self, name: str) -> str | None:
        """The id of the endpoint of that name, one of the account's resources first."""
        named = [id_ for id_, other in self.names.items() if other == name]
        return next((id_ for id_ in named if id_ in self.owned), named[0] if named else None)


@dataclass(frozen=True, slots=True)
class Filter:
    """Which invocations are meant. What is None or empty leaves all. Times in epoch seconds."""

    endpoint_id: str | None = None
    states: frozenset[str] = frozenset()
    accepted_after: float | None = None
    accepted_before: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    account: str | None = None
    inference_id: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some invocations, newest first; `after` leads to the next page, None at the end."""

    invocations: Sequence[Shown]
    after: str | None


@dataclass(frozen=True, slots=True)
class Position:
    """How many are served before it; `exact` is False when there are more than were counted."""

    ahead: int
    exact: bool


def seen_by(connection: Connection, account: str, submitter: str) -> Seen:
    """What a caller sees."""
    rows = connection.execute(_ENDPOINTS, {"account": account, "submitter": submitter}).all()
    return Seen(
        submitter,
        {row.id: row.name for row in rows},
        frozenset(row.id for row in rows if row.account == account),
    )


def find(connection: Connection, seen: Seen, name: str) -> Shown | None:
    """The invocation of that id, or the newest one of that inference id."""
    ids: Sequence[str] = [name]
    before = _LAST
    while ids:
        for one in _shown(connection, ids):
            if seen.sees(one):
                return one
        values = {"inference_id": name, "before": before, "limit": _CHUNK}
        ids = connection.execute(_BY_INFERENCE_ID, values).scalars().all()
        before = ids[-1] if ids else before
    return None


def has_outcome(connection: Connection, invocation_id: str) -> bool:
    """Whether nothing more will become of it; so it is when it has gone with its endpoint, too."""
    return connection.execute(_STATE, {"id": invocation_id}).scalar() not in UNFINISHED


def page(connection: Connection, seen: Seen, wanted: Filter, *, limit: int, after: str | None) -> Page:
    """The invocations behind `after` that the caller sees and the filter leaves.

    Raises ValueError for a token that no page gave.
    """
    found: list[Shown] = []
    scanned = 0
    last = _START if after is None else _cursor(after)
    size = min(_CHUNK, max(_SMALL_CHUNK, limit + 1))
    candidates = _candidates(connection, seen, wanted, last, size)
    while chunk := list(islice(candidates, size)):
        rows = _rows(connection, [id_ for _, id_ in chunk])
        tagged = tags_of(connection, list(rows)) if wanted.tags else {}
        for cursor in chunk:
            one = rows.get(cursor[1])
            if one is not None and seen.sees(one) and _matches(one, wanted, tagged.get(one.id, {})):
                if len(found) == limit:
                    return Page(found, _token(last))
                found.append(one)
            last = cursor
        scanned += len(chunk)
        if scanned >= MAX_SCANNED:
            return Page(found, _token(last))
    return Page(found, None)


def tags_of(connection: Connection, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Invocation id -> its tags; those without any are absent."""
    tagged: dict[str, dict[str, str]] = {}
    if not ids:
        return tagged
    for id_, key, value in connection.execute(_TAGS, {"ids": ids}):
        tagged.setdefault(id_, {})[key] = value
    return tagged


def attempts_of(connection: Connection, invocation_id: str) -> list[Attempt]:
    """Its claims that ended without an outcome, oldest first."""
    return [Attempt(*row) for row in connection.execute(_ATTEMPTS, {"id": invocation_id})]


def latest_finished(
    connection: Connection, endpoint_id: str, *, limit: int
) -> list[tuple[float, float, float]]:
    """(accepted_at, claimed_at, finished_at) of the endpoint's latest successes, by acceptance."""
    rows = connection.execute(_FINISHED, {"endpoint_id": endpoint_id, "limit": limit})
    return [(row[0], row[1], row[2]) for row in rows]


def arrived(connection: Connection, endpoint_id: str, *, since: float) -> int:
    """How many the endpoint has accepted since then, `MAX_COUNTED` at most of each state."""
    values = {"endpoint_id": endpoint_id, "since": since, "limit": MAX_COUNTED}
    return sum(connection.execute(_ARRIVED, {**values, "state": state}).scalar_one() for state in MOVES)


def depths_of(connection: Connection, endpoint_id: str) -> dict[str, tuple[int, int]]:
    """Account -> (queued, claimed) at the endpoint, of those that have any."""
    rows = connection.execute(_DEPTHS, {"endpoint_id": endpoint_id})
    return {row[0]: (row[1], row[2]) for row in rows}


def position(connection: Connection, one: Shown) -> Position | None:
    """Its place in its endpoint's queue; None when it is not queued."""
    if one.state != "queued":
        return None
    values = {
        "endpoint_id": one.endpoint_id,
        "account": one.account,
        "priority": one.priority,
        "accepted_at": one.accepted_at,
        "limit": MAX_COUNTED,
    }
    own = connection.execute(_HIGHER, values).scalar_one()
    own += connection.execute(_OLDER, values).scalar_one()
    rows = connection.execute(_WAITING, {"endpoint_id": one.endpoint_id}).all()
    weights = accounts.weights(connection) if len(rows) > 1 else {}
    waiting = {row.account: (row.queued, row.turn, weights.get(row.account, 1.0)) for row in rows}
    return Position(own + served_between(waiting, one.account, own), own < MAX_COUNTED)


def served_between(waiting: Mapping[str, tuple[int, float, float]], account: str, own: int) -> int:
    """How many of other accounts get their turns before the account's (own + 1)-th.

    waiting: account -> (queued, turn, weight) of all that have something queued. It is what `fairness.share`
    comes to, of equal turns the others' first, without going through them one by one.
    """
    if account not in waiting:
        return 0
    now = max(turn for _, turn, _ in waiting.values())
    first = {each: max(turn + 1 / weight, now) for each, (_, turn, weight) in waiting.items()}
    mine = first[account] + own / waiting[account][2]
    return sum(
        min(queued, floor((mine - first[each]) * weight) + 1)
        for each, (queued, _, weight) in waiting.items()
        if each != account and first[each] <= mine
    )


Cursor = tuple[float, str]
"""Where a page ended: when the last row was accepted, and its id."""

_LAST = "g"
"""Sorts behind every id: they are hexadecimal."""

_START: Cursor = (1e12, _LAST)


def _token(cursor: Cursor) -> str:
    return f"{cursor[0]!r}~{cursor[1]}"


def _cursor(token: str) -> Cursor:
    at, _, id_ = token.partition("~")
    time_of_id(id_)
    return float(at), id_


def _rows(connection: Connection, ids: Sequence[str]) -> dict[str, Shown]:
    if not ids:
        return {}
    return {row.id: Shown(*row) for row in connection.execute(_BY_IDS, {"ids": ids})}


def _shown(connection: Connection, ids: Sequence[str]) -> list[Shown]:
    """The rows of these ids, in their order; those that have gone are left out."""
    rows = _rows(connection, ids)
    return [rows[id_] for id_ in ids if id_ in rows]


def _matches(one: Shown, wanted: Filter, tags: Mapping[str, str]) -> bool:
    """Whether the filter leaves it: candidates may have come from an index that knows of a part of it."""
    return (
        (wanted.endpoint_id is None or one.endpoint_id == wanted.endpoint_id)
        and (not wanted.states or one.state in wanted.states)
        and (wanted.account is None or one.account == wanted.account)
        and (wanted.inference_id is None or one.inference_id == wanted.inference_id)
        and (wanted.accepted_after is None or one.accepted_at >= wanted.accepted_after)
        and (wanted.accepted_before is None or one.accepted_at < wanted.accepted_before)
        and wanted.tags.items() <= tags.items()
    )


def _candidates(
    connection: Connection, seen: Seen, wanted: Filter, behind: Cursor, size: int
) -> Iterator[Cursor]:
    """What may match, newest first: all that does, and where no index fits the filter more than that.

    size: how many rows are read at a time.
    """
    since = wanted.accepted_after or 0.0
    if wanted.accepted_before is not None:
        behind = min(behind, (wanted.accepted_before, first_id(wanted.accepted_before + 0.001)))
    if wanted.inference_id is not None:
        given = [wanted.inference_id] if wanted.inference_id < behind[1] else []
        others = _by_id(connection, _BY_INFERENCE_ID, behind, size, inference_id=wanted.inference_id)
        return chain(others, ((0.0, id_) for id_ in given))
    if wanted.tags:
        key, value = next(iter(wanted.tags.items()))
        return _by_id(connection, _BY_TAG, behind, size, key=key, value=value, from_id=first_id(since))
    endpoint_ids = seen.names if wanted.endpoint_id is None else [wanted.endpoint_id]
    states = wanted.states or MOVES.keys()
    if len(endpoint_ids) * len(states) > MAX_INDEX_SCANS:
        return _by_id(connection, _BY_ID, behind, size, from_id=first_id(since))
    scans = [
        _by_acceptance(connection, behind, size, endpoint_id=endpoint_id, state=state, since=since)
        for endpoint_id in endpoint_ids
        for state in states
    ]
    return heapq.merge(*scans, reverse=True)


def _by_acceptance(connection: Connection, behind: Cursor, size: int, **values: Any) -> Iterator[Cursor]:
    while True:
        bounds = {"before_at": behind[0], "before": behind[1], "limit": size}
        chunk = [(row[0], row[1]) for row in connection.execute(_BY_STATE, {**values, **bounds})]
        yield from chunk
        if len(chunk) < size:
            return
        behind = chunk[-1]


def _by_id(
    connection: Connection, statement: TextClause, behind: Cursor, size: int, **values: Any
) -> Iterator[Cursor]:
    before = behind[1]
    while True:
        ids = connection.execute(statement, {**values, "before": before, "limit": size}).scalars().all()
        for id_ in ids:
            # A millisecond more than the id tells, so that no row of that millisecond lies behind the cursor.
            yield time_of_id(id_) + 0.001, id_
        if len(ids) < size:
            return
        before = ids[-1]
