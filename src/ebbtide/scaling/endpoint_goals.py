"""Endpoints' goals in the database: put over our own API, or chosen by tags of the endpoint.

A goal that was put holds before the tags that choose the same; each of the three stands by itself. Tags are
read where they lie, so one that goes takes its goal along. Every function runs in a caller's transaction.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict

from sqlalchemy import JSON, Column, Connection, ForeignKey, Table, delete, insert, select, text

from ebbtide.database import metadata
from ebbtide.endpoints import Endpoint, catalogue
from ebbtide.errors import ServiceError
from ebbtide.scaling import schedules
from ebbtide.scaling.goals import MAX_WEEKS, MAX_WITHIN_S, NO_GOALS, Budget, Deadline, Forecast, Goals

PREFIX = "ebbtide:"
"""Of the keys that choose goals. Others with it are refused, so that a misspelt one is not passed over."""

WITHIN, BY, USD, INSTANCE_S, WEEKS = (
    f"{PREFIX}{name}"
    for name in (
        "deadline-within-s",
        "deadline-by",
        "budget-usd-per-day",
        "budget-instance-s-per-day",
        "forecast-weeks",
    )
)
KEYS = (WITHIN, BY, USD, INSTANCE_S, WEEKS)

_BY = re.compile(r"(?P<hour>\d\d?):(?P<minute>\d\d)(?: +(?P<timezone>\S+))?")
_NUMBER = re.compile(r"\d+(\.\d+)?")

goals_put = Table(
    "scaling_goals",
    metadata,
    Column("endpoint_id", ForeignKey("endpoints.id", ondelete="CASCADE"), primary_key=True),
    Column("goals", JSON, nullable=False),
)

TAGS = text("""
SELECT endpoints.id, sagemaker_tags.key, sagemaker_tags.value
  FROM sagemaker_tags JOIN endpoints ON endpoints.arn = sagemaker_tags.resource_arn
 WHERE sagemaker_tags.key LIKE :keys
""")


def goals_of(connection: Connection, endpoint: Endpoint) -> Goals:
    """The goals that hold for the endpoint."""
    given = connection.scalar(select(goals_put.c.goals).where(goals_put.c.endpoint_id == endpoint.id))
    put = NO_GOALS if given is None else Goals.from_given(given)
    tags = {tag["Key"]: tag["Value"] for tag in catalogue.list_tags(connection, endpoint.arn)}
    return _together(put, of_tags(tags))


def all_goals(connection: Connection) -> dict[str, Goals]:
    """The goals that hold, by endpoint id, of those that have any."""
    rows = connection.execute(select(goals_put.c.endpoint_id, goals_put.c.goals))
    found = {row[0]: Goals.from_given(row[1]) for row in rows}
    tags: dict[str, dict[str, str]] = {}
    for endpoint_id, key, value in connection.execute(TAGS, {"keys": f"{PREFIX}%"}):
        tags.setdefault(endpoint_id, {})[key] = value
    for endpoint_id, tagged in tags.items():
        found[endpoint_id] = _together(found.get(endpoint_id, NO_GOALS), of_tags(tagged))
    return found


def put(connection: Connection, endpoint_id: str, goals: Goals) -> None:
    """Replace what was put for the endpoint, all at once; its tags stay."""
    connection.execute(delete(goals_put).where(goals_put.c.endpoint_id == endpoint_id))
    if goals != NO_GOALS:
        connection.execute(insert(goals_put).values(endpoint_id=endpoint_id, goals=asdict(goals)))


def check_tags(
    connection: Connection, endpoint: Endpoint, *, price_per_s: Callable[[str], float | None]
) -> None:
    """Refuse tags of the endpoint that begin as ours do and choose nothing. Raises ServiceError."""
    tags = {tag["Key"]: tag["Value"] for tag in catalogue.list_tags(connection, endpoint.arn)}
    if unknown := sorted(key for key in tags if key.startswith(PREFIX) and key not in KEYS):
        raise ServiceError(f"The tag {unknown[0]} of an endpoint is none of {', '.join(KEYS)}.")
    why = why_not(of_tags(tags), endpoint, price_per_s=price_per_s)
    if why is not None:
        raise ServiceError(f"The tags of {endpoint.name} cannot choose a goal: {why}")


def why_not(goals: Goals, endpoint: Endpoint, *, price_per_s: Callable[[str], float | None]) -> str | None:
    """Why the endpoint cannot have these goals; None where it can."""
    if goals == NO_GOALS:
        return None
    if endpoint.async_config is None:
        return f"The endpoint {endpoint.name} has no queue: it answers in real time."
    if goals.budget is not None and goals.budget.usd_per_day is not None:
        types = {variant.instance_type for variant in endpoint.variants}
        if unknown := sorted(type_ for type_ in types if price_per_s(type_) is None):
            return f"budget.usd_per_day: no price of {', '.join(unknown)} is known."
    return None


def of_tags(tags: Mapping[str, str]) -> Goals:
    """The goals that an endpoint's tags choose. Raises ServiceError, naming the tag and what it may be."""
    for one, other in ((WITHIN, BY), (USD, INSTANCE_S)):
        if one in tags and other in tags:
            raise ServiceError(f"At most one of the tags {one} and {other} may be given.")
    deadline = budget = forecast = None
    if WITHIN in tags:
        deadline = Deadline(within_s=_number(tags, WITHIN, most=MAX_WITHIN_S))
    elif BY in tags:
        deadline = _daily(tags[BY])
    if USD in tags:
        budget = Budget(usd_per_day=_number(tags, USD))
    elif INSTANCE_S in tags:
        budget = Budget(instance_s_per_day=_number(tags, INSTANCE_S))
    if WEEKS in tags:
        forecast = Forecast(_weeks(tags[WEEKS]))
    return Goals(deadline, budget, forecast)


def _together(put: Goals, tagged: Goals) -> Goals:
    return Goals(
        put.deadline or tagged.deadline, put.budget or tagged.budget, put.forecast or tagged.forecast
    )


def _number(tags: Mapping[str, str], key: str, *, most: float = math.inf) -> float:
    value = tags[key].strip()
    # Digits as such: float() would take inf, 1_000 and 1e9 too.
    number = float(value) if _NUMBER.fullmatch(value) else 0.0
    if not 0 < number <= most or math.isinf(number):
        bound = "" if math.isinf(most) else f", {most:.0f} at most"
        raise ServiceError(f"The tag {key} must be a number above 0{bound}, not {tags[key]!r}.")
    return number


def _weeks(value: str) -> int:
    if not re.fullmatch(r"\d{1,9}", value.strip()) or not 1 <= int(value) <= MAX_WEEKS:
        raise ServiceError(f"The tag {WEEKS} must be a number from 1 to {MAX_WEEKS}, not {value!r}.")
    return int(value)


def _daily(value: str) -> Deadline:
    """A time of each day. Tags hold no cron expression: AWS allows neither brackets nor stars in them."""
    found = _BY.fullmatch(value.strip())
    try:
        if found is None:
            raise ValueError(f"{value!r} is no time of day")
        by = f"cron({int(found['minute'])} {int(found['hour'])} * * ? *)"
        schedules.parse(by, found["timezone"])
    except ValueError as error:
        raise ServiceError(f"The tag {BY} must be as in '06:00' or '06:00 Europe/Paris': {error}.") from error
    return Deadline(by=by, timezone=found["timezone"])
