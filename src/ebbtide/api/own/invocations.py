"""Invocations: seen and steered."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

from fastapi import APIRouter, Body, Path, Query
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import Connection

from ebbtide import clock, endpoints
from ebbtide.api.authentication import Caller
from ebbtide.api.call import Parts
from ebbtide.api.own.capacity import Capacity, capacity
from ebbtide.api.own.requests import (
    Asking,
    ClientGone,
    Invalid,
    NotFound,
    Server,
    Time,
    moment,
    moment_or_none,
)
from ebbtide.endpoints import Endpoint
from ebbtide.instances import records
from ebbtide.notifications import history
from ebbtide.queue import estimates, listing, owed, progress
from ebbtide.queue.estimates import Estimate
from ebbtide.queue.listing import UNFINISHED, Attempt, Filter, Position, Seen, Shown
from ebbtide.queue.progress import Progress as Reached
from ebbtide.queue.steering import MAX_PRIORITY, MIN_PRIORITY, REDRIVABLE

router = APIRouter(tags=["invocations"])

MAX_WAIT_S = 60
LOOK_AGAIN_S = 5.0
"""How long a waiter relies on being told of changes: another server beside the database may have made one."""

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000

STEERED_AT_ONCE = 1000
"""Invocations changed by one request; the answer's `next` leads to the others."""

State = Literal["queued", "claimed", "succeeded", "failed", "expired", "cancelled"]

T = TypeVar("T")
OneOrMore = Annotated[list[T], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]

Id = Annotated[
    str,
    Path(description="The invocation's id, or its InferenceId: then the newest of that name."),
    AfterValidator(unquote),  # mount.py leaves encoded what would not be one step of a path
]


class Tried(BaseModel):
    """A claim that ended without an outcome."""

    claim_count: int = Field(description="Which one it was; the first is 1.")
    instance_id: str | None
    claimed_at: Time | None
    ended_at: Time
    reason: str


class Progress(BaseModel):
    """Of a text over the model's window, which is read in parts."""

    level: int = Field(description="1 is the text itself, 2 its parts' summaries, and so on.")
    parts_done: int
    parts: int
    article: int = Field(description="Which of the request's long articles it is; the first is 1.")
    articles: int


class Step(BaseModel):
    """Something that happened to the invocation. Steps of a claim are those of the last one."""

    event: Literal[
        "accepted",
        "claimed",
        "payload_opened",
        "model_started",
        "parts_summarised",
        "model_answered",
        "stored",
        "failed",
        "expired",
        "cancelled",
        "notified",
    ]
    at: Time
    progress: Progress | None = Field(description="Of parts_summarised: as far as it is now.")


class Summary(BaseModel):
    """One invocation, as a list shows it."""

    id: str
    inference_id: str
    endpoint: str
    account: str = Field(description="Whose key submitted it.")
    state: State
    priority: int
    tags: dict[str, str]
    accepted_at: Time
    claimed_at: Time | None
    finished_at: Time | None = Field(description="When it had its outcome; null while it has none.")
    expires_at: Time = Field(description="Until when it may wait in the queue.")
    claim_count: int
    input_location: str | None = Field(description="Null for an input that came with the request.")
    output_location: str
    failure_location: str | None
    failure_reason: str | None
    redriven_from: str | None = Field(description="The invocation that this one repeats.")


class Basis(BaseModel):
    """What an estimate rests on."""

    slots: int = Field(description="Invocations that the instances in service work on at a time.")
    coming_slots: int = Field(description="Those of instances that are starting.")
    service_s: float | None = Field(description="Mean time from claim to outcome, of the latest 100.")
    outcomes_per_s: float | None = Field(
        description="How many left lately while work was waiting; null where that cannot be told: then "
        "slots / service_s is taken."
    )


class Estimated(BaseModel):
    """When it is expected to be claimed and to have its outcome.

    It starts when as many have left as are ahead of it, beyond free slots; instances that are starting add
    their slots once they have taken as long as others did. What arrives later with a higher priority, and how
    long this input takes, is not known: it is taken for an average one. Null for what cannot be told.
    """

    start_at: Time | None
    end_at: Time | None
    basis: Basis


class Queued(BaseModel):
    """A place in the queue."""

    position: int = Field(description="1 is served next.")
    exact: bool = Field(description="False when there are more ahead than were counted.")


class Invocation(Summary):
    """One invocation whole."""

    timeout_s: int = Field(description="How long the model may take.")
    content_type: str | None
    instance_id: str | None
    queue: Queued | None = Field(description="Null unless it is queued.")
    estimate: Estimated | None = Field(description="Null once it has its outcome.")
    waiting_reason: str | None = Field(
        description="What keeps it, its turn aside: why no instance comes up, why the last attempt had "
        "no outcome, or, once it has ended, why its failure object is not where it belongs yet."
    )
    attempts: list[Tried] = Field(description="Claims that ended without an outcome, oldest first.")
    timeline: list[Step]


class Invocations(BaseModel):
    """A page, newest first. It may hold fewer than `limit`, even none, and still have a next one."""

    invocations: list[Summary]
    next: str | None = Field(description="The `after` of the next page; null at the end.")


