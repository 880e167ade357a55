"""CloudWatch, 2010-08-01: metrics, their statistics and expressions, and alarms."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from ebbtide import metrics
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import page
from ebbtide.errors import ServiceError
from ebbtide.metrics import alarms, data, query
from ebbtide.metrics.alarms import Alarm
from ebbtide.metrics.data import InvalidQuery, dimensions
from ebbtide.metrics.evaluation import COMPARISONS, TREATMENTS
from ebbtide.metrics.points import DAY_S, Point, StatisticSet
from ebbtide.metrics.query import Metric
from ebbtide.metrics.statistics import parse

__all__ = [
    "delete_alarms",
    "describe_alarm_history",
    "describe_alarms",
    "describe_alarms_for_metric",
    "disable_alarm_actions",
    "enable_alarm_actions",
    "get_metric_data",
    "get_metric_statistics",
    "list_metrics",
    "put_metric_alarm",
    "put_metric_data",
    "set_alarm_state",
]

MAX_STATISTICS_POINTS = 1_440
MAX_DATA_POINTS = 100_800
MAX_QUERIES = 500
MAX_DATUMS = 1_000
MAX_VALUES = 150
LIST_PAGE = 500
ALARMS_PAGE = 50
HISTORY_PAGE = 100

RECENTLY_S = 3 * 3600
OLDEST_DATUM_S = 14 * DAY_S
NEWEST_DATUM_S = 2 * 3600
LARGEST_VALUE = 2.0**360
LAST_MOMENT = 2.0**40
"""Epoch seconds far beyond any calendar, which still fit the database's integers."""


class InvalidValue(ServiceError):
    """A parameter's value is not one the operation takes."""

    code = "InvalidParameterValueException"


class InvalidCombination(ServiceError):
    """Parameters that exclude or need each other."""

    code = "InvalidParameterCombinationException"


class MissingParameter(ServiceError):
    """A parameter that must be given is not."""

    code = "MissingRequiredParameterException"


class InvalidAlarm(ServiceError):
    """The alarm contradicts itself or asks for what is not supported."""

    code = "ValidationError"


async def put_metric_data(params: Params, call: Call) -> Result:
    """Record what the caller measured; all of it or, when any part is refused, nothing.

    Raises InvalidValue, InvalidCombination, MissingParameter. Source: PutMetricData.
    """
    namespace = params["Namespace"]
    if namespace.startswith("AWS/"):
        raise InvalidValue(f"The value {namespace} for parameter Namespace is invalid: AWS/ is reserved.")
    if "EntityMetricData" in params:
        raise InvalidValue("The parameter EntityMetricData is not supported.")
    datums = params.get("MetricData", ())
    if not datums:
        raise MissingParameter("The parameter MetricData is required.")
    if len(datums) > MAX_DATUMS:
        raise InvalidValue(f"The collection MetricData must not have a size greater than {MAX_DATUMS}.")
    points: list[Point] = []
    sets: list[StatisticSet] = []
    for number, datum in enumerate(datums, 1):
        _read_datum(f"MetricData.member.{number}", namespace, datum, call.now, points, sets)

    def record(connection: Connection) -> None:
        metrics.record(connection, points)
        metrics.record_sets(connection, sets)

    await call.parts.database.write(record)
    return {}


