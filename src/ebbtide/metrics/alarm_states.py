"""An alarm's life, as values: what it watches, when it is evaluated, what state comes of it, when it acts.

Pure: `metrics.alarms` keeps alarms in the database and carries their actions out; a simulation does the same
in virtual time.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ebbtide.metrics import data
from ebbtide.metrics.evaluation import ALARM, EXTRA_PERIODS, INSUFFICIENT_DATA, OK, evaluate

REPEAT_S = 60.0
"""How often a scaling action is repeated while its alarm stays in ALARM."""

SETTLING_S = 2.0
"""How long after a period's end it is evaluated: points of its last moments may still be on their way."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm and its state. `definition` is PutMetricAlarm's input. `policy_arn`: of the scaling policy
    that it belongs to; None for a client's own.
    """

    account: str
    name: str
    arn: str
    region: str
    definition: Mapping[str, Any]
    actions_enabled: bool
    configured_at: float
    state: str
    previous_state: str
    reason: str
    reason_data: str | None
    state_updated_at: float
    transitioned_at: float
    actions_due_at: float | None
    policy_arn: str | None = None

    @property
    def actions(self) -> list[str]:
        """The ARNs to act on in the current state."""
        member = {OK: "OKActions", ALARM: "AlarmActions", INSUFFICIENT_DATA: "InsufficientDataActions"}
        return list(self.definition.get(member[self.state], ()))

    @property
    def tags(self) -> dict[str, str]:
        return {tag["Key"]: tag["Value"] for tag in self.definition.get("Tags", ())}

    @property
    def repeats_actions(self) -> bool:
        return self.state == ALARM and self.acts and any(map(is_scaling_policy, self.actions))

    @property
    def acts(self) -> bool:
        """Whether its actions are carried out: an alarm of a scaling policy only shows what that sees."""
        return self.actions_enabled and self.policy_arn is None

    @property
    def change_is_due(self) -> bool:
        """Whether the actions of the last change of state have not run yet."""
        return self.actions_due_at == self.transitioned_at

    @property
    def datapoints(self) -> list[float]:
        """The values that led to the state, the newest last, as StateReasonData tells them; perhaps none."""
        try:
            values = json.loads(self.reason_data or "{}")["recentDatapoints"]
            return [float(value) for value in values]
        except (ValueError, TypeError, KeyError):  # SetAlarmState takes any JSON
            return []

    @property
    def period_s(self) -> int:
        """How long a datapoint covers; with metric math, the longest of its metrics' periods."""
        stats = [query["MetricStat"] for query in self.queries if "MetricStat" in query]
        return int(max((stat["Period"] for stat in stats), default=60))

    @property
    def queries(self) -> Sequence[data.Query]:
        """What the alarm watches, as metric data queries of which one returns data."""
        definition = self.definition
        if metrics := definition.get("Metrics"):
            return list(metrics)
        metric = {name: definition[name] for name in ("Namespace", "MetricName")}
        stat = {
            "Metric": metric | {"Dimensions": definition.get("Dimensions", [])},
            "Period": definition["Period"],
            "Stat": definition.get("Statistic") or definition.get("ExtendedStatistic"),
        }
        if unit := definition.get("Unit"):
            stat["Unit"] = unit
        return [{"Id": "m1", "MetricStat": stat}]


def is_scaling_policy(action_arn: str) -> bool:
    """Whether an action runs a scaling policy, which is repeated while the alarm lasts."""
    return action_arn.startswith("arn:aws:autoscaling:")


def newest_end(alarm: Alarm, now: float) -> float:
    """The end of the newest period to evaluate: each minute, or each period where that is shorter."""
    step_s = min(alarm.period_s, 60)
    return (now - SETTLING_S) // step_s * step_s


def next_evaluation_at(alarm: Alarm, now: float) -> float:
    """When `newest_end` will next be another one."""
    return newest_end(alarm, now) + min(alarm.period_s, 60) + SETTLING_S


def datapoints(read: data.Statistics, alarm: Alarm, end: float) -> list[float | None]:
    """The datapoints of an evaluation, oldest first, the newest ending at `end`. Raises ServiceError."""
    periods = alarm.definition["EvaluationPeriods"] + EXTRA_PERIODS
    start = end - periods * alarm.period_s
    answers = data.answer_from(read, alarm.queries, start=start, end=end, now=end)
    points = answers[0].points if answers else {}  # REMOVE_EMPTY may leave none
    return [points.get(int(start) + slot * alarm.period_s) for slot in range(periods)]


