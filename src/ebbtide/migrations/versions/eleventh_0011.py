"""Dead letters keep how often they were received."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column(
        "sqs_messages",
        sa.Column("earlier_receive_count", sa.Integer(), nullable=False, server_default="0"),
    )
