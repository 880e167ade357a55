"""SageMaker, 2017-07-24: models, endpoint configurations, endpoints and their tags.

What is missing or in the wrong state is a ValidationException with AWS's own words around the ARN: this
service models no other error for it, and waiters, SDKs and terraform match on both.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.model_containers import check_model_data, container_of
from ebbtide.api.pages import page
from ebbtide.endpoints import (
    Deployment,
    Endpoint,
    EndpointConfig,
    EndpointNotFound,
    Model,
    Variant,
    catalogue,
)
from ebbtide.endpoints.deployments import MAX_INSTANCE_COUNT, check_config
from ebbtide.endpoints.states import CREATING, UPDATING
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn
from ebbtide.instances import records as instances
from ebbtide.notifications import topics
from ebbtide.scaling import endpoint_goals

__all__ = [
    "add_tags",
    "create_endpoint",
    "create_endpoint_config",
    "create_model",
    "delete_endpoint",
    "delete_endpoint_config",
    "delete_model",
    "delete_tags",
    "describe_endpoint",
    "describe_endpoint_config",
    "describe_model",
    "list_endpoint_configs",
    "list_endpoints",
    "list_models",
    "list_tags",
    "update_endpoint",
    "update_endpoint_weights_and_capacities",
]

PAGE_SIZE = 10
"""MaxResults of the lists when none is given."""

MAX_STATUS_MESSAGE_LENGTH = 1024
"""Characters. Source: VariantStatusMessage."""

TEST_NOTIFICATION = json.dumps(
    {"eventVersion": "1.0", "eventSource": "aws:sagemaker", "eventName": "TestNotification"}
)


async def create_model(params: Params, call: Call) -> Result:
    """Name a container with its model. Nothing is loaded before an endpoint deploys it.

    Raises ServiceError when the name is taken, and for what cannot be served: several containers, several
    models in one container, a model package, model data that is not there. Source: CreateModel.
    """
    await check_model_data(container_of(params), call)
    model = Model(
        call.account,
        params["ModelName"],
        _arn(call, "model", params["ModelName"]),
        _given(params),
        created_at=call.now,
    )

    def create(connection: Connection) -> None:
        catalogue.create_model(connection, model)
        catalogue.add_tags(connection, model.arn, params.get("Tags", ()))

    await call.parts.database.write(create)
    return {"ModelArn": model.arn}


async def describe_model(params: Params, call: Call) -> Result:
    """What CreateModel was given. Source: DescribeModel."""
    model = await call.parts.database.read(lambda connection: _model(connection, call, params["ModelName"]))
    return {**model.given, "ModelArn": model.arn, "CreationTime": model.created_at}


async def list_models(params: Params, call: Call) -> Result:
    """Source: ListModels."""
    models = await call.parts.database.read(lambda connection: catalogue.all_models(connection, call.account))
    listed, token = _list(models, params)
    summaries = [
        {"ModelName": model.name, "ModelArn": model.arn, "CreationTime": model.created_at} for model in listed
    ]
    return {"Models": summaries} | _next(token)


async def delete_model(params: Params, call: Call) -> Result:
    """Forget a model; endpoints that run it go on. Source: DeleteModel."""
    await call.parts.database.write(
        lambda connection: catalogue.delete_model(connection, _model(connection, call, params["ModelName"]))
    )
    return {}


async def create_endpoint_config(params: Params, call: Call) -> Result:
    """Say how models are to be deployed.

    Raises ServiceError when the name is taken, a model is missing, or the parts do not go together.
    Source: CreateEndpointConfig.
    """
    given = _given(params)
    check_config(given)
    config = EndpointConfig(
        call.account,
        params["EndpointConfigName"],
        _arn(call, "endpoint-config", params["EndpointConfigName"]),
        given,
        created_at=call.now,
    )

    def create(connection: Connection) -> None:
        for variant in given["ProductionVariants"]:
            _model(connection, call, variant["ModelName"])
        catalogue.create_endpoint_config(connection, config)
        catalogue.add_tags(connection, config.arn, params.get("Tags", ()))

    await call.parts.database.write(create)
    return {"EndpointConfigArn": config.arn}


async def describe_endpoint_config(params: Params, call: Call) -> Result:
    """What CreateEndpointConfig was given. Source: DescribeEndpointConfig."""
    config = await call.parts.database.read(
        lambda connection: _config(connection, call, params["EndpointConfigName"])
    )
    return {**config.given, "EndpointConfigArn": config.arn, "CreationTime": config.created_at}


async def list_endpoint_configs(params: Params, call: Call) -> Result:
    """Source: ListEndpointConfigs."""
    configs = await call.parts.database.read(
        lambda connection: catalogue.all_endpoint_configs(connection, call.account)
    )
    listed, token = _list(configs, params)
    summaries = [
        {
            "EndpointConfigName": config.name,
            "EndpointConfigArn": config.arn,
            "CreationTime": config.created_at,
        }
        for config in listed
    ]
    return {"EndpointConfigs": summaries} | _next(token)


async def delete_endpoint_config(params: Params, call: Call) -> Result:
    """Forget a configuration, even one in use: SDKs delete it before the endpoint.
    Source: DeleteEndpointConfig.
    """

    def delete(connection: Connection) -> None:
        config = _config(connection, call, params["EndpointConfigName"])
        catalogue.delete_endpoint_config(connection, config)

    await call.parts.database.write(delete)
    return {}


async def create_endpoint(params: Params, call: Call) -> Result:
    """Deploy a configuration; answers at once, with the endpoint Creating.

    A test notification goes to each of its topics; a topic that is missing fails the endpoint, which says
    so. Raises ServiceError when the name is taken, or the configuration or one of its models is missing.
    Source: CreateEndpoint.
    """

    def create(connection: Connection) -> Endpoint:
        config = _config(connection, call, params["EndpointConfigName"])
        endpoint = endpoints.create_endpoint(
            connection, config, params["EndpointName"], region=call.region, at=call.now
        )
        _tag(connection, call, endpoint.arn, params.get("Tags", ()))
        _test_notifications(connection, endpoint, endpoint.live, call)
        return endpoint

    endpoint = await call.parts.database.write(create)
    _wake(call)
    return {"EndpointArn": endpoint.arn}


async def describe_endpoint(params: Params, call: Call) -> Result:
    """An endpoint's state, its variants with the counts there are and those wanted, and what ails it.

    A variant's StatusMessage says what its instances wait for; an endpoint serves with some of them while the
    machine has no room for the others.
    Source: DescribeEndpoint.
    """

    def read(connection: Connection) -> tuple[Endpoint, dict[tuple[int, str], str], dict[str, int]]:
        endpoint = _endpoint(connection, call, params["EndpointName"])
        current = instances.in_service_counts(connection, endpoint.id, endpoint.generation)
        return endpoint, _pending_causes(connection, endpoint.id), current

    endpoint, pending, current = await call.parts.database.read(read)
    result: Result = {
        "EndpointName": endpoint.name,
        "EndpointArn": endpoint.arn,
        "EndpointConfigName": endpoint.config_name,
        "EndpointStatus": endpoint.status,
        "CreationTime": endpoint.created_at,
        "LastModifiedTime": endpoint.modified_at,
        "ProductionVariants": [
            _variant_summary(endpoint, endpoint.live, variant, pending)
            | {
                "CurrentInstanceCount": current.get(variant.name, 0),
                "DeployedImages": [_deployed_image(endpoint.live, variant)],
            }
            for variant in endpoint.variants
        ],
    }
    if "AsyncInferenceConfig" in endpoint.live.config:
        result["AsyncInferenceConfig"] = endpoint.live.config["AsyncInferenceConfig"]
    if endpoint.failure_reason:
        result["FailureReason"] = endpoint.failure_reason
    if endpoint.target is not None:
        result["PendingDeploymentSummary"] = {
            "EndpointConfigName": endpoint.target.config_name,
            "StartTime": endpoint.target.started_at,
            "ProductionVariants": [
                _variant_summary(endpoint, endpoint.target, variant, pending)
                for variant in endpoint.target.variants
            ],
        }
    return result


async def list_endpoints(params: Params, call: Call) -> Result:
    """Source: ListEndpoints."""

    def read(connection: Connection) -> list[Endpoint]:
        return [
            endpoint
            for endpoint in endpoints.all_endpoints(connection)
            if endpoint.account == call.account
            and params.get("StatusEquals") in (None, endpoint.status)
            and endpoint.modified_at > params.get("LastModifiedTimeAfter", float("-inf"))
            and endpoint.modified_at < params.get("LastModifiedTimeBefore", float("inf"))
        ]

    listed, token = _list(await call.parts.database.read(read), params)
    summaries = [
        {
            "EndpointName": endpoint.name,
            "EndpointArn": endpoint.arn,
            "CreationTime": endpoint.created_at,
            "LastModifiedTime": endpoint.modified_at,
            "EndpointStatus": endpoint.status,
        }
        for endpoint in listed
    ]
    return {"Endpoints": summaries} | _next(token)


async def update_endpoint(params: Params, call: Call) -> Result:
    """Deploy another configuration beside the live one, then drain the live one.

    Every DeploymentConfig is done as blue/green, all at once: canaries and steps shift pushed traffic, and
    instances here pull. Raises ServiceError unless the endpoint is InService. Source: UpdateEndpoint.
    """
    excluded = {
        property_["VariantPropertyType"] for property_ in params.get("ExcludeRetainedVariantProperties", ())
    }

    def update(connection: Connection) -> Endpoint:
        endpoint = _endpoint(connection, call, params["EndpointName"])
        updating = endpoints.update_endpoint(
            connection,
            endpoint,
            _config(connection, call, params["EndpointConfigName"]),
            region=call.region,
            retain_variant_properties=params.get("RetainAllVariantProperties", False),
            excluded_properties=excluded,
            at=call.now,
        )
        assert updating.target is not None
        _test_notifications(connection, updating, updating.target, call)
        return updating

    endpoint = await call.parts.database.write(update)
    _wake(call)
    return {"EndpointArn": endpoint.arn}


async def update_endpoint_weights_and_capacities(params: Params, call: Call) -> Result:
    """Change how many instances variants have, and their weights.

    Raises ServiceError unless the endpoint is InService, for a variant it does not have, and for a count
    of 0 unless it is asynchronous. Source: UpdateEndpointWeightsAndCapacities.
    """
    wanted = params["DesiredWeightsAndCapacities"]
    counts = {
        each["VariantName"]: each["DesiredInstanceCount"] for each in wanted if "DesiredInstanceCount" in each
    }
    weights = {each["VariantName"]: each["DesiredWeight"] for each in wanted if "DesiredWeight" in each}

    def rescale(connection: Connection) -> Endpoint:
        endpoint = _endpoint(connection, call, params["EndpointName"])
        for each in wanted:
            if endpoint.live.variant(each["VariantName"]) is None:
                raise ServiceError(
                    f'Variant "{each["VariantName"]}" is not a variant of endpoint "{endpoint.arn}".'
                )
        if any(count > MAX_INSTANCE_COUNT for count in counts.values()):
            raise ServiceError(f"DesiredInstanceCount must be at most {MAX_INSTANCE_COUNT}.")
        if endpoint.async_config is None and 0 in counts.values():
            raise ServiceError("DesiredInstanceCount must be at least 1 without AsyncInferenceConfig.")
        if endpoint.status == UPDATING:
            # Only the scaler may change its mind while the fleet is at work.
            raise endpoints.EndpointBusy(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        endpoints.rescale(connection, endpoint, counts, weights, call.now)
        return endpoint

    endpoint = await call.parts.database.write(rescale)
    _wake(call)
    return {"EndpointArn": endpoint.arn}


async def delete_endpoint(params: Params, call: Call) -> Result:
    """Drain the endpoint's instances, then forget it, with what is queued. Its configuration, model, objects
    and scalable targets stay. Source: DeleteEndpoint.
    """
    await call.parts.database.write(
        lambda connection: endpoints.begin_delete(
            connection, _endpoint(connection, call, params["EndpointName"]), call.now
        )
    )
    _wake(call)
    return {}


async def add_tags(params: Params, call: Call) -> Result:
    """Set tags of a model, configuration or endpoint; all its tags. An endpoint's may choose its goals.

    Raises ServiceError for one that is to choose a goal and cannot. Source: AddTags.
    """
    resource = params["ResourceArn"]

    def add(connection: Connection) -> list[dict[str, str]]:
        _check_taggable(connection, call, resource)
        _tag(connection, call, resource, params["Tags"])
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


def _given(params: Params) -> dict[str, Any]:
    """What is kept of a create operation, to be echoed: clients refuse to read empty members back."""
    return {name: value for name, value in params.items() if name != "Tags" and value not in ({}, [])}


def _arn(call: Call, kind: str, name: str) -> str:
    return arn("sagemaker", call.region, call.account, f"{kind}/{name}")


def _model(connection: Connection, call: Call, name: str) -> Model:
    return catalogue.get_model(connection, call.account, name, arn=_arn(call, "model", name))


def _config(connection: Connection, call: Call, name: str) -> EndpointConfig:
    return catalogue.get_endpoint_config(
        connection, call.account, name, arn=_arn(call, "endpoint-config", name)
    )


def _endpoint(connection: Connection, call: Call, name: str) -> Endpoint:
    try:
        return endpoints.get_endpoint(connection, call.account, name)
    except EndpointNotFound as missing:
        raise ServiceError(f'Could not find endpoint "{_arn(call, "endpoint", name)}".') from missing


def _tag(connection: Connection, call: Call, resource: str, tags: Iterable[Mapping[str, str]]) -> None:
    catalogue.add_tags(connection, resource, tags)
    kind, _, name = resource.rpartition(":")[2].partition("/")
    if kind == "endpoint":
        endpoint = _endpoint(connection, call, name)
        endpoint_goals.check_tags(connection, endpoint, price_per_s=call.parts.scaler.price_per_s)


def _check_taggable(connection: Connection, call: Call, resource: str) -> None:
    if resource.split(":")[4:5] != [call.account] or not catalogue.resource_exists(connection, resource):
        raise ServiceError(f'Could not find resource "{resource}".')


def _test_notifications(connection: Connection, endpoint: Endpoint, built: Deployment, call: Call) -> None:
    """Tell the topics of a new deployment, and fail the deployment when one is missing.

    Source: reference sagemaker-hosting.md, 5 (CreateEndpoint, UpdateEndpoint).
    """
    config = built.async_config
    try:
        for topic in sorted(config.topics) if config else ():
            topics.publish(connection, topic, TEST_NOTIFICATION, at=call.now)
    except topics.TopicNotFound:
        reason = (
            f"Could not publish to the SNS topic {topic}: it does not exist, or the execution role lacks "
            "sns:Publish on it."
        )
        endpoints.fail(connection, endpoint.id, built.generation, reason, call.now)


def _wake(call: Call) -> None:
    call.parts.fleet.wake()
    call.parts.scaler.wake()
    call.parts.deliveries.wake()


def _pending_causes(connection: Connection, endpoint_id: str) -> dict[tuple[int, str], str]:
    """What the instances that cannot start yet wait for, by generation and variant name."""
    return {
        (instance.generation, instance.variant): instance.cause
        for instance in instances.active(connection)
        if instance.endpoint_id == endpoint_id and instance.state == instances.State.PENDING
    }


def _variant_summary(
    endpoint: Endpoint, deployment: Deployment, variant: Variant, pending: Mapping[tuple[int, str], str]
) -> dict[str, Any]:
    """pending: what instances wait for, by generation and variant name."""
    summary: dict[str, Any] = {
        "VariantName": variant.name,
        "DesiredInstanceCount": variant.desired_instance_count,
        "DesiredWeight": variant.desired_weight,
        "CurrentWeight": variant.current_weight,
    }
    if "ManagedInstanceScaling" in variant.config:
        summary["ManagedInstanceScaling"] = variant.config["ManagedInstanceScaling"]
    cause = pending.get((deployment.generation, variant.name))
    if cause or endpoint.status in (CREATING, UPDATING):
        creating = deployment is endpoint.target or endpoint.status == CREATING
        status: dict[str, Any] = {
            "Status": CREATING if creating else UPDATING,
            "StartTime": endpoint.modified_at,
        }
        if cause:
            status["StatusMessage"] = cause[:MAX_STATUS_MESSAGE_LENGTH]
        summary["VariantStatus"] = [status]
    return summary


def _deployed_image(deployment: Deployment, variant: Variant) -> dict[str, Any]:
    image = variant.container["Image"]
    return {"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": deployment.started_at}


def _list(records: Iterable[Any], params: Params) -> tuple[list[Any], str | None]:
    """The page of models, configurations or endpoints that a List operation asks for.

    Source: reference sagemaker-hosting.md, 3.
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


def _next(token: str | None) -> dict[str, Any]:
    return {} if token is None else {"NextToken": token}
