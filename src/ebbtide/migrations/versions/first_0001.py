"""The first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

COUNT_INVOCATIONS = (
    """CREATE TRIGGER invocation_arrives AFTER INSERT ON invocations BEGIN
        INSERT INTO invocation_depths VALUES (NEW.endpoint_id, NEW.state = 'queued', NEW.state = 'claimed')
            ON CONFLICT (endpoint_id) DO UPDATE
            SET queued = queued + excluded.queued, claimed = claimed + excluded.claimed;
    END""",
    """CREATE TRIGGER invocation_moves AFTER UPDATE OF state ON invocations BEGIN
        UPDATE invocation_depths
           SET queued = queued + (NEW.state = 'queued') - (OLD.state = 'queued'),
               claimed = claimed + (NEW.state = 'claimed') - (OLD.state = 'claimed')
         WHERE endpoint_id = NEW.endpoint_id;
    END""",
    """CREATE TRIGGER invocation_goes AFTER DELETE ON invocations BEGIN
        UPDATE invocation_depths
           SET queued = queued - (OLD.state = 'queued'), claimed = claimed - (OLD.state = 'claimed')
         WHERE endpoint_id = OLD.endpoint_id;
    END""",
)


def upgrade() -> None:
    op.create_table(
        "alarm_history",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("alarm_name", sa.String(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("summary", sa.String(), nullable=False),
        sa.Column("data", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(("ix_alarm_history_alarm_name"), "alarm_history", ["alarm_name"], unique=False)
    op.create_index(("ix_alarm_history_at"), "alarm_history", ["at"], unique=False)
    op.create_table(
        "alarms",
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("arn", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("definition", sa.String(), nullable=False),
        sa.Column("actions_enabled", sa.Boolean(), nullable=False),
        sa.Column("configured_at", sa.Float(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("previous_state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("reason_data", sa.String(), nullable=True),
        sa.Column("state_updated_at", sa.Float(), nullable=False),
        sa.Column("transitioned_at", sa.Float(), nullable=False),
        sa.Column("actions_due_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("account", "name"),
    )
    op.create_table(
        "buckets",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("region", sa.String(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "discarded_files",
        sa.Column("file_name", sa.String(), nullable=False),
        sa.Column("content_id", sa.String(), nullable=False),
        sa.Column("discarded_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("file_name"),
    )
    op.create_index("discarded_files_by_time", "discarded_files", ["discarded_at"], unique=False)
    op.create_table(
        "endpoint_configs",
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("arn", sa.String(), nullable=False),
        sa.Column("given", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", "name"),
    )
    op.create_table(
        "endpoints",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("folded_name", sa.String(), nullable=False),
        sa.Column("arn", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("live", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=True),
        sa.Column("last_generation", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("modified_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("account", "folded_name"),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("endpoint_id", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("variant", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("instance_type", sa.String(length=64), nullable=True),
        sa.Column("model_digest", sa.String(length=64), nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("pid", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("starting_at", sa.Float(), nullable=True),
        sa.Column("in_service_at", sa.Float(), nullable=True),
        sa.Column("draining_at", sa.Float(), nullable=True),
        sa.Column("seen_at", sa.Float(), nullable=True),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "instances_active",
        "instances",
        ["endpoint_id"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index("instances_of_endpoint", "instances", ["endpoint_id", "created_at"], unique=False)
    op.create_index("instances_of_model", "instances", ["model_digest", "created_at"], unique=False)
    op.create_table(
        "invocation_depths",
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("queued", sa.Integer(), nullable=False),
        sa.Column("claimed", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("endpoint_id"),
    )
    op.create_table(
        "invocations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("inference_id", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("accepted_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.Column("timeout_s", sa.Integer(), nullable=False),
        sa.Column("input_uri", sa.String(), nullable=True),
        sa.Column("content_type", sa.String(), nullable=True),
        sa.Column("accept", sa.String(), nullable=True),
        sa.Column("custom_attributes", sa.String(), nullable=True),
        sa.Column("output_uri", sa.String(), nullable=False),
        sa.Column("failure_uri", sa.String(), nullable=True),
        sa.Column("claim_count", sa.Integer(), nullable=False),
        sa.Column("lost_count", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Float(), nullable=True),
        sa.Column("instance_id", sa.String(), nullable=True),
        sa.Column("claimed_at", sa.Float(), nullable=True),
        sa.Column("finished_at", sa.Float(), nullable=True),
        sa.Column("failure_reason", sa.String(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "invocations_claimed",
        "invocations",
        ["endpoint_id", "accepted_at"],
        unique=False,
        sqlite_where=sa.text("state = 'claimed'"),
        postgresql_where=sa.text("state = 'claimed'"),
    )
    op.create_index(
        "invocations_expiring",
        "invocations",
        ["expires_at"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "invocations_queued",
        "invocations",
        ["endpoint_id", "accepted_at"],
        unique=False,
        sqlite_where=sa.text("state = 'queued'"),
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "invocations_suspect",
        "invocations",
        ["endpoint_id", "accepted_at"],
        unique=False,
        sqlite_where=sa.text("state = 'queued' AND lost_count > 0"),
        postgresql_where=sa.text("state = 'queued' AND lost_count > 0"),
    )
    op.create_table(
        "metric_points",
        sa.Column("series_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("resolution_s", sa.Integer(), nullable=False),
        sa.Column("starts_at", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("bucket", sa.Integer(), nullable=False),
        sa.Column("sample_count", sa.Float(), nullable=False),
        sa.Column("total", sa.Float(), nullable=False),
        sa.Column("minimum", sa.Float(), nullable=False),
        sa.Column("maximum", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("series_id", "resolution_s", "starts_at", "bucket"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "metric_series",
        sa.Column(
            "id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False
        ),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("dimensions", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "metric_series_by_name", "metric_series", ["namespace", "name", "dimensions"], unique=False
    )
    op.create_table(
        "models",
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("arn", sa.String(), nullable=False),
        sa.Column("given", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("account", "name"),
    )
    op.create_table(
        "multipart_parts",
        sa.Column("upload_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("content_id", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("etag", sa.String(), nullable=False),
        sa.Column("checksums", sa.JSON(), nullable=False),
        sa.Column("modified_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("upload_id", "number"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "multipart_uploads",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("initiated_at", sa.Float(), nullable=False),
        sa.Column("content_type", sa.String(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("checksum_algorithm", sa.String(), nullable=True),
        sa.Column("checksum_type", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("multipart_uploads_by_key", "multipart_uploads", ["bucket", "key", "id"], unique=False)
    op.create_table(
        "object_pieces",
        sa.Column("content_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_name", sa.String(), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("content_id", "position"),
    )
    op.create_index("object_pieces_by_file", "object_pieces", ["file_name"], unique=False)
    op.create_table(
        "objects",
        sa.Column("bucket", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("content_id", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("etag", sa.String(), nullable=False),
        sa.Column("content_type", sa.String(), nullable=False),
        sa.Column("modified_at", sa.Float(), nullable=False),
        sa.Column("metadata", sa.JSON(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("checksums", sa.JSON(), nullable=False),
        sa.Column("checksum_type", sa.String(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("bucket", "key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "sagemaker_tags",
        sa.Column("resource_arn", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("resource_arn", "key"),
    )
    op.create_table(
        "scalable_targets",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("resource_id", sa.String(), nullable=False),
        sa.Column("arn", sa.String(), nullable=False),
        sa.Column("endpoint_name", sa.String(), nullable=False),
        sa.Column("variant", sa.String(), nullable=False),
        sa.Column("min_capacity", sa.Integer(), nullable=False),
        sa.Column("max_capacity", sa.Integer(), nullable=False),
        sa.Column("role_arn", sa.String(), nullable=False),
        sa.Column("suspended", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("last_scaled_at", sa.Float(), nullable=True),
        sa.Column("last_scale_out_at", sa.Float(), nullable=True),
        sa.Column("before_scale_out", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("account", "resource_id"),
        sa.UniqueConstraint("arn"),
    )
    op.create_table(
        "scaling_activities",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("resource_id", sa.String(), nullable=False),
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("desired", sa.Integer(), nullable=False),
        sa.Column("cause", sa.Text(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "scaling_activities_of_resource", "scaling_activities", ["account", "resource_id"], unique=False
    )
    op.create_index(
        "scaling_activities_under_way",
        "scaling_activities",
        ["endpoint_id"],
        unique=False,
        sqlite_where=sa.text("status = 'InProgress'"),
        postgresql_where=sa.text("status = 'InProgress'"),
    )
    op.create_table(
        "sns_topics",
        sa.Column("arn", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("arn"),
    )
    op.create_table(
        "sqs_queues",
        sa.Column("arn", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("modified_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("arn"),
    )
    op.create_index("sqs_queues_by_name", "sqs_queues", ["account", "name"], unique=True)
    op.create_table(
        "scaling_policies",
        sa.Column("arn", sa.String(), nullable=False),
        sa.Column("target_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("configuration", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("put_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["target_id"], ["scalable_targets.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("arn"),
        sa.UniqueConstraint("target_id", "name"),
    )
    op.create_table(
        "sns_messages",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("topic_arn", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("structure", sa.String(), nullable=True),
        sa.Column("published_at", sa.Float(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["topic_arn"], ["sns_topics.arn"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(("ix_sns_messages_topic_arn"), "sns_messages", ["topic_arn"], unique=False)
    op.create_table(
        "sns_subscriptions",
        sa.Column("arn", sa.String(), nullable=False),
        sa.Column("topic_arn", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("protocol", sa.String(), nullable=False),
        sa.Column("endpoint", sa.String(), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("base_url", sa.String(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("authenticated_unsubscribe", sa.Boolean(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("token_expires_at", sa.Float(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["topic_arn"], ["sns_topics.arn"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("arn"),
    )
    op.create_index(("ix_sns_subscriptions_topic_arn"), "sns_subscriptions", ["topic_arn"], unique=False)
    op.create_table(
        "sqs_messages",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("queue_arn", sa.String(), nullable=False),
        sa.Column("sent_at", sa.Float(), nullable=False),
        sa.Column("visible_at", sa.Float(), nullable=False),
        sa.Column("receive_count", sa.Integer(), nullable=False),
        sa.Column("first_received_at", sa.Float(), nullable=True),
        sa.Column("receipt", sa.String(), nullable=True),
        sa.Column("sender", sa.String(), nullable=False),
        sa.Column("dead_letter_source", sa.String(), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("system_attributes", sa.JSON(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["queue_arn"], ["sqs_queues.arn"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("sqs_messages_by_visibility", "sqs_messages", ["queue_arn", "visible_at"], unique=False)
    op.create_table(
        "sns_deliveries",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("subscription_arn", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt_count", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.Float(), nullable=False),
        sa.Column("last_error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["message_id"], ["sns_messages.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["subscription_arn"], ["sns_subscriptions.arn"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(("ix_sns_deliveries_message_id"), "sns_deliveries", ["message_id"], unique=False)
    op.create_index(
        "sns_deliveries_by_due", "sns_deliveries", ["subscription_arn", "state", "due_at"], unique=False
    )
    # On PostgreSQL there are none in this form: nothing was ever written there before the next revision.
    if op.get_context().dialect.name == "sqlite":
        for trigger in COUNT_INVOCATIONS:
            op.execute(trigger)
