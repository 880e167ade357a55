"""An endpoint's life in the database: created, updated, settled or failed by the fleet, deleted, removed.

Every function runs in a caller's transaction. Whoever changes what instances should run wakes the fleet
after the commit; the fleet reads the endpoints, acts, and reports with `settle`, `fail` and `remove`.
"""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from ebbtide.database import Statement
from ebbtide.endpoints import catalogue, deployments, tables
from ebbtide.endpoints.records import (
    Deployment,
    Endpoint,
    EndpointConfig,
    decode_deployment,
    encode_deployment,
)
from ebbtide.endpoints.states import CREATING, DELETING, FAILED, IN_SERVICE, LEGAL_MOVES, UPDATING
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn, time_ordered_id

MAX_FAILURE_REASON_LENGTH = 1024
"""Characters. Source: FailureReason, DescribeEndpoint."""


class EndpointNotFound(ServiceError):
    """No endpoint of that name exists."""

    code = "ValidationError"  # no 404: the runtime's operations model none, and SDKs match on this

    def __init__(self, account: str, name: str) -> None:
        super().__init__(f"Endpoint {name} of account {account} not found.")


class EndpointBusy(ServiceError):
    """The endpoint's state does not allow the change now."""


_columns = tables.endpoints.c


class _Kept(NamedTuple):
    """What of an endpoint's row makes the record."""

    id: str
    account: str
    name: str
    arn: str
    status: str
    failure_reason: str | None
    live: str
    target: str | None
    created_at: float
    modified_at: float


# Straight to the driver: every group of accepted invocations looks for its endpoint so.
_BY_NAME = Statement(
    f"SELECT {', '.join(_Kept._fields)} FROM endpoints WHERE account = ? AND name = ?"  # noqa: S608  constants
)
_BY_ID = select(tables.endpoints).where(_columns.id == bindparam("id"))
_ALL = select(tables.endpoints).order_by(_columns.id)


def get_endpoint(connection: Connection, account: str, name: str) -> Endpoint:
    """The endpoint of exactly that name. Raises EndpointNotFound."""
    rows = _BY_NAME.execute(connection, (account, name))
    if not rows:
        raise EndpointNotFound(account, name)
    return _endpoint(_Kept(*rows[0]))


def find_endpoint(connection: Connection, endpoint_id: str) -> Endpoint | None:
    row = connection.execute(_BY_ID, {"id": endpoint_id}).one_or_none()
    return None if row is None else _endpoint(row)


def all_endpoints(connection: Connection) -> list[Endpoint]:
    """Every endpoint of every account, oldest first."""
    return [_endpoint(row) for row in connection.execute(_ALL)]


def create_endpoint(
    connection: Connection, config: EndpointConfig, name: str, *, region: str, at: float
) -> Endpoint:
    """Begin a new endpoint: Creating, generation 1. Raises ServiceError when the name is taken, in any case
    of letters, or when a model of the configuration is gone.
    """
    taken = connection.execute(
        select(_columns.arn).where(
            _columns.account == config.account, _columns.folded_name == name.casefold()
        )
    ).scalar_one_or_none()
    if taken is not None:
        raise ServiceError(f'Cannot create already existing endpoint "{taken}".')
    deployment = _deploy(connection, 1, config, region=region, at=at)
    endpoint_id = time_ordered_id(at)
    connection.execute(
        insert(tables.endpoints).values(
            id=endpoint_id,
            account=config.account,
            name=name,
            folded_name=name.casefold(),
            arn=arn("sagemaker", region, config.account, f"endpoint/{name}"),
            status=CREATING,
            live=encode_deployment(deployment),
            last_generation=1,
            created_at=at,
            modified_at=at,
        )
    )
    return _existing(connection, endpoint_id)


def update_endpoint(
    connection: Connection,
    endpoint: Endpoint,
    config: EndpointConfig,
    *,
    region: str,
    retain_variant_properties: bool,
    excluded_properties: Collection[str],
    at: float,
) -> Endpoint:
    """Begin a new generation beside the live one, which serves until the new one has settled.

    Raises EndpointBusy unless it is InService; ServiceError when a model of the configuration is gone, and
    for a change between asynchronous and real-time, which would strand what is queued.
    """
    if endpoint.status != IN_SERVICE:
        raise _busy(endpoint)
    if config.asynchronous != (endpoint.async_config is not None):
        raise ServiceError(
            f'Endpoint "{endpoint.arn}" cannot change between asynchronous and real-time inference: '
            "AsyncInferenceConfig must be in both configurations or in neither."
        )
    generation = (
        1
        + connection.execute(select(_columns.last_generation).where(_columns.id == endpoint.id)).scalar_one()
    )
    target = _deploy(connection, generation, config, region=region, at=at)
    if retain_variant_properties:
        target = deployments.retain(target, endpoint.live, excluded_properties)
    _move(
        connection,
        endpoint,
        UPDATING,
        at=at,
        target=encode_deployment(target),
        last_generation=generation,
        failure_reason=None,
    )
    return _existing(connection, endpoint.id)


