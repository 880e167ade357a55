"""The tables of topics, subscriptions and the outbox."""

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, String, Table

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
    Column("id", String, primary_key=True),
    Column("topic_arn", String, ForeignKey(topics.c.arn, ondelete="CASCADE"), nullable=False, index=True),
    Column("type", String, nullable=False),
    Column("subject", String),
    Column("attributes", JSON, nullable=False),
    Column("structure", String),
    Column("published_at", Float, nullable=False),
    Column("message", String, nullable=False),
)

deliveries = Table(
    "sns_deliveries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("message_id", String, ForeignKey(messages.c.id, ondelete="CASCADE"), nullable=False, index=True),
    Column("subscription_arn", String, ForeignKey(subscriptions.c.arn, ondelete="CASCADE"), nullable=False),
    Column("state", String, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("last_error", String),
    # A delivery that was made leaves the table at once, so these are the ones owed and the ones given up.
    Index("sns_deliveries_by_due", "subscription_arn", "state", "due_at"),
)
