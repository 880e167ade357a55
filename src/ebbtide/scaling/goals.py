"""What an endpoint is to reach beyond AWS's policies: its row."""

from sqlalchemy import JSON, Column, String, Table

from ebbtide.database import metadata

goals = Table(
    "scaling_goals",
    metadata,
    Column("endpoint_id", String, primary_key=True),
    Column("goals", JSON, nullable=False),
)
