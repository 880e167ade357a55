"""Application Auto Scaling, 2016-02-06, of endpoint variants' instance counts: scalable targets, their
policies, scheduled actions and activities. Nothing is scaled here; the scaler is woken after each change.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import next_page, page
from ebbtide.api.scaling_requests import (
    PAGE_SIZE,
    check_capacities,
    check_listing,
    check_namespace,
    limit_of,
    named,
    resource_of,
)
from ebbtide.api.scheduled_actions import (
    delete_scheduled_action,
    describe_scheduled_actions,
    put_scheduled_action,
)
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn, time_of_id, time_ordered_id
from ebbtide.metrics import alarms
from ebbtide.scaling import activities, configurations, targets
from ebbtide.scaling.activities import Activity
from ebbtide.scaling.targets import ObjectNotFound, Policy, ScalableTarget

__all__ = [
    "delete_scaling_policy",
    "delete_scheduled_action",
    "deregister_scalable_target",
    "describe_scalable_targets",
    "describe_scaling_activities",
    "describe_scaling_policies",
    "describe_scheduled_actions",
    "get_predictive_scaling_forecast",
    "list_tags_for_resource",
    "put_scaling_policy",
    "put_scheduled_action",
    "register_scalable_target",
    "tag_resource",
    "untag_resource",
]

NO_PREDICTIVE_SCALING = (
    "The policy type PredictiveScaling is supported for the service namespace ecs only. An endpoint can "
    "have a forecast of our own: PUT /_ebbtide/endpoints/NAME/goals, or the tag ebbtide:forecast-weeks."
)
"""Source: PutScalingPolicy, PolicyType."""

POLICIES_PAGE_SIZE = 10
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


async def put_scaling_policy(params: Params, call: Call) -> Result:
    """Give a target a policy, or replace the one of that name, which keeps its ARN.

    Raises ObjectNotFound without a target; ServiceError for a configuration that is not its type's, or
    not supported. Source: PutScalingPolicy.
    """
    resource = resource_of(params)
    name = params["PolicyName"]

    def put(connection: Connection) -> tuple[Policy, list[str]]:
        target = targets.get_target(connection, call.account, params["ResourceId"])
        known = {policy.name: policy for policy in targets.policies_of(connection, target)}.get(name)
        type_, configuration = _configuration(params, known)
        policy = Policy(
            arn=known.arn if known else _policy_arn(call, params["ResourceId"], name),
            target_id=target.id,
            name=name,
            type=type_,
            configuration=configuration,
            created_at=known.created_at if known else call.now,
            put_at=call.now,
        )
        targets.put_policy(connection, policy)
        return policy, _put_alarms(connection, call, policy, resource)

    policy, named = await call.parts.database.write(put)
    call.parts.scaler.wake()
    return {"PolicyARN": policy.arn, "Alarms": _alarms(policy, named)}


async def describe_scaling_policies(params: Params, call: Call) -> Result:
    """Source: DescribeScalingPolicies."""
    check_listing(params)
    names, resource_id = params.get("PolicyNames"), params.get("ResourceId")

    def read(connection: Connection) -> list[tuple[ScalableTarget, Policy, list[str]]]:
        by_target = targets.all_policies(connection)
        by_policy = _alarms_by_policy(connection, call.account)
        return [
            (target, policy, by_policy.get(policy.arn, []))
            for target in targets.all_targets(connection)
            for policy in by_target.get(target.id, ())
            if target.account == call.account
            and resource_id in (None, target.resource_id)
            and (not names or policy.name in names or policy.arn in names)
        ]

    listed, token = page(
        await call.parts.database.read(read),
        lambda put: (put[0].resource_id, put[1].name),
        limit=limit_of(params, POLICIES_PAGE_SIZE),
        token=params.get("NextToken"),
        error_code="InvalidNextTokenException",
    )
    return {"ScalingPolicies": [_describe_policy(*each) for each in listed]} | next_page(token)


async def delete_scaling_policy(params: Params, call: Call) -> Result:
    """Forget a policy, and the alarms that were made for it.

    Raises ObjectNotFound. Source: DeleteScalingPolicy.
    """
    resource_of(params)

    def delete(connection: Connection) -> None:
        target = targets.get_target(connection, call.account, params["ResourceId"])
        for policy in targets.policies_of(connection, target):
            if policy.name == params["PolicyName"]:
                alarms.delete_of_policy(connection, policy.arn, now=call.now)
                return targets.remove_policy(connection, policy)
        raise ObjectNotFound(f"No scaling policy found for policy name: {params['PolicyName']}")

    await call.parts.database.write(delete)
    return {}


async def get_predictive_scaling_forecast(params: Params, _call: Call) -> Result:
    """Of no endpoint: raises ServiceError, as AWS has predictive scaling for another service alone.

    Source: GetPredictiveScalingForecast.
    """
    resource_of(params)
    raise ServiceError(NO_PREDICTIVE_SCALING)


async def describe_scaling_activities(params: Params, call: Call) -> Result:
    """What was scaled in the last six weeks and why, newest first; if asked, also what could not be.

    Source: DescribeScalingActivities.
    """
    check_listing(params)
    limit, before_id = limit_of(params, PAGE_SIZE), params.get("NextToken")
    if before_id is not None:
        try:
            time_of_id(before_id)
        except ValueError as error:
            raise ServiceError(
                "The pagination token is not one that a list operation returned.",
                code="InvalidNextTokenException",
            ) from error
    listed = await call.parts.database.read(
        lambda connection: activities.listed(
            connection,
            call.account,
            params.get("ResourceId"),
            limit=limit + 1,
            before_id=before_id,
            with_not_scaled=params.get("IncludeNotScaledActivities", False),
        )
    )
    token = listed[limit - 1].id if len(listed) > limit else None
    return {"ScalingActivities": [_describe_activity(activity) for activity in listed[:limit]]} | next_page(
        token
    )


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


def _configuration(params: Params, known: Policy | None) -> tuple[str, Mapping[str, Any]]:
    """The policy's type and its checked configuration. Source: PutScalingPolicy."""
    type_ = params.get("PolicyType", known.type if known else "StepScaling")
    if type_ == "PredictiveScaling":
        raise ServiceError(NO_PREDICTIVE_SCALING)
    member = f"{type_}PolicyConfiguration"
    given = {name for name in params if name.endswith("PolicyConfiguration")}
    if given != {member}:
        raise ServiceError(f"A policy of type {type_} must have {member}, and no other configuration.")
    configuration: Mapping[str, Any] = params[member]
    if type_ == "TargetTrackingScaling":
        configurations.check_target_tracking(configuration)
    else:
        configurations.check_step_scaling(configuration)
    return type_, configuration


