"""Tags of models, configurations and endpoints; an endpoint's may choose its goals."""

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.sagemaker.resources import get_endpoint
from ebbtide.endpoints import catalogue
from ebbtide.errors import ServiceError
from ebbtide.scaling import endpoint_goals


async def add_tags(params: Params, call: Call) -> Result:
    """Set tags of a model, configuration or endpoint; all its tags. An endpoint's may choose its goals.

    Raises ServiceError for one that is to choose a goal and cannot. Source: AddTags.
    """
    resource = params["ResourceArn"]

    def add(connection: Connection) -> list[dict[str, str]]:
        _check_taggable(connection, call, resource)
        set_tags(connection, call, resource, params["Tags"])
        return catalogue.list_tags(connection, resource)

    tags = await call.parts.database.write(add)
    call.parts.scaler.wake()
    return {"Tags": tags}


async def list_tags(params: Params, call: Call) -> Result:
    """All tags at once: a resource has at most 50, the smallest page. Source: ListTags."""
    resource = params["ResourceArn"]

    def read(connection: Connection) -> list[dict[str, str]]:
        _check_taggable(connection, call, resource)
        return catalogue.list_tags(connection, resource)

    return {"Tags": await call.parts.database.read(read)}


async def delete_tags(params: Params, call: Call) -> Result:
    """Source: DeleteTags."""
    resource = params["ResourceArn"]

    def delete(connection: Connection) -> None:
        _check_taggable(connection, call, resource)
        catalogue.delete_tags(connection, resource, params["TagKeys"])

    await call.parts.database.write(delete)
    call.parts.scaler.wake()
    return {}


def set_tags(connection: Connection, call: Call, resource: str, tags: Iterable[Mapping[str, str]]) -> None:
    """Add to the resource's tags. Raises ServiceError for an endpoint's that choose a goal and cannot."""
    catalogue.add_tags(connection, resource, tags)
    kind, _, name = resource.rpartition(":")[2].partition("/")
    if kind == "endpoint":
        endpoint = get_endpoint(connection, call, name)
        endpoint_goals.check_tags(connection, endpoint, price_per_s=call.parts.scaler.price_per_s)


def _check_taggable(connection: Connection, call: Call, resource: str) -> None:
    if resource.split(":")[4:5] != [call.account] or not catalogue.resource_exists(connection, resource):
        raise ServiceError(f'Could not find resource "{resource}".')
