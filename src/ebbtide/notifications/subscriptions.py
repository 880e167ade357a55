"""Subscriptions: who receives a topic's messages, once they have confirmed that they want to."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, update

from ebbtide.errors import ServiceError
from ebbtide.notifications.tables import subscriptions
from ebbtide.notifications.topics import PAGE

TOKEN_LIFETIME_S = 2 * 86_400.0


class SubscriptionNotFound(ServiceError):
    """No subscription has that ARN."""

    code = "NotFoundException"
    http_status = 404


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription; `attributes` are those that were set, all texts."""

    arn: str
    topic_arn: str
    account: str
    protocol: str
    endpoint: str
    attributes: Mapping[str, str]
    base_url: str
    confirmed: bool
    authenticated_unsubscribe: bool
    token: str
    token_expires_at: float
    created_at: float

    @property
    def raw(self) -> bool:
        """Whether messages are delivered without their envelope."""
        return self.attributes.get("RawMessageDelivery", "false").lower() == "true"

    @property
    def redrive_arn(self) -> str | None:
        """The queue that takes what could not be delivered, if one is set."""
        policy = self.attributes.get("RedrivePolicy")
        return json.loads(policy)["deadLetterTargetArn"] if policy else None


# Every batch of deliveries looks for its subscription so.
_BY_ARN = select(subscriptions).where(subscriptions.c.arn == bindparam("of_arn"))


def new_token() -> str:
    """A token that only the endpoint's owner will learn: knowing it is the confirmation."""
    return secrets.token_hex(64)


def add(connection: Connection, subscription: Subscription) -> None:
    """Add a subscription whose ARN is free."""
    values = {name: getattr(subscription, name) for name in Subscription.__slots__}
    connection.execute(insert(subscriptions).values(**values))


def find(connection: Connection, arn: str) -> Subscription | None:
    """The subscription of that ARN, if there is one."""
    row = connection.execute(_BY_ARN, {"of_arn": arn}).one_or_none()
    return None if row is None else Subscription(**row._mapping)


def get(connection: Connection, arn: str) -> Subscription:
    """The subscription of that ARN. Raises SubscriptionNotFound."""
    subscription = find(connection, arn)
    if subscription is None:
        raise SubscriptionNotFound("Subscription does not exist")
    return subscription


def find_endpoint(
    connection: Connection, topic_arn: str, protocol: str, endpoint: str
) -> Subscription | None:
    """A topic's subscription of that endpoint, if there is one: there is never a second."""
    return _one(
        connection,
        (subscriptions.c.topic_arn == topic_arn)
        & (subscriptions.c.protocol == protocol)
        & (subscriptions.c.endpoint == endpoint),
    )


def find_token(connection: Connection, topic_arn: str, token: str) -> Subscription | None:
    """The topic's subscription that this token confirms, if there is one."""
    return _one(connection, (subscriptions.c.topic_arn == topic_arn) & (subscriptions.c.token == token))


def listed(
    connection: Connection, account: str, after: str, *, topic_arn: str | None = None
) -> list[Subscription]:
    """An account's subscriptions, or those of one topic, whose ARNs sort behind `after`: one page and one
    more.
    """
    query = select(subscriptions).where(subscriptions.c.account == account, subscriptions.c.arn > after)
    if topic_arn is not None:
        query = query.where(subscriptions.c.topic_arn == topic_arn)
    rows = connection.execute(query.order_by(subscriptions.c.arn).limit(PAGE + 1))
    return [Subscription(**row._mapping) for row in rows]


def counts(connection: Connection, topic_arn: str) -> tuple[int, int]:
    """How many of a topic's subscriptions are confirmed, and how many pending."""
    query = (
        select(subscriptions.c.confirmed, func.count())
        .where(subscriptions.c.topic_arn == topic_arn)
        .group_by(subscriptions.c.confirmed)
    )
    found = {bool(confirmed): count for confirmed, count in connection.execute(query)}
    return found.get(True, 0), found.get(False, 0)


def confirm(connection: Connection, arn: str, *, authenticated_unsubscribe: bool) -> None:
    """From now on, messages are owed to this subscription."""
    change = {"confirmed": True, "authenticated_unsubscribe": authenticated_unsubscribe}
    _update(connection, arn, change)


def renew_token(connection: Connection, arn: str, token: str, *, expires_at: float, base_url: str) -> None:
    """Give a pending subscription a new token to confirm it with, since its first may be lost."""
    change = {"token": token, "token_expires_at": expires_at, "base_url": base_url}
    _update(connection, arn, change)


def set_attributes(connection: Connection, arn: str, attributes: Mapping[str, str]) -> None:
    """Replace a subscription's attributes."""
    _update(connection, arn, {"attributes": dict(attributes)})


def remove(connection: Connection, subscription: Subscription) -> None:
    """Remove a subscription; what is owed to it is given up later, bit by bit (history.py)."""
    connection.execute(delete(subscriptions).where(subscriptions.c.arn == subscription.arn))


def _one(connection: Connection, condition: ColumnElement[bool]) -> Subscription | None:
    row = connection.execute(select(subscriptions).where(condition)).one_or_none()
    return None if row is None else Subscription(**row._mapping)


def _update(connection: Connection, arn: str, change: Mapping[str, Any]) -> None:
    connection.execute(update(subscriptions).where(subscriptions.c.arn == arn).values(**change))
