"""Endpoints as their queues show them: backlog, instances, pace; purge; settings that AWS lacks."""

from typing import Annotated

from fastapi import APIRouter, Body, Path
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from ebbtide import clock, endpoints
from ebbtide.api.authentication import Caller
from ebbtide.api.call import Parts
from ebbtide.api.own.capacity import capacity
from ebbtide.api.own.requests import Asking, NotFound, Server, Time, moment_or_none
from ebbtide.endpoints import Endpoint, EndpointNotFound
from ebbtide.instances.records import State
from ebbtide.queue import deduplication, invocations, listing
from ebbtide.queue.deduplication import Switch

router = APIRouter(tags=["endpoints"])

ARRIVALS_S = 10.0
"""The time over which arrivals are counted."""

Name = Annotated[str, Path(description="The endpoint's name.")]


class Instances(BaseModel):
    """How many there are in which state; draining ones are left out."""

    in_service: int
    starting: int
    pending: int


class Depth(BaseModel):
    """What one account has at the endpoint."""

    account: str
    queued: int
    claimed: int


class EndpointNow(BaseModel):
    """An endpoint at this moment."""

    name: str
    status: str
    queued: int
    claimed: int
    oldest_accepted_at: Time | None = Field(description="Of those without an outcome.")
    accounts: list[Depth]
    instances: Instances
    slots: int = Field(description="Invocations that the instances in service work on at a time.")
    arrivals_per_s: float = Field(description="Over the last 10 seconds.")
    outcomes_per_s: float | None = Field(
        description="How many left lately while work was waiting; null where that cannot be told."
    )
    service_s: float | None = Field(description="Mean time from claim to outcome, of the latest 100.")
    starting_s: float | None = Field(
        description="Mean time from an instance's being wanted to its service, of the latest 5."
    )


class Deduplication(BaseModel):
    """Whether requests of identical input, model and parameters share an outcome."""

    model_config = ConfigDict(extra="forbid")

    enabled: bool
    retention_s: float = Field(
        deduplication.DEFAULT_RETENTION_S,
        ge=0,
        le=31_536_000,
        allow_inf_nan=False,
        description="How long a success answers its equals; while one is in flight it always does.",
    )


class Settings(BaseModel):
    """What AWS's configurations lack."""

    model_config = ConfigDict(extra="forbid")

    deduplication: Deduplication


class Purged(BaseModel):
    purged: int


@router.get("/endpoints/{name}")
async def get_endpoint(server: Server, caller: Asking, name: Name) -> EndpointNow:
    """An endpoint's backlog, instances and pace."""

    def read(connection: Connection) -> EndpointNow:
        now = clock.now()
        endpoint = _get(connection, caller, name)
        backlog = invocations.backlog(connection, endpoint.id)
        has = capacity(connection, endpoint, now)
        states = [one.state for one in has.instances]
        return EndpointNow(
            name=endpoint.name,
            status=endpoint.status,
            queued=backlog.queued,
            claimed=backlog.claimed,
            oldest_accepted_at=moment_or_none(backlog.oldest_accepted_at),
            accounts=[
                Depth(account=account, queued=queued, claimed=claimed)
                for account, (queued, claimed) in listing.depths_of(connection, endpoint.id).items()
            ],
            instances=Instances(
                in_service=states.count(State.IN_SERVICE),
                starting=states.count(State.STARTING),
                pending=states.count(State.PENDING),
            ),
            slots=sum(each.count for each in has.slots if each.ready_at <= now),
            arrivals_per_s=listing.arrived(connection, endpoint.id, since=now - ARRIVALS_S) / ARRIVALS_S,
            outcomes_per_s=has.service.rate_per_s,
            service_s=has.service.service_s,
            starting_s=has.starting_s,
        )

    return await server.database.read(read)


@router.post("/endpoints/{name}/purge")
async def purge_endpoint(server: Server, caller: Asking, name: Name) -> Purged:
    """Drop all that the endpoint has queued, of every account, without outcomes; work in hand goes on."""
    endpoint = await _found(server, caller, name)
    return Purged(purged=await server.steering.purge(endpoint.id, clock.now()))


@router.get("/endpoints/{name}/settings")
async def get_endpoint_settings(server: Server, caller: Asking, name: Name) -> Settings:
    """The endpoint's settings."""
    endpoint = await _found(server, caller, name)
    switch = await server.database.read(lambda connection: deduplication.switch(connection, endpoint.id))
    return _settings(switch)


@router.put("/endpoints/{name}/settings")
async def put_endpoint_settings(
    server: Server, caller: Asking, name: Name, settings: Annotated[Settings, Body()]
) -> Settings:
    """Change them, for what is submitted from now on."""
    endpoint = await _found(server, caller, name)
    switch = Switch(settings.deduplication.enabled, settings.deduplication.retention_s)
    await server.database.write(lambda connection: deduplication.set_switch(connection, endpoint.id, switch))
    return _settings(switch)


async def _found(server: Parts, caller: Caller, name: str) -> Endpoint:
    return await server.database.read(lambda connection: _get(connection, caller, name))


def _get(connection: Connection, caller: Caller, name: str) -> Endpoint:
    try:
        return endpoints.get_endpoint(connection, caller.account, name)
    except EndpointNotFound as error:
        raise NotFound(f"There is no endpoint {name}.") from error


def _settings(switch: Switch) -> Settings:
    return Settings(deduplication=Deduplication(enabled=switch.enabled, retention_s=switch.retention_s))
