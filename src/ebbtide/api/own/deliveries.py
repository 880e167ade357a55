"""What became of notifications, and their repetition."""

from typing import Annotated, Literal

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from ebbtide import clock
from ebbtide.api.authentication import Caller
from ebbtide.api.own.requests import Asking, Invalid, Server, Time, moment, moment_or_none
from ebbtide.notifications import history
from ebbtide.notifications.history import Chosen, Entry
from ebbtide.queue import listing

router = APIRouter(tags=["notifications"])

DEFAULT_LIMIT, MAX_LIMIT = 100, 1000

State = Literal["pending", "delivered", "abandoned"]


class Attempt(BaseModel):
    """One try to deliver."""

    at: Time = Field(description="When it ended.")
    duration_s: float
    status_code: int | None = Field(description="What an HTTP receiver answered.")
    error: str | None = Field(description="Null for the one that succeeded.")


class Delivery(BaseModel):
    """A message's way to one subscription."""

    message_id: str
    topic_arn: str
    subscription_arn: str
    state: State
    published_at: Time
    invocation_id: str | None = Field(description="Whose outcome it tells.")
    next_attempt_at: Time | None = Field(description="Null once it is delivered or abandoned.")
    last_error: str | None
    dead_letter_arn: str | None = Field(description="The queue that took it when it was abandoned.")
    attempts: list[Attempt]


class Deliveries(BaseModel):
    deliveries: list[Delivery]
    next: str | None = Field(description="The `after` of the next page; null at the end.")


class Replay(BaseModel):
    """Which messages are delivered again: at least one of message_id, topic_arn, subscription_arn and
    invocation must be given.
    """

    model_config = ConfigDict(extra="forbid")

    message_id: list[str] | None = Field(None, max_length=100)
    topic_arn: str | None = None
    subscription_arn: str | None = Field(None, description="To this one only.")
    invocation: str | None = Field(None, description="Those that tell of its outcome.")
    state: Literal["delivered", "abandoned"] | None = Field(None, description="Only deliveries in it.")
    published_after: Time | None = None
    published_before: Time | None = None


class Owed(BaseModel):
    replayed: int = Field(description="Deliveries that are owed again.")


@router.get("/deliveries")
async def list_deliveries(
    server: Server,
    caller: Asking,
    topic_arn: str | None = None,
    subscription_arn: str | None = None,
    message_id: str | None = None,
    invocation: Annotated[str | None, Query(description="Those that tell of its outcome.")] = None,
    state: State | None = None,
    published_after: Time | None = None,
    published_before: Time | None = None,
    after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT,
) -> Deliveries:
    """Deliveries of the account's topics with their attempts, those of the latest messages first."""

    def read(connection: Connection) -> Deliveries:
        chosen = Chosen(
            topic_arn=topic_arn,
            subscription_arn=subscription_arn,
            message_ids=None if message_id is None else (message_id,),
            invocation_id=_invocation_id(connection, caller, invocation),
            since=None if published_after is None else published_after.timestamp(),
            until=None if published_before is None else published_before.timestamp(),
            state=state,
            account=caller.account,
        )
        page = history.find(connection, chosen, after=_cursor(after), limit=limit)
        following = None if page.next_after is None else f"{page.next_after[0]}~{page.next_after[1]}"
        return Deliveries(deliveries=[_delivery(entry) for entry in page.entries], next=following)

    return await server.database.read(read)


@router.post("/deliveries/replay")
async def replay_deliveries(server: Server, caller: Asking, wanted: Annotated[Replay, Body()]) -> Owed:
    """Deliver messages again, under their old ids, to those subscribed now whose filter lets them pass."""
    if not (wanted.message_id or wanted.topic_arn or wanted.subscription_arn or wanted.invocation):
        raise Invalid("One of message_id, topic_arn, subscription_arn and invocation must be given.")
    invocation_id = await server.database.read(
        lambda connection: _invocation_id(connection, caller, wanted.invocation)
    )
    chosen = Chosen(
        topic_arn=wanted.topic_arn,
        subscription_arn=wanted.subscription_arn,
        message_ids=tuple(wanted.message_id) if wanted.message_id else None,
        invocation_id=invocation_id,
        since=None if wanted.published_after is None else wanted.published_after.timestamp(),
        until=None if wanted.published_before is None else wanted.published_before.timestamp(),
        state=wanted.state,
        account=caller.account,
    )
    return Owed(replayed=await server.deliveries.replay(chosen, clock.now()))


def _invocation_id(connection: Connection, caller: Caller, name: str | None) -> str | None:
    """The id of the invocation of that id or InferenceId; the name itself when there is none any more."""
    if name is None:
        return None
    seen = listing.seen_by(connection, caller.account, caller.submitter)
    found = listing.find(connection, seen, name)
    return name if found is None else found.id


def _cursor(token: str | None) -> tuple[str, int] | None:
    if token is None:
        return None
    message_id, _, delivery_id = token.partition("~")
    if not (delivery_id.isascii() and delivery_id.isdigit() and len(delivery_id) < 19):
        raise Invalid("after: it is not a token that a page gave.")
    return message_id, int(delivery_id)


def _delivery(entry: Entry) -> Delivery:
    message = entry.message
    return Delivery(
        message_id=message.id,
        topic_arn=message.topic_arn,
        subscription_arn=entry.subscription_arn,
        state=entry.state,  # type: ignore[arg-type]  # one of the three
        published_at=moment(message.published_at),
        invocation_id=message.invocation_id,
        next_attempt_at=moment_or_none(entry.next_attempt_at),
        last_error=entry.last_error,
        dead_letter_arn=entry.dead_letter_arn,
        attempts=[
            Attempt(
                at=moment(each.at),
                duration_s=each.duration_s,
                status_code=each.status_code,
                error=each.error,
            )
            for each in entry.attempts
        ],
    )