async def get_metric_statistics(params: Params, call: Call) -> Result:
    """The statistics of one metric, a datapoint for each period and unit that has samples.

    Raises InvalidValue, InvalidCombination, MissingParameter. Source: GetMetricStatistics.
    """
    start, end, period_s = _range(params), _moment(params, "EndTime"), params["Period"]
    plain, extended = params.get("Statistics", ()), params.get("ExtendedStatistics", ())
    if not plain and not extended:
        raise MissingParameter("At least one of Statistics and ExtendedStatistics must be specified.")
    for name in extended:
        _check_statistic(name)
    _check_period(period_s)
    if (asked := (end - start) / period_s) > MAX_STATISTICS_POINTS:
        raise InvalidCombination(
            f"You have requested up to {math.ceil(asked):,} datapoints, which exceeds the limit of"
            f" {MAX_STATISTICS_POINTS:,}. You may reduce the datapoints requested by increasing Period,"
            " or decreasing the time range."
        )
    metric = Metric(params["Namespace"], params["MetricName"], dimensions(params.get("Dimensions", ())))
    origin = query.aligned(start, period_s, call.now)

    def read(connection: Connection) -> list[Result]:
        found = {unit for _, unit in query.series_of(connection, metric)}
        units = found & {params["Unit"]} if "Unit" in params else found
        return [
            datapoint
            for unit in sorted(units)
            for datapoint in _datapoints(connection, metric, unit, plain, extended, period_s, origin, end)
        ]

    return {"Label": params["MetricName"], "Datapoints": await call.parts.database.read(read)}


async def get_metric_data(params: Params, call: Call) -> Result:
    """Values of metrics and of expressions over them, newest first unless ScanBy says otherwise.

    A page ends at MaxDatapoints values; its last series then is PartialData and goes on in the next page.
    Raises InvalidValue, InvalidQuery, ServiceError InvalidNextToken. Source: GetMetricData.
    """
    queries = params["MetricDataQueries"]
    if not queries or len(queries) > MAX_QUERIES:
        raise InvalidQuery(f"MetricDataQueries must hold 1 to {MAX_QUERIES} queries.")
    start, end = _range(params), _moment(params, "EndTime")
    limit = params.get("MaxDatapoints", MAX_DATA_POINTS)
    if not 0 < limit <= MAX_DATA_POINTS:
        raise InvalidValue(f"The parameter MaxDatapoints must be between 1 and {MAX_DATA_POINTS}.")
    data.check(queries)

    def read(connection: Connection) -> list[data.Answer]:
        return data.answer(connection, queries, start=start, end=end, now=call.now)

    answers = await call.parts.database.read(read)
    ascending = params.get("ScanBy") == "TimestampAscending"
    token = params.get("NextToken")
    first, after = (0, None) if token is None else _continuation(token)
    results, next_token = _page(answers[first:], first, after, limit, ascending=ascending)
    return {"MetricDataResults": results, "Messages": []} | ({"NextToken": next_token} if next_token else {})


async def list_metrics(params: Params, call: Call) -> Result:
    """The metrics that have points, 500 a page. Source: ListMetrics."""
    wanted = {given["Name"]: given.get("Value") for given in params.get("Dimensions", ())}
    since = call.now - RECENTLY_S if params.get("RecentlyActive") else None

    def read(connection: Connection) -> list[Metric]:
        return query.find(
            connection,
            namespace=params.get("Namespace"),
            name=params.get("MetricName"),
            dimensions=wanted,
            active_since=since,
        )

    found, token = page(
        await call.parts.database.read(read),
        lambda metric: (metric.namespace, metric.name, json.dumps(metric.dimensions)),
        limit=LIST_PAGE,
        token=params.get("NextToken"),
        error_code="InvalidParameterValueException",
    )
    listed = [
        {
            "Namespace": metric.namespace,
            "MetricName": metric.name,
            "Dimensions": [{"Name": name, "Value": value} for name, value in metric.dimensions],
        }
        for metric in found
    ]
    return {"Metrics": listed} | ({"NextToken": token} if token else {})


async def put_metric_alarm(params: Params, call: Call) -> Result:
    """Store an alarm; it is evaluated within seconds, and from then on as each period ends.

    Raises InvalidAlarm, InvalidQuery. Source: PutMetricAlarm.
    """
    _check_alarm(params)

    def put(connection: Connection) -> None:
        alarms.put(connection, params, account=call.account, region=call.region, now=call.now)

    await call.parts.database.write(put)
    return {}


