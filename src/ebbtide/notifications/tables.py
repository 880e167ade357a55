"""The tables of topics, subscriptions, the outbox and what became of its messages."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    text,
)

from ebbtide.database import metadata

topics = Table(
    "sns_topics",
    metadata,
    Column("arn", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("attributes", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

subscriptions = Table(
    "sns_subscriptions",
    metadata,
    Column("arn", String, primary_key=True),
    Column("topic_arn", String, ForeignKey(topics.c.arn, ondelete="CASCADE"), nullable=False, index=True),
    Column("account", String, nullable=False),
    Column("protocol", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("attributes", JSON, nullable=False),
    # The scheme and host by which the subscriber reached us: its links in messages lead back there.
    Column("base_url", String, nullable=False),
    Column("confirmed", Boolean, nullable=False),
    Column("authenticated_unsubscribe", Boolean, nullable=False),
    Column("token", String, nullable=False),
    Column("token_expires_at", Float, nullable=False),
    Column("created_at", Float, nullable=False),
)

messages = Table(
    "sns_messages",
    metadata,
    # Time-ordered: the order of ids is that of publishing.
    Column("id", String, primary_key=True),
    # No foreign keys from here on: a topic or a subscription may go at once, with a log of any length behind
    # it that is removed bit by bit.
    Column("topic_arn", String, nullable=False),
    Column("type", String, nullable=False),
    Column("subject", String),
    Column("attributes", JSON, nullable=False),
    Column("structure", String),
    Column("published_at", Float, nullable=False),
    # The invocation whose outcome the message tells of.
    Column("invocation_id", String),
    Column("message", String, nullable=False),
    Index("sns_messages_by_topic", "topic_arn", "id"),
)
_OUTCOME = text("invocation_id IS NOT NULL")
Index(
    "sns_messages_by_invocation",
    messages.c.invocation_id,
    sqlite_where=_OUTCOME,
    postgresql_where=_OUTCOME,
)

_ID = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts rows by itself only where the key's type is INTEGER, which has 64 bits there."""

deliveries = Table(
    "sns_deliveries",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("message_id", String, ForeignKey(messages.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("subscription_arn", String, nullable=False),
    Column("state", String, nullable=False),
    # When it was last owed anew: when the message was published, or asked for again.
    Column("owed_at", Float, nullable=False),
    # Attempts since then.
    Column("attempt_count", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    # The last attempt, all null before the first: its end, its length, the receiver's HTTP status, the error.
    Column("attempted_at", Float),
    Column("duration_s", Float),
    Column("status_code", Integer),
    Column("last_error", String),
    Column("dead_letter_arn", String),
)
_PENDING = text("state = 'pending'")
_ABANDONED = text("state = 'abandoned'")
# What is owed is found without a look at what was delivered, of which there is far more.
Index(
    "sns_deliveries_by_due",
    deliveries.c.subscription_arn,
    deliveries.c.due_at,
    sqlite_where=_PENDING,
    postgresql_where=_PENDING,
)
Index(
    "sns_deliveries_abandoned",
    deliveries.c.subscription_arn,
    deliveries.c.message_id,
    sqlite_where=_ABANDONED,
    postgresql_where=_ABANDONED,
)
Index("sns_deliveries_by_subscription", deliveries.c.subscription_arn, deliveries.c.message_id)

attempts = Table(
    "sns_attempts",
    metadata,
    Column("id", _ID, primary_key=True),
    Column("delivery_id", _ID, ForeignKey(deliveries.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("attempted_at", Float, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("status_code", Integer),
    Column("error", String),
)
"""Attempts that were followed by another: the last one of each delivery is in the delivery's own row, so that
one made at once costs no row more."""
