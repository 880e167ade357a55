"""Metric data queries: metrics and expressions under ids, as GetMetricData and alarms name them."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from sqlalchemy import Connection

from ebbtide.errors import ServiceError
from ebbtide.metrics import expressions
from ebbtide.metrics.expressions import ExpressionError, Scope, Series, Value
from ebbtide.metrics.points import DAY_S, Dimensions
from ebbtide.metrics.query import Metric, aligned, statistics, units
from ebbtide.metrics.statistics import parse

Query = Mapping[str, Any]
"""A MetricDataQuery: Id, and MetricStat or Expression. Source: GetMetricData, CloudWatch 2010-08-01."""


MAX_POINTS = 100_800
MAX_POINTS_TOGETHER = 500 * 1_440
"""Bounds the time that one request holds a database reader."""


class InvalidQuery(ServiceError):
    """The metric data queries contradict themselves or cannot be evaluated."""

    code = "ValidationError"


@dataclass(frozen=True, slots=True)
class Answer:
    """A time series that a query returns. `units`: of a metric that was asked for without one, those that
    it has points in; the series is of the first.
    """

    id: str
    label: str
    points: Mapping[int, float]
    units: Sequence[str] = ()


def dimensions(given: Sequence[Mapping[str, str]]) -> Dimensions:
    """AWS's list of Name and Value as a sorted tuple."""
    return tuple(sorted((dimension["Name"], dimension["Value"]) for dimension in given))


def check(queries: Sequence[Query]) -> int:
    """How many time series the queries return when every metric has data.

    Raises InvalidQuery unless ids are unique and well formed and expressions can be evaluated.
    """
    ids = [query["Id"] for query in queries]
    for query in queries:
        key = query["Id"]
        if not re.fullmatch(r"[a-z]\w*", key, re.ASCII):
            raise InvalidQuery(
                f"The Id {key} must begin with a lowercase letter and hold letters, digits and underscores"
            )
        if ids.count(key) > 1:
            raise InvalidQuery(f"The Id {key} is used by several queries")
        if ("MetricStat" in query) == ("Expression" in query):
            raise InvalidQuery(f"The query {key} must have either MetricStat or Expression")
        if stat := query.get("MetricStat"):
            _check_stat(key, stat)
    values = _evaluate(queries, {}, lambda _: {0: 1.0}, lambda _: (0,))
    returned = [values[query["Id"]] for query in queries if query.get("ReturnData", True)]
    return sum(len(value) if isinstance(value, list) else 1 for value in returned)


class Statistics(Protocol):
    """Where values are read: `query.statistics` of an account, or what does the same of another store."""

    def __call__(
        self,
        metric: Metric,
        statistic: str,
        *,
        period_s: int,
        start: float,
        end: float,
        unit: str | None = None,
    ) -> Mapping[int, float]: ...


def answer(
    connection: Connection,
    account: str,
    queries: Sequence[Query],
    *,
    start: float,
    end: float,
    now: float,
) -> list[Answer]:
    """Evaluate the queries over what the database has of the account's metrics."""
    answers = answer_from(partial(statistics, connection, account), queries, start=start, end=end, now=now)
    stats = {query["Id"]: query["MetricStat"] for query in queries if "MetricStat" in query}

    def units_of(key: str) -> Sequence[str]:
        if key not in stats or "Unit" in stats[key]:
            return ()
        since = aligned(start, stats[key]["Period"], now)
        return units(connection, account, metric_of(stats[key]), start=since, end=end)

    return [replace(each, units=units_of(each.id)) for each in answers]


def metric_of(stat: Mapping[str, Any]) -> Metric:
    """The metric that a query's MetricStat names."""
    given = stat["Metric"]
    return Metric(
        given.get("Namespace", ""), given.get("MetricName", ""), dimensions(given.get("Dimensions", ()))
    )


def answer_from(
    statistics_of: Statistics, queries: Sequence[Query], *, start: float, end: float, now: float
) -> list[Answer]:
    """Evaluate the queries that return data, in their order; an expression may return several series.

    Points are from `start`, rounded as CloudWatch does, to before `end`. Raises InvalidQuery.
    """

    def read(stat: Mapping[str, Any]) -> Mapping[int, float]:
        return statistics_of(
            metric_of(stat),
            stat["Stat"],
            period_s=stat["Period"],
            start=aligned(start, stat["Period"], now),
            end=end,
            unit=stat.get("Unit"),
        )

    def times(period_s: int) -> Sequence[int]:
        return range(aligned(start, period_s, now), math.ceil(end), period_s)

    periods = [query["MetricStat"]["Period"] for query in queries if "MetricStat" in query]
    asked = [(end - start) / period_s for period_s in periods]
    if asked and (max(asked) > MAX_POINTS or sum(asked) > MAX_POINTS_TOGETHER):
        raise InvalidQuery(
            f"You have requested up to {sum(asked):,.0f} datapoints; the most are {MAX_POINTS:,} for a query"
            f" and {MAX_POINTS_TOGETHER:,} together. Increase Period, or decrease the time range."
        )
    labels = {query["Id"]: _label(query, queries) for query in queries}
    values = _evaluate(queries, labels, read, times)
    return [
        Answer(query["Id"], _dynamic(label, query, series), series.points)
        for query in queries
        if query.get("ReturnData", True)
        for label, series in _labelled(query, values[query["Id"]])
    ]


