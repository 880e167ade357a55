"""Changes of state as they are committed, as server-sent events.

Nothing is kept for those who come later: who was cut off learns by `missed` that it has to look, and finds in
the lists what came in between.
Source: HTML Living Standard, 9.2 Server-sent events.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from sqlalchemy import Connection
from starlette.responses import StreamingResponse

from ebbtide.api.authentication import Caller
from ebbtide.api.call import Parts
from ebbtide.api.own.requests import Asking, NotFound, Server, moment
from ebbtide.queue import listing
from ebbtide.queue.changes import Change, Follower, Missed
from ebbtide.queue.listing import Seen, Shown

router = APIRouter(tags=["events"])

HEARTBEAT_S = 15.0
"""How long a stream is silent at most: proxies and clients take a longer silence for a broken line."""

MISSED = b"event: missed\ndata: {}\n\n"
HEARTBEAT = b": still here\n\n"


class EventStream(StreamingResponse):
    media_type = "text/event-stream"


@router.get(
    "/events",
    response_class=EventStream,
    responses={
        200: {
            "description": "Each event's data is a JSON object of id, endpoint, account, state and at; that "
            "of an event `progress` has progress too, as in an invocation's timeline. An "
            "event `missed` tells that changes were not sent: look at the lists for them.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def follow_events(
    server: Server,
    caller: Asking,
    endpoint: Annotated[str | None, Query(description="Only this endpoint's.")] = None,
    invocation: Annotated[str | None, Query(description="Only this one's: first its state now.")] = None,
    last_event_id: Annotated[
        str | None, Header(description="What a browser sends that was cut off: answered by `missed`.")
    ] = None,
) -> EventStream:
    """Changes of state from now on. A reader who does not keep up is dropped, after an event `missed`."""

    def read(connection: Connection) -> tuple[Seen, Shown | None]:
        seen = listing.seen_by(connection, caller.account, caller.submitter)
        return seen, None if invocation is None else listing.find(connection, seen, invocation)

    seen, one = await server.database.read(read)
    if invocation is not None and one is None:
        raise NotFound(f"There is no invocation {invocation}.")
    endpoint_id = None if endpoint is None else seen.id_of(endpoint)
    if endpoint is not None and endpoint_id is None:
        raise NotFound(f"There is no endpoint {endpoint}.")
    of_id = one.id if one else endpoint_id
    stream = _stream(server, caller, seen, of_id, one, resumed=last_event_id is not None)
    return EventStream(stream, headers={"cache-control": "no-store"})


async def _stream(
    server: Parts, caller: Caller, seen: Seen, of_id: str | None, one: Shown | None, *, resumed: bool
) -> AsyncIterator[bytes]:
    with server.changes.follow(of_id) as follower:
        # Once the headers and this are there, nothing that is committed is missed.
        yield MISSED if resumed else HEARTBEAT
        if one is not None:
            # Read again: it may have moved before we followed.
            now = await server.database.read(lambda connection: listing.find(connection, seen, one.id))
            if now is not None:
                at = now.finished_at or now.claimed_at or now.accepted_at
                yield _event(Change(now.id, now.endpoint_id, now.account, now.state, at), seen)
        async for change in _changes(follower, server.stopping):
            if change is None:
                yield HEARTBEAT
                continue
            if change.endpoint_id not in seen.names:
                seen = await server.database.read(
                    lambda connection: listing.seen_by(connection, caller.account, caller.submitter)
                )
            if seen.sees(change):
                yield _event(change, seen)
    yield MISSED


async def _changes(follower: Follower, stopping: asyncio.Event) -> AsyncIterator[Change | None]:
    """The changes, None after a silence; ends when some were missed or the server stops."""
    stopped = asyncio.ensure_future(stopping.wait())
    told = asyncio.ensure_future(follower.next())
    try:
        while True:
            await asyncio.wait([told, stopped], timeout=HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                return
            if not told.done():
                yield None
                continue
            try:
                change = told.result()
            except Missed:
                return
            told = asyncio.ensure_future(follower.next())
            yield change
    finally:
        told.cancel()
        stopped.cancel()


def _event(change: Change, seen: Seen) -> bytes:
    at = moment(change.at).isoformat().replace("+00:00", "Z")
    data: dict[str, Any] = {
        "id": change.invocation_id,
        "endpoint": seen.names[change.endpoint_id],
        "account": change.account,
        "state": change.state,
        "at": at,
    }
    # A name of its own: who listens for changes of state need not tell them apart.
    name = ""
    if change.progress is not None:
        name, data["progress"] = "event: progress\n", dict(change.progress)
    return f"id: {at}\n{name}data: {json.dumps(data)}\n\n".encode()
