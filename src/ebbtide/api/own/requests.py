"""What routes are given beside their parameters, and the types that parameters and answers share."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import Depends, Request
from pydantic import AwareDatetime

from ebbtide.api.authentication import Caller
from ebbtide.api.call import Parts
from ebbtide.errors import ServiceError

Time = AwareDatetime
"""A moment, as RFC 3339 with its offset from UTC."""


class NotFound(ServiceError):
    """There is nothing of that name, or it is another account's."""

    code = "NotFound"
    http_status = 404


class Invalid(ServiceError):
    """What was asked for cannot be; the message says why."""

    code = "ValidationError"


def moment(at: float) -> datetime:
    """Epoch seconds as a moment."""
    return datetime.fromtimestamp(at, UTC)


def moment_or_none(at: float | None) -> datetime | None:
    return None if at is None else moment(at)


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def _operator(request: Request) -> Caller:
    caller = _caller(request)
    if not caller.operator:
        raise ServiceError(
            "Only the operator's key may manage keys and accounts.", code="AccessDenied", http_status=403
        )
    return caller


Server = Annotated[Parts, Depends(_parts)]
Asking = Annotated[Caller, Depends(_caller)]
Operator = Annotated[Caller, Depends(_operator)]
