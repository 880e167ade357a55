"""Scalable targets: registered, described, tagged and forgotten."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.api.application_autoscaling.requests import (
    PAGE_SIZE,
    check_capacities,
    check_namespace,
    limit_of,
    named,
    resource_of,
)
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import next_page, page
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn, time_ordered_id
from ebbtide.metrics import alarms
from ebbtide.scaling import configurations, targets
from ebbtide.scaling.targets import ScalableTarget

MAX_TAGS = 50

SERVICE_LINKED_ROLE = (
    "arn:aws:iam::{account}:role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/"
    "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
)


async def register_scalable_target(params: Params, call: Call) -> Result:
    """Let a variant scale between two counts, or change them; it is moved between them at once.

    Raises ServiceError when the variant does not exist, or the limits contradict each other or its kind:
    only an asynchronous endpoint may go to zero. Source: RegisterScalableTarget.
    """
    resource = resource_of(params)

    def register(connection: Connection) -> ScalableTarget:
        known = targets.find_target(connection, call.account, params["ResourceId"])
        minimum, maximum = _capacities(params, known)
        endpoint = _scalable_endpoint(connection, call, resource)
        if minimum == 0 and endpoint.async_config is None:
            raise ServiceError("MinCapacity must be at least 1 for an endpoint without AsyncInferenceConfig.")
        if known is None:
            target = _new_target(params, call, resource, minimum, maximum)
            targets.add_target(connection, target)
        else:
            target = replace(
                known,
                min_capacity=minimum,
                max_capacity=maximum,
                suspended=dict(known.suspended) | params.get("SuspendedState", {}),
            )
            targets.change_target(connection, target)
        return target

    target = await call.parts.database.write(register)
    call.parts.scaler.wake()
    return {"ScalableTargetARN": target.arn}


async def describe_scalable_targets(params: Params, call: Call) -> Result:
    """Source: DescribeScalableTargets."""
    check_namespace(params)
    wanted = params.get("ResourceIds")
    known = await call.parts.database.read(targets.all_targets)
    listed, token = page(
        (
            target
            for target in known
            if target.account == call.account
            and (not wanted or target.resource_id in wanted)
            and params.get("ScalableDimension") in (None, configurations.DIMENSION)
        ),
        lambda target: (target.resource_id,),
        limit=limit_of(params, PAGE_SIZE),
        token=params.get("NextToken"),
        error_code="InvalidNextTokenException",
    )
    return {"ScalableTargets": [_describe_target(target) for target in listed]} | next_page(token)


async def deregister_scalable_target(params: Params, call: Call) -> Result:
    """Forget a target, its policies with their alarms, and its scheduled actions; the variant keeps the count
    it has.

    Raises ObjectNotFound. Source: DeregisterScalableTarget.
    """
    resource_of(params)

    def deregister(connection: Connection) -> None:
        target = targets.get_target(connection, call.account, params["ResourceId"])
        for policy in targets.policies_of(connection, target):
            alarms.delete_of_policy(connection, policy.arn, now=call.now)
        targets.remove_target(connection, target)

    await call.parts.database.write(deregister)
    return {}


async def tag_resource(params: Params, call: Call) -> Result:
    """Source: TagResource."""

    def tag(connection: Connection) -> None:
        target = _tagged(connection, call, params["ResourceARN"])
        tags = dict(target.tags) | params["Tags"]
        if len(tags) > MAX_TAGS:
            raise ServiceError(f"At most {MAX_TAGS} tags are allowed.", code="TooManyTagsException")
        targets.change_target(connection, replace(target, tags=tags))

    await call.parts.database.write(tag)
    return {}


async def untag_resource(params: Params, call: Call) -> Result:
    """Source: UntagResource."""

    def untag(connection: Connection) -> None:
        target = _tagged(connection, call, params["ResourceARN"])
        tags = {key: value for key, value in target.tags.items() if key not in params["TagKeys"]}
        targets.change_target(connection, replace(target, tags=tags))

    await call.parts.database.write(untag)
    return {}


async def list_tags_for_resource(params: Params, call: Call) -> Result:
    """Source: ListTagsForResource."""
    target = await call.parts.database.read(
        lambda connection: _tagged(connection, call, params["ResourceARN"])
    )
    return {"Tags": dict(target.tags)}


def _capacities(params: Params, known: ScalableTarget | None) -> tuple[int, int]:
    minimum = params.get("MinCapacity", known.min_capacity if known else None)
    maximum = params.get("MaxCapacity", known.max_capacity if known else None)
    if minimum is None or maximum is None:
        raise ServiceError("MinCapacity and MaxCapacity must be given to register a new scalable target.")
    check_capacities(minimum, maximum)
    return minimum, maximum


def _scalable_endpoint(
    connection: Connection, call: Call, resource: configurations.Resource
) -> endpoints.Endpoint:
    try:
        endpoint = endpoints.get_endpoint(connection, call.account, resource.endpoint)
    except endpoints.EndpointNotFound as missing:
        named = arn("sagemaker", call.region, call.account, f"endpoint/{resource.endpoint}")
        raise ServiceError(f'Could not find endpoint "{named}".') from missing
    if endpoint.live.variant(resource.variant) is None:
        raise ServiceError(f'Endpoint "{endpoint.arn}" has no variant "{resource.variant}".')
    return endpoint


def _new_target(
    params: Params, call: Call, resource: configurations.Resource, minimum: int, maximum: int
) -> ScalableTarget:
    id_ = time_ordered_id(call.now)
    return ScalableTarget(
        id=id_,
        account=call.account,
        resource_id=params["ResourceId"],
        arn=arn("application-autoscaling", call.region, call.account, f"scalable-target/{id_}"),
        endpoint_name=resource.endpoint,
        variant=resource.variant,
        min_capacity=minimum,
        max_capacity=maximum,
        role_arn=SERVICE_LINKED_ROLE.format(account=call.account),
        suspended=params.get("SuspendedState", {}),
        tags=params.get("Tags", {}),
        created_at=call.now,
    )


def _tagged(connection: Connection, call: Call, target_arn: str) -> ScalableTarget:
    target = targets.find_target_of_arn(connection, target_arn)
    if target is None or target.account != call.account:
        raise ServiceError(f"No scalable target found: {target_arn}", code="ResourceNotFoundException")
    return target


def _describe_target(target: ScalableTarget) -> dict[str, Any]:
    suspensions = (
        "DynamicScalingInSuspended",
        "DynamicScalingOutSuspended",
        "ScheduledScalingSuspended",
    )
    return named(target.resource_id) | {
        "MinCapacity": target.min_capacity,
        "MaxCapacity": target.max_capacity,
        "RoleARN": target.role_arn,
        "CreationTime": target.created_at,
        "SuspendedState": {name: target.suspended.get(name, False) for name in suspensions},
        "ScalableTargetARN": target.arn,
    }