def _policy_arn(call: Call, resource_id: str, name: str) -> str:
    resource = f"resource/sagemaker/{resource_id}:policyName/{name}"
    return arn(
        "autoscaling", call.region, call.account, f"scalingPolicy:{time_ordered_id(call.now)}:{resource}"
    )


def _put_alarms(
    connection: Connection, call: Call, policy: Policy, resource: configurations.Resource
) -> list[str]:
    """Make the alarms that AWS makes for the policy, in the place of those it had; their names."""
    definitions = []
    if policy.type == "TargetTrackingScaling":
        asynchronous = True
        with suppress(endpoints.EndpointNotFound):  # a target outlives its endpoint
            endpoint = endpoints.get_endpoint(connection, call.account, resource.endpoint)
            asynchronous = endpoint.async_config is not None
        definitions = configurations.alarm_definitions(
            policy.arn, policy.configuration, resource, asynchronous=asynchronous
        )
    names = [definition["AlarmName"] for definition in definitions]
    alarms.delete_of_policy(connection, policy.arn, now=call.now, except_=names)
    for definition in definitions:
        alarms.put(
            connection,
            definition,
            account=call.account,
            region=call.region,
            now=call.now,
            policy_arn=policy.arn,
        )
    return names


def _alarms_by_policy(connection: Connection, account: str) -> dict[str, list[str]]:
    """The names of the alarms that belong to policies or set them off, by the policy's ARN."""
    by_policy: dict[str, list[str]] = {}
    for alarm in alarms.find(connection, account):
        for action in alarm.definition.get("AlarmActions", ()):
            by_policy.setdefault(configurations.policy_of_action(action), []).append(alarm.name)
    return by_policy


def _alarms(policy: Policy, names: Sequence[str]) -> list[dict[str, str]]:
    _, _, _, region, account, *_ = policy.arn.split(":")
    return [
        {"AlarmName": name, "AlarmARN": arn("cloudwatch", region, account, f"alarm:{name}")} for name in names
    ]


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


def _describe_policy(target: ScalableTarget, policy: Policy, alarm_names: Sequence[str]) -> dict[str, Any]:
    return named(target.resource_id) | {
        "PolicyARN": policy.arn,
        "PolicyName": policy.name,
        "PolicyType": policy.type,
        f"{policy.type}PolicyConfiguration": policy.configuration,
        "Alarms": _alarms(policy, alarm_names),
        "CreationTime": policy.created_at,
    }


def _describe_activity(activity: Activity) -> dict[str, Any]:
    described = named(activity.resource_id) | {
        "ActivityId": activity.id,
        "Description": activity.description or f"Setting desired instance count to {activity.desired}.",
        "Cause": activity.cause,
        "StartTime": activity.started_at,
        "StatusCode": activity.status,
        "StatusMessage": activity.message,
    }
    if activity.ended_at is not None:
        described["EndTime"] = activity.ended_at
    if activity.not_scaled is not None:
        described["NotScaledReasons"] = list(activity.not_scaled)
    return described
