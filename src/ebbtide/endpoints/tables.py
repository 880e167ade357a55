"""The tables of models, endpoint configurations, endpoints and tags."""

from sqlalchemy import JSON, Column, Float, Integer, String, Table, Text, UniqueConstraint

from ebbtide.database import metadata

models = Table(
    "models",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("arn", String, nullable=False),
    Column("given", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

endpoint_configs = Table(
    "endpoint_configs",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("arn", String, nullable=False),
    Column("given", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
)

# A deployment is a snapshot, always read whole, so it is one column; `records` says what is in it.
endpoints = Table(
    "endpoints",
    metadata,
    Column("id", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("name", String, nullable=False),
    Column("folded_name", String, nullable=False),
    Column("arn", String, nullable=False),
    Column("status", String, nullable=False),
    Column("failure_reason", Text),
    Column("live", Text, nullable=False),
    Column("target", Text),
    # Never reused: instances of a generation that failed may still be draining.
    Column("last_generation", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("modified_at", Float, nullable=False),
    UniqueConstraint("account", "folded_name"),
)

tags = Table(
    "sagemaker_tags",
    metadata,
    Column("resource_arn", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)
