"""Tasks that move dead letters back."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "sqs_move_tasks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("source_arn", sa.String(), nullable=False),
        sa.Column("destination_arn", sa.String(), nullable=True),
        sa.Column("most_per_s", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("moved_count", sa.Integer(), nullable=False),
        sa.Column("wanted_count", sa.Integer(), nullable=False),
        sa.Column("failure_reason", sa.String(), nullable=True),
        sa.Column("started_at", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(["source_arn"], ["sqs_queues.arn"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_sqs_move_tasks_source_arn", "sqs_move_tasks", ["source_arn"], unique=False)
