"""Policies and resources as clients write them: checked, and read into the values that decide. No I/O."""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ebbtide.errors import ServiceError
from ebbtide.metrics import data
from ebbtide.scaling.policies import (
    HIGH_PERIODS,
    LOW_FRACTION,
    LOW_PERIODS,
    StepAdjustment,
    StepScaling,
    TargetTracking,
)

DIMENSION = "sagemaker:variant:DesiredInstanceCount"
"""The one scalable dimension there is here."""

COOLDOWN_S = 300
"""Of a policy that gives none. Source: PutScalingPolicy, defaults for SageMaker endpoint variants."""

MAX_STEPS = 20

_RESOURCE = re.compile(r"endpoint/(?P<endpoint>[^/]+)/variant/(?P<variant>[^/]+)")

INVOCATIONS_PER_INSTANCE = "SageMakerVariantInvocationsPerInstance"
CONCURRENT_REQUESTS = "SageMakerVariantConcurrentRequestsPerModelHighResolution"
PREDEFINED = (INVOCATIONS_PER_INSTANCE, CONCURRENT_REQUESTS)
"""The predefined metric types of a variant with instances. Source: MetricType, 2016-02-06."""


@dataclass(frozen=True, slots=True)
class Resource:
    """An endpoint's variant, as ResourceId names it."""

    endpoint: str
    variant: str


def parse_resource(namespace: str, resource_id: str, dimension: str) -> Resource:
    """Raises ServiceError for anything but the instance count of an endpoint's variant."""
    match = _RESOURCE.fullmatch(resource_id)
    if namespace != "sagemaker" or dimension != DIMENSION or match is None:
        raise ServiceError(
            "Unsupported service namespace, resource type or scalable dimension: "
            f"{namespace}, {resource_id}, {dimension}. Supported: sagemaker, endpoint/NAME/variant/VARIANT, "
            f"{DIMENSION}"
        )
    return Resource(match["endpoint"], match["variant"])


PERIOD_S = 60
"""Of the metrics that policies follow. Source: the alarms AWS makes for them."""


def queries(configuration: Mapping[str, Any], resource: Resource, *, asynchronous: bool) -> list[data.Query]:
    """The metric that a target-tracking configuration follows, as metric data queries; one returns data.

    asynchronous: whether the endpoint has a queue, whose backlog is its concurrent requests.
    """
    predefined = configuration.get("PredefinedMetricSpecification")
    if predefined is not None:
        if predefined["PredefinedMetricType"] == INVOCATIONS_PER_INSTANCE:
            return [_of_variant("m1", "InvocationsPerInstance", "Sum", resource)]
        if asynchronous:
            return [_backlog_per_instance(resource)]
        # Requests in an instance at a time are those that come a second times the s that each stays.
        return [
            _of_variant("arrived", "InvocationsPerInstance", "Sum", resource) | {"ReturnData": False},
            _of_variant("latency", "ModelLatency", "Average", resource) | {"ReturnData": False},
            {"Id": "e1", "Expression": f"arrived / {PERIOD_S} * latency / 1000000", "Period": PERIOD_S},
        ]
    given = configuration["CustomizedMetricSpecification"]
    if "Metrics" in given:
        return [
            query | {"MetricStat": query["MetricStat"] | {"Period": PERIOD_S}}
            if "MetricStat" in query
            else query | {"Period": PERIOD_S}
            for query in given["Metrics"]
        ]
    metric = {name: given[name] for name in ("Namespace", "MetricName")}
    stat = {
        "Metric": metric | {"Dimensions": given.get("Dimensions", [])},
        "Stat": given["Statistic"],
        "Period": PERIOD_S,
    }
    if "Unit" in given:
        stat["Unit"] = given["Unit"]
    return [{"Id": "m1", "MetricStat": stat}]


def _of_variant(id_: str, name: str, stat: str, resource: Resource) -> dict[str, Any]:
    dimensions = {"EndpointName": resource.endpoint, "VariantName": resource.variant}
    return _query(id_, name, stat, dimensions)


def _backlog_per_instance(resource: Resource) -> dict[str, Any]:
    return _query("m1", "ApproximateBacklogSizePerInstance", "Average", {"EndpointName": resource.endpoint})


def _query(id_: str, name: str, stat: str, dimensions: Mapping[str, str]) -> dict[str, Any]:
    metric = {
        "Namespace": "AWS/SageMaker",
        "MetricName": name,
        "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
    }
    return {"Id": id_, "MetricStat": {"Metric": metric, "Stat": stat, "Period": PERIOD_S}}


def follows_backlog(configuration: Mapping[str, Any], resource: Resource, *, asynchronous: bool) -> bool:
    """Whether the metric is the endpoint's own backlog per instance, which the queue itself can tell."""
    predefined = configuration.get("PredefinedMetricSpecification")
    if predefined is not None:
        return asynchronous and predefined["PredefinedMetricType"] == CONCURRENT_REQUESTS
    given = configuration.get("CustomizedMetricSpecification", {})
    return (
        given.get("Namespace") == "AWS/SageMaker"
        and given.get("MetricName") == "ApproximateBacklogSizePerInstance"
        and data.dimensions(given.get("Dimensions", ())) == (("EndpointName", resource.endpoint),)
    )


