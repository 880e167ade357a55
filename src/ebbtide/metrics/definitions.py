"""Alarm definitions: what PutMetricAlarm may ask for. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from ebbtide.errors import ServiceError
from ebbtide.metrics import data
from ebbtide.metrics.alarm_states import is_scaling_policy
from ebbtide.metrics.evaluation import COMPARISONS, TREATMENTS
from ebbtide.metrics.points import DAY_S
from ebbtide.metrics.statistics import parse

Definition = Mapping[str, Any]
"""PutMetricAlarm's input. Source: PutMetricAlarm, CloudWatch 2010-08-01."""


class InvalidAlarm(ServiceError):
    """The alarm contradicts itself or asks for what is not supported."""

    code = "ValidationError"


UNSUPPORTED = (
    "ThresholdMetricId",
    "EvaluateLowSampleCountPercentile",
    "EvaluationWindow",
    "WarmUpConfiguration",
    "EvaluationCriteria",
    "EvaluationInterval",
    "ActionConfiguration",
)


def check(definition: Definition) -> None:
    """Raises InvalidAlarm and InvalidQuery."""
    if refused := [name for name in UNSUPPORTED if name in definition]:
        raise InvalidAlarm(f"The parameter {refused[0]} is not supported.")
    if missing := [
        name for name in ("ComparisonOperator", "EvaluationPeriods", "Threshold") if name not in definition
    ]:
        raise InvalidAlarm(f"The parameter {missing[0]} is required.")
    if definition["ComparisonOperator"] not in COMPARISONS:
        raise InvalidAlarm("Alarms on anomaly detection bands are not supported.")
    if not math.isfinite(definition["Threshold"]):
        raise InvalidAlarm("The Threshold must be a number.")
    if definition.get("DatapointsToAlarm", 1) > definition["EvaluationPeriods"]:
        raise InvalidAlarm("DatapointsToAlarm must not be greater than EvaluationPeriods.")
    if definition.get("TreatMissingData", "missing") not in TREATMENTS:
        raise InvalidAlarm(f"The TreatMissingData must be one of {', '.join(sorted(TREATMENTS))}.")
    for member in ("OKActions", "AlarmActions", "InsufficientDataActions"):
        for action in definition.get(member, ()):
            if not is_scaling_policy(action) and not action.startswith("arn:aws:sns:"):
                raise InvalidAlarm(
                    f"The action {action} in {member} is neither an SNS topic nor a scaling policy."
                )
    periods = _check_metrics(definition) if "Metrics" in definition else _check_metric(definition)
    seconds = max(periods, default=60) * definition["EvaluationPeriods"]
    if seconds > 7 * DAY_S:
        raise InvalidAlarm(f"Period times EvaluationPeriods is {seconds} s; the most are {7 * DAY_S} s.")


def _check_metric(definition: Definition) -> list[int]:
    """The periods of an alarm on one metric."""
    if missing := [name for name in ("MetricName", "Namespace", "Period") if name not in definition]:
        raise InvalidAlarm(f"The parameter {missing[0]} is required, or Metrics in its place.")
    if ("Statistic" in definition) == ("ExtendedStatistic" in definition):
        raise InvalidAlarm("Exactly one of Statistic and ExtendedStatistic must be specified.")
    if extended := definition.get("ExtendedStatistic"):
        try:
            parse(extended)
        except ValueError as error:
            raise InvalidAlarm(str(error)) from error
    data.check_period(definition["Period"])
    return [definition["Period"]]


def _check_metrics(definition: Definition) -> list[int]:
    """The periods of an alarm on metric math."""
    queries = definition["Metrics"]
    if "MetricName" in definition:
        raise InvalidAlarm("Metrics and MetricName cannot both be specified.")
    if sum(given.get("ReturnData", True) for given in queries) != 1:
        raise InvalidAlarm("Exactly one of the Metrics must have ReturnData set to true.")
    if data.check(queries) != 1:
        raise InvalidAlarm("The Metrics must return a single time series.")
    return [given["MetricStat"]["Period"] for given in queries if "MetricStat" in given]
