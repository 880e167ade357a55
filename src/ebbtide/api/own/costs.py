"""Costs, as JSON and as CSV."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field
from sqlalchemy import Connection

from ebbtide import clock
from ebbtide.api.own.requests import Asking, Day, Invalid, Server
from ebbtide.costs.report import DIMENSIONS, TAG, Amount, Report, report
from ebbtide.instances.types import InstanceTypes

router = APIRouter(tags=["costs"])

DEFAULT_DAYS = 7
MAX_DAYS = 92


class Format(StrEnum):
    """How costs are answered."""

    JSON = "json"
    CSV = "csv"


class Cost(BaseModel):
    """Time in instance-seconds, money in USD; money is null where an instance type has no price."""

    invocations: int = Field(description="How many came to their end.")
    instance_s: float = Field(description="From each start to each stop.")
    cost: float | None
    starting_s: float = Field(description="Of that: until in service.")
    cold_start_share: float
    busy_s: float = Field(description="Of that: with at least one invocation.")
    idle_s: float = Field(description="Of that: the rest.")
    idle_share: float
    always_on_s: float = Field(
        description="As many instances as ran at most at a time, running all the time."
    )
    always_on_cost: float | None
    minimum_s: float = Field(
        description="No schedule could have used less for the same arrivals and service times."
    )
    minimum_cost: float | None


class Row(Cost):
    """The costs of one value of each dimension asked for."""

    of: dict[str, str | None] = Field(
        description="Dimension -> value; null: no invocation's, or one without that tag."
    )


class Costs(BaseModel):
    """Costs of whole days, UTC; of the current one as far as it has come."""

    since: date
    until: date = Field(description="The last day.")
    currency: str
    rows: list[Row]
    total: Cost


@router.get(
    "/costs",
    response_model=Costs,
    responses={200: {"content": {"text/csv": {}}}},
)
async def get_costs(
    server: Server,
    caller: Asking,
    since: Annotated[Day | None, Query(description="The first day. [default: a week's]")] = None,
    until: Annotated[Day | None, Query(description="The last day. [default: today]")] = None,
    by: Annotated[
        list[str] | None,
        Query(description=f"What makes a row: {', '.join(DIMENSIONS)} or {TAG}KEY. Repeatable."),
    ] = None,
    endpoint: Annotated[str | None, Query(description="Only this endpoint's.")] = None,
    account: Annotated[str | None, Query(description="Only what this account's keys submitted.")] = None,
    format: Annotated[Format, Query(description="csv: a line a row.")] = Format.JSON,  # noqa: A002
) -> Costs | Response:
    """What the instances of the caller's endpoints cost."""
    now = clock.now()
    last = until or datetime.fromtimestamp(now, UTC).date()
    first = since or last - timedelta(days=DEFAULT_DAYS - 1)
    if not timedelta(0) <= last - first < timedelta(days=MAX_DAYS):
        raise Invalid(f"since must not be after until, nor {MAX_DAYS} days or more before it.")
    dimensions = _dimensions(by or ("endpoint",))
    types = InstanceTypes(server.settings.instance_types_file)

    def read(connection: Connection) -> Report:
        return report(
            connection,
            types,
            caller.account,
            since=first,
            until=last,
            by=dimensions,
            now=now,
            endpoint=endpoint,
            submitter=account,
        )

    found = await server.database.read(read)
    if format is Format.CSV:
        return Response(_csv(found), media_type="text/csv")
    return Costs(
        since=first,
        until=last,
        currency="USD",
        rows=[
            Row(of=dict(zip(found.by, key, strict=True)), **_values(amount))
            for key, amount in found.rows.items()
        ],
        total=Cost(**_values(found.total)),
    )


def _dimensions(by: Sequence[str]) -> tuple[str, ...]:
    """Each once, in the order given. Raises Invalid for what is none."""
    for each in by:
        if each not in DIMENSIONS and not each.removeprefix(TAG):
            raise Invalid(f"by: a tag's key must follow {TAG}")
        if each not in DIMENSIONS and not each.startswith(TAG):
            raise Invalid(f"by: {each} is none of {', '.join(DIMENSIONS)} and {TAG}KEY.")
    return tuple(dict.fromkeys(by))


def _values(amount: Amount) -> dict[str, Any]:
    return {name: getattr(amount, name) for name in Cost.model_fields}


def _csv(found: Report) -> str:
    """A line a row, under a line of names; an empty field is null."""
    text = io.StringIO()
    lines = csv.writer(text)
    lines.writerow([*found.by, *Cost.model_fields])
    for key, amount in found.rows.items():
        lines.writerow([*key, *_values(amount).values()])
    return text.getvalue()
