"""Topics: their records, and publishing to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from ebbtide.errors import ServiceError
from ebbtide.notifications import filters, outbox
from ebbtide.notifications.tables import subscriptions, topics

PAGE = 100
"""Most topics or subscriptions in one answer of a list."""


class TopicNotFound(ServiceError):
    """No topic has that ARN."""

    code = "NotFoundException"
    http_status = 404


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic; `attributes` are those that were set, all texts."""

    arn: str
    account: str
    attributes: Mapping[str, str]
    tags: Mapping[str, str]
    created_at: float


def create(connection: Connection, topic: Topic) -> None:
    """Add a topic whose ARN is free."""
    connection.execute(
        insert(topics).values(
            arn=topic.arn,
            account=topic.account,
            attributes=topic.attributes,
            tags=topic.tags,
            created_at=topic.created_at,
        )
    )


def find(connection: Connection, arn: str) -> Topic | None:
    """The topic of that ARN, if there is one."""
    row = connection.execute(_BY_ARN, {"of_arn": arn}).one_or_none()
    return None if row is None else Topic(**row._mapping)


def get(connection: Connection, arn: str) -> Topic:
    """The topic of that ARN. Raises TopicNotFound."""
    topic = find(connection, arn)
    if topic is None:
        raise TopicNotFound("Topic does not exist")
    return topic


def listed(connection: Connection, account: str, after: str) -> list[str]:
    """ARNs of an account's topics that sort behind `after`: one page and one more."""
    query = select(topics.c.arn).where(topics.c.account == account, topics.c.arn > after)
    return list(connection.execute(query.order_by(topics.c.arn).limit(PAGE + 1)).scalars())


def set_attributes(connection: Connection, arn: str, attributes: Mapping[str, str]) -> None:
    """Replace a topic's attributes."""
    connection.execute(update(topics).where(topics.c.arn == arn).values(attributes=dict(attributes)))


def set_tags(connection: Connection, arn: str, tags: Mapping[str, str]) -> None:
    """Replace a topic's tags."""
    connection.execute(update(topics).where(topics.c.arn == arn).values(tags=dict(tags)))


def remove(connection: Connection, arn: str) -> None:
    """Remove a topic with its subscriptions; none of that name is fine. What is owed to them is given up
    later, bit by bit (history.py).
    """
    connection.execute(delete(topics).where(topics.c.arn == arn))


def publish(
    connection: Connection,
    topic_arn: str,
    message: str,
    *,
    subject: str | None = None,
    attributes: Mapping[str, Mapping[str, str]] | None = None,
    structure: str | None = None,
    invocation_id: str | None = None,
    at: float,
) -> str:
    """Owe a message to each confirmed subscription whose filter lets it pass; the message's id.

    attributes: name -> {"Type": ..., "Value": ...}, binary values in base64. structure "json": `message` is
    a JSON object of texts by protocol. invocation_id: whose outcome the message tells of. Call
    `Deliveries.wake` after the commit. Raises TopicNotFound.
    """
    receivers = _receivers(connection, topic_arn)
    published = outbox.message(
        topic_arn,
        message,
        at=at,
        subject=subject,
        attributes=attributes,
        structure=structure,
        invocation_id=invocation_id,
    )
    wanted = [arn for arn, settings in receivers if filters.passes(settings, message, published.attributes)]
    outbox.add(connection, published, wanted)
    return published.id


def publish_many(
    connection: Connection, topic_arn: str, texts: Sequence[tuple[str, str]], *, at: float
) -> None:
    """Publish texts without subject and attributes by statements that they share, each beside the id of the
    invocation that it tells of. Call `Deliveries.wake` after the commit. Raises TopicNotFound.
    """
    receivers = _receivers(connection, topic_arn)
    messages = [
        outbox.message(topic_arn, text, at=at, invocation_id=invocation_id) for text, invocation_id in texts
    ]
    outbox.add_many(
        connection,
        [
            (each, [arn for arn, settings in receivers if filters.passes(settings, each.message, {})])
            for each in messages
        ],
    )


def _receivers(connection: Connection, topic_arn: str) -> list[tuple[str, Mapping[str, str]]]:
    """The topic's confirmed subscriptions and their attributes. Raises TopicNotFound."""
    rows = connection.execute(_RECEIVERS, {"topic": topic_arn}).all()
    if not rows:
        raise TopicNotFound(f"Topic does not exist: {topic_arn}")
    return [(arn, settings) for arn, settings in rows if arn is not None]


_BY_ARN = select(topics).where(topics.c.arn == bindparam("of_arn"))
# A topic without receivers gives one row of nulls, a missing topic none.
_RECEIVERS = (
    select(subscriptions.c.arn, subscriptions.c.attributes)
    .select_from(
        topics.outerjoin(
            subscriptions, (subscriptions.c.topic_arn == topics.c.arn) & subscriptions.c.confirmed
        )
    )
    .where(topics.c.arn == bindparam("topic"))
)
