"""Buckets say which public access is blocked."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("buckets", sa.Column("public_access_block", sa.JSON(), nullable=True))
