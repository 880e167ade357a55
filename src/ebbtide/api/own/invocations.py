"""Invocations, seen: lists of them, and one, which can be waited for. What changes them: steering.py."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import Connection

from ebbtide import clock
from ebbtide.api.call import Parts
from ebbtide.api.own import details, selection
from ebbtide.api.own.details import Invocation, State, Summary
from ebbtide.api.own.requests import Asking, ClientGone, Server, Time
from ebbtide.api.own.selection import Id, Selection
from ebbtide.queue import listing
from ebbtide.queue.listing import UNFINISHED

router = APIRouter(tags=["invocations"])

MAX_WAIT_S = 60
LOOK_AGAIN_S = 5.0
"""How long a waiter relies on being told of changes: another server beside the database may have made one."""

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000


class Invocations(BaseModel):
    """A page, newest first. It may hold fewer than `limit`, even none, and still have a next one."""

    invocations: list[Summary]
    next: str | None = Field(description="The `after` of the next page; null at the end.")


@router.get("/invocations")
async def list_invocations(
    server: Server,
    caller: Asking,
    endpoint: str | None = None,
    state: Annotated[list[State] | None, Query()] = None,
    tag: Annotated[list[str] | None, Query(description="key:value; all of them must fit.")] = None,
    account: Annotated[str | None, Query(description="Whose key submitted them.")] = None,
    inference_id: str | None = None,
    accepted_after: Time | None = None,
    accepted_before: Time | None = None,
    after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> Invocations:
    """Invocations, newest first. A page costs the same whatever the backlog."""
    wanted = Selection(
        endpoint=endpoint,
        state=state,
        tag=tag,
        account=account,
        accepted_after=accepted_after,
        accepted_before=accepted_before,
        after=after,
    )

    def read(connection: Connection) -> Invocations:
        seen, page = selection.page(connection, caller, wanted, limit=limit, inference_id=inference_id)
        tags = listing.tags_of(connection, [one.id for one in page.invocations])
        return Invocations(
            invocations=[details.summary(one, seen, tags.get(one.id, {})) for one in page.invocations],
            next=page.after,
        )

    return await server.database.read(read)


@router.get("/invocations/{invocation_id}")
async def get_invocation(
    server: Server,
    caller: Asking,
    client_gone: ClientGone,
    invocation_id: Id,
    wait: Annotated[
        float,
        Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the outcome, if there is none yet."),
    ] = 0,
) -> Invocation:
    """One invocation with its place in the queue, the expected times, its attempts and its timeline."""
    seen, found = await selection.find(server, caller, invocation_id)
    if wait and found.state in UNFINISHED:
        await _outcome(server, found.id, client_gone, until=clock.now() + wait)
    shown = await server.database.read(
        lambda connection: details.whole(connection, seen, found.id, clock.now())
    )
    # That may be the database, which then cannot keep it either: the server knows that has the work.
    if shown.state in UNFINISHED and (reason := server.fleet.waiting_reason(shown.id)):
        shown.waiting_reason = reason
    return shown


async def _outcome(server: Parts, id_: str, client_gone: ClientGone, *, until: float) -> None:
    """Return once the invocation has its outcome, time is over, the client has gone or the server stops."""
    stopping = asyncio.ensure_future(server.stopping.wait())
    gone = asyncio.ensure_future(client_gone())
    try:
        with server.changes.follow(id_) as follower:
            while (left_s := until - clock.now()) > 0 and not (stopping.done() or gone.done()):
                # It may have ended before we followed, or at another server.
                if await server.database.read(lambda connection: listing.has_outcome(connection, id_)):
                    return
                told = asyncio.ensure_future(follower.next())
                try:
                    await asyncio.wait(
                        [told, stopping, gone],
                        timeout=min(left_s, LOOK_AGAIN_S),
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    told.cancel()
    finally:
        stopping.cancel()
        gone.cancel()