def evaluated(alarm: Alarm, values: Sequence[float | None], *, end: float, now: float) -> Alarm | None:
    """The alarm after the evaluation of these datapoints; None where it stays as it is."""
    verdict = evaluate(alarm.definition, values)
    if verdict.state in (None, alarm.state) and not alarm.repeats_actions:
        return None
    state = verdict.state or alarm.state
    return in_state(alarm, state, verdict.reason, _reason_data(alarm, values, end), now=now)


def in_state(alarm: Alarm, state: str, reason: str, reason_data: str | None, *, now: float) -> Alarm:
    """The alarm in a state; when it is another one than before, its actions are due at once."""
    changed = state != alarm.state
    # An alarm may be given its first scaling action while it lasts.
    due = changed or (alarm.actions_due_at is None and alarm.repeats_actions)
    return replace(
        alarm,
        state=state,
        previous_state=alarm.state if changed else alarm.previous_state,
        reason=reason[:1023],
        reason_data=reason_data,
        state_updated_at=now,
        transitioned_at=now if changed else alarm.transitioned_at,
        actions_due_at=now if due else alarm.actions_due_at,
    )


def actions_due(alarm: Alarm) -> list[str]:
    """What is carried out when the actions are due: all after a change of state, later the policies again."""
    if not alarm.acts:
        return []
    return [action for action in alarm.actions if alarm.change_is_due or is_scaling_policy(action)]


def due_again_at(alarm: Alarm, now: float) -> float | None:
    """When the actions that were carried out now are due again; None for not before the state changes."""
    return now + REPEAT_S if alarm.repeats_actions else None


def notification(alarm: Alarm) -> tuple[str, str]:
    """Subject and message that an SNS topic among the actions is sent. Source: CloudWatch user guide."""
    definition = alarm.definition
    trigger = {
        name: definition[name]
        for name in (
            "MetricName",
            "Namespace",
            "Period",
            "EvaluationPeriods",
            "DatapointsToAlarm",
            "ComparisonOperator",
            "Threshold",
            "TreatMissingData",
            "Metrics",
        )
        if name in definition
    }
    if statistic := definition.get("Statistic"):
        trigger |= {"StatisticType": "Statistic", "Statistic": statistic.upper()}
    elif statistic := definition.get("ExtendedStatistic"):
        trigger |= {"StatisticType": "ExtendedStatistic", "ExtendedStatistic": statistic}
    trigger["Unit"] = definition.get("Unit")
    trigger["EvaluateLowSampleCountPercentile"] = ""  # it is refused when an alarm is put
    trigger["Dimensions"] = [
        {"value": value, "name": name} for name, value in data.dimensions(definition.get("Dimensions", ()))
    ]
    message = {
        "AlarmName": alarm.name,
        "AlarmDescription": definition.get("AlarmDescription"),
        "AWSAccountId": alarm.account,
        "AlarmConfigurationUpdatedTimestamp": _iso(alarm.configured_at),
        "NewStateValue": alarm.state,
        "NewStateReason": alarm.reason,
        "StateChangeTime": _iso(alarm.transitioned_at),
        "Region": alarm.region,
        "AlarmArn": alarm.arn,
        "OldStateValue": alarm.previous_state,
        "OKActions": definition.get("OKActions", []),
        "AlarmActions": definition.get("AlarmActions", []),
        "InsufficientDataActions": definition.get("InsufficientDataActions", []),
        "Trigger": trigger,
    }
    # A subject holds 100 characters.
    return f'{alarm.state}: "{alarm.name}" in {alarm.region}'[:100], json.dumps(message)


def _reason_data(alarm: Alarm, datapoints: Sequence[float | None], end: float) -> str:
    needed = alarm.definition["EvaluationPeriods"]
    return json.dumps(
        {
            "version": "1.0",
            "queryDate": _iso(end),
            "startDate": _iso(end - needed * alarm.period_s),
            **({"unit": alarm.definition["Unit"]} if "Unit" in alarm.definition else {}),
            "statistic": alarm.definition.get("Statistic") or alarm.definition.get("ExtendedStatistic"),
            "period": alarm.period_s,
            "recentDatapoints": [value for value in datapoints if value is not None][-needed:][-50:],
            "threshold": alarm.definition["Threshold"],
        }
    )


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"
