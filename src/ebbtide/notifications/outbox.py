"""The outbox: messages, and the deliveries of each that are owed.

A delivery is born `pending` in its publisher's transaction. It is `delivered` when it was made, put off when
the attempt failed, and `abandoned` when its policy allows no further attempt. Message and deliveries are then
kept for a while: `history` shows them, owes them again when asked to, and forgets them in the end.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, insert, text, update

from ebbtide.database import Rows, Statement
from ebbtide.identifiers import time_ordered_id
from ebbtide.notifications.tables import attempts, deliveries
from ebbtide.values import value

PENDING, DELIVERED, ABANDONED = "pending", "delivered", "abandoned"


@value
class Message:
    """What was published. `attributes`: name -> {"Type": ..., "Value": ...}, as the envelope shows them.

    With structure "json", `message` is a JSON object of texts by protocol.
    """

    id: str
    topic_arn: str
    type: str
    message: str
    subject: str | None
    attributes: Mapping[str, Mapping[str, str]]
    structure: str | None
    published_at: float
    invocation_id: str | None = None


@value
class Delivery:
    """One message owed to one subscription since `owed_at`; `attempt_count` attempts have failed since."""

    id: int
    message: Message
    attempt_count: int
    owed_at: float


@value
class Attempt:
    """An attempt that ended at `at` after `duration_s`; without an error it succeeded.

    status_code: the HTTP status that the receiver answered, if it came to that.
    """

    at: float
    duration_s: float
    status_code: int | None = None
    error: str | None = None


class Undelivered(Exception):
    """An attempt failed, for the reason in the message. `final`: another would fail the same way."""

    def __init__(self, reason: str, *, final: bool = False, status_code: int | None = None) -> None:
        super().__init__(reason)
        self.final = final
        self.status_code = status_code


def add(connection: Connection, message: Message, subscription_arns: Iterable[str]) -> None:
    """Owe a message to each of the subscriptions, due at once."""
    add_many(connection, [(message, list(subscription_arns))])


def add_many(connection: Connection, messages: Iterable[tuple[Message, Sequence[str]]]) -> None:
    """Owe each message to its subscriptions, due at once; one without any is not kept."""
    owed = [(message, arns) for message, arns in messages if arns]
    _ADD_MESSAGE.execute(connection, [_values(message) for message, _ in owed])
    _ADD_DELIVERY.execute(
        connection,
        [
            (message.id, arn, message.published_at, message.published_at)
            for message, arns in owed
            for arn in arns
        ],
    )


def message(
    topic_arn: str,
    body: str,
    *,
    at: float,
    kind: str = "Notification",
    subject: str | None = None,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
    structure: str | None = None,
    invocation_id: str | None = None,
) -> Message:
    """A message with an id of its own, published at `at`."""
    return Message(
        time_ordered_id(at), topic_arn, kind, body, subject, attributes or {}, structure, at, invocation_id
    )


def next_due(connection: Connection) -> dict[str, float]:
    """Subscription ARN -> when its first pending delivery is due, for each that has any."""
    rows = connection.execute(_NEXT_DUE).all()
    return {arn: due_at for arn, due_at in rows if due_at is not None}


def due(connection: Connection, subscription_arn: str, now: float, limit: int) -> list[Delivery]:
    """The deliveries to attempt now, the longest due first."""
    rows = _DUE.execute(connection, (subscription_arn, now, limit))
    return [
        Delivery(id_, _message_of(message), attempt_count, owed_at)
        for id_, attempt_count, owed_at, *message in rows
    ]


def still_owed(connection: Connection, found: Sequence[Delivery]) -> list[Delivery]:
    """Those that are owed at this moment: another server may have made some since they were read."""
    pending = {id_ for (id_,) in _STILL_OWED.execute(connection, [(delivery.id,) for delivery in found])}
    return [delivery for delivery in found if delivery.id in pending]


def delivered(connection: Connection, made: Iterable[tuple[Delivery, Attempt]]) -> None:
    """Record deliveries that were made."""
    rows = [
        (delivery.id, attempt.at, attempt.duration_s, attempt.status_code, attempt.error)
        for delivery, attempt in made
    ]
    _DELIVERED.execute(connection, rows)


def put_off(connection: Connection, failed: Iterable[tuple[Delivery, Attempt, float]]) -> None:
    """Record failed attempts; the next of each is due at the time beside it."""
    rows = [(_attempted(delivery, attempt), due_at) for delivery, attempt, due_at in failed]
    if rows:
        connection.execute(_ADD_ATTEMPT, [row for row, _ in rows])
        connection.execute(_PUT_OFF, [row | {"due": due_at} for row, due_at in rows])


def abandon(connection: Connection, failed: Iterable[tuple[Delivery, Attempt, str | None]]) -> None:
    """Record failed attempts that were the last, beside each the dead-letter queue that took the message."""
    rows = [_attempted(delivery, attempt) | {"dead_letter": arn} for delivery, attempt, arn in failed]
    if rows:
        connection.execute(_ABANDON, rows)


def _attempted(delivery: Delivery, attempt: Attempt) -> dict[str, Any]:
    return {
        "delivery": delivery.id,
        "at": attempt.at,
        "took": attempt.duration_s,
        "status": attempt.status_code,
        "error": attempt.error,
    }


def _values(message: Message) -> tuple[Any, ...]:
    return (
        message.id,
        message.topic_arn,
        message.type,
        message.subject,
        json.dumps(message.attributes) if message.attributes else "{}",
        message.structure,
        message.published_at,
        message.invocation_id,
        message.message,
    )


def _message_of(values: Sequence[Any]) -> Message:
    """The message of a row that `_DUE` found."""
    id_, topic_arn, kind, body, subject, attributes, structure, published_at, invocation_id = values
    return Message(
        id_,
        topic_arn,
        kind,
        body,
        subject,
        json.loads(attributes),
        structure,
        published_at,
        invocation_id,
    )


def message_of(row: Mapping[str, Any] | RowMapping) -> Message:
    """The message of a row's columns by name."""
    return Message(
        row["id"],
        row["topic_arn"],
        row["type"],
        row["message"],
        row["subject"],
        row["attributes"],
        row["structure"],
        row["published_at"],
        row["invocation_id"],
    )


