"""Accounts with keys of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

COUNT_INVOCATIONS = {
    "sqlite": (
        """CREATE TRIGGER invocation_arrives AFTER INSERT ON invocations BEGIN
        INSERT INTO invocation_depths
        VALUES (NEW.endpoint_id, NEW.account, NEW.state = 'queued', NEW.state = 'claimed',
                NEW.state = 'queued' AND NEW.lost_count > 0, 0)
            ON CONFLICT (endpoint_id, account) DO UPDATE
            SET queued = queued + excluded.queued, claimed = claimed + excluded.claimed,
                suspect = suspect + excluded.suspect;
    END""",
        """CREATE TRIGGER invocation_moves AFTER UPDATE OF state ON invocations BEGIN
        UPDATE invocation_depths
           SET queued = queued + (NEW.state = 'queued') - (OLD.state = 'queued'),
               claimed = claimed + (NEW.state = 'claimed') - (OLD.state = 'claimed'),
               suspect = suspect + (NEW.state = 'queued' AND NEW.lost_count > 0)
                                 - (OLD.state = 'queued' AND OLD.lost_count > 0)
         WHERE endpoint_id = NEW.endpoint_id AND account = NEW.account;
    END""",
        """CREATE TRIGGER invocation_goes AFTER DELETE ON invocations BEGIN
        UPDATE invocation_depths
           SET queued = queued - (OLD.state = 'queued'), claimed = claimed - (OLD.state = 'claimed'),
               suspect = suspect - (OLD.state = 'queued' AND OLD.lost_count > 0)
         WHERE endpoint_id = OLD.endpoint_id AND account = OLD.account;
    END""",
    ),
    "postgresql": (
        """CREATE FUNCTION invocation_arrives() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO invocation_depths AS depths
        VALUES (NEW.endpoint_id, NEW.account, CAST(NEW.state = 'queued' AS integer),
                CAST(NEW.state = 'claimed' AS integer),
                CAST(NEW.state = 'queued' AND NEW.lost_count > 0 AS integer), 0)
            ON CONFLICT (endpoint_id, account) DO UPDATE
            SET queued = depths.queued + excluded.queued, claimed = depths.claimed + excluded.claimed,
                suspect = depths.suspect + excluded.suspect;
        RETURN NULL;
    END $$""",
        """CREATE FUNCTION invocation_moves() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE invocation_depths
           SET queued = queued + CAST(NEW.state = 'queued' AS integer)
                               - CAST(OLD.state = 'queued' AS integer),
               claimed = claimed + CAST(NEW.state = 'claimed' AS integer)
                                 - CAST(OLD.state = 'claimed' AS integer),
               suspect = suspect + CAST(NEW.state = 'queued' AND NEW.lost_count > 0 AS integer)
                                 - CAST(OLD.state = 'queued' AND OLD.lost_count > 0 AS integer)
         WHERE endpoint_id = NEW.endpoint_id AND account = NEW.account;
        RETURN NULL;
    END $$""",
        """CREATE FUNCTION invocation_goes() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        UPDATE invocation_depths
           SET queued = queued - CAST(OLD.state = 'queued' AS integer),
               claimed = claimed - CAST(OLD.state = 'claimed' AS integer),
               suspect = suspect - CAST(OLD.state = 'queued' AND OLD.lost_count > 0 AS integer)
         WHERE endpoint_id = OLD.endpoint_id AND account = OLD.account;
        RETURN NULL;
    END $$""",
        """CREATE TRIGGER invocation_arrives AFTER INSERT ON invocations
            FOR EACH ROW EXECUTE FUNCTION invocation_arrives()""",
        """CREATE TRIGGER invocation_moves AFTER UPDATE OF state ON invocations
            FOR EACH ROW EXECUTE FUNCTION invocation_moves()""",
        """CREATE TRIGGER invocation_goes AFTER DELETE ON invocations
            FOR EACH ROW EXECUTE FUNCTION invocation_goes()""",
    ),
}


def upgrade() -> None:
    op.create_table(
        "accounts",
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("queued_quota", sa.Integer(), nullable=True),
        sa.Column("joins", sa.String(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account"),
    )
    op.create_table(
        "access_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("access_keys_of_account", "access_keys", ["account"], unique=False)
    op.create_table(
        "leadership",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("term", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "shared_secrets",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    keep_deliveries()
    follow_objects()
    expire_objects()
    steer_invocations()


def keep_deliveries() -> None:
    """Deliveries stay, with their attempts, for a while after they were made.

    The tables are made anew, since SQLite cannot drop a foreign key. Through copies: the names of indexes
    and of primary keys are taken as long as the old tables are there.
    """
    for table in ("sns_deliveries", "sns_messages"):
        op.execute(f"CREATE TABLE {table}_0001 AS SELECT * FROM {table}")  # noqa: S608
        op.drop_table(table)
    op.create_table(
        "sns_messages",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("topic_arn", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("structure", sa.String(), nullable=True),
        sa.Column("published_at", sa.Float(), nullable=False),
        sa.Column("invocation_id", sa.String(), nullable=True),
        sa.Column("message", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("sns_messages_by_topic", "sns_messages", ["topic_arn", "id"], unique=False)
    outcome = sa.text("invocation_id IS NOT NULL")
    op.create_index(
        "sns_messages_by_invocation",
        "sns_messages",
        ["invocation_id"],
        unique=False,
        sqlite_where=outcome,
        postgresql_where=outcome,
    )
    counted = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "sns_deliveries",
        sa.Column("id", counted, nullable=False),
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("subscription_arn", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("owed_at", sa.Float(), nullable=False),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("attempted_at", sa.Float(), nullable=True),
        sa.Column("duration_s", sa.Float(), nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.Column("dead_letter_arn", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["message_id"], ["sns_messages.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_sns_deliveries_message_id", "sns_deliveries", ["message_id"], unique=False)
    pending, abandoned = sa.text("state = 'pending'"), sa.text("state = 'abandoned'")
    op.create_index(
        "sns_deliveries_by_due",
        "sns_deliveries",
        ["subscription_arn", "due_at"],
        unique=False,
        sqlite_where=pending,
        postgresql_where=pending,
    )
    op.create_index(
        "sns_deliveries_abandoned",
        "sns_deliveries",
        ["subscription_arn", "message_id"],
        unique=False,
        sqlite_where=abandoned,
        postgresql_where=abandoned,
    )
    op.create_index(
        "sns_deliveries_by_subscription", "sns_deliveries", ["subscription_arn", "message_id"], unique=False
    )
    op.create_table(
        "sns_attempts",
        sa.Column("id", counted, nullable=False),
        sa.Column("delivery_id", counted, nullable=False),
        sa.Column("attempted_at", sa.Float(), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=False),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["delivery_id"], ["sns_deliveries.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_sns_attempts_delivery_id", "sns_attempts", ["delivery_id"], unique=False)
    op.execute(
        """INSERT INTO sns_messages
               (id, topic_arn, type, subject, attributes, structure, published_at, message)
           SELECT id, topic_arn, type, subject, attributes, structure, published_at, message
             FROM sns_messages_0001"""
    )
    # No id of theirs: PostgreSQL's counter would not know of it. Of an attempt only its error was kept.
    op.execute(
        """INSERT INTO sns_deliveries
               (message_id, subscription_arn, state, owed_at, attempt_count, due_at, attempted_at, last_error)
           SELECT d.message_id, d.subscription_arn, d.state, m.published_at, d.attempt_count, d.due_at,
                  CASE WHEN d.state = 'abandoned' THEN d.due_at END, d.last_error
             FROM sns_deliveries_0001 AS d JOIN sns_messages_0001 AS m ON m.id = d.message_id
            ORDER BY d.id"""
    )
    for table in ("sns_deliveries_0001", "sns_messages_0001"):
        op.drop_table(table)


def expire_objects() -> None:
    op.create_table(
        "bucket_lifecycles",
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("rules", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("bucket"),
    )


def follow_objects() -> None:
    """Buckets are watched, for notifications and for rules that invoke an endpoint."""
    op.add_column("buckets", sa.Column("watches", sa.JSON(), nullable=True))
    op.create_table(
        "object_events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=True),
        sa.Column("etag", sa.String(), nullable=True),
        sa.Column("cause", sa.JSON(), nullable=False),
        sa.Column("consumer", sa.String(), nullable=False),
        sa.Column("watch_id", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("object_events_by_due", "object_events", ["state", "due_at"], unique=False)
    op.create_index("object_events_by_target", "object_events", ["target", "state"], unique=False)
    op.create_table(
        "upload_rules",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("submitter", sa.String(), nullable=False),
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("suffix", sa.String(), nullable=False),
        sa.Column("endpoint_name", sa.String(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("upload_rules_of_account", "upload_rules", ["account", "id"], unique=False)


def steer_invocations() -> None:
    """Invocations have priorities, tags, phases and attempts, and are counted by account.

    The table is made anew: its body is to stay the last column.
    """
    op.execute("CREATE TABLE invocations_0001 AS SELECT * FROM invocations")
    op.drop_table("invocations")
    op.drop_table("invocation_depths")
    op.create_table(
        "invocation_depths",
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("queued", sa.Integer(), nullable=False),
        sa.Column("claimed", sa.Integer(), nullable=False),
        sa.Column("suspect", sa.Integer(), nullable=False),
        sa.Column("turn", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id", "account"),
    )
    op.create_table(
        "invocations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("inference_id", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("accepted_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("timeout_s", sa.Integer(), nullable=False),
        sa.Column("input_uri", sa.String(), nullable=True),
        sa.Column("content_type", sa.String(), nullable=True),
        sa.Column("accept", sa.String(), nullable=True),
        sa.Column("custom_attributes", sa.String(), nullable=True),
        sa.Column("output_uri", sa.String(), nullable=False),
        sa.Column("failure_uri", sa.String(), nullable=True),
        sa.Column("digest", sa.String(), nullable=True),
        sa.Column("redriven_from", sa.String(), nullable=True),
        sa.Column("claim_count", sa.Integer(), nullable=False),
        sa.Column("lost_count", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("instance_id", sa.String(), nullable=True),
        sa.Column("claimed_at", sa.Float(), nullable=True),
        sa.Column("opened_at", sa.Float(), nullable=True),
        sa.Column("sent_at", sa.Float(), nullable=True),
        sa.Column("answered_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("failure_reason", sa.String(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    indexes: list[tuple[str, list[str | sa.TextClause], str | None]] = [
        (
            "invocations_by_turn",
            ["endpoint_id", "account", sa.text("priority DESC"), "accepted_at"],
            "state = 'queued'",
        ),
        ("invocations_by_state", ["endpoint_id", "state", "accepted_at"], None),
        ("invocations_suspect", ["endpoint_id", "accepted_at"], "state = 'queued' AND lost_count > 0"),
        ("invocations_expiring", ["expires_at"], "state = 'queued'"),
        ("invocations_by_inference_id", ["inference_id"], "inference_id <> id"),
        ("invocations_by_digest", ["endpoint_id", "digest"], "digest IS NOT NULL"),
    ]
    for name, columns, condition in indexes:
        where = None if condition is None else sa.text(condition)
        op.create_index(name, "invocations", columns, sqlite_where=where, postgresql_where=where)
    for trigger in COUNT_INVOCATIONS[op.get_context().dialect.name]:
        op.execute(trigger)
    kept = (
        "id, inference_id, account, endpoint_id, state, accepted_at, expires_at, timeout_s, input_uri, "
        "content_type, accept, custom_attributes, output_uri, failure_uri, claim_count, lost_count, "
        "lease_until, instance_id, claimed_at, finished_at, failure_reason, body"
    )
    op.execute(f"INSERT INTO invocations ({kept}, priority) SELECT {kept}, 0 FROM invocations_0001")  # noqa: S608
    op.drop_table("invocations_0001")
    op.create_table(
        "invocation_tags",
        sa.Column("invocation_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("invocation_id", "key"),
    )
    op.create_index("invocation_tags_by_value", "invocation_tags", ["key", "value", "invocation_id"])
    op.create_table(
        "invocation_attempts",
        sa.Column("invocation_id", sa.String(), nullable=False),
        sa.Column("claim_count", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.String(), nullable=True),
        sa.Column("claimed_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("invocation_id", "claim_count"),
    )
    op.create_table(
        "dropped_endpoints",
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("dropped_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id"),
    )
    op.create_table(
        "endpoint_deduplication",
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("retention_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id"),
    )
