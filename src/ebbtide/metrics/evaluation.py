"""Which state an alarm's datapoints call for. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OK = "OK"
ALARM = "ALARM"
INSUFFICIENT_DATA = "INSUFFICIENT_DATA"

_BREACHES: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "GreaterThanThreshold": (lambda value, limit: value > limit, "greater than"),
    "GreaterThanOrEqualToThreshold": (lambda value, limit: value >= limit, "greater than or equal to"),
    "LessThanThreshold": (lambda value, limit: value < limit, "less than"),
    "LessThanOrEqualToThreshold": (lambda value, limit: value <= limit, "less than or equal to"),
}

COMPARISONS = frozenset(_BREACHES)
TREATMENTS = frozenset({"breaching", "notBreaching", "ignore", "missing"})

EXTRA_PERIODS = 2
"""Periods looked at before those to evaluate, whose points stand in for missing ones.

Source: CloudWatch user guide, configuring how alarms treat missing data; its tables show five for three.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an evaluation finds: a state, or None where the alarm keeps its own; and the reason."""

    state: str | None
    reason: str


def evaluate(definition: Mapping[str, Any], datapoints: Sequence[float | None]) -> Verdict:
    """The state that the newest datapoints call for; they are oldest first, None where a period has none.

    definition: PutMetricAlarm's input. M (DatapointsToAlarm) of the newest N (EvaluationPeriods) that exist
    must breach. Where fewer than N exist, TreatMissingData says what the others count as.
    Source: CloudWatch user guide, configuring how alarms treat missing data.
    """
    needed = definition["EvaluationPeriods"]
    to_alarm = definition.get("DatapointsToAlarm", needed)
    threshold = definition["Threshold"]
    breaches, relation = _BREACHES[definition["ComparisonOperator"]]
    treatment = definition.get("TreatMissingData", "missing")

    indexes = [index for index, value in enumerate(datapoints) if value is not None][-needed:]
    if not indexes:
        return _without_data(needed, treatment)
    values = [value for value in datapoints if value is not None][-needed:]
    breaching = [value for value in values if breaches(value, threshold)]
    missing = needed - len(values)
    if len(breaching) + (missing if treatment == "breaching" else 0) >= to_alarm:
        return Verdict(ALARM, _reason(len(breaching), values, relation, threshold))
    if missing and treatment in ("missing", "ignore") and len(breaching) == len(values):
        # All that is known breaches, but is too little. It is believed once it has waited for more as long
        # as an alarm takes; until then a late point may still contradict it.
        oldest_age = len(datapoints) - indexes[0]
        believed = treatment == "missing" and oldest_age >= to_alarm
        return Verdict(ALARM if believed else None, _reason(len(values), values, relation, threshold))
    within = len(values) - len(breaching)
    return Verdict(OK, _reason(within, values, f"not {relation}", threshold))


def _without_data(needed: int, treatment: str) -> Verdict:
    points = "datapoint was" if needed == 1 else "datapoints were"
    if treatment == "missing":
        return Verdict(INSUFFICIENT_DATA, f"Insufficient Data: {needed} {points} unknown.")
    state = {"breaching": ALARM, "notBreaching": OK, "ignore": None}[treatment]
    periods = "period" if needed == 1 else "periods"
    shown = {"breaching": "Breaching", "notBreaching": "NonBreaching", "ignore": "Ignore"}[treatment]
    return Verdict(
        state,
        f"Threshold Crossed: no datapoints were received for {needed} {periods} and {needed} missing "
        f"{points} treated as [{shown}].",
    )


def _reason(count: int, values: Sequence[float], relation: str, threshold: float) -> str:
    points = "datapoint was" if count == 1 else "datapoints were"
    newest_first = ", ".join(f"{value:g}" for value in reversed(values))
    return (
        f"Threshold Crossed: {count} out of the last {len(values)} {points} {relation} "
        f"the threshold ({threshold:g}): [{newest_first}]."
    )
