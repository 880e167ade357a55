"""What all operations of Application Auto Scaling read from their parameters, and tell of a resource."""

from ebbtide.api.call import Params
from ebbtide.endpoints.deployments import MAX_INSTANCE_COUNT
from ebbtide.errors import ServiceError
from ebbtide.scaling import configurations

PAGE_SIZE = 50


def resource_of(params: Params) -> configurations.Resource:
    """The variant that is meant. Raises ServiceError for what is none."""
    return configurations.parse_resource(
        params["ServiceNamespace"], params["ResourceId"], params["ScalableDimension"]
    )


def check_namespace(params: Params) -> None:
    if params["ServiceNamespace"] != "sagemaker":
        raise ServiceError(f"Unsupported service namespace: {params['ServiceNamespace']}.")


def check_listing(params: Params) -> None:
    """What all lists ask for but the one of targets. Source: DescribeScalingActivities, ScalableDimension."""
    check_namespace(params)
    if "ScalableDimension" in params and "ResourceId" not in params:
        raise ServiceError("ScalableDimension cannot be given without ResourceId.")


def check_capacities(minimum: int | None, maximum: int | None) -> None:
    for capacity in (minimum, maximum):
        if capacity is not None and not 0 <= capacity <= MAX_INSTANCE_COUNT:
            raise ServiceError(f"Capacities must be 0 to {MAX_INSTANCE_COUNT}, not {capacity}.")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise ServiceError(f"MinCapacity {minimum} must not be above MaxCapacity {maximum}.")


def named(resource_id: str) -> dict[str, str]:
    """How a description names its resource."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": resource_id,
        "ScalableDimension": configurations.DIMENSION,
    }


def limit_of(params: Params, most: int) -> int:
    limit: int = params.get("MaxResults", most)
    if not 1 <= limit <= most:
        raise ServiceError(f"MaxResults must be 1 to {most}, not {limit}.")
    return limit
