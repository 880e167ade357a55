"""An object's parts keep their checksums."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("object_pieces", sa.Column("checksums", sa.JSON(), nullable=True))
