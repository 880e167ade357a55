"""Endpoints: created, described, updated and deleted. What carries it out is the fleet."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import next_page
from ebbtide.api.sagemaker.resources import get_config, get_endpoint, listed
from ebbtide.api.sagemaker.tags import set_tags
from ebbtide.endpoints import Deployment, Endpoint, Variant
from ebbtide.endpoints.deployments import MAX_INSTANCE_COUNT
from ebbtide.endpoints.states import CREATING, UPDATING
from ebbtide.errors import ServiceError
from ebbtide.instances import records as instances
from ebbtide.notifications import topics

MAX_STATUS_MESSAGE_LENGTH = 1024
"""Characters. Source: VariantStatusMessage."""

TEST_NOTIFICATION = json.dumps(
    {"eventVersion": "1.0", "eventSource": "aws:sagemaker", "eventName": "TestNotification"}
)


async def create_endpoint(params: Params, call: Call) -> Result:
    """Deploy a configuration; answers at once, with the endpoint Creating.

    A test notification goes to each of its topics; a topic that is missing fails the endpoint, which says
    so. Raises ServiceError when the name is taken, or the configuration or one of its models is missing.
    Source: CreateEndpoint.
    """

    def create(connection: Connection) -> Endpoint:
        config = get_config(connection, call, params["EndpointConfigName"])
        endpoint = endpoints.create_endpoint(
            connection, config, params["EndpointName"], region=call.region, at=call.now
        )
        set_tags(connection, call, endpoint.arn, params.get("Tags", ()))
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
        endpoint = get_endpoint(connection, call, params["EndpointName"])
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

    page, token = listed(await call.parts.database.read(read), params)
    summaries = [
        {
            "EndpointName": endpoint.name,
            "EndpointArn": endpoint.arn,
            "CreationTime": endpoint.created_at,
            "LastModifiedTime": endpoint.modified_at,
            "EndpointStatus": endpoint.status,
        }
        for endpoint in page
    ]
    return {"Endpoints": summaries} | next_page(token)


async def update_endpoint(params: Params, call: Call) -> Result:
    """Deploy another configuration beside the live one, then drain the live one.

    Every DeploymentConfig is done as blue/green, all at once: canaries and steps shift pushed traffic, and
    instances here pull. Raises ServiceError unless the endpoint is InService. Source: UpdateEndpoint.
    """
    excluded = {
        property_["VariantPropertyType"] for property_ in params.get("ExcludeRetainedVariantProperties", ())
    }

    def update(connection: Connection) -> Endpoint:
        endpoint = get_endpoint(connection, call, params["EndpointName"])
        updating = endpoints.update_endpoint(
            connection,
            endpoint,
            get_config(connection, call, params["EndpointConfigName"]),
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

    Raises ServiceError unless the endpoint is InService, for a variant that it does not have or that is
    named twice, and for a count of 0 unless it is asynchronous. Source: UpdateEndpointWeightsAndCapacities.
    """
    wanted = params["DesiredWeightsAndCapacities"]
    names = [each["VariantName"] for each in wanted]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ServiceError(f'The variant name "{twice[0]}" was non-unique within the request.')
    counts = {
        each["VariantName"]: each["DesiredInstanceCount"] for each in wanted if "DesiredInstanceCount" in each
    }
    weights = {each["VariantName"]: each["DesiredWeight"] for each in wanted if "DesiredWeight" in each}

    def rescale(connection: Connection) -> Endpoint:
        endpoint = get_endpoint(connection, call, params["EndpointName"])
        for name in names:
            if endpoint.live.variant(name) is None:
                raise ServiceError(f'Variant "{name}" is not a variant of endpoint "{endpoint.arn}".')
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
            connection, get_endpoint(connection, call, params["EndpointName"]), call.now
        )
    )
    _wake(call)
    return {}


def _test_notifications(connection: Connection, endpoint: Endpoint, built: Deployment, call: Call) -> None:
    """Tell the topics of a new deployment, and fail the deployment when one is missing, as AWS does."""
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
