"""CloudWatch, 2010-08-01: metrics, their statistics and expressions, and alarms."""

import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress

from sqlalchemy import Connection

from ebbtide import metrics
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import page
from ebbtide.errors import ServiceError
from ebbtide.metrics import alarms, data, datums, definitions, query
from ebbtide.metrics.alarm_states import Alarm
from ebbtide.metrics.data import InvalidQuery, dimensions
from ebbtide.metrics.datums import InvalidCombination, InvalidValue, MissingParameter
from ebbtide.metrics.definitions import InvalidAlarm
from ebbtide.metrics.query import Metric
from ebbtide.metrics.statistics import parse
from ebbtide.wire.json_text import parse_json

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
    "list_tags_for_resource",
    "put_metric_alarm",
    "put_metric_data",
    "set_alarm_state",
    "tag_resource",
    "untag_resource",
]

MAX_STATISTICS_POINTS = 1_440
MAX_DATA_POINTS = 100_800
MAX_QUERIES = 500
LIST_PAGE = 500
ALARMS_PAGE = 50
HISTORY_PAGE = 100
MAX_TAGS = 50

RECENTLY_S = 3 * 3600


async def put_metric_data(params: Params, call: Call) -> Result:
    """Record what the caller measured; all of it or, when any part is refused, nothing.

    Raises InvalidValue, InvalidCombination, MissingParameter. Source: PutMetricData.
    """
    if "EntityMetricData" in params:
        raise InvalidValue("The parameter EntityMetricData is not supported.")
    points, sets = datums.read(call.account, params["Namespace"], params.get("MetricData", ()), now=call.now)

    def record(connection: Connection) -> None:
        metrics.record(connection, points)
        metrics.record_sets(connection, sets)

    await call.parts.database.write(record)
    return {}


async def get_metric_statistics(params: Params, call: Call) -> Result:
    """The statistics of one metric, a datapoint for each period and unit that has samples.

    Raises InvalidValue, InvalidCombination, MissingParameter. Source: GetMetricStatistics.
    """
    start, end, period_s = _range(params), datums.moment(params, "EndTime"), params["Period"]
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
        found = {unit for _, unit in query.series_of(connection, call.account, metric)}
        units = found & {params["Unit"]} if "Unit" in params else found
        return [
            datapoint
            for unit in sorted(units)
            for datapoint in _datapoints(
                connection, call.account, metric, unit, plain, extended, period_s, origin, end
            )
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
    try:
        start, end = _range(params), datums.moment(params, "EndTime")
    except InvalidValue as error:
        # Under this code here, though GetMetricStatistics names the parameter. Source: GetMetricData.
        raise InvalidQuery(error.message) from error
    limit = params.get("MaxDatapoints", MAX_DATA_POINTS)
    if not 0 < limit <= MAX_DATA_POINTS:
        raise InvalidValue(f"The parameter MaxDatapoints must be between 1 and {MAX_DATA_POINTS}.")
    _check_accounts(queries, call)
    data.check(queries)

    def read(connection: Connection) -> list[data.Answer]:
        return data.answer(connection, call.account, queries, start=start, end=end, now=call.now)

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
            call.account,
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
    _check_accounts(params.get("Metrics", ()), call)
    definitions.check(params)

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
    since = datums.moment(params, "StartDate") if "StartDate" in params else 0.0
    until = datums.moment(params, "EndDate") if "EndDate" in params else math.inf
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
            parse_json(reason_data)
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


async def tag_resource(params: Params, call: Call) -> Result:
    """Set tags of an alarm. Raises ServiceError without such an alarm, and over 50. Source: TagResource."""

    def tag(connection: Connection) -> None:
        alarm = _tagged(connection, call, params["ResourceARN"])
        tags = alarm.tags | {given["Key"]: given["Value"] for given in params["Tags"]}
        if len(tags) > MAX_TAGS:
            raise ServiceError(f"At most {MAX_TAGS} tags are allowed.", code="InvalidParameterValue")
        alarms.set_tags(connection, alarm, tags)

    await call.parts.database.write(tag)
    return {}


async def untag_resource(params: Params, call: Call) -> Result:
    """Source: UntagResource."""

    def untag(connection: Connection) -> None:
        alarm = _tagged(connection, call, params["ResourceARN"])
        kept = {key: value for key, value in alarm.tags.items() if key not in params["TagKeys"]}
        alarms.set_tags(connection, alarm, kept)

    await call.parts.database.write(untag)
    return {}


async def list_tags_for_resource(params: Params, call: Call) -> Result:
    """Source: ListTagsForResource."""
    alarm = await call.parts.database.read(
        lambda connection: _tagged(connection, call, params["ResourceARN"])
    )
    return {"Tags": [{"Key": key, "Value": value} for key, value in alarm.tags.items()]}


def _tagged(connection: Connection, call: Call, resource: str) -> Alarm:
    """The alarm of that ARN."""
    with suppress(alarms.AlarmNotFound):
        alarm = alarms.get(connection, call.account, resource.partition(":alarm:")[2])
        if alarm.arn == resource:
            return alarm
    raise ServiceError(f"No alarm found: {resource}", code="ResourceNotFoundException", http_status=404)


async def _enable(params: Params, call: Call, *, enabled: bool) -> Result:
    await call.parts.database.write(
        lambda connection: alarms.enable_actions(
            connection, call.account, params["AlarmNames"], enabled=enabled
        )
    )
    return {}


def _range(params: Params) -> float:
    """StartTime, which must be before EndTime."""
    start = datums.moment(params, "StartTime")
    if start >= datums.moment(params, "EndTime"):
        raise InvalidValue("The parameter StartTime must be less than the parameter EndTime.")
    return start


def _check_accounts(queries: Iterable[Params], call: Call) -> None:
    """Raises InvalidQuery for a metric of another account, of which nothing is told here."""
    for asked in queries:
        if asked.get("AccountId", call.account) != call.account:
            raise InvalidQuery(
                f"The query {asked['Id']} is for account {asked['AccountId']}; there are metrics of "
                f"{call.account} only"
            )


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
    account: str,
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
            connection, account, metric, name, period_s=period_s, start=start, end=end, unit=unit
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
                | _messages(answer)
            )
        if not whole:
            return results, f"{number}:{kept[-1][0] if kept else ''}"
        limit -= len(kept)
    return results, None


def _messages(answer: data.Answer) -> Result:
    """What the caller of GetMetricData must know of a series, if anything."""
    if len(answer.units) < 2:
        return {}
    named = ", ".join(answer.units)
    return {"Messages": [{"Code": "MultipleUnits", "Value": f"Multiple units returned: '[{named}]'"}]}


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
