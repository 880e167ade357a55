"""What was recorded, as CloudWatch answers it: statistics by period and the list of metrics."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy import Connection, bindparam, text

from ebbtide.metrics.points import DAY_S, TIERS, Dimensions, encode
from ebbtide.metrics.statistics import Samples, parse


@dataclass(frozen=True, slots=True)
class Metric:
    """An account's metric as CloudWatch names it; points of different dimensions are different metrics."""

    namespace: str
    name: str
    dimensions: Dimensions


def statistics(
    connection: Connection,
    account: str,
    metric: Metric,
    statistic: str,
    *,
    period_s: int,
    start: float,
    end: float,
    unit: str | None = None,
) -> dict[int, float]:
    """The statistic of each period from `start` to before `end` that has samples, by the period's start.

    Periods follow one another from `start`, whole epoch seconds. Without `unit` it is the first of those
    that were recorded then: seconds and milliseconds have no sum. Raises ValueError for a statistic that
    does not exist.
    """
    wanted = parse(statistic)
    found = series_of(connection, account, metric)
    if unit is None and len(found) > 1:
        unit = next(iter(units(connection, account, metric, start=start, end=end)), None)
    series = [series_id for series_id, own in found if unit in (None, own)]
    rows = connection.execute(
        DISTRIBUTIONS if wanted.needs_distribution else SUMMARIES,
        {
            "series": series,
            "resolutions": [resolution_s for resolution_s, _ in TIERS],
            "start": int(start),
            "end": end,
            "period_s": period_s,
        },
    )
    return {
        int(start) + slot * period_s: wanted.of([Samples(*row[1:]) for row in group])
        for slot, group in groupby(rows, key=lambda row: row[0])
    }


def units(connection: Connection, account: str, metric: Metric, *, start: float, end: float) -> list[str]:
    """The units in which the metric has points from `start` to before `end`, by name."""
    found = dict(series_of(connection, account, metric))
    used = connection.scalars(
        USED_SERIES,
        {
            "series": list(found),
            "resolutions": [resolution_s for resolution_s, _ in TIERS],
            "start": int(start),
            "end": end,
        },
    )
    return sorted({found[series_id] for series_id in used})


def series_of(connection: Connection, account: str, metric: Metric) -> list[tuple[int, str]]:
    """The id and unit of each series of a metric; dimensions match whole, as in CloudWatch."""
    found = connection.execute(
        SERIES_OF,
        {
            "account": account,
            "namespace": metric.namespace,
            "name": metric.name,
            "dimensions": encode(metric.dimensions),
        },
    )
    return [(series_id, unit) for series_id, unit in found]


def aligned(start: float, period_s: int, now: float) -> int:
    """The time from which periods are counted when a caller asks from `start`.

    Rounded down to what can still be told apart at that age. Source: GetMetricData's StartTime.
    """
    age_s = now - start
    if age_s >= 63 * DAY_S:
        step_s = 3600
    elif age_s >= 15 * DAY_S:
        step_s = 300
    else:
        step_s = min(period_s, 60)
    return int(start // step_s * step_s)


def find(
    connection: Connection,
    account: str,
    *,
    namespace: str | None = None,
    name: str | None = None,
    dimensions: Mapping[str, str | None] = {},
    active_since: float | None = None,
) -> list[Metric]:
    """The account's metrics that have points, or points since `active_since`, of what is asked for.

    dimensions: name to value, or to None when any value will do; the metric may have others besides.
    """
    found = connection.execute(
        METRICS,
        {
            "account": account,
            "namespace": namespace,
            "name": name,
            "active_since": active_since,
        },
    )
    matching: list[Metric] = []
    for row in found:
        own = dict(json.loads(row.dimensions))
        if all(key in own and value in (None, own[key]) for key, value in dimensions.items()):
            matching.append(Metric(row.namespace, row.name, tuple(own.items())))
    return matching


SERIES_OF = text("""
SELECT id, unit FROM metric_series
 WHERE account = :account AND namespace = :namespace AND name = :name AND dimensions = :dimensions
""")

USED_SERIES = text("""
SELECT DISTINCT series_id FROM metric_points
 WHERE series_id IN :series AND resolution_s IN :resolutions
   AND starts_at >= :start AND starts_at < :end
""").bindparams(bindparam("series", expanding=True), bindparam("resolutions", expanding=True))

SUMMARIES = text("""
SELECT (starts_at - :start) / :period_s AS slot,
       SUM(sample_count), SUM(total), MIN(minimum), MAX(maximum)
  FROM metric_points
 WHERE series_id IN :series AND resolution_s IN :resolutions
   AND starts_at >= :start AND starts_at < :end
 GROUP BY slot ORDER BY slot
""").bindparams(bindparam("series", expanding=True), bindparam("resolutions", expanding=True))

DISTRIBUTIONS = text("""
SELECT (starts_at - :start) / :period_s AS slot,
       SUM(sample_count), SUM(total), MIN(minimum), MAX(maximum)
  FROM metric_points
 WHERE series_id IN :series AND resolution_s IN :resolutions
   AND starts_at >= :start AND starts_at < :end
 GROUP BY slot, bucket ORDER BY slot, bucket
""").bindparams(bindparam("series", expanding=True), bindparam("resolutions", expanding=True))

# PostgreSQL must know the type of what may be null.
METRICS = text("""
SELECT DISTINCT namespace, name, dimensions FROM metric_series
 WHERE account = :account
   AND (CAST(:namespace AS TEXT) IS NULL OR namespace = :namespace)
   AND (CAST(:name AS TEXT) IS NULL OR name = :name)
   AND (CAST(:active_since AS FLOAT) IS NULL OR EXISTS (
         SELECT 1 FROM metric_points
          WHERE series_id = metric_series.id AND resolution_s = 1 AND starts_at >= :active_since))
""")