def check_target_tracking(configuration: Mapping[str, Any]) -> None:
    """Refuse what AWS refuses, and what is not there. Raises ServiceError.

    Source: TargetTrackingScalingPolicyConfiguration.
    """
    if not configuration["TargetValue"] > 0:
        raise ServiceError(f"TargetValue must be greater than 0, not {configuration['TargetValue']:g}.")
    _check_cooldowns(configuration, "ScaleOutCooldown", "ScaleInCooldown")
    predefined = configuration.get("PredefinedMetricSpecification")
    customized = configuration.get("CustomizedMetricSpecification")
    if (predefined is None) == (customized is None):
        raise ServiceError(
            "Exactly one of PredefinedMetricSpecification and CustomizedMetricSpecification must be given."
        )
    if predefined is not None:
        _check_predefined(predefined)
    if customized is not None:
        _check_customized(customized)
        try:
            data.check(queries(configuration, Resource("", ""), asynchronous=True))
        except data.InvalidQuery as error:
            raise ServiceError(error.message) from error


def _check_predefined(given: Mapping[str, Any]) -> None:
    type_ = given["PredefinedMetricType"]
    if "ResourceLabel" in given:
        raise ServiceError(f"ResourceLabel cannot be given with the predefined metric type {type_}.")
    if type_ not in PREDEFINED:
        raise ServiceError(f"The predefined metric type {type_} is not supported for {DIMENSION}.")


def _check_customized(given: Mapping[str, Any]) -> None:
    simple = [name for name in ("MetricName", "Namespace", "Statistic") if name in given]
    if "Metrics" in given:
        if simple:
            raise ServiceError(f"Metrics cannot be given together with {', '.join(simple)}.")
        if sum(query.get("ReturnData", True) for query in given["Metrics"]) != 1:
            raise ServiceError("Exactly one of the Metrics must return data.")
    elif len(simple) < 3:
        raise ServiceError(
            "CustomizedMetricSpecification must have MetricName, Namespace and Statistic, or Metrics."
        )


def target_tracking(name: str, configuration: Mapping[str, Any], *, since: float) -> TargetTracking:
    """configuration: as put, or `managed`, which alone has a MaximumStepSize."""
    return TargetTracking(
        name=name,
        target_value=configuration["TargetValue"],
        scale_out_cooldown_s=configuration.get("ScaleOutCooldown", COOLDOWN_S),
        scale_in_cooldown_s=configuration.get("ScaleInCooldown", COOLDOWN_S),
        disable_scale_in=configuration.get("DisableScaleIn", False),
        since=since,
        most_at_once=configuration.get("MaximumStepSize"),
    )


def check_step_scaling(configuration: Mapping[str, Any]) -> None:
    """Steps must cover distances without gap or overlap. Raises ServiceError.

    Source: StepScalingPolicyConfiguration, StepAdjustment.
    """
    if "AdjustmentType" not in configuration:
        raise ServiceError("StepScalingPolicyConfiguration lacks AdjustmentType.")
    _check_cooldowns(configuration, "Cooldown")
    steps = step_scaling("", configuration).steps
    if not 1 <= len(steps) <= MAX_STEPS:
        raise ServiceError(f"A step scaling policy must have 1 to {MAX_STEPS} StepAdjustments.")
    _check_bounds(steps)
    if "MinAdjustmentMagnitude" in configuration and (
        configuration["AdjustmentType"] != "PercentChangeInCapacity"
    ):
        raise ServiceError("MinAdjustmentMagnitude needs the AdjustmentType PercentChangeInCapacity.")


def _check_bounds(steps: Sequence[StepAdjustment]) -> None:
    for step in steps:
        lower, upper = step.lower_bound, step.upper_bound
        if lower is not None and upper is not None and lower >= upper:
            raise ServiceError(f"A step's lower bound must be below its upper bound: {lower:g}, {upper:g}.")
    if sum(step.lower_bound is None for step in steps) > 1:
        raise ServiceError("At most one step may have no MetricIntervalLowerBound.")
    if sum(step.upper_bound is None for step in steps) > 1:
        raise ServiceError("At most one step may have no MetricIntervalUpperBound.")
    ordered = sorted(steps, key=lambda step: float("-inf") if step.lower_bound is None else step.lower_bound)
    for below, above in pairwise(ordered):
        if below.upper_bound != above.lower_bound:
            raise ServiceError("StepAdjustments must not overlap and must leave no gap.")