def _check_stat(key: str, stat: Mapping[str, Any]) -> None:
    try:
        parse(stat["Stat"])
    except ValueError as error:
        raise InvalidQuery(f"The query {key} is not valid: {error}") from error
    check_period(stat["Period"])


def check_accounts(queries: Iterable[Mapping[str, Any]], account: str) -> None:
    """Raises InvalidQuery for a metric of another account, of which nothing is told here."""
    for asked in queries:
        if asked.get("AccountId", account) != account:
            raise InvalidQuery(
                f"The query {asked['Id']} is for account {asked['AccountId']}; there are metrics of "
                f"{account} only"
            )


def check_period(period_s: int) -> None:
    """Raises InvalidQuery unless it is 1, 5, 10, 20, 30 s or a multiple of 60 s up to a day."""
    if period_s not in (1, 5, 10, 20, 30) and (period_s % 60 or period_s > DAY_S):
        raise InvalidQuery(f"Period {period_s} must be 1, 5, 10, 20, 30 or a multiple of 60 up to {DAY_S}")


def _evaluate(
    queries: Sequence[Query],
    labels: Mapping[str, str],
    read: Callable[[Mapping[str, Any]], Mapping[int, float]],
    times: Callable[[int], Sequence[int]],
) -> dict[str, Value]:
    """The value of each query by id; expressions may refer to any other, in any order."""
    metrics = {
        query["Id"]: Series(
            labels.get(query["Id"], ""), query["MetricStat"]["Period"], read(query["MetricStat"])
        )
        for query in queries
        if "MetricStat" in query
    }
    values: dict[str, Value] = dict(metrics)
    written = {query["Id"]: query["Expression"] for query in queries if "Expression" in query}
    under_way: list[str] = []

    def value_of(key: str) -> Value:
        if key not in values:
            if key in under_way:
                raise ExpressionError(f"it refers to itself by {' -> '.join([*under_way, key])}")
            under_way.append(key)
            values[key] = expressions.evaluate(written[key], Scope(value_of, metrics, times))
            under_way.pop()
        return values[key]

    for query in queries:
        key = query["Id"]
        try:
            if isinstance(value_of(key), float) and query.get("ReturnData", True):
                raise ExpressionError("it is a number where a time series must be returned")
        except ExpressionError as error:
            raise InvalidQuery(f"Error in expression '{key}': {error}") from error
    return values


def _labelled(query: Query, value: Value) -> list[tuple[str, Series]]:
    given = query.get("Label")
    if isinstance(value, list):
        return [(" ".join(filter(None, (given, series.label))) or query["Id"], series) for series in value]
    assert isinstance(value, Series)  # numbers are refused when the query is evaluated
    is_metric = "MetricStat" in query
    return [(given or (value.label if is_metric else query["Id"]), value)]


def _label(query: Query, queries: Sequence[Query]) -> str:
    """The metric's name, with what its namesakes differ in: dimensions, statistic, period."""
    if "MetricStat" not in query:
        return str(query["Id"])
    name, *mine = _telling(query["MetricStat"])
    told = [_telling(other["MetricStat"]) for other in queries if "MetricStat" in other]
    namesakes = [parts for other, *parts in told if other == name]
    differing = [part for part, *others in zip(mine, *namesakes, strict=True) if set(others) != {part}]
    return " ".join(filter(None, (name, *differing)))


def _telling(stat: Mapping[str, Any]) -> tuple[str, str, str, str]:
    metric = stat["Metric"]
    values = " ".join(value for _, value in dimensions(metric.get("Dimensions", ())))
    return (metric.get("MetricName", ""), values, stat["Stat"], str(stat["Period"]))


_DYNAMIC = re.compile(r"\$\{(?:(?P<live>[A-Z_]+)|PROP\('(?P<property>[^']+)'\))\}")


def _dynamic(label: str, query: Query, series: Series) -> str:
    """Fill in ${MAX}, ${PROP('Stat')} and their like; names we do not know stay as they are.

    Source: CloudWatch user guide, dynamic labels.
    """
    values = list(series.points.values())
    live: dict[str, str] = {"LABEL": series.label, "DATAPOINT_COUNT": str(len(values))}
    if values:
        live |= {
            "MAX": f"{max(values):g}",
            "MIN": f"{min(values):g}",
            "SUM": f"{math.fsum(values):g}",
            "AVG": f"{math.fsum(values) / len(values):g}",
            "FIRST": f"{values[0]:g}",
            "LAST": f"{values[-1]:g}",
        }
    stat = query.get("MetricStat", {})
    metric = stat.get("Metric", {})
    properties = {f"Dim.{name}": value for name, value in dimensions(metric.get("Dimensions", ()))}
    properties |= {name: metric[name] for name in ("Namespace", "MetricName") if name in metric}
    properties |= {name: str(stat[name]) for name in ("Stat", "Period") if name in stat}

    def fill(found: re.Match[str]) -> str:
        known, name = (live, found["live"]) if found["live"] else (properties, found["property"])
        return known.get(name, found[0])

    return _DYNAMIC.sub(fill, label)
