"""What became of messages: shown, owed again on request, and forgotten in the end.

A delivery keeps its last attempt in its own row and those before it in `sns_attempts`. Both stay with the
message's text for the operator's retention; until then anybody who asks can have a message delivered again.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    String,
    bindparam,
    delete,
    exists,
    func,
    insert,
    literal_column,
    select,
    text,
    tuple_,
    update,
)

from ebbtide.identifiers import first_id
from ebbtide.notifications import filters, outbox
from ebbtide.notifications.outbox import ABANDONED, DELIVERED, PENDING, Attempt, Message
from ebbtide.notifications.tables import attempts, deliveries, messages, subscriptions

PAGE = 100
"""Deliveries in one answer, unless the caller wants fewer or more."""

REPLAYED_AT_ONCE = 100
"""Messages owed again in one transaction, so that no other write waits long behind it."""

FORGOTTEN_AT_ONCE = 100
"""Messages, attempts or deliveries removed or given up in one transaction, for the same reason."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which messages or deliveries are meant: those to which everything holds that is not None.

    message_ids, invocation_id: those messages, those that tell of that invocation. since, until: when the
    message was published, in s, `until` not included. state: pending, delivered or abandoned.
    account: the topic's.
    """

    topic_arn: str | None = None
    subscription_arn: str | None = None
    message_ids: tuple[str, ...] | None = None
    invocation_id: str | None = None
    since: float | None = None
    until: float | None = None
    state: str | None = None
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """One message's delivery to one subscription, its attempts in order.

    owed_at: since when, which is later than `published_at` for a message that was asked for again.
    next_attempt_at: None once it has ended. dead_letter_arn: the queue that took it when it was given up.
    """

    id: int
    message: Message
    subscription_arn: str
    state: str
    owed_at: float
    next_attempt_at: float | None
    last_error: str | None
    attempts: tuple[Attempt, ...]
    dead_letter_arn: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """Deliveries, latest message first. `next_after` asks for the rest; None when there is none."""

    entries: list[Entry]
    next_after: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Replayed:
    """How many deliveries are owed again. `next_after` asks for the rest; None when there is none."""

    count: int
    next_after: str | None


def find(
    connection: Connection, chosen: Chosen, *, after: tuple[str, int] | None = None, limit: int = PAGE
) -> Page:
    """A page of deliveries, those of the latest messages first."""
    query = (
        select(deliveries, messages)
        .join(messages, messages.c.id == deliveries.c.message_id)
        .where(*_messages_chosen(chosen), *_deliveries_chosen(chosen))
        .order_by(deliveries.c.message_id.desc(), deliveries.c.id.desc())
        .limit(limit + 1)
    )
    if after is not None:
        query = query.where(tuple_(deliveries.c.message_id, deliveries.c.id) < tuple_(*after))
    rows = connection.execute(query).mappings().all()
    shown = rows[:limit]
    earlier = _earlier_attempts(connection, [row[deliveries.c.id] for row in shown])
    entries = [_entry(row, earlier.get(row[deliveries.c.id], [])) for row in shown]
    last = entries[-1] if len(rows) > limit else None
    return Page(entries, None if last is None else (last.message.id, last.id))


def notified_at(connection: Connection, invocation_ids: Collection[str]) -> dict[str, float]:
    """When the first receiver was told of each invocation's outcome, by invocation id; absent: nobody yet."""
    rows = connection.execute(_NOTIFIED, {"ids": list(invocation_ids)})
    return {row.invocation_id: row.at for row in rows}


def replay(connection: Connection, chosen: Chosen, *, now: float, after: str | None = None) -> Replayed:
    """Owe messages again, REPLAYED_AT_ONCE of them at most, the oldest first.

    Call `Deliveries.wake` after the commit.
    Each goes, under its old id, to every confirmed subscription of its topic (or to the one chosen) whose
    filter lets it pass now, also to one made since; with a state, to those alone whose delivery has that
    state. What is pending stays as it is.
    """
    query = (
        select(messages)
        .where(messages.c.type == "Notification", *_messages_chosen(chosen))
        .order_by(messages.c.id)
        .limit(REPLAYED_AT_ONCE + 1)
    )
    if chosen.state is not None or chosen.subscription_arn is not None:
        query = _narrowed(query, chosen)
    if after is not None:
        query = query.where(messages.c.id > after)
    rows = connection.execute(query).mappings().all()
    page = [outbox.message_of(row) for row in rows[:REPLAYED_AT_ONCE]]
    again, new = _owed_again(connection, chosen, page)
    if again:
        connection.execute(_KEEP_LAST_ATTEMPT, {"ids": again})
        connection.execute(_OWE_AGAIN, {"ids": again, "now": now})
    if new:
        connection.execute(
            _OWE,
            [{"message_id": message, "subscription_arn": arn, "now": now} for message, arn in new],
        )
    return Replayed(len(again) + len(new), page[-1].id if len(rows) > REPLAYED_AT_ONCE else None)


