"""What requests name: models, configurations and endpoints by name, their ARNs, and pages of them."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.api.call import Call, Params
from ebbtide.api.pages import page
from ebbtide.endpoints import Endpoint, EndpointConfig, EndpointNotFound, Model, catalogue
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn

PAGE_SIZE = 10
"""MaxResults of the lists when none is given."""


def resource_arn(call: Call, kind: str, name: str) -> str:
    return arn("sagemaker", call.region, call.account, f"{kind}/{name}")


def get_model(connection: Connection, call: Call, name: str) -> Model:
    """Raises ServiceError, naming the ARN that is missing; so do the two below."""
    return catalogue.get_model(connection, call.account, name, arn=resource_arn(call, "model", name))


def get_config(connection: Connection, call: Call, name: str) -> EndpointConfig:
    return catalogue.get_endpoint_config(
        connection, call.account, name, arn=resource_arn(call, "endpoint-config", name)
    )


def get_endpoint(connection: Connection, call: Call, name: str) -> Endpoint:
    try:
        return endpoints.get_endpoint(connection, call.account, name)
    except EndpointNotFound as missing:
        raise ServiceError(f'Could not find endpoint "{resource_arn(call, "endpoint", name)}".') from missing


def listed(records: Iterable[Any], params: Params) -> tuple[list[Any], str | None]:
    """The page of models, configurations or endpoints that a List operation asks for.

    Source: ListModels, ListEndpointConfigs and ListEndpoints, SageMaker 2017-07-24.
    """
    by = {
        "Name": lambda record: (record.name,),
        "CreationTime": lambda record: (record.created_at, record.name),
        "Status": lambda record: (record.status, record.name),
    }
    key: Any = by[params.get("SortBy", "CreationTime")]
    matching = (
        record
        for record in records
        if params.get("NameContains", "") in record.name
        and record.created_at > params.get("CreationTimeAfter", float("-inf"))
        and record.created_at < params.get("CreationTimeBefore", float("inf"))
    )
    return page(
        matching,
        key,
        limit=params.get("MaxResults", PAGE_SIZE),
        token=params.get("NextToken"),
        descending=params.get("SortOrder", "Descending") == "Descending",
    )
