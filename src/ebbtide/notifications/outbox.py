"""The outbox: messages, and the deliveries of each that are still owed.

A delivery is born `pending` in its publisher's transaction. It is removed when it was made, put off when the
attempt failed, and `abandoned` when its policy allows no further attempt; abandoned ones are kept for a while
with their last error. A message goes with its last delivery.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, select, text, update

from ebbtide.identifiers import time_ordered_id
from ebbtide.notifications.tables import deliveries, messages

ABANDONED_RETENTION_S = 14 * 86_400.0


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message owed to one subscription; `attempt_count` attempts have failed."""

    id: int
    message: Message
    attempt_count: int


class Undelivered(Exception):
    """An attempt failed, for the reason in the message. `final`: another would fail the same way."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def add(connection: Connection, message: Message, subscription_arns: Iterable[str]) -> None:
    """Owe a message to each of the subscriptions, due at once."""
    owed = [{"message_id": message.id, "subscription_arn": arn} for arn in subscription_arns]
    if owed:
        connection.execute(_ADD_MESSAGE, _values(message))
        connection.execute(
            _ADD_DELIVERY, [each | {"due_at": message.published_at, "state": "pending"} for each in owed]
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
) -> Message:
    """A message with an id of its own, published at `at`."""
    return Message(time_ordered_id(at), topic_arn, kind, body, subject, attributes or {}, structure, at)


def next_due(connection: Connection) -> dict[str, float]:
    """Subscription ARN -> when its first pending delivery is due, for each that has any."""
    rows = connection.execute(_NEXT_DUE).all()
    return {arn: due_at for arn, due_at in rows if due_at is not None}


def due(connection: Connection, subscription_arn: str, now: float, limit: int) -> list[Delivery]:
    """The deliveries to attempt now, the longest due first."""
    rows = connection.execute(_DUE, {"arn": subscription_arn, "now": now, "limit": limit}).mappings()
    return [Delivery(row["delivery_id"], _message(row), row["attempt_count"]) for row in rows]


def delivered(connection: Connection, made: Iterable[Delivery]) -> None:
    """Forget deliveries that were made, and messages nobody waits for any more."""
    ids = [{"delivery": delivery.id, "message": delivery.message.id} for delivery in made]
    if ids:
        connection.execute(_REMOVE_DELIVERY, ids)
        connection.execute(_REMOVE_MESSAGE, ids)


def put_off(connection: Connection, delivery: Delivery, due_at: float, error: str) -> None:
    """Record a failed attempt; the next is due at `due_at`."""
    connection.execute(_PUT_OFF, {"delivery": delivery.id, "due": due_at, "error": error})


def abandon(connection: Connection, delivery: Delivery, at: float, error: str) -> None:
    """Record a failed attempt that was the last."""
    connection.execute(_ABANDON, {"delivery": delivery.id, "due": at, "error": error})


def remove_orphans(connection: Connection, topic_arn: str) -> None:
    """Forget a topic's messages nobody waits for, after a subscription has gone."""
    connection.execute(_REMOVE_ORPHANS, {"topic": topic_arn})


def forget_abandoned(connection: Connection, now: float) -> None:
    """Forget abandoned deliveries past their retention, with their messages."""
    gone = connection.execute(_FORGET_ABANDONED, {"before": now - ABANDONED_RETENTION_S}).scalars().all()
    if gone:
        connection.execute(_REMOVE_MESSAGE, [{"message": message_id} for message_id in gone])


def _values(message: Message) -> dict[str, Any]:
    return {
        "id": message.id,
        "topic_arn": message.topic_arn,
        "type": message.type,
        "subject": message.subject,
        "attributes": message.attributes,
        "structure": message.structure,
        "published_at": message.published_at,
        "message": message.message,
    }


def _message(row: RowMapping) -> Message:
    return Message(
        row["id"],
        row["topic_arn"],
        row["type"],
        row["message"],
        row["subject"],
        row["attributes"],
        row["structure"],
        row["published_at"],
    )


_ADD_MESSAGE = insert(messages)
_ADD_DELIVERY = insert(deliveries).values(attempt_count=0)
# One index seek for each subscription, however many deliveries a dead receiver has piled up.
_NEXT_DUE = text("""
SELECT arn, (SELECT MIN(due_at) FROM sns_deliveries
              WHERE subscription_arn = sns_subscriptions.arn AND state = 'pending')
  FROM sns_subscriptions
""")
_DUE = (
    select(deliveries.c.id.label("delivery_id"), deliveries.c.attempt_count, messages)
    .join(messages, messages.c.id == deliveries.c.message_id)
    .where(
        deliveries.c.subscription_arn == bindparam("arn"),
        deliveries.c.state == "pending",
        deliveries.c.due_at <= bindparam("now"),
    )
    .order_by(deliveries.c.due_at, deliveries.c.id)
    .limit(bindparam("limit"))
)
_REMOVE_DELIVERY = delete(deliveries).where(deliveries.c.id == bindparam("delivery"))
_WAITED_FOR = select(deliveries.c.id).where(deliveries.c.message_id == messages.c.id).exists()
_REMOVE_MESSAGE = delete(messages).where(messages.c.id == bindparam("message"), ~_WAITED_FOR)
_REMOVE_ORPHANS = delete(messages).where(messages.c.topic_arn == bindparam("topic"), ~_WAITED_FOR)
_PUT_OFF = (
    update(deliveries)
    .where(deliveries.c.id == bindparam("delivery"))
    .values(
        attempt_count=deliveries.c.attempt_count + 1, due_at=bindparam("due"), last_error=bindparam("error")
    )
)
_ABANDON = _PUT_OFF.values(state="abandoned")
_FORGET_ABANDONED = (
    delete(deliveries)
    .where(deliveries.c.state == "abandoned", deliveries.c.due_at <= bindparam("before"))
    .returning(deliveries.c.message_id)
)
