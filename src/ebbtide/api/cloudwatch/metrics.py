"""Metrics: put, listed, and read as statistics and expressions."""

import json
import math
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection

from ebbtide import metrics
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import page
from ebbtide.errors import ServiceError
from ebbtide.metrics import data, datums, query
from ebbtide.metrics.data import InvalidQuery, dimensions
from ebbtide.metrics.datums import InvalidCombination, InvalidValue, MissingParameter
from ebbtide.metrics.query import Metric
from ebbtide.metrics.statistics import parse

MAX_STATISTICS_POINTS = 1_440
MAX_DATA_POINTS = 100_800
MAX_QUERIES = 500
LIST_PAGE = 500

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
    data.check_accounts(queries, call.account)
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


def _range(params: Params) -> float:
    """StartTime, which must be before EndTime."""
    start = datums.moment(params, "StartTime")
    if start >= datums.moment(params, "EndTime"):
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