def step_scaling(name: str, configuration: Mapping[str, Any]) -> StepScaling:
    """configuration: StepScalingPolicyConfiguration, checked; absent bounds of a step are open."""
    return StepScaling(
        name=name,
        adjustment_type=configuration["AdjustmentType"],
        steps=tuple(
            StepAdjustment(
                step.get("MetricIntervalLowerBound"),
                step.get("MetricIntervalUpperBound"),
                step["ScalingAdjustment"],
            )
            for step in configuration.get("StepAdjustments", ())
        ),
        min_adjustment_magnitude=configuration.get("MinAdjustmentMagnitude", 0),
        cooldown_s=configuration.get("Cooldown", COOLDOWN_S),
        aggregation=configuration.get("MetricAggregationType", "Average"),
    )


def _check_cooldowns(configuration: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if configuration.get(name, 0) < 0:
            raise ServiceError(f"{name} must not be negative, not {configuration[name]}.")


CONSOLIDATION_COOLDOWN_S = 20 * 60
"""Source: ProductionVariantManagedInstanceScalingScaleInPolicy, CooldownInMinutes."""


@dataclass(frozen=True, slots=True)
class Managed:
    """How a variant without a scalable target scales: limits, and a policy on its concurrent requests."""

    name: str
    min_capacity: int
    max_capacity: int
    policy: Mapping[str, Any]


def managed(variant: Mapping[str, Any], *, asynchronous: bool, slots: int) -> Managed | None:
    """How a variant without a scalable target scales; None where it keeps the count it was given.

    variant: a ProductionVariant. slots: invocations that an instance works on at a time. What has
    ManagedInstanceScaling follows with AWS the copies of inference components; there are none here, so it
    follows the requests themselves. What was given no count begins at zero, and one instance comes and goes.
    """
    given = variant.get("ManagedInstanceScaling", {})
    enabled = given.get("Status") == "ENABLED"
    if not enabled and (not asynchronous or variant.get("InitialInstanceCount")):
        return None
    if not enabled:
        given = {}
    # What has no queue could never be woken.
    minimum = max(given.get("MinInstanceCount", 0), 0 if asynchronous else 1)
    maximum = given.get("MaxInstanceCount", max(minimum, variant.get("InitialInstanceCount", 1), 1))
    scale_in = given.get("ScaleInPolicy", {})
    policy: dict[str, Any] = {
        "TargetValue": float(slots),
        "PredefinedMetricSpecification": {"PredefinedMetricType": CONCURRENT_REQUESTS},
    }
    if scale_in.get("Strategy") == "CONSOLIDATION":
        policy["MaximumStepSize"] = scale_in.get("MaximumStepSize", 1)
        policy["ScaleInCooldown"] = CONSOLIDATION_COOLDOWN_S
    if "CooldownInMinutes" in scale_in:
        policy["ScaleInCooldown"] = scale_in["CooldownInMinutes"] * 60
    return Managed("ManagedInstanceScaling" if enabled else "from zero to one", minimum, maximum, policy)


CREATED_BY = ":createdBy/"
"""Between a policy's ARN and an id, in the action of an alarm that the policy has made."""


def alarm_definitions(
    policy_arn: str, configuration: Mapping[str, Any], resource: Resource, *, asynchronous: bool
) -> list[dict[str, Any]]:
    """The alarms that AWS makes for a target-tracking policy, as PutMetricAlarm takes them: one above the
    target and, unless it never scales in, one well below. Source: alarms of
    such policies as users have exported them.

    They tell others what the policy sees; the scaler looks at the metric itself.
    """
    target = configuration["TargetValue"]
    sides = [("AlarmHigh", "GreaterThanThreshold", HIGH_PERIODS, target)]
    if not configuration.get("DisableScaleIn"):
        sides.append(("AlarmLow", "LessThanThreshold", LOW_PERIODS, target * LOW_FRACTION))
    metric = _alarm_metric(queries(configuration, resource, asynchronous=asynchronous))
    definitions = []
    for side, comparison, periods, threshold in sides:
        id_ = uuid.uuid5(uuid.NAMESPACE_URL, f"{policy_arn}/{side}")
        action = f"{policy_arn}{CREATED_BY}{id_}"
        named = f"TargetTracking-endpoint/{resource.endpoint}/variant/{resource.variant}-{side}-{id_}"
        definitions.append(
            {
                "AlarmName": named,
                "AlarmDescription": f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy {action}.",
                "AlarmActions": [action],
                "ComparisonOperator": comparison,
                "EvaluationPeriods": periods,
                "Threshold": threshold,
                **metric,
            }
        )
    return definitions


def _alarm_metric(followed: Sequence[data.Query]) -> dict[str, Any]:
    """What the alarm watches: a single metric in its own members, metric math as Metrics."""
    if len(followed) > 1:
        return {"Metrics": list(followed)}
    stat = followed[0]["MetricStat"]
    unit = {"Unit": stat["Unit"]} if "Unit" in stat else {}
    return {**stat["Metric"], "Statistic": stat["Stat"], "Period": stat["Period"], **unit}


def policy_of_action(action: str) -> str:
    """The ARN of the policy that an alarm's action carries out."""
    return action.partition(CREATED_BY)[0]
