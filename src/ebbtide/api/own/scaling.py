"""What an endpoint is to reach beyond AWS's policies; how its instances started and how much they take on."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Body, Path
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.api.authentication import Caller
from ebbtide.api.own.requests import Asking, Invalid, NotFound, Server, Time, moment
from ebbtide.endpoints import Endpoint
from ebbtide.instances import records
from ebbtide.scaling import endpoint_goals, goals, schedules

router = APIRouter(tags=["scaling"])

Name = Annotated[str, Path(description="The endpoint's name.")]


class Deadline(BaseModel):
    """Within a time of each request's acceptance, or by times of a schedule: one of the two.

    What is queued is done by then with as few instance-seconds as that allows: a start waits for company as
    long as it may. In the place of policies that follow metrics.
    """

    model_config = ConfigDict(extra="forbid")

    within_s: float | None = Field(None, gt=0, le=goals.MAX_WITHIN_S, allow_inf_nan=False)
    by: str | None = Field(None, description="As a scheduled action's Schedule: cron(0 6 * * ? *).")
    timezone: str | None = Field(None, description="Of `by`, by its IANA name; UTC when absent.")

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if (self.within_s is None) == (self.by is None):
            raise ValueError("exactly one of within_s and by must be given")
        if self.by is not None:
            schedules.parse(self.by, self.timezone)
        return self


class Budget(BaseModel):
    """The most that the endpoint's instances may take in a day (UTC): one of the two.

    Beyond MinCapacity none is started that the rest of the day's budget would not let run for a minute.
    """

    model_config = ConfigDict(extra="forbid")

    instance_s_per_day: float | None = Field(None, gt=0, allow_inf_nan=False)
    usd_per_day: float | None = Field(None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if (self.instance_s_per_day is None) == (self.usd_per_day is None):
            raise ValueError("exactly one of instance_s_per_day and usd_per_day must be given")
        return self


class Forecast(BaseModel):
    """Have the instances up for what came at this time of the week, on average of so many weeks."""

    model_config = ConfigDict(extra="forbid")

    weeks: int = Field(4, ge=1, le=goals.MAX_WEEKS)


class Goals(BaseModel):
    """All within MinCapacity and MaxCapacity of the scalable target; null for none."""

    model_config = ConfigDict(extra="forbid")

    deadline: Deadline | None = None
    budget: Budget | None = None
    forecast: Forecast | None = None


class Concurrency(BaseModel):
    """How many invocations an instance works on at a time."""

    instance: str
    since: Time
    limit: int | None = Field(description="Null while it has not been in service for a few seconds.")
    cause: str | None = Field(description="As asked for, searching, or found: with what was measured.")


class Instances(BaseModel):
    instances: list[Concurrency]


class Start(BaseModel):
    """How an instance came into service, and what its model is computed with."""

    instance: str
    since: Time
    phases_s: dict[str, float] = Field(
        description="Of its model server: spawning, importing, preparing (download, or what is kept) "
        "and loading; answering is its first request."
    )
    engine: dict[str, Any] | None = Field(
        description="As the engine describes itself; null for other models."
    )


class Starts(BaseModel):
    instances: list[Start]


@router.get("/endpoints/{name}/goals")
async def get_goals(server: Server, caller: Asking, name: Name) -> Goals:
    """The goals that hold: as put, else as the endpoint's tags choose them."""

    def read(connection: Connection) -> goals.Goals:
        return endpoint_goals.goals_of(connection, _get(connection, caller, name))

    return Goals.model_validate(await server.database.read(read), from_attributes=True)


@router.put("/endpoints/{name}/goals")
async def put_goals(server: Server, caller: Asking, name: Name, wanted: Annotated[Goals, Body()]) -> Goals:
    """Set them, all at once; what is null is left to tags. A budget in USD needs known prices."""
    deadline, budget, forecast = wanted.deadline, wanted.budget, wanted.forecast
    given = goals.Goals(
        deadline=goals.Deadline(**deadline.model_dump()) if deadline else None,
        budget=goals.Budget(**budget.model_dump()) if budget else None,
        forecast=goals.Forecast(**forecast.model_dump()) if forecast else None,
    )

    def write(connection: Connection) -> None:
        endpoint = _get(connection, caller, name)
        why = endpoint_goals.why_not(given, endpoint, price_per_s=server.scaler.price_per_s)
        if why is not None:
            raise Invalid(why)
        endpoint_goals.put(connection, endpoint.id, given)

    await server.database.write(write)
    server.scaler.wake()
    return wanted


@router.get("/endpoints/{name}/concurrency")
async def get_concurrency(server: Server, caller: Asking, name: Name) -> Instances:
    """How many invocations each of the endpoint's instances works on at a time, and why so many."""

    def read(connection: Connection) -> Instances:
        endpoint = _get(connection, caller, name)
        return Instances(
            instances=[
                Concurrency(
                    instance=each.id,
                    since=moment(each.in_service_at),
                    limit=each.concurrency,
                    cause=each.concurrency_cause,
                )
                for each in records.active(connection)
                if each.endpoint_id == endpoint.id and each.in_service_at is not None
            ]
        )

    return await server.database.read(read)


@router.get("/endpoints/{name}/starts")
async def get_starts(server: Server, caller: Asking, name: Name) -> Starts:
    """What each phase of the start of the endpoint's instances took, and what they compute with."""

    def read(connection: Connection) -> Starts:
        endpoint = _get(connection, caller, name)
        return Starts(
            instances=[
                Start(instance=each.id, since=moment(each.in_service_at), **each.start)
                for each in records.active(connection)
                if each.endpoint_id == endpoint.id
                and each.in_service_at is not None
                and each.start is not None
            ]
        )

    return await server.database.read(read)


def _get(connection: Connection, caller: Caller, name: str) -> Endpoint:
    try:
        return endpoints.get_endpoint(connection, caller.account, name)
    except endpoints.EndpointNotFound as error:
        raise NotFound(f"There is no endpoint {name}.") from error
