"""Metrics are an account's: what was shared by name goes to the account that has the endpoint."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

OPERATOR = "123456789012"

# The operator's own endpoint of that name, if there is one, or the first account's.
OWNERS = """
SELECT min(account) AS account, name FROM endpoints
 GROUP BY name HAVING sum(CASE WHEN account = :operator THEN 1 ELSE 0 END) = 0
"""

GIVE = """
UPDATE metric_series SET account = :account
 WHERE namespace IN ('AWS/SageMaker', '/aws/sagemaker/Endpoints', 'Ebbtide')
   AND substr(dimensions, 1, length(CAST(:named AS TEXT))) = :named
"""


def upgrade() -> None:
    op.add_column("metric_series", sa.Column("account", sa.String(), nullable=True))
    connection = op.get_bind()
    connection.execute(sa.text("UPDATE metric_series SET account = :account"), {"account": OPERATOR})
    for account, name in connection.execute(sa.text(OWNERS), {"operator": OPERATOR}).all():
        named = f'[["EndpointName","{name}"]'
        connection.execute(sa.text(GIVE), {"account": account, "named": named})
    with op.batch_alter_table("metric_series") as table:
        table.alter_column("account", existing_type=sa.String(), nullable=False)
    op.drop_index("metric_series_by_name", "metric_series")
    op.create_index(
        "metric_series_of_account",
        "metric_series",
        ["account", "namespace", "name", "dimensions"],
        unique=False,
    )