def forgettable(connection: Connection, before: float, after: str, limit: int) -> list[str]:
    """Messages that were published, and all of whose deliveries ended, before then; ids behind `after`."""
    query = (
        select(messages.c.id)
        .where(messages.c.id > after, messages.c.id < first_id(before), ~_KEPT)
        .order_by(messages.c.id)
        .limit(limit)
    )
    return list(connection.execute(query, {"before": before}).scalars())


def forget(connection: Connection, message_ids: Sequence[str], before: float) -> None:
    """Remove messages with their deliveries, but for those that were owed again meanwhile."""
    connection.execute(delete(messages).where(messages.c.id.in_(message_ids), ~_KEPT), {"before": before})


def forget_attempts(connection: Connection, before: float, limit: int) -> int:
    """Remove up to `limit` attempts from before then; how many. Of deliveries that have tried for longer than
    the retention, that is: the others' go with them.
    """
    return connection.execute(_FORGET_ATTEMPTS, {"before": before, "limit": limit}).rowcount


def stranded(connection: Connection) -> list[str]:
    """Subscriptions that are gone while something is still owed to them."""
    return list(connection.execute(_STRANDED).scalars())


def give_up(connection: Connection, subscription_arn: str, limit: int) -> int:
    """Abandon up to `limit` deliveries to a subscription that is gone; how many."""
    return connection.execute(_GIVE_UP, {"arn": subscription_arn, "limit": limit}).rowcount


def _messages_chosen(chosen: Chosen) -> Iterator[ColumnElement[bool]]:
    if chosen.topic_arn is not None:
        yield messages.c.topic_arn == chosen.topic_arn
    if chosen.account is not None:
        yield messages.c.topic_arn.like(f"arn:aws:sns:%:{chosen.account}:%")
    if chosen.message_ids is not None:
        yield messages.c.id.in_(chosen.message_ids)
    if chosen.invocation_id is not None:
        yield messages.c.invocation_id == chosen.invocation_id
    if chosen.since is not None:
        yield messages.c.id >= first_id(chosen.since)
    if chosen.until is not None:
        yield messages.c.id < first_id(chosen.until)


def _deliveries_chosen(chosen: Chosen) -> Iterator[ColumnElement[bool]]:
    if chosen.subscription_arn is not None:
        yield deliveries.c.subscription_arn == chosen.subscription_arn
    if chosen.state is not None:
        yield _in_state(chosen.state)


def _in_state(state: str) -> ColumnElement[bool]:
    # Literal, not a parameter: the indexes of what is pending or abandoned serve only a query that says so.
    assert state in (PENDING, DELIVERED, ABANDONED)
    return deliveries.c.state == literal_column(f"'{state}'")


def _narrowed(query: Select[Any], chosen: Chosen) -> Select[Any]:
    """Only messages that the chosen subscription can have, or that have a delivery in the chosen state."""
    if chosen.state is not None:
        wanted = select(deliveries.c.id).where(
            deliveries.c.message_id == messages.c.id, *_deliveries_chosen(chosen)
        )
        return query.where(exists(wanted))
    topic = select(subscriptions.c.topic_arn).where(subscriptions.c.arn == chosen.subscription_arn)
    return query.where(messages.c.topic_arn == topic.scalar_subquery())


def _owed_again(
    connection: Connection, chosen: Chosen, page: Sequence[Message]
) -> tuple[list[int], list[tuple[str, str]]]:
    """The ids of ended deliveries to owe again, and the messages and subscriptions without a delivery."""
    receivers = select(subscriptions.c.arn, subscriptions.c.topic_arn, subscriptions.c.attributes).where(
        subscriptions.c.confirmed, subscriptions.c.topic_arn.in_({message.topic_arn for message in page})
    )
    if chosen.subscription_arn is not None:
        receivers = receivers.where(subscriptions.c.arn == chosen.subscription_arn)
    subscribed = connection.execute(receivers).all()
    there = {
        (row.message_id, row.subscription_arn): (row.id, row.state)
        for row in connection.execute(_OF_MESSAGES, {"ids": [message.id for message in page]})
    }
    again, new = [], []
    for message in page:
        for arn, topic_arn, settings in subscribed:
            if topic_arn != message.topic_arn:
                continue
            if not filters.passes(settings, message.message, message.attributes):
                continue
            delivery_id, state = there.get((message.id, arn), (None, None))
            if state == PENDING or chosen.state not in (None, state):
                continue
            if delivery_id is None:
                new.append((message.id, arn))
            else:
                again.append(delivery_id)
    return again, new