def set_desired_instance_counts(
    connection: Connection, endpoint_id: str, counts: Mapping[str, int], at: float
) -> None:
    """Say how many instances the variants should have; Updating until the fleet settles.

    Variants that are not named, or not there, stay as they are. Legal too while an earlier change of counts
    is under way. Raises EndpointBusy while Creating, Failed, Deleting or deploying another generation.
    """
    rescale(connection, _existing(connection, endpoint_id), counts, {}, at)


def rescale(
    connection: Connection,
    endpoint: Endpoint,
    counts: Mapping[str, int],
    weights: Mapping[str, float],
    at: float,
) -> None:
    """`set_desired_instance_counts`, with weights."""
    if endpoint.status not in (IN_SERVICE, UPDATING) or endpoint.target is not None:
        raise _busy(endpoint)
    rescaled = deployments.rescale(endpoint.live, counts, weights)
    if rescaled != endpoint.live:
        _move(
            connection,
            endpoint,
            UPDATING,
            at=at,
            live=encode_deployment(rescaled),
            failure_reason=None,
        )


def settle(connection: Connection, endpoint_id: str, generation: int, at: float) -> None:
    """The instances of that generation are as desired: the endpoint is InService, with that generation live.

    Nothing happens when the endpoint is gone, is being deleted, has failed, or has moved on.
    """
    endpoint = find_endpoint(connection, endpoint_id)
    if endpoint is None or endpoint.status not in (CREATING, UPDATING):
        return
    building = endpoint.target or endpoint.live
    if building.generation != generation:
        return
    live = encode_deployment(deployments.settled(building))
    _move(connection, endpoint, IN_SERVICE, at=at, live=live, target=None)


def fail(connection: Connection, endpoint_id: str, generation: int, reason: str, at: float) -> None:
    """That generation cannot be brought up, for a reason an operator can act on.

    A creation ends as Failed; an update goes back to the generation that still serves, InService, with the
    reason. Nothing happens when the endpoint is gone, is being deleted, has failed, or has moved on.
    """
    endpoint = find_endpoint(connection, endpoint_id)
    if endpoint is None or endpoint.status not in (CREATING, UPDATING):
        return
    reason = reason[:MAX_FAILURE_REASON_LENGTH]
    if endpoint.target is not None and endpoint.target.generation == generation:
        _move(connection, endpoint, IN_SERVICE, at=at, target=None, failure_reason=reason)
    elif endpoint.status == CREATING and endpoint.generation == generation:
        _move(connection, endpoint, FAILED, at=at, failure_reason=reason)


def begin_delete(connection: Connection, endpoint: Endpoint, at: float) -> None:
    """Deleting: the fleet drains its instances, then removes it. Raises EndpointBusy when it is already."""
    _move(connection, endpoint, DELETING, at=at, target=None)


def remove(connection: Connection, endpoint_id: str) -> None:
    """Forget a Deleting endpoint whose last instance is gone, and its tags."""
    endpoint = _existing(connection, endpoint_id)
    assert endpoint.status == DELETING
    connection.execute(delete(tables.endpoints).where(_columns.id == endpoint_id))
    catalogue.drop_tags(connection, endpoint.arn)


def _deploy(
    connection: Connection, generation: int, config: EndpointConfig, *, region: str, at: float
) -> Deployment:
    names = {variant["ModelName"] for variant in config.given["ProductionVariants"]}
    models = {
        name: catalogue.get_model(
            connection,
            config.account,
            name,
            arn=arn("sagemaker", region, config.account, f"model/{name}"),
        ).given
        for name in names
    }
    return deployments.deploy(generation, config.given, models, at=at)


def _move(connection: Connection, endpoint: Endpoint, to: str, *, at: float, **columns: object) -> None:
    if to not in LEGAL_MOVES[endpoint.status]:
        raise _busy(endpoint)
    connection.execute(
        update(tables.endpoints)
        .where(_columns.id == endpoint.id)
        .values(status=to, modified_at=at, **columns)
    )


def _busy(endpoint: Endpoint) -> EndpointBusy:
    if endpoint.status == FAILED:
        return EndpointBusy(f'Cannot update failed endpoint "{endpoint.arn}"; it can only be deleted.')
    return EndpointBusy(f'Cannot update in-progress endpoint "{endpoint.arn}".')


def _existing(connection: Connection, endpoint_id: str) -> Endpoint:
    return _endpoint(connection.execute(_BY_ID, {"id": endpoint_id}).one())


def _endpoint(row: Row[Any] | _Kept) -> Endpoint:
    live = decode_deployment(row.live)
    return Endpoint(
        id=row.id,
        account=row.account,
        name=row.name,
        arn=row.arn,
        status=row.status,
        failure_reason=row.failure_reason,
        live=live,
        target=None if row.target is None else decode_deployment(row.target),
        async_config=live.async_config,
        created_at=row.created_at,
        modified_at=row.modified_at,
    )
