"""One invocation as our API shows it: in a list, and whole, with its place, expected times and timeline."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field
from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.api.own.capacity import Capacity, capacity
from ebbtide.api.own.requests import NotFound, Time, moment, moment_or_none
from ebbtide.instances import records
from ebbtide.notifications import history
from ebbtide.queue import estimates, listing, owed, progress
from ebbtide.queue.estimates import Estimate
from ebbtide.queue.listing import UNFINISHED, Attempt, Position, Seen, Shown
from ebbtide.queue.progress import Progress as Reached

State = Literal["queued", "claimed", "succeeded", "failed", "expired", "cancelled"]


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
        "no outcome, why the outcome of work that is done cannot be published yet (told by the server that "
        "has it) or, once it has ended, why its failure object is not where it belongs yet."
    )
    attempts: list[Tried] = Field(description="Claims that ended without an outcome, oldest first.")
    timeline: list[Step]


def summary(one: Shown, seen: Seen, tags: dict[str, str]) -> Summary:
    return Summary(**_summary(one, seen, tags))


def whole(connection: Connection, seen: Seen, id_: str, now: float) -> Invocation:
    """now: epoch seconds, from which the expected times are. Raises NotFound."""
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