async def describe_alarms(params: Params, call: Call) -> Result:
    """The account's alarms by name. Raises InvalidAlarm, ServiceError InvalidNextToken."""
    if "AlarmNames" in params and "AlarmNamePrefix" in params:
        raise InvalidAlarm("AlarmNames and AlarmNamePrefix cannot both be specified.")
    if "ChildrenOfAlarmName" in params or "ParentsOfAlarmName" in params:
        raise InvalidAlarm("Composite alarms, which have children, are not supported.")
    types = params.get("AlarmTypes") or ["MetricAlarm"]

    def wanted(alarm: Alarm) -> bool:
        return (
            alarm.name in params.get("AlarmNames", (alarm.name,))
            and alarm.name.startswith(params.get("AlarmNamePrefix", ""))
            and alarm.state == params.get("StateValue", alarm.state)
            and _has_action(alarm, params.get("ActionPrefix"))
        )

    known = await call.parts.database.read(lambda connection: alarms.find(connection, call.account))
    found, token = page(
        filter(wanted, known) if "MetricAlarm" in types else (),
        lambda alarm: (alarm.name,),
        limit=params.get("MaxRecords", ALARMS_PAGE),
        token=params.get("NextToken"),
        error_code="InvalidNextToken",
    )
    # Clients that page look for all three kinds of alarm.
    kinds: Result = {
        "MetricAlarms": [_describe(alarm) for alarm in found],
        "CompositeAlarms": [],
        "LogAlarms": [],
    }
    return kinds | ({"NextToken": token} if token else {})


async def describe_alarms_for_metric(params: Params, call: Call) -> Result:
    """The alarms that watch one metric by itself. Source: DescribeAlarmsForMetric."""
    asked = [
        name
        for name in ("Namespace", "MetricName", "Statistic", "ExtendedStatistic", "Period", "Unit")
        if name in params
    ]
    own = dimensions(params.get("Dimensions", ()))
    known = await call.parts.database.read(lambda connection: alarms.find(connection, call.account))
    return {
        "MetricAlarms": [
            _describe(alarm)
            for alarm in known
            if all(alarm.definition.get(name) == params[name] for name in asked)
            and dimensions(alarm.definition.get("Dimensions", ())) == own
        ]
    }


async def describe_alarm_history(params: Params, call: Call) -> Result:
    """What happened to alarms in the last two weeks, newest first unless ScanBy says otherwise.

    Raises ServiceError InvalidNextToken. Source: DescribeAlarmHistory.
    """
    since = _moment(params, "StartDate") if "StartDate" in params else 0.0
    until = _moment(params, "EndDate") if "EndDate" in params else math.inf
    items = await call.parts.database.read(
        lambda connection: alarms.history(connection, call.account, params.get("AlarmName"))
    )
    found, token = page(
        [
            item
            for item in items
            if item.kind == params.get("HistoryItemType", item.kind) and since <= item.at <= until
        ],
        lambda item: (item.at, item.id),
        limit=params.get("MaxRecords", HISTORY_PAGE),
        token=params.get("NextToken"),
        descending=params.get("ScanBy") != "TimestampAscending",
        error_code="InvalidNextToken",
    )
    described = [
        {
            "AlarmName": item.alarm_name,
            "AlarmType": "MetricAlarm",
            "Timestamp": item.at,
            "HistoryItemType": item.kind,
            "HistorySummary": item.summary,
            "HistoryData": item.data,
        }
        for item in found
    ]
    return {"AlarmHistoryItems": described} | ({"NextToken": token} if token else {})


async def delete_alarms(params: Params, call: Call) -> Result:
    """Delete alarms, all of them or none. Raises AlarmNotFound. Source: DeleteAlarms."""

    def delete(connection: Connection) -> None:
        for name in params["AlarmNames"]:
            alarms.get(connection, call.account, name)
        alarms.delete(connection, call.account, params["AlarmNames"], now=call.now)

    await call.parts.database.write(delete)
    return {}


