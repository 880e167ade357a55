"""Invocations, steered: preferred, cancelled and submitted anew, one or all that fit."""

from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field

from ebbtide import clock, endpoints
from ebbtide.api.authentication import Caller
from ebbtide.api.call import Parts
from ebbtide.api.own import details, selection
from ebbtide.api.own.details import Invocation
from ebbtide.api.own.requests import Asking, Invalid, Server
from ebbtide.api.own.selection import Id, Selection
from ebbtide.endpoints import Endpoint
from ebbtide.queue.listing import UNFINISHED
from ebbtide.queue.steering import MAX_PRIORITY, MIN_PRIORITY, REDRIVABLE

router = APIRouter(tags=["invocations"])

STEERED_AT_ONCE = 1000
"""Invocations changed by one request; the answer's `next` leads to the others."""


class Redriving(Selection):
    """Which invocations are submitted anew, and where."""

    to_endpoint: str | None = Field(None, description="Another endpoint; left out, each one's own.")


class Change(BaseModel):
    model_config = ConfigDict(extra="forbid")

    priority: int = Field(ge=MIN_PRIORITY, le=MAX_PRIORITY, description="Higher first.")


class Again(BaseModel):
    model_config = ConfigDict(extra="forbid")

    endpoint: str | None = Field(None, description="Another endpoint; left out, its own.")


class Cancelled(BaseModel):
    cancelled: int
    next: str | None = Field(description="Send it as `after` to go on with the others; null at the end.")


class Redriven(BaseModel):
    redriven: dict[str, str] = Field(description="Old id -> the new invocation's id.")
    next: str | None = Field(description="Send it as `after` to go on with the others; null at the end.")


@router.patch("/invocations/{invocation_id}")
async def change_invocation(
    server: Server, caller: Asking, invocation_id: Id, to: Annotated[Change, Body()]
) -> Invocation:
    """Change the priority of one that has no outcome yet. What is being worked on goes on."""
    seen, found = await selection.find(server, caller, invocation_id)
    if not await server.steering.set_priority(found.id, to.priority):
        raise Invalid(f"Invocation {found.id} has its outcome already.")
    return await server.database.read(
        lambda connection: details.whole(connection, seen, found.id, clock.now())
    )


@router.post("/invocations/{invocation_id}/cancel")
async def cancel_invocation(server: Server, caller: Asking, invocation_id: Id) -> Invocation:
    """Cancel one: at once when it is queued; when a model works on it, that stops within a second.

    One that has its outcome already keeps it.
    """
    seen, found = await selection.find(server, caller, invocation_id)
    await server.steering.cancel([found.id], clock.now())
    return await server.database.read(
        lambda connection: details.whole(connection, seen, found.id, clock.now())
    )


@router.post("/invocations/{invocation_id}/redrive", status_code=201)
async def redrive_invocation(
    server: Server, caller: Asking, invocation_id: Id, to: Annotated[Again | None, Body()] = None
) -> Invocation:
    """Submit one anew that failed, expired or was cancelled; the new invocation."""
    seen, found = await selection.find(server, caller, invocation_id)
    target = await _target(server, caller, to.endpoint if to else None)
    if found.state not in REDRIVABLE:
        raise Invalid(
            f"Invocation {found.id} is {found.state}; only what is {', '.join(REDRIVABLE)} is redriven."
        )
    redriven = await server.steering.redrive([found.id], clock.now(), to=target)
    if found.id not in redriven:
        raise Invalid(f"Invocation {found.id} was purged: its input is no longer there.")
    return await server.database.read(
        lambda connection: details.whole(connection, seen, redriven[found.id], clock.now())
    )


@router.post("/invocations/cancel")
async def cancel_invocations(
    server: Server, caller: Asking, wanted: Annotated[Selection, Body()]
) -> Cancelled:
    """Cancel all that are meant and have no outcome yet, newest first, 1000 at a time."""
    page = await server.database.read(
        lambda connection: selection.page(
            connection, caller, wanted, limit=STEERED_AT_ONCE, among=UNFINISHED
        )[1]
    )
    done = await server.steering.cancel([one.id for one in page.invocations], clock.now())
    return Cancelled(cancelled=len(done), next=page.after)


@router.post("/invocations/redrive")
async def redrive_invocations(
    server: Server, caller: Asking, wanted: Annotated[Redriving, Body()]
) -> Redriven:
    """Submit all anew that are meant and failed, expired or were cancelled, newest first, 1000 at a time."""
    target = await _target(server, caller, wanted.to_endpoint)
    page = await server.database.read(
        lambda connection: selection.page(
            connection, caller, wanted, limit=STEERED_AT_ONCE, among=frozenset(REDRIVABLE)
        )[1]
    )
    done = await server.steering.redrive([one.id for one in page.invocations], clock.now(), to=target)
    return Redriven(redriven=dict(done), next=page.after)


async def _target(server: Parts, caller: Caller, name: str | None) -> Endpoint | None:
    if name is None:
        return None
    return await server.database.read(
        lambda connection: endpoints.get_endpoint(connection, caller.account, name)
    )
