"""What CreateModel is given to serve: one container, whose model data is there."""

from ebbtide.api.call import Call, Params
from ebbtide.errors import ServiceError, Unavailable
from ebbtide.instances.model_files import ModelUnavailable, find, source_of


async def check_model_data(container: Params, call: Call) -> None:
    """Raises ServiceError for model data that is not there: else each endpoint of the model would fail."""
    try:
        source = source_of(container)
    except ModelUnavailable as error:
        raise ServiceError(f"Could not find {error}") from error
    if source is None:
        return
    try:
        await find(source, call.parts.objects, call.account)
    except Unavailable:
        pass  # the store is down; instances wait for it
    except ServiceError as error:
        raise ServiceError(f"Could not find model data at {source.uri}: {error.message}") from error


def container_of(params: Params) -> Params:
    """The model's one container. Raises ServiceError for what cannot be served."""
    containers = [params["PrimaryContainer"]] if "PrimaryContainer" in params else []
    containers += params.get("Containers", [])
    if len(containers) != 1:
        raise ServiceError(
            "A model must have exactly one container, in PrimaryContainer or Containers: "
            f"{len(containers)} were given, and inference pipelines are not supported."
        )
    [container] = containers
    for member in ("ModelPackageName", "InferenceSpecificationName"):
        if member in container:
            raise ServiceError(f"{member} is not supported: give Image and ModelDataUrl.")
    if container.get("Mode", "SingleModel") != "SingleModel":
        raise ServiceError("Mode MultiModel is not supported.")
    if "Image" not in container:
        raise ServiceError("The container has no Image.")
    if "ModelDataUrl" in container and "ModelDataSource" in container:
        raise ServiceError("ModelDataUrl and ModelDataSource must not both be given.")
    given: Params = container
    return given
