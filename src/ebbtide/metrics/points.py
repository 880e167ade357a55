"""What was measured, kept exactly: how often, in sum, at least and at most, per second and size of value.

A row holds the samples of one series in one stretch of time whose values lie within 1 % of each other, so
that sums, averages and extremes are exact, percentiles good to 1 %, and a busy second costs a few rows.
Stretches are a second long at first and grow as they age (`TIERS`).
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from sqlalchemy import BigInteger, Column, Connection, Float, Index, Integer, String, Table, text

from ebbtide.database import Rows, metadata
from ebbtide.values import value

Dimensions = tuple[tuple[str, str], ...]

Series = tuple[int, str, str, str, str, str]
"""A series' row: its id, account, namespace, name, dimensions as they are stored, and unit."""

_Big = BigInteger().with_variant(Integer, "sqlite")

Table(
    "metric_series",
    metadata,
    Column("id", _Big, primary_key=True, autoincrement=False),
    # Whose metric it is: those of two accounts are two, though all else is equal.
    Column("account", String, nullable=False),
    Column("namespace", String, nullable=False),
    Column("name", String, nullable=False),
    Column("dimensions", String, nullable=False),
    Column("unit", String, nullable=False),
    Index("metric_series_of_account", "account", "namespace", "name", "dimensions"),
)

Table(
    "metric_points",
    metadata,
    Column("series_id", _Big, primary_key=True),
    Column("resolution_s", Integer, primary_key=True),
    # Whole epoch seconds, a multiple of resolution_s: the point covers the resolution_s from there.
    Column("starts_at", _Big, primary_key=True),
    Column("bucket", Integer, primary_key=True),
    Column("sample_count", Float, nullable=False),
    Column("total", Float, nullable=False),
    Column("minimum", Float, nullable=False),
    Column("maximum", Float, nullable=False),
    sqlite_with_rowid=False,
)

DAY_S = 86_400

TIERS = ((1, 3 * 3600), (60, 15 * DAY_S), (300, 63 * DAY_S), (3600, 455 * DAY_S))
"""Resolution and how long points keep it, both in s. Source: CloudWatch, metrics retention."""


@value
class Point:
    """A value of the account's measured `count` times at `at`; `unit` is one of CloudWatch's StandardUnit."""

    account: str
    namespace: str
    name: str
    dimensions: Dimensions
    value: float
    unit: str
    at: float
    count: float = 1.0


@dataclass(frozen=True, slots=True)
class StatisticSet:
    """Samples summed up by whoever measured them. Source: PutMetricData's StatisticValues."""

    account: str
    namespace: str
    name: str
    dimensions: Dimensions
    unit: str
    at: float
    count: float
    total: float
    minimum: float
    maximum: float


def record(connection: Connection, points: Iterable[Point]) -> None:
    """Add points, in the transaction of what they measure: they count once, or not at all if it fails."""
    summed = _Sums()
    for p in points:
        series = _series(p.account, p.namespace, p.name, p.dimensions, p.unit)
        summed.add(series, int(p.at), bucket(p.value), p.count, p.count * p.value, p.value, p.value)
    summed.write(connection)


def record_sets(connection: Connection, sets: Iterable[StatisticSet]) -> None:
    """Add samples of which only count, sum and extremes are known; their percentiles are interpolated."""
    summed = _Sums()
    for s in sets:
        series = _series(s.account, s.namespace, s.name, s.dimensions, s.unit)
        summed.add(series, int(s.at), bucket(s.total / s.count), s.count, s.total, s.minimum, s.maximum)
    summed.write(connection)


class _Sums:
    """Samples on their way into the database; those of one series, second and bucket go there together."""

    def __init__(self) -> None:
        self._series: dict[int, Series] = {}
        self._points: dict[tuple[int, int, int], tuple[float, float, float, float]] = {}

    def add(
        self,
        series: Series,
        starts_at: int,
        bucket: int,
        count: float,
        total: float,
        minimum: float,
        maximum: float,
    ) -> None:
        series_id = series[0]
        self._series[series_id] = series
        at = (series_id, starts_at, bucket)
        if (known := self._points.get(at)) is not None:
            count += known[0]
            total += known[1]
            minimum = min(minimum, known[2])
            maximum = max(maximum, known[3])
        self._points[at] = (count, total, minimum, maximum)

    def write(self, connection: Connection) -> None:
        if not self._points:
            return
        ADD_SERIES.execute(connection, list(self._series.values()))
        ADD_POINTS.execute(connection, [(*at, *sums) for at, sums in self._points.items()])


STRETCHES_AT_ONCE = 5


