"""Policies and resources as clients write them: checked, and read into the values that decide. No I/O."""

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn
from ebbtide.metrics import data
from ebbtide.scaling.policies import StepAdjustment, StepScaling, TargetTracking

DIMENSION = "sagemaker:variant:DesiredInstanceCount"
"""The one scalable dimension there is here."""

COOLDOWN_S = 300
"""Of a policy that gives none. Source: PutScalingPolicy, defaults for SageMaker endpoint variants."""

MAX_STEPS = 20

_RESOURCE = re.compile(r"endpoint/(?P<endpoint>[^/]+)/variant/(?P<variant>[^/]+)")

INVOCATIONS_PER_INSTANCE = "SageMakerVariantInvocationsPerInstance"


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


def queries(configuration: Mapping[str, Any], resource: Resource) -> list[data.Query]:
    """The metric that a target-tracking configuration follows, as metric data queries; one returns data."""
    if "PredefinedMetricSpecification" in configuration:
        dimensions = {"EndpointName": resource.endpoint, "VariantName": resource.variant}
        metric = {
            "Namespace": "AWS/SageMaker",
            "MetricName": "InvocationsPerInstance",
            "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
        }
        return [{"Id": "m1", "MetricStat": {"Metric": metric, "Stat": "Sum", "Period": PERIOD_S}}]
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


def follows_backlog(configuration: Mapping[str, Any], resource: Resource) -> bool:
    """Whether the metric is the endpoint's own backlog per instance, which the queue itself can tell."""
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
            data.check(queries(configuration, Resource("", "")))
        except data.InvalidQuery as error:
            raise ServiceError(error.message) from error


def _check_predefined(given: Mapping[str, Any]) -> None:
    type_ = given["PredefinedMetricType"]
    if type_ != INVOCATIONS_PER_INSTANCE:
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
    return TargetTracking(
        name=name,
        target_value=configuration["TargetValue"],
        scale_out_cooldown_s=configuration.get("ScaleOutCooldown", COOLDOWN_S),
        scale_in_cooldown_s=configuration.get("ScaleInCooldown", COOLDOWN_S),
        disable_scale_in=configuration.get("DisableScaleIn", False),
        since=since,
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
    )


def _check_cooldowns(configuration: Mapping[str, Any], *names: str) -> None:
    for name in names:
        if configuration.get(name, 0) < 0:
            raise ServiceError(f"{name} must not be negative, not {configuration[name]}.")


def alarms(
    policy_arn: str, policy_type: str, configuration: Mapping[str, Any], *, resource_id: str
) -> list[dict[str, str]]:
    """The two alarms that AWS makes for a target-tracking policy, by their names; one without scale-in.

    Here they are names only: the scaler looks at the metric itself.
    """
    if policy_type != "TargetTrackingScaling":
        return []
    _, _, _, region, account, *_ = policy_arn.split(":")
    ends = ("AlarmHigh",) if configuration.get("DisableScaleIn") else ("AlarmHigh", "AlarmLow")
    names = [
        f"TargetTracking-{resource_id}-{end}-{uuid.uuid5(uuid.NAMESPACE_URL, f'{policy_arn}/{end}')}"
        for end in ends
    ]
    return [
        {"AlarmName": name, "AlarmARN": arn("cloudwatch", region, account, f"alarm:{name}")} for name in names
    ]