def _earlier_attempts(connection: Connection, delivery_ids: Sequence[int]) -> dict[int, list[Attempt]]:
    found: dict[int, list[Attempt]] = {}
    for row in connection.execute(_ATTEMPTS, {"ids": delivery_ids}):
        attempt = Attempt(row.attempted_at, row.duration_s, row.status_code, row.error)
        found.setdefault(row.delivery_id, []).append(attempt)
    return found


def _entry(row: RowMapping, earlier: Sequence[Attempt]) -> Entry:
    of = deliveries.c
    made = list(earlier)
    if row[of.state] != PENDING and row[of.attempted_at] is not None:
        # While it is pending, its last attempt is among the earlier ones too.
        made.append(
            Attempt(row[of.attempted_at], row[of.duration_s] or 0.0, row[of.status_code], row[of.last_error])
        )
    return Entry(
        id=row[of.id],
        message=outbox.message_of({column.name: row[column] for column in messages.c}),
        subscription_arn=row[of.subscription_arn],
        state=row[of.state],
        owed_at=row[of.owed_at],
        next_attempt_at=row[of.due_at] if row[of.state] == PENDING else None,
        last_error=row[of.last_error],
        attempts=tuple(made),
        dead_letter_arn=row[of.dead_letter_arn],
    )


_OF_MESSAGES = select(
    deliveries.c.id, deliveries.c.message_id, deliveries.c.subscription_arn, deliveries.c.state
).where(deliveries.c.message_id.in_(bindparam("ids", expanding=True)))
_ATTEMPTS = (
    select(attempts)
    .where(attempts.c.delivery_id.in_(bindparam("ids", expanding=True)))
    .order_by(attempts.c.id)
)
_THESE = deliveries.c.id.in_(bindparam("ids", expanding=True))
_KEEP_LAST_ATTEMPT = insert(attempts).from_select(
    ["delivery_id", "attempted_at", "duration_s", "status_code", "error"],
    select(
        deliveries.c.id,
        deliveries.c.attempted_at,
        func.coalesce(deliveries.c.duration_s, 0.0),
        deliveries.c.status_code,
        deliveries.c.last_error,
    ).where(_THESE, deliveries.c.attempted_at.is_not(None)),
)
_OWE_AGAIN = (
    update(deliveries)
    .where(_THESE)
    .values(
        state=PENDING,
        owed_at=bindparam("now"),
        due_at=bindparam("now"),
        attempt_count=0,
        dead_letter_arn=None,
    )
)
_OWE = insert(deliveries).values(
    state=PENDING, owed_at=bindparam("now"), due_at=bindparam("now"), attempt_count=0
)
# A delivery that was owed again and not made yet leaves the one before among the attempts.
_NOTIFIED = text("""
SELECT invocation_id, MIN(at) AS at
  FROM (SELECT m.invocation_id, d.attempted_at AS at
          FROM sns_messages AS m JOIN sns_deliveries AS d ON d.message_id = m.id
         WHERE m.invocation_id IN :ids AND d.state = 'delivered'
        UNION ALL
        SELECT m.invocation_id, a.attempted_at AS at
          FROM sns_messages AS m
          JOIN sns_deliveries AS d ON d.message_id = m.id
          JOIN sns_attempts AS a ON a.delivery_id = d.id
         WHERE m.invocation_id IN :ids AND a.error IS NULL) AS made
 GROUP BY invocation_id
""").bindparams(bindparam("ids", expanding=True, type_=String))
_KEPT = (
    select(deliveries.c.id)
    .where(
        deliveries.c.message_id == messages.c.id,
        (deliveries.c.state == PENDING) | (deliveries.c.attempted_at > bindparam("before")),
    )
    .exists()
)
# Attempts are numbered as they come, so the oldest are the first: no index by time is needed.
_FORGET_ATTEMPTS = text("""
DELETE FROM sns_attempts
 WHERE id IN (SELECT id FROM (SELECT id, attempted_at FROM sns_attempts ORDER BY id LIMIT :limit) AS oldest
               WHERE attempted_at <= :before)
""")
_STRANDED = text("""
SELECT DISTINCT subscription_arn FROM sns_deliveries
 WHERE state = 'pending'
   AND NOT EXISTS (SELECT 1 FROM sns_subscriptions WHERE arn = subscription_arn)
""")
_GIVE_UP = text("""
UPDATE sns_deliveries
   SET state = 'abandoned', attempted_at = NULL, last_error = 'the subscription has ended'
 WHERE id IN (SELECT id FROM sns_deliveries
               WHERE subscription_arn = :arn AND state = 'pending' LIMIT :limit)
""")