class Selection(BaseModel):
    """Which invocations are meant; what is left out leaves all."""

    model_config = ConfigDict(extra="forbid")

    endpoint: str | None = None
    state: OneOrMore[State] | None = None
    tag: OneOrMore[str] | None = Field(None, description="key:value; all of them must fit.")
    account: str | None = Field(None, description="Whose key submitted them.")
    accepted_after: Time | None = None
    accepted_before: Time | None = None
    after: str | None = Field(None, description="The `next` of the answer before.")


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
        seen, page = _page(connection, caller, wanted, limit=limit, inference_id=inference_id)
        tags = listing.tags_of(connection, [one.id for one in page.invocations])
        return Invocations(
            invocations=[Summary(**_summary(one, seen, tags.get(one.id, {}))) for one in page.invocations],
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
    seen, found = await _find(server, caller, invocation_id)
    if wait and found.state in UNFINISHED:
        await _outcome(server, found.id, client_gone, until=clock.now() + wait)
    return await server.database.read(lambda connection: _whole(connection, seen, found.id, clock.now()))


@router.patch("/invocations/{invocation_id}")
async def change_invocation(
    server: Server, caller: Asking, invocation_id: Id, to: Annotated[Change, Body()]
) -> Invocation:
    """Change the priority of one that has no outcome yet. What is being worked on goes on."""
    seen, found = await _find(server, caller, invocation_id)
    if not await server.steering.set_priority(found.id, to.priority):
        raise Invalid(f"Invocation {found.id} has its outcome already.")
    return await server.database.read(lambda connection: _whole(connection, seen, found.id, clock.now()))


@router.post("/invocations/{invocation_id}/cancel")
async def cancel_invocation(server: Server, caller: Asking, invocation_id: Id) -> Invocation:
    """Cancel one: at once when it is queued; when a model works on it, that stops within a second.

    One that has its outcome already keeps it.
    """
    seen, found = await _find(server, caller, invocation_id)
    await server.steering.cancel([found.id], clock.now())
    return await server.database.read(lambda connection: _whole(connection, seen, found.id, clock.now()))


@router.post("/invocations/{invocation_id}/redrive", status_code=201)
async def redrive_invocation(
    server: Server, caller: Asking, invocation_id: Id, to: Annotated[Again | None, Body()] = None
) -> Invocation:
    """Submit one anew that failed, expired or was cancelled; the new invocation."""
    seen, found = await _find(server, caller, invocation_id)
    target = await _target(server, caller, to.endpoint if to else None)
    if found.state not in REDRIVABLE:
        raise Invalid(
            f"Invocation {found.id} is {found.state}; only what is {', '.join(REDRIVABLE)} is redriven."
        )
    redriven = await server.steering.redrive([found.id], clock.now(), to=target)
    if found.id not in redriven:
        raise Invalid(f"Invocation {found.id} was purged: its input is no longer there.")
    return await server.database.read(
        lambda connection: _whole(connection, seen, redriven[found.id], clock.now())
    )


@router.post("/invocations/cancel")
async def cancel_invocations(
    server: Server, caller: Asking, wanted: Annotated[Selection, Body()]
) -> Cancelled:
    """Cancel all that are meant and have no outcome yet, newest first, 1000 at a time."""
    page = await server.database.read(
        lambda connection: _page(connection, caller, wanted, limit=STEERED_AT_ONCE, among=UNFINISHED)[1]
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
        lambda connection: _page(
            connection, caller, wanted, limit=STEERED_AT_ONCE, among=frozenset(REDRIVABLE)
        )[1]
    )
    done = await server.steering.redrive([one.id for one in page.invocations], clock.now(), to=target)
    return Redriven(redriven=dict(done), next=page.after)


async def _find(server: Parts, caller: Caller, id_: str) -> tuple[Seen, Shown]:
    """What the caller sees, and of that the one meant. Raises NotFound."""

    def read(connection: Connection) -> tuple[Seen, Shown | None]:
        seen = listing.seen_by(connection, caller.account, caller.submitter)
        return seen, listing.find(connection, seen, id_)

    seen, found = await server.database.read(read)
    if found is None:
        raise NotFound(f"There is no invocation {id_}.")
    return seen, found


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


async def _target(server: Parts, caller: Caller, name: str | None) -> Endpoint | None:
    if name is None:
        return None
    return await server.database.read(
        lambda connection: endpoints.get_endpoint(connection, caller.account, name)
    )


def _page(
    connection: Connection,
    caller: Caller,
    wanted: Selection,
    *,
    limit: int,
    inference_id: str | None = None,
    among: frozenset[str] = frozenset(),
) -> tuple[Seen, listing.Page]:
    """The page that is meant, of the states `among`. Raises Invalid, naming the field."""
    seen = listing.seen_by(connection, caller.account, caller.submitter)
    endpoint_id = None
    if wanted.endpoint is not None and (endpoint_id := seen.id_of(wanted.endpoint)) is None:
        raise NotFound(f"There is no endpoint {wanted.endpoint}.")
    states: frozenset[str] = frozenset(wanted.state or ())
    if among:
        states = states & among if states else among
        if not states:
            return seen, listing.Page((), None)
    meant = Filter(
        endpoint_id=endpoint_id,
        states=states,
        accepted_after=_epoch_s(wanted.accepted_after),
        accepted_before=_epoch_s(wanted.accepted_before),
        tags=dict(map(_tag, wanted.tag or ())),
        account=wanted.account,
        inference_id=inference_id,
    )
    try:
        return seen, listing.page(connection, seen, meant, limit=limit, after=wanted.after)
    except ValueError as error:
        raise Invalid("after: it is not a token that a page gave.") from error


def _tag(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not key or not colon:
        raise Invalid(f"tag: {text!r} is not of the form key:value.")
    return key, value


def _epoch_s(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _summary(one: Shown, seen: Seen, tags: dict[str, str]) -> dict[str, Any]:
    return {
        "id": one.id,
        "inference_id": one.inference_id,
        "endpoint": seen.names[one.endpoint_id],
        "account": one.account,
        "state": one.state,
        "priority": one.priority,
        "tags": tags,
        "accepted_at": moment(one.accepted_at),
        "claimed_at": moment_or_none(one.claimed_at),
        "finished_at": moment_or_none(one.finished_at),
        "expires_at": moment(one.expires_at),
        "claim_count": one.claim_count,
        "input_location": one.input_uri,
        "output_location": one.output_uri,
        "failure_location": one.failure_uri,
        "failure_reason": one.failure_reason,
        "redriven_from": one.redriven_from,
    }


def _whole(connection: Connection, seen: Seen, id_: str, now: float) -> Invocation:
    one = listing.find(connection, seen, id_)
    if one is None:
        raise NotFound(f"There is no invocation {id_}.")
    place = listing.position(connection, one)
    attempts = [_tried(each) for each in listing.attempts_of(connection, one.id)]
    return Invocation(
        **_summary(one, seen, listing.tags_of(connection, [one.id]).get(one.id, {})),
        timeout_s=one.timeout_s,
        content_type=one.content_type,
        instance_id=one.instance_id,
        queue=Queued(position=place.ahead + 1, exact=place.exact) if place else None,
        estimate=_estimate(connection, one, place, now),
        waiting_reason=_waiting_reason(connection, one, attempts),
        attempts=attempts,
        timeline=_timeline(
            one, progress.of(connection, one.id), history.notified_at(connection, [one.id]).get(one.id)
        ),
    )


def _waiting_reason(connection: Connection, one: Shown, attempts: Sequence[Tried]) -> str | None:
    if one.state not in UNFINISHED:
        return owed.waiting_reason(connection, one.id)
    stuck = records.waiting_cause(connection, one.endpoint_id) if one.state == "queued" else None
    return stuck or (attempts[-1].reason if attempts else None)


def _estimate(connection: Connection, one: Shown, place: Position | None, now: float) -> Estimated | None:
    if one.state not in UNFINISHED:
        return None
    endpoint = endpoints.find_endpoint(connection, one.endpoint_id)
    if endpoint is None:
        return None
    has = capacity(connection, endpoint, now)
    if place is not None:
        expected = estimates.queued(
            ahead=place.ahead, in_flight=has.in_flight, slots=has.slots, service=has.service, now=now
        )
    else:
        assert one.claimed_at is not None  # it is claimed
        expected = estimates.claimed(claimed_at=one.claimed_at, service=has.service, now=now)
    return _estimated(expected, has, now)


def _estimated(expected: Estimate, has: Capacity, now: float) -> Estimated:
    ready = sum(each.count for each in has.slots if each.ready_at <= now)
    return Estimated(
        start_at=moment_or_none(expected.start_at),
        end_at=moment_or_none(expected.end_at),
        basis=Basis(
            slots=ready,
            coming_slots=sum(each.count for each in has.slots) - ready,
            service_s=has.service.service_s,
            outcomes_per_s=has.service.rate_per_s,
        ),
    )


def _tried(attempt: Attempt) -> Tried:
    return Tried(
        claim_count=attempt.claim_count,
        instance_id=attempt.instance_id,
        claimed_at=moment_or_none(attempt.claimed_at),
        ended_at=moment(attempt.ended_at),
        reason=attempt.reason,
    )


def _timeline(one: Shown, reached: Sequence[Reached], notified_at: float | None) -> list[Step]:
    end = "stored" if one.state == "succeeded" else one.state
    before: Sequence[tuple[Any, float | None]] = (
        ("accepted", one.accepted_at),
        ("claimed", one.claimed_at),
        ("payload_opened", one.opened_at),
        ("model_started", one.sent_at),
    )
    after: Sequence[tuple[Any, float | None]] = (
        ("model_answered", one.answered_at),
        (end, one.finished_at),
        ("notified", notified_at),
    )
    parts = [
        Step(event="parts_summarised", at=moment(each.at), progress=Progress(**each.told()))
        for each in reached
    ]
    return [*_steps(before), *parts, *_steps(after)]


def _steps(times: Sequence[tuple[Any, float | None]]) -> list[Step]:
    return [Step(event=event, at=moment(at), progress=None) for event, at in times if at is not None]
