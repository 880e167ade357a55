"""Buckets have tags and CORS rules."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("buckets", sa.Column("tags", sa.JSON(), nullable=True))
    op.add_column("buckets", sa.Column("cors", sa.JSON(), nullable=True))
