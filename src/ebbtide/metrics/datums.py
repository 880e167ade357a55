"""What clients measured, as PutMetricData tells it: read and checked. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from ebbtide.errors import ServiceError
from ebbtide.metrics.data import dimensions
from ebbtide.metrics.points import DAY_S, Dimensions, Point, StatisticSet

MAX_DATUMS = 1_000
MAX_VALUES = 150
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


def read(
    account: str, namespace: str, datums: Sequence[Mapping[str, Any]], *, now: float
) -> tuple[list[Point], list[StatisticSet]]:
    """The points and statistic sets of MetricData. Source: PutMetricData, CloudWatch 2010-08-01.

    Raises InvalidValue, InvalidCombination, MissingParameter.
    """
    if namespace.startswith("AWS/"):
        raise InvalidValue(f"The value {namespace} for parameter Namespace is invalid: AWS/ is reserved.")
    if not datums:
        raise MissingParameter("The parameter MetricData is required.")
    if len(datums) > MAX_DATUMS:
        raise InvalidValue(f"The collection MetricData must not have a size greater than {MAX_DATUMS}.")
    points: list[Point] = []
    sets: list[StatisticSet] = []
    for number, datum in enumerate(datums, 1):
        _read_datum(f"MetricData.member.{number}", account, namespace, datum, now, points, sets)
    return points, sets


def moment(params: Mapping[str, Any], name: str) -> float:
    """Epoch seconds of a timestamp parameter. Raises InvalidValue for what no calendar has."""
    at = float(params[name])
    if not 0 <= at <= LAST_MOMENT:
        raise InvalidValue(f"The value of the parameter {name} is not a time.")
    return at


def _read_datum(
    where: str,
    account: str,
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
    at = moment(datum, "Timestamp") if "Timestamp" in datum else now
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
            f"The parameters {where}.{given[0]} and {where}.{given[1]} are mutually exclusive "
            "and you have specified both."
        )
    name, unit = datum["MetricName"], datum.get("Unit", "None")
    if given == ["StatisticValues"]:
        sets.append(_read_set(where, account, namespace, name, own, unit, at, datum["StatisticValues"]))
        return
    values = datum.get("Values", [datum.get("Value")])
    counts = datum.get("Counts", [1.0] * len(values))
    if not 0 < len(values) <= MAX_VALUES:
        raise InvalidValue(f"The collection {where}.Values must have 1 to {MAX_VALUES} members.")
    if len(counts) != len(values):
        raise InvalidValue(f"The parameters {where}.Values and {where}.Counts must be of the same size.")
    for value, count in zip(values, counts, strict=True):
        _check_number(f"{where}.{given[0]}", value)
        _check_number(f"{where}.Counts", count)
        if count < 0:
            raise InvalidValue(f"The value {count:g} for parameter {where}.Counts is invalid.")
        if count:
            points.append(Point(account, namespace, name, own, value, unit, at, count))


def _read_set(
    where: str,
    account: str,
    namespace: str,
    name: str,
    own: Dimensions,
    unit: str,
    at: float,
    given: Mapping[str, float],
) -> StatisticSet:
    for member, value in given.items():
        _check_number(f"{where}.StatisticValues.{member}", value)
    if given["SampleCount"] <= 0 or given["Minimum"] > given["Maximum"]:
        raise InvalidValue(f"{where}.StatisticValues must have samples, and a Minimum not above the Maximum.")
    return StatisticSet(
        account,
        namespace,
        name,
        own,
        unit,
        at,
        given["SampleCount"],
        given["Sum"],
        given["Minimum"],
        given["Maximum"],
    )


def _check_number(where: str, value: float) -> None:
    if not abs(value) <= LARGEST_VALUE:
        raise InvalidValue(f"The value {value} for parameter {where} is invalid.")