async def set_alarm_state(params: Params, call: Call) -> Result:
    """Put an alarm into a state until its next evaluation; a new state's actions run as always.

    Raises AlarmNotFound, and InvalidFormatFault for StateReasonData that is not JSON. Source: SetAlarmState.
    """
    reason_data = params.get("StateReasonData")
    if reason_data is not None:
        try:
            json.loads(reason_data)
        except ValueError as error:
            raise ServiceError("StateReasonData was not valid JSON", code="InvalidFormatFault") from error

    def set_state(connection: Connection) -> None:
        alarm = alarms.get(connection, call.account, params["AlarmName"])
        state, reason = params["StateValue"], params["StateReason"]
        alarms.set_state(connection, alarm, state, reason, reason_data, now=call.now)

    await call.parts.database.write(set_state)
    return {}


async def enable_alarm_actions(params: Params, call: Call) -> Result:
    """Let alarms act on their states. Source: EnableAlarmActions."""
    return await _enable(params, call, enabled=True)


async def disable_alarm_actions(params: Params, call: Call) -> Result:
    """Let alarms change their states only. Source: DisableAlarmActions."""
    return await _enable(params, call, enabled=False)


async def _enable(params: Params, call: Call, *, enabled: bool) -> Result:
    await call.parts.database.write(
        lambda connection: alarms.enable_actions(
            connection, call.account, params["AlarmNames"], enabled=enabled
        )
    )
    return {}


def _moment(params: Mapping[str, Any], name: str) -> float:
    at = float(params[name])
    if not 0 <= at <= LAST_MOMENT:
        raise InvalidValue(f"The value of the parameter {name} is not a time.")
    return at


def _range(params: Params) -> float:
    """StartTime, which must be before EndTime."""
    start = _moment(params, "StartTime")
    if start >= _moment(params, "EndTime"):
        raise InvalidValue("The parameter StartTime must be less than the parameter EndTime.")
    return start


def _check_period(period_s: int) -> None:
    try:
        data.check_period(period_s)
    except InvalidQuery as error:
        raise InvalidValue(error.message) from error


def _check_statistic(name: str) -> None:
    try:
        parse(name)
    except ValueError as error:
        raise InvalidValue(
            f"The value {name} for parameter ExtendedStatistics is invalid: {error}"
        ) from error


def _datapoints(
    connection: Connection,
    metric: Metric,
    unit: str,
    plain: Sequence[str],
    extended: Sequence[str],
    period_s: int,
    start: int,
    end: float,
) -> Iterable[Result]:
    points: dict[int, Result] = {}
    for name in (*plain, *extended):
        values = query.statistics(
            connection, metric, name, period_s=period_s, start=start, end=end, unit=unit
        )
        for at, value in values.items():
            point = points.setdefault(at, {"Timestamp": at, "Unit": unit})
            (point if name in plain else point.setdefault("ExtendedStatistics", {}))[name] = value
    return points.values()


def _continuation(token: str) -> tuple[int, int | None]:
    """Where a page of metric data begins: the series by number, and the time of its last value given."""
    number, _, at = token.partition(":")
    try:
        return int(number), int(at) if at else None
    except ValueError as error:
        raise ServiceError("The NextToken is not one that was returned.", code="InvalidNextToken") from error


def _page(
    answers: Iterable[data.Answer], first: int, after: int | None, limit: int, *, ascending: bool
) -> tuple[list[Result], str | None]:
    """The results that `limit` values fill, and the token of the rest."""
    results: list[Result] = []
    for number, answer in enumerate(answers, first):
        points = sorted(answer.points.items(), reverse=not ascending)
        if number == first and after is not None:
            points = [(at, value) for at, value in points if (at > after if ascending else at < after)]
        kept = points[:limit]
        whole = len(kept) == len(points)
        if kept or whole:
            results.append(
                {
                    "Id": answer.id,
                    "Label": answer.label,
                    "Timestamps": [at for at, _ in kept],
                    "Values": [value for _, value in kept],
                    "StatusCode": "Complete" if whole else "PartialData",
                }
            )
        if not whole:
            return results, f"{number}:{kept[-1][0] if kept else ''}"
        limit -= len(kept)
    return results, None