# Straight to the driver, what the message about every outcome passes.
_ADD_MESSAGE = Rows(
    "INSERT INTO sns_messages (id, topic_arn, type, subject, attributes, structure, published_at, "
    "invocation_id, message) VALUES {}",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
)
_ADD_DELIVERY = Rows(
    "INSERT INTO sns_deliveries (message_id, subscription_arn, state, attempt_count, due_at, owed_at) "
    "VALUES {}",
    "(?, ?, 'pending', 0, ?, ?)",
)
# One index seek for each subscription, however many deliveries a dead receiver has piled up.
_NEXT_DUE = text("""
SELECT arn, (SELECT MIN(due_at) FROM sns_deliveries
              WHERE subscription_arn = sns_subscriptions.arn AND state = 'pending')
  FROM sns_subscriptions
""")
# What is pending by a literal, not a parameter: the indexes of it serve only a query that says so.
_DUE = Statement(
    """
SELECT d.id, d.attempt_count, d.owed_at, m.id, m.topic_arn, m.type, m.message, m.subject,
       CAST(m.attributes AS text), m.structure, m.published_at, m.invocation_id
  FROM sns_deliveries d JOIN sns_messages m ON m.id = d.message_id
 WHERE d.subscription_arn = ? AND d.state = 'pending' AND d.due_at <= ?
 ORDER BY d.due_at, d.id LIMIT ?
"""
)
_STILL_OWED = Rows("SELECT id FROM sns_deliveries WHERE id IN ({}) AND state = 'pending'", "?")
_DELIVERED = Rows(
    """
WITH made (id, at, took, status, error) AS (VALUES {})
UPDATE sns_deliveries
   SET state = 'delivered', attempt_count = attempt_count + 1, attempted_at = made.at,
       duration_s = made.took, status_code = made.status, last_error = made.error
  FROM made WHERE sns_deliveries.id = made.id
""",
    # PostgreSQL takes the types of such values for text otherwise.
    "(CAST(? AS bigint), CAST(? AS double precision), CAST(? AS double precision), CAST(? AS integer), ?)",
)
_ADD_ATTEMPT = insert(attempts).values(
    delivery_id=bindparam("delivery"),
    attempted_at=bindparam("at"),
    duration_s=bindparam("took"),
    status_code=bindparam("status"),
    error=bindparam("error"),
)
_ATTEMPTED = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("delivery"))
    .values(
        attempt_count=deliveries.c.attempt_count + 1,
        attempted_at=bindparam("at"),
        duration_s=bindparam("took"),
        status_code=bindparam("status"),
        last_error=bindparam("error"),
    )
)
_PUT_OFF = _ATTEMPTED.values(due_at=bindparam("due"))
_ABANDON = _ATTEMPTED.values(state=ABANDONED, dead_letter_arn=bindparam("dead_letter"))
