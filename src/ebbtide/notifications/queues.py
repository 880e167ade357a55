"""Queues and their messages: standard queues of Amazon SQS.

A message is there for whoever asks from `visible_at` on. Receiving it moves `visible_at` by the visibility
timeout and gives it a new receipt, so of two receivers only the last can still change its visibility.
"""

import base64
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    update,
)

from ebbtide.database import Rows, metadata
from ebbtide.errors import ServiceError
from ebbtide.identifiers import time_ordered_id
from ebbtide.values import value

queues = Table(
    "sqs_queues",
    metadata,
    Column("arn", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("name", String, nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("modified_at", Float, nullable=False),
    Index("sqs_queues_by_name", "account", "name", unique=True),
)

messages = Table(
    "sqs_messages",
    metadata,
    Column("id", String, primary_key=True),
    Column("queue_arn", String, ForeignKey(queues.c.arn, ondelete="CASCADE"), nullable=False),
    Column("sent_at", Float, nullable=False),
    Column("visible_at", Float, nullable=False),
    Column("receive_count", Integer, nullable=False),
    Column("first_received_at", Float),
    Column("receipt", String),
    Column("sender", String, nullable=False),
    Column("dead_letter_source", String),
    Column("attributes", JSON, nullable=False),
    Column("system_attributes", JSON, nullable=False),
    Column("body", String, nullable=False),
    # In queues whose dead letter it has become, where `receive_count` is what their redrive policies go by.
    Column("earlier_receive_count", Integer, nullable=False, server_default="0"),
    Index("sqs_messages_by_visibility", "queue_arn", "visible_at"),
)

DEFAULTS = {
    "VisibilityTimeout": "30",
    "DelaySeconds": "0",
    "MaximumMessageSize": "1048576",
    "MessageRetentionPeriod": "345600",
    "ReceiveMessageWaitTimeSeconds": "0",
    "SqsManagedSseEnabled": "false",
}
"""The attributes of a queue that was created without any."""


class QueueDoesNotExist(ServiceError):
    """No queue has that name."""

    code = "QueueDoesNotExist"


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue; `attributes` are those that were set, all texts."""

    arn: str
    account: str
    name: str
    attributes: Mapping[str, str]
    tags: Mapping[str, str]
    created_at: float
    modified_at: float

    def seconds(self, attribute: str) -> float:
        """A duration among the attributes, in s."""
        return float(self.attributes.get(attribute, DEFAULTS[attribute]))

    @property
    def max_message_bytes(self) -> int:
        return int(self.attributes.get("MaximumMessageSize", DEFAULTS["MaximumMessageSize"]))

    @property
    def redrive(self) -> tuple[str, int] | None:
        """The dead-letter queue's ARN and after how many receives messages go there."""
        policy = self.attributes.get("RedrivePolicy")
        if not policy:
            return None
        given = json.loads(policy)
        return given["deadLetterTargetArn"], int(given["maxReceiveCount"])


@value
class Draft:
    """A message to send. `attributes` in SQS's form: name -> {DataType, StringValue or BinaryValue}, with
    binary values in base64.
    """

    body: str
    attributes: Mapping[str, Mapping[str, str]]
    sender: str
    delay_s: float | None = None
    system_attributes: Mapping[str, Mapping[str, str]] | None = None
    dead_letter_source: str | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """A message as its receiver gets it."""

    id: str
    receipt_handle: str
    body: str
    attributes: Mapping[str, Mapping[str, str]]
    system_attributes: Mapping[str, Mapping[str, str]]
    sender: str
    sent_at: float
    first_received_at: float
    receive_count: int
    dead_letter_source: str | None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages of a queue can be received, are with receivers, and are delayed."""

    visible: int
    in_flight: int
    delayed: int


def create(connection: Connection, queue: Queue) -> None:
    """Add a queue whose name is free."""
    connection.execute(insert(queues).values(**{name: getattr(queue, name) for name in Queue.__slots__}))


def find(connection: Connection, account: str, name: str) -> Queue | None:
    """The account's queue of that name, if there is one."""
    query = select(queues).where(queues.c.account == account, queues.c.name == name)
    row = connection.execute(query).one_or_none()
    return None if row is None else Queue(**row._mapping)


def get(connection: Connection, account: str, name: str) -> Queue:
    """The account's queue of that name. Raises QueueDoesNotExist."""
    queue = find(connection, account, name)
    if queue is None:
        raise QueueDoesNotExist("The specified queue does not exist.")
    return queue


def find_arn(connection: Connection, arn: str) -> Queue | None:
    """The queue of that ARN, if there is one."""
    row = connection.execute(_BY_ARN, {"of_arn": arn}).one_or_none()
    return None if row is None else Queue(**row._mapping)


def listed(connection: Connection, account: str, prefix: str, after: str, limit: int) -> list[Queue]:
    """An account's queues with that prefix whose names sort behind `after`, `limit` at most."""
    query = select(queues).where(
        queues.c.account == account,
        queues.c.name > after,
        queues.c.name.startswith(prefix, autoescape=True),
    )
    return [Queue(**row._mapping) for row in connection.execute(query.order_by(queues.c.name).limit(limit))]


def dead_letter_sources(connection: Connection, queue: Queue) -> list[Queue]:
    """The account's queues whose dead letters go to this one."""
    rows = connection.execute(select(queues).where(queues.c.account == queue.account).order_by(queues.c.name))
    return [
        each
        for each in (Queue(**row._mapping) for row in rows)
        if each.redrive is not None and each.redrive[0] == queue.arn
    ]


def set_attributes(connection: Connection, arn: str, attributes: Mapping[str, str], at: float) -> None:
    """Replace a queue's attributes."""
    values = {"attributes": dict(attributes), "modified_at": at}
    connection.execute(update(queues).where(queues.c.arn == arn).values(**values))


def set_tags(connection: Connection, arn: str, tags: Mapping[str, str]) -> None:
    """Replace a queue's tags."""
    connection.execute(update(queues).where(queues.c.arn == arn).values(tags=dict(tags)))


def remove(connection: Connection, arn: str) -> None:
    """Remove a queue with its messages."""
    connection.execute(delete(queues).where(queues.c.arn == arn))


def purge(connection: Connection, arn: str) -> None:
    """Remove a queue's messages, those with receivers too."""
    connection.execute(delete(messages).where(messages.c.queue_arn == arn))


def counts(connection: Connection, queue: Queue, now: float) -> Counts:
    """Count a queue's messages."""
    visible = func.sum((messages.c.visible_at <= now).cast(Integer))
    delayed = func.sum(((messages.c.visible_at > now) & (messages.c.receive_count == 0)).cast(Integer))
    query = select(func.count(), func.coalesce(visible, 0), func.coalesce(delayed, 0)).where(
        messages.c.queue_arn == queue.arn,
        messages.c.sent_at > now - queue.seconds("MessageRetentionPeriod"),
    )
    total, visible_count, delayed_count = connection.execute(query).one()
    return Counts(visible_count, total - visible_count - delayed_count, delayed_count)


def send(connection: Connection, queue: Queue, drafts: Iterable[Draft], at: float) -> list[str]:
    """Put messages into a queue, and their ids. Call `Arrivals.notify` after the commit."""
    rows = [
        (
            time_ordered_id(at),
            queue.arn,
            at,
            at + (queue.seconds("DelaySeconds") if draft.delay_s is None else draft.delay_s),
            draft.sender,
            draft.dead_letter_source,
            json.dumps(draft.attributes) if draft.attributes else "{}",
            json.dumps(draft.system_attributes) if draft.system_attributes else "{}",
            draft.body,
        )
        for draft in drafts
    ]
    _SEND.execute(connection, rows)
    return [row[0] for row in rows]


def receive(
    connection: Connection, queue: Queue, limit: int, visibility_s: float, now: float
) -> tuple[list[Received], str | None]:
    """Take up to `limit` messages, hidden from others for `visibility_s`.

    Messages received as often as the redrive policy allows go to the dead-letter queue first; its ARN is
    the second value if any did, for `Arrivals.notify` after the commit.
    """
    moved_to = _move_dead_letters(connection, queue, now)
    rows = connection.execute(
        _RECEIVE,
        {
            "queue": queue.arn,
            "now": now,
            "until": now + visibility_s,
            "kept_from": now - queue.seconds("MessageRetentionPeriod"),
            "limit": limit,
            "receipt": secrets.token_hex(16),
        },
    ).mappings()
    taken = [
        Received(
            id=row["id"],
            receipt_handle=receipt_handle(row["id"], row["receipt"]),
            body=row["body"],
            attributes=row["attributes"],
            system_attributes=row["system_attributes"],
            sender=row["sender"],
            sent_at=row["sent_at"],
            first_received_at=row["first_received_at"],
            receive_count=row["earlier_receive_count"] + row["receive_count"],
            dead_letter_source=row["dead_letter_source"],
        )
        for row in rows
    ]
    return sorted(taken, key=lambda each: (each.sent_at, each.id)), moved_to


def next_visible_at(connection: Connection, queue: Queue, now: float) -> float | None:
    """When the first of the messages hidden now can be received, None when there is none."""
    hidden = (messages.c.queue_arn == queue.arn) & (messages.c.visible_at > now)
    return connection.execute(select(func.min(messages.c.visible_at)).where(hidden)).scalar()


def delete_message(connection: Connection, queue: Queue, handle: str) -> None:
    """Remove a message by its latest receipt; an older receipt, or a message gone, changes nothing.

    Raises ServiceError ReceiptHandleIsInvalid for what is no receipt handle.
    """
    message_id, receipt = _parse_receipt_handle(handle)
    connection.execute(_DELETE, {"queue": queue.arn, "message": message_id, "receipt_given": receipt})


def change_visibility(
    connection: Connection, queue: Queue, handle: str, visibility_s: float, now: float
) -> None:
    """Hide a received message for `visibility_s` from now on, or again if nobody has received it since.

    Raises ServiceError ReceiptHandleIsInvalid, or MessageNotInflight when the receipt is not the latest.
    """
    message_id, receipt = _parse_receipt_handle(handle)
    given = {"queue": queue.arn, "message": message_id, "receipt_given": receipt}
    changed = connection.execute(_CHANGE_VISIBILITY, given | {"until": now + visibility_s})
    if not changed.rowcount:
        raise ServiceError(
            f"Value {handle} for parameter ReceiptHandle is invalid. "
            "Reason: Message does not exist or is not available for visibility timeout change.",
            code="MessageNotInflight",
        )


def expired(connection: Connection, now: float, limit: int) -> list[str]:
    """Up to `limit` messages past their queues' retention, by id."""
    found: list[str] = []
    for row in connection.execute(select(queues)).all():
        queue = Queue(**row._mapping)
        kept_from = now - queue.seconds("MessageRetentionPeriod")
        past = (messages.c.queue_arn == queue.arn) & (messages.c.sent_at <= kept_from)
        query = select(messages.c.id).where(past).limit(limit - len(found))
        found += connection.execute(query).scalars()
        if len(found) == limit:
            break
    return found


def remove_messages(connection: Connection, message_ids: Iterable[str]) -> None:
    """Remove messages, whoever has them."""
    connection.execute(delete(messages).where(messages.c.id.in_(message_ids)))


def receipt_handle(message_id: str, receipt: str) -> str:
    """What a receiver shows to delete the message: which, and at which receive."""
    return base64.urlsafe_b64encode(f"{message_id} {receipt}".encode()).decode()


def _parse_receipt_handle(handle: str) -> tuple[str, str]:
    try:
        message_id, receipt = base64.urlsafe_b64decode(handle.encode("ascii")).decode("ascii").split(" ")
    except ValueError as error:
        raise ServiceError(
            f'The input receipt handle "{handle}" is not a valid receipt handle.',
            code="ReceiptHandleIsInvalid",
        ) from error
    return message_id, receipt


def _move_dead_letters(connection: Connection, queue: Queue, now: float) -> str | None:
    if queue.redrive is None:
        return None
    target_arn, max_receive_count = queue.redrive
    # A dead-letter queue that was deleted takes nothing: its messages stay where they are.
    if find_arn(connection, target_arn) is None:
        return None
    given: dict[str, Any] = {"queue": queue.arn, "now": now, "most": max_receive_count, "target": target_arn}
    return target_arn if connection.execute(_MOVE_DEAD_LETTERS, given).rowcount else None


_BY_ARN = select(queues).where(queues.c.arn == bindparam("of_arn"))
# Straight to the driver: every outcome may pass here.
_SEND = Rows(
    "INSERT INTO sqs_messages (id, queue_arn, sent_at, visible_at, sender, dead_letter_source, attributes, "
    "system_attributes, body, receive_count) VALUES {}",
    "(?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
)
# (PostgreSQL: FOR UPDATE SKIP LOCKED in the inner SELECT.)
_RECEIVE = text("""
UPDATE sqs_messages
   SET visible_at = :until, receive_count = receive_count + 1, receipt = :receipt,
       first_received_at = COALESCE(first_received_at, :now)
 WHERE id IN (SELECT id FROM sqs_messages
               WHERE queue_arn = :queue AND visible_at <= :now AND sent_at > :kept_from
               ORDER BY visible_at, id LIMIT :limit)
RETURNING *
""").columns(*messages.c)
_MOVE_DEAD_LETTERS = text("""
UPDATE sqs_messages
   SET queue_arn = :target, earlier_receive_count = earlier_receive_count + receive_count, receive_count = 0,
       receipt = NULL, dead_letter_source = :queue
 WHERE queue_arn = :queue AND visible_at <= :now AND receive_count >= :most
""")
_HELD = (
    (messages.c.queue_arn == bindparam("queue"))
    & (messages.c.id == bindparam("message"))
    & (messages.c.receipt == bindparam("receipt_given"))
)
_DELETE = delete(messages).where(_HELD)
_CHANGE_VISIBILITY = update(messages).where(_HELD).values(visible_at=bindparam("until"))
