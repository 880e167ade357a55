"""Scaling policies: put, with the alarms that AWS makes for them, described and deleted."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.api.application_autoscaling.requests import check_listing, limit_of, named, resource_of
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import next_page, page
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn, time_ordered_id
from ebbtide.metrics import alarms
from ebbtide.scaling import configurations, targets
from ebbtide.scaling.targets import ObjectNotFound, Policy, ScalableTarget

NO_PREDICTIVE_SCALING = (
    "The policy type PredictiveScaling is supported for the service namespace ecs only. An endpoint can "
    "have a forecast of our own: PUT /_ebbtide/endpoints/NAME/goals, or the tag ebbtide:forecast-weeks."
)
"""Source: PutScalingPolicy, PolicyType."""

POLICIES_PAGE_SIZE = 10


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


def _describe_policy(target: ScalableTarget, policy: Policy, alarm_names: Sequence[str]) -> dict[str, Any]:
    return named(target.resource_id) | {
        "PolicyARN": policy.arn,
        "PolicyName": policy.name,
        "PolicyType": policy.type,
        f"{policy.type}PolicyConfiguration": policy.configuration,
        "Alarms": _alarms(policy, alarm_names),
        "CreationTime": policy.created_at,
    }