def roll_up(connection: Connection, now: float) -> None:
    """Move points that outlived their resolution to the next coarser one, and drop the oldest.

    To be called about every minute. A call moves a few minutes' points at most, so that after a long time
    without one no other write waits long; queries see the rest at their old resolution.
    """
    for (fine, kept_s), (coarse, _) in pairwise(TIERS):
        oldest = connection.execute(OLDEST, {"resolution_s": fine}).scalar()
        if oldest is None:
            continue
        # Whole coarse stretches; a point that comes later still adds itself to its stretch.
        due = int(now - kept_s) // coarse * coarse
        before = min(due, (oldest // coarse + STRETCHES_AT_ONCE) * coarse)
        connection.execute(ROLL_UP, {"fine": fine, "coarse": coarse, "before": before})
        connection.execute(DROP, {"resolution_s": fine, "before": before})
    coarsest, kept_s = TIERS[-1]
    connection.execute(DROP, {"resolution_s": coarsest, "before": int(now - kept_s)})
    connection.execute(DROP_EMPTY_SERIES)


WIDTH = 1.01
_LOG_WIDTH = math.log(WIDTH)
_ABOVE_ALL_EXPONENTS = 100_000  # the smallest double's logarithm to the base of WIDTH is -74,816


def bucket(value: float) -> int:
    """The logarithmic bucket of a value: within one, values differ by at most 1 %; they sort as values do.

    Source: DDSketch, Masson et al. 2019, 2.1, extended to zero and negative values.
    """
    if value == 0:
        return 0
    index = math.ceil(math.log(abs(value)) / _LOG_WIDTH) + _ABOVE_ALL_EXPONENTS
    return index if value > 0 else -index


def encode(dimensions: Iterable[tuple[str, str]]) -> str:
    """Dimensions as they are stored: their order does not tell series apart."""
    return json.dumps(sorted(dimensions), separators=(",", ":"))


@lru_cache(maxsize=4096)
def _series(account: str, namespace: str, name: str, dimensions: Dimensions, unit: str) -> Series:
    encoded = encode(dimensions)
    # The id is a hash, so that recording needs no look-up; at a million series the odds that any two
    # share one are 1 to 18 million.
    identity = f"{account}\0{namespace}\0{name}\0{encoded}\0{unit}".encode()
    digest = hashlib.blake2b(identity, digest_size=8).digest()
    return int.from_bytes(digest) >> 1, account, namespace, name, encoded, unit


ADD_SERIES = Rows(
    "INSERT INTO metric_series (id, account, namespace, name, dimensions, unit) VALUES {}"
    " ON CONFLICT DO NOTHING",
    "(?, ?, ?, ?, ?, ?)",
)

_MERGE = """
ON CONFLICT (series_id, resolution_s, starts_at, bucket) DO UPDATE SET
  sample_count = metric_points.sample_count + excluded.sample_count,
  total = metric_points.total + excluded.total,
  minimum = CASE WHEN excluded.minimum < metric_points.minimum
                 THEN excluded.minimum ELSE metric_points.minimum END,
  maximum = CASE WHEN excluded.maximum > metric_points.maximum
                 THEN excluded.maximum ELSE metric_points.maximum END
"""

ADD_POINTS = Rows(
    """
INSERT INTO metric_points
       (series_id, resolution_s, starts_at, bucket, sample_count, total, minimum, maximum)
VALUES {}
"""
    + _MERGE,
    "(?, 1, ?, ?, ?, ?, ?, ?)",
)

# Naming every series lets the primary key find each one's old points; without, all points are scanned.
_OLD_POINTS = "series_id IN (SELECT id FROM metric_series) AND starts_at < :before AND resolution_s = "

ROLL_UP = text(
    f"""
INSERT INTO metric_points
       (series_id, resolution_s, starts_at, bucket, sample_count, total, minimum, maximum)
SELECT series_id, :coarse, starts_at - starts_at % :coarse, bucket,
       SUM(sample_count), SUM(total), MIN(minimum), MAX(maximum)
  FROM metric_points
 WHERE {_OLD_POINTS} :fine
 GROUP BY series_id, starts_at - starts_at % :coarse, bucket
"""  # noqa: S608  both parts are constants of this file
    + _MERGE
)

OLDEST = text("""
SELECT MIN((SELECT MIN(starts_at) FROM metric_points
             WHERE series_id = metric_series.id AND resolution_s = :resolution_s))
  FROM metric_series
""")

DROP = text(f"DELETE FROM metric_points WHERE {_OLD_POINTS} :resolution_s")  # noqa: S608

DROP_EMPTY_SERIES = text("""
DELETE FROM metric_series
 WHERE NOT EXISTS (SELECT 1 FROM metric_points WHERE series_id = metric_series.id)
""")
