"""Scaling: scheduled actions, goals of our own, alarms that belong to policies, acts that did not come about,
and the concurrency that an instance was found to be best at.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    scale()
    cost()


def scale() -> None:
    op.create_table(
        "scheduled_actions",
        sa.Column("arn", sa.String(), nullable=False),
        sa.Column("target_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("schedule", sa.String(), nullable=False),
        sa.Column("timezone", sa.String(), nullable=True),
        sa.Column("start_at", sa.Float(), nullable=True),
        sa.Column("end_at", sa.Float(), nullable=True),
        sa.Column("min_capacity", sa.Integer(), nullable=True),
        sa.Column("max_capacity", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("next_at", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["target_id"], ["scalable_targets.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("arn"),
        sa.UniqueConstraint("target_id", "name"),
    )
    op.create_table(
        "scaling_goals",
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("goals", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["endpoint_id"], ["endpoints.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("endpoint_id"),
    )
    op.add_column("alarms", sa.Column("policy_arn", sa.String(), nullable=True))
    op.create_index("alarms_of_policy", "alarms", ["policy_arn"], unique=False)
    op.add_column("scaling_activities", sa.Column("description", sa.Text(), nullable=True))
    op.add_column("scaling_activities", sa.Column("not_scaled", sa.JSON(), nullable=True))
    op.add_column("instances", sa.Column("concurrency", sa.Integer(), nullable=True))
    op.add_column("instances", sa.Column("concurrency_cause", sa.Text(), nullable=True))
    op.add_column("instances", sa.Column("start", sa.JSON(), nullable=True))


def cost() -> None:
    """Instances say whose they are, which their costs go by when the endpoint is gone."""
    for name in ("account", "endpoint_name"):
        op.add_column("instances", sa.Column(name, sa.String(), nullable=True))
    op.execute(
        "UPDATE instances SET account = e.account, endpoint_name = e.name "
        "FROM endpoints e WHERE e.id = instances.endpoint_id"
    )
