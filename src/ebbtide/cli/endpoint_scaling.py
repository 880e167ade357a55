"""What scales an endpoint now, asked over its server's APIs, as a simulation takes it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from ebbtide.cli.errors import CommandError
from ebbtide.metrics.alarm_states import Alarm
from ebbtide.metrics.evaluation import INSUFFICIENT_DATA
from ebbtide.scaling import configurations
from ebbtide.scaling.configurations import Resource
from ebbtide.scaling.goals import Goals
from ebbtide.scaling.policies import Limits, TargetTracking
from ebbtide.scaling.schedules import parse
from ebbtide.scaling.targets import Policy
from ebbtide.simulation import watch
from ebbtide.simulation.setting import Scaling, Scheduled

if TYPE_CHECKING:
    from ebbtide.cli.running import RunningServer


def own_scaling(server: "RunningServer", endpoint: str) -> Scaling:
    """The endpoint's policies, alarms, scheduled actions and goals. Raises CommandError where one of them
    follows a metric that a simulation cannot tell.
    """
    variants = server.client("sagemaker").describe_endpoint(EndpointName=endpoint)["ProductionVariants"]
    if len(variants) != 1:
        raise CommandError(f"{endpoint} has {len(variants)} variants; one can be simulated")
    resource = Resource(endpoint, variants[0]["VariantName"])
    resource_id = f"endpoint/{endpoint}/variant/{resource.variant}"
    autoscaling = server.client("application-autoscaling")
    [target, *_] = autoscaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[resource_id]
    )["ScalableTargets"] or [None]
    goals = Goals.from_given(server.own().goals(endpoint))
    if target is None:
        return _without_target(server, resource, variants[0], goals)
    suspended = target["SuspendedState"]
    policies = list(_all(autoscaling, "describe_scaling_policies", "ScalingPolicies", resource_id))
    tracking, stored = _tracking(policies, resource)
    actions = _all(autoscaling, "describe_scheduled_actions", "ScheduledActions", resource_id)
    stepping = tuple(_step_policy(each) for each in policies if each["PolicyType"] == "StepScaling")
    return Scaling(
        f"{endpoint} as it is",
        Limits(
            target["MinCapacity"],
            target["MaxCapacity"],
            scale_in_suspended=suspended["DynamicScalingInSuspended"],
            scale_out_suspended=suspended["DynamicScalingOutSuspended"],
        ),
        tracking,
        goals,
        () if suspended["ScheduledScalingSuspended"] else tuple(map(_scheduled, actions)),
        stored,
        stepping,
        tuple(_alarms(server, stepping, resource)),
        resource,
    )


def _without_target(
    server: "RunningServer", resource: Resource, variant: Mapping[str, Any], goals: Goals
) -> Scaling:
    """As its own configuration says, else as many instances as there are.

    variant: as DescribeEndpoint tells it, which leaves out what count it was given.
    """
    given = _configured_variant(server, resource.endpoint)
    if given is None and "ManagedInstanceScaling" in variant:
        given = variant
    asked = None
    if given is not None:
        slots = slots_of(server, resource.endpoint)
        asked = configurations.managed(given, asynchronous=True, slots=slots)
    if asked is None:
        count = variant["DesiredInstanceCount"]
        return Scaling(f"{resource.endpoint}: {count} always on", Limits(count, count))
    policy = configurations.target_tracking(asked.name, asked.policy, since=0.0)
    limits = Limits(asked.min_capacity, asked.max_capacity)
    return Scaling(f"{resource.endpoint} as it is", limits, (policy,), goals)


Stored = tuple[TargetTracking, Sequence[Mapping[str, Any]]]


def _tracking(
    policies: Sequence[Mapping[str, Any]], resource: Resource
) -> tuple[tuple[TargetTracking, ...], tuple[Stored, ...]]:
    """The target-tracking policies: those on the backlog, and the others with what they follow."""
    live, stored = [], []
    for each in policies:
        if each["PolicyType"] != "TargetTrackingScaling":
            continue
        configuration = each["TargetTrackingScalingPolicyConfiguration"]
        policy = configurations.target_tracking(each["PolicyName"], configuration, since=-math.inf)
        if configurations.follows_backlog(configuration, resource, asynchronous=True):
            live.append(policy)
        else:
            queries = configurations.queries(configuration, resource, asynchronous=True)
            _check(f"The policy {policy.name}", queries, resource)
            stored.append((policy, queries))
    return tuple(live), tuple(stored)


def _check(whose: str, queries: Sequence[Mapping[str, Any]], resource: Resource) -> None:
    try:
        watch.check(whose, queries, resource)
    except watch.NotSimulated as error:
        raise CommandError(
            f"{error}: leave --endpoint out, and give the arrivals as a file and the policies in short"
        ) from error


def _step_policy(given: Mapping[str, Any]) -> Policy:
    return Policy(
        arn=given["PolicyARN"],
        target_id="",
        name=given["PolicyName"],
        type=given["PolicyType"],
        configuration=given["StepScalingPolicyConfiguration"],
        created_at=given["CreationTime"].timestamp(),
        put_at=given["CreationTime"].timestamp(),
    )


def _alarms(server: "RunningServer", stepping: Sequence[Policy], resource: Resource) -> Iterator[Alarm]:
    """The alarms that set off the step policies in any of their states, as if new."""
    if not stepping:
        return
    arns = {policy.arn for policy in stepping}
    pages = server.client("cloudwatch").get_paginator("describe_alarms").paginate(AlarmTypes=["MetricAlarm"])
    for given in (each for page in pages for each in page["MetricAlarms"]):
        actions = (*given["OKActions"], *given["AlarmActions"], *given["InsufficientDataActions"])
        if arns.isdisjoint(map(configurations.policy_of_action, actions)):
            continue
        configured_at = given["AlarmConfigurationUpdatedTimestamp"].timestamp()
        alarm = Alarm(
            account="",
            name=given["AlarmName"],
            arn=given["AlarmArn"],
            region="",
            definition=given,
            actions_enabled=given["ActionsEnabled"],
            configured_at=configured_at,
            state=INSUFFICIENT_DATA,
            previous_state=INSUFFICIENT_DATA,
            reason="",
            reason_data=None,
            state_updated_at=0.0,
            transitioned_at=0.0,
            actions_due_at=None,
        )
        _check(f"The alarm {alarm.name}", alarm.queries, resource)
        yield alarm


def _all(client: Any, operation: str, member: str, resource_id: str) -> Iterator[dict[str, Any]]:
    """Everything of a resource that a Describe operation tells, page after page."""
    pages = client.get_paginator(operation).paginate(ServiceNamespace="sagemaker", ResourceId=resource_id)
    for page in pages:
        yield from page[member]


def _scheduled(given: Mapping[str, Any]) -> Scheduled:
    limits = given.get("ScalableTargetAction", {})
    return Scheduled(
        parse(given["Schedule"], given.get("Timezone")),
        limits.get("MinCapacity"),
        limits.get("MaxCapacity"),
        _moment(given.get("StartTime")),
        _moment(given.get("EndTime")),
    )


def _moment(given: datetime | None) -> float | None:
    return None if given is None else given.timestamp()


def slots_of(server: "RunningServer", endpoint: str) -> int:
    """Invocations at a time on an instance: as asked for, else as the endpoint's instances last found."""
    given = server.client("sagemaker").describe_endpoint(EndpointName=endpoint)
    asked: int | None = (
        given.get("AsyncInferenceConfig", {})
        .get("ClientConfig", {})
        .get("MaxConcurrentInvocationsPerInstance")
    )
    found = [one["limit"] for one in server.own().concurrency(endpoint) if one["limit"] is not None]
    return asked or (found[-1] if found else 1)


def instance_type_of(server: "RunningServer", endpoint: str) -> str:
    """As its configuration has it. Raises CommandError where that was deleted."""
    variant = _configured_variant(server, endpoint)
    if variant is None:
        raise CommandError(f"The configuration of {endpoint} was deleted. Give --instance-type")
    return str(variant["InstanceType"])


def _configured_variant(server: "RunningServer", endpoint: str) -> Mapping[str, Any] | None:
    """The endpoint's variant as it was configured; None where that was deleted: endpoints outlive theirs."""
    sagemaker = server.client("sagemaker")
    name = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    try:
        config = sagemaker.describe_endpoint_config(EndpointConfigName=name)
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":  # AWS's code for "not found"
            raise
        return None
    variant: Mapping[str, Any] = config["ProductionVariants"][0]
    return variant