def _read_datum(
    where: str,
    namespace: str,
    datum: Mapping[str, Any],
    now: float,
    points: list[Point],
    sets: list[StatisticSet],
) -> None:
    """Add what one MetricDatum holds to `points` or `sets`; `where` names it in messages."""
    own = dimensions(datum.get("Dimensions", ()))
    if len(dict(own)) < len(own):
        raise InvalidValue(f"The parameter {where}.Dimensions names a dimension twice.")
    if datum.get("StorageResolution", 60) not in (1, 60):
        raise InvalidValue(f"The parameter {where}.StorageResolution must be 1 or 60.")
    at = _moment(datum, "Timestamp") if "Timestamp" in datum else now
    if at < now - OLDEST_DATUM_S:
        raise InvalidValue(f"The parameter {where}.Timestamp must specify a time within the past two weeks.")
    if at > now + NEWEST_DATUM_S:
        raise InvalidValue(
            f"The parameter {where}.Timestamp must specify a time no more than two hours in the future."
        )
    given = [name for name in ("Value", "Values", "StatisticValues") if name in datum]
    if not given:
        raise MissingParameter(f"One of {where}.Value, Values and StatisticValues must be specified.")
    if len(given) > 1:
        raise InvalidCombination(
            f"The parameters {where}.{given[0]} and {where}.{given[1]} are mutually exclusive."
        )
    name, unit = datum["MetricName"], datum.get("Unit", "None")
    if given == ["StatisticValues"]:
        sets.append(_read_set(where, namespace, name, own, unit, at, datum["StatisticValues"]))
        return
    values = datum.get("Values", [datum.get("Value")])
    counts = datum.get("Counts", [1.0] * len(values))
    if len(values) > MAX_VALUES or len(counts) != len(values):
        raise InvalidValue(f"{where} must have at most {MAX_VALUES} Values, and a count for each in Counts.")
    for value, count in zip(values, counts, strict=True):
        _check_number(f"{where}.{given[0]}", value)
        _check_number(f"{where}.Counts", count)
        if count < 0:
            raise InvalidValue(f"The value {count:g} for parameter {where}.Counts is invalid.")
        if count:
            points.append(Point(namespace, name, own, value, unit, at, count))


def _read_set(
    where: str,
    namespace: str,
    name: str,
    own: metrics.points.Dimensions,
    unit: str,
    at: float,
    given: Mapping[str, float],
) -> StatisticSet:
    for member, value in given.items():
        _check_number(f"{where}.StatisticValues.{member}", value)
    if given["SampleCount"] <= 0 or given["Minimum"] > given["Maximum"]:
        raise InvalidValue(f"{where}.StatisticValues must have samples, and a Minimum not above the Maximum.")
    return StatisticSet(
        namespace, name, own, unit, at, given["SampleCount"], given["Sum"], given["Minimum"], given["Maximum"]
    )


def _check_number(where: str, value: float) -> None:
    if not abs(value) <= LARGEST_VALUE:
        raise InvalidValue(f"The value {value} for parameter {where} is invalid.")


UNSUPPORTED_IN_ALARMS = (
    "ThresholdMetricId",
    "EvaluateLowSampleCountPercentile",
    "EvaluationWindow",
    "WarmUpConfiguration",
    "EvaluationCriteria",
    "EvaluationInterval",
    "ActionConfiguration",
)


