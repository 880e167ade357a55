"""Models, endpoint configurations and tags in the database. Every function runs in a caller's transaction."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, Table, delete, func, insert, select, text

from ebbtide.endpoints import tables
from ebbtide.endpoints.records import EndpointConfig, Model
from ebbtide.errors import ServiceError

MAX_TAGS = 50

_SET_TAG = text("""
INSERT INTO sagemaker_tags (resource_arn, key, value) VALUES (:resource_arn, :key, :value)
ON CONFLICT (resource_arn, key) DO UPDATE SET value = excluded.value
""")


def create_model(connection: Connection, model: Model) -> None:
    """Keep a new model. Raises ServiceError when its name is taken."""
    if _find(connection, tables.models, model.account, model.name) is not None:
        raise ServiceError(f'Cannot create already existing model "{model.arn}".')
    connection.execute(insert(tables.models).values(_columns(model)))


def create_endpoint_config(connection: Connection, config: EndpointConfig) -> None:
    """Keep a new configuration. Raises ServiceError when its name is taken."""
    if _find(connection, tables.endpoint_configs, config.account, config.name) is not None:
        raise ServiceError(f'Cannot create already existing endpoint configuration "{config.arn}".')
    connection.execute(insert(tables.endpoint_configs).values(_columns(config)))


def get_model(connection: Connection, account: str, name: str, *, arn: str) -> Model:
    """The model of that name. Raises ServiceError, naming `arn`, when there is none."""
    row = _find(connection, tables.models, account, name)
    if row is None:
        raise ServiceError(f'Could not find model "{arn}".')
    return Model(**row._mapping)


def get_endpoint_config(connection: Connection, account: str, name: str, *, arn: str) -> EndpointConfig:
    """The configuration of that name. Raises ServiceError, naming `arn`, when there is none."""
    row = _find(connection, tables.endpoint_configs, account, name)
    if row is None:
        raise ServiceError(f'Could not find endpoint configuration "{arn}".')
    return EndpointConfig(**row._mapping)


def all_models(connection: Connection, account: str) -> list[Model]:
    return [Model(**row._mapping) for row in _all(connection, tables.models, account)]


def all_endpoint_configs(connection: Connection, account: str) -> list[EndpointConfig]:
    return [EndpointConfig(**row._mapping) for row in _all(connection, tables.endpoint_configs, account)]


def delete_model(connection: Connection, model: Model) -> None:
    """Forget the model and its tags; endpoints that run it have their own snapshot."""
    _delete(connection, tables.models, model)


def delete_endpoint_config(connection: Connection, config: EndpointConfig) -> None:
    """Forget the configuration and its tags; endpoints made from it have their own snapshot."""
    _delete(connection, tables.endpoint_configs, config)


def resource_exists(connection: Connection, arn: str) -> bool:
    """Whether a model, endpoint configuration or endpoint has that ARN."""
    return any(
        connection.execute(select(table.c.name).where(table.c.arn == arn)).first() is not None
        for table in (tables.models, tables.endpoint_configs, tables.endpoints)
    )


def add_tags(connection: Connection, resource_arn: str, tags: Iterable[Mapping[str, str]]) -> None:
    """Set tags, replacing those of the same key. Raises ServiceError over 50 tags on the resource."""
    rows = [{"resource_arn": resource_arn, "key": tag["Key"], "value": tag["Value"]} for tag in tags]
    if not rows:
        return
    connection.execute(_SET_TAG, rows)
    count = connection.scalar(
        select(func.count()).select_from(tables.tags).where(tables.tags.c.resource_arn == resource_arn)
    )
    if count is not None and count > MAX_TAGS:
        raise ServiceError(f"{resource_arn} would have {count} tags; at most {MAX_TAGS} are allowed.")


def list_tags(connection: Connection, resource_arn: str) -> list[dict[str, str]]:
    """As ListTags answers them, by key."""
    rows = connection.execute(
        select(tables.tags.c.key, tables.tags.c.value)
        .where(tables.tags.c.resource_arn == resource_arn)
        .order_by(tables.tags.c.key)
    )
    return [{"Key": key, "Value": value} for key, value in rows]


def delete_tags(connection: Connection, resource_arn: str, keys: Iterable[str]) -> None:
    connection.execute(
        delete(tables.tags).where(tables.tags.c.resource_arn == resource_arn, tables.tags.c.key.in_(keys))
    )


def drop_tags(connection: Connection, resource_arn: str) -> None:
    """Delete every tag of a resource that is no more."""
    connection.execute(delete(tables.tags).where(tables.tags.c.resource_arn == resource_arn))


def _columns(record: Model | EndpointConfig) -> dict[str, Any]:
    return {
        "account": record.account,
        "name": record.name,
        "arn": record.arn,
        "given": record.given,
        "created_at": record.created_at,
    }


def _find(connection: Connection, table: Table, account: str, name: str) -> Row[Any] | None:
    return connection.execute(
        select(table).where(table.c.account == account, table.c.name == name)
    ).one_or_none()


def _all(connection: Connection, table: Table, account: str) -> Iterable[Row[Any]]:
    return connection.execute(select(table).where(table.c.account == account))


def _delete(connection: Connection, table: Table, record: Model | EndpointConfig) -> None:
    connection.execute(delete(table).where(table.c.account == record.account, table.c.name == record.name))
    drop_tags(connection, record.arn)
