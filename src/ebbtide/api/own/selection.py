"""Which invocations a request means: one by its id, or all that fit."""

from datetime import datetime
from typing import Annotated, TypeVar
from urllib.parse import unquote

from fastapi import Path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import Connection

from ebbtide.api.authentication import Caller
from ebbtide.api.call import Parts
from ebbtide.api.own.details import State
from ebbtide.api.own.requests import Invalid, NotFound, Time
from ebbtide.queue import listing
from ebbtide.queue.listing import Filter, Seen, Shown

T = TypeVar("T")
OneOrMore = Annotated[list[T], BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]

Id = Annotated[
    str,
    Path(description="The invocation's id, or its InferenceId: then the newest of that name."),
    AfterValidator(unquote),  # mount.py leaves encoded what would not be one step of a path
]


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


async def find(server: Parts, caller: Caller, id_: str) -> tuple[Seen, Shown]:
    """What the caller sees, and of that the one meant. Raises NotFound."""

    def read(connection: Connection) -> tuple[Seen, Shown | None]:
        seen = listing.seen_by(connection, caller.account, caller.submitter)
        return seen, listing.find(connection, seen, id_)

    seen, found = await server.database.read(read)
    if found is None:
        raise NotFound(f"There is no invocation {id_}.")
    return seen, found


def page(
    connection: Connection,
    caller: Caller,
    wanted: Selection,
    *,
    limit: int,
    inference_id: str | None = None,
    among: frozenset[str] = frozenset(),
) -> tuple[Seen, listing.Page]:
    """The page that is meant, of the states `among`. Raises Invalid, naming the field, and NotFound."""
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