def _check_alarm(params: Params) -> None:
    if refused := [name for name in UNSUPPORTED_IN_ALARMS if name in params]:
        raise InvalidAlarm(f"The parameter {refused[0]} is not supported.")
    if missing := [
        name for name in ("ComparisonOperator", "EvaluationPeriods", "Threshold") if name not in params
    ]:
        raise InvalidAlarm(f"The parameter {missing[0]} is required.")
    if params["ComparisonOperator"] not in COMPARISONS:
        raise InvalidAlarm("Alarms on anomaly detection bands are not supported.")
    if not math.isfinite(params["Threshold"]):
        raise InvalidAlarm("The Threshold must be a number.")
    if params.get("DatapointsToAlarm", 1) > params["EvaluationPeriods"]:
        raise InvalidAlarm("DatapointsToAlarm must not be greater than EvaluationPeriods.")
    if params.get("TreatMissingData", "missing") not in TREATMENTS:
        raise InvalidAlarm(f"The TreatMissingData must be one of {', '.join(sorted(TREATMENTS))}.")
    for member in ("OKActions", "AlarmActions", "InsufficientDataActions"):
        for action in params.get(member, ()):
            if not alarms.is_scaling_policy(action) and not action.startswith("arn:aws:sns:"):
                raise InvalidAlarm(
                    f"The action {action} in {member} is neither an SNS topic nor a scaling policy."
                )
    periods = _check_metrics(params) if "Metrics" in params else _check_metric(params)
    seconds = max(periods, default=60) * params["EvaluationPeriods"]
    if seconds > 7 * DAY_S:
        raise InvalidAlarm(f"Period times EvaluationPeriods is {seconds} s; the most are {7 * DAY_S} s.")


def _check_metric(params: Params) -> list[int]:
    """The periods of an alarm on one metric."""
    if missing := [name for name in ("MetricName", "Namespace", "Period") if name not in params]:
        raise InvalidAlarm(f"The parameter {missing[0]} is required, or Metrics in its place.")
    if ("Statistic" in params) == ("ExtendedStatistic" in params):
        raise InvalidAlarm("Exactly one of Statistic and ExtendedStatistic must be specified.")
    if extended := params.get("ExtendedStatistic"):
        try:
            parse(extended)
        except ValueError as error:
            raise InvalidAlarm(str(error)) from error
    data.check_period(params["Period"])
    return [params["Period"]]


def _check_metrics(params: Params) -> list[int]:
    """The periods of an alarm on metric math."""
    queries = params["Metrics"]
    if "MetricName" in params:
        raise InvalidAlarm("Metrics and MetricName cannot both be specified.")
    if sum(given.get("ReturnData", True) for given in queries) != 1:
        raise InvalidAlarm("Exactly one of the Metrics must have ReturnData set to true.")
    if data.check(queries) != 1:
        raise InvalidAlarm("The Metrics must return a single time series.")
    return [given["MetricStat"]["Period"] for given in queries if "MetricStat" in given]


def _has_action(alarm: Alarm, prefix: str | None) -> bool:
    members = ("OKActions", "AlarmActions", "InsufficientDataActions")
    actions = [action for member in members for action in alarm.definition.get(member, ())]
    return prefix is None or any(action.startswith(prefix) for action in actions)


def _describe(alarm: Alarm) -> Result:
    defaults: Result = {"OKActions": [], "AlarmActions": [], "InsufficientDataActions": []}
    if "Metrics" not in alarm.definition:
        defaults["Dimensions"] = []
    definition = {name: value for name, value in alarm.definition.items() if name != "Tags"}
    described = (
        defaults
        | definition
        | {
            "AlarmArn": alarm.arn,
            "ActionsEnabled": alarm.actions_enabled,
            "AlarmConfigurationUpdatedTimestamp": alarm.configured_at,
            "StateValue": alarm.state,
            "StateReason": alarm.reason,
            "StateUpdatedTimestamp": alarm.state_updated_at,
            "StateTransitionedTimestamp": alarm.transitioned_at,
        }
    )
    return described | ({"StateReasonData": alarm.reason_data} if alarm.reason_data else {})
