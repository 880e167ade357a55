"""What routes are given beside their parameters, and the types that parameters and answers share."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from typing import Annotated

from fastapi import Depends, Request
from pydantic import AwareDatetime, BeforeValidator

from ebbtide.api.authentication import Caller
from ebbtide.api.call import Parts
from ebbtide.errors import ServiceError


def _no_number(given: object) -> object:
    """Else pydantic takes numbers as seconds since 1970."""
    if isinstance(given, date) or (isinstance(given, str) and re.match(r"\d{4}-\d\d-\d\d", given)):
        return given
    raise ValueError("it is not a time such as 2026-01-31T12:00:00Z, or a day such as 2026-01-31")


Time = Annotated[AwareDatetime, BeforeValidator(_no_number)]
"""A moment, as RFC 3339 with its offset from UTC."""

Day = Annotated[date, BeforeValidator(_no_number)]


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


def _client_gone(request: Request) -> Callable[[], Awaitable[None]]:
    gone: Callable[[], Awaitable[None]] = request.state.client_gone
    return gone


def _operator(request: Request) -> Caller:
    caller = _caller(request)
    if not caller.operator:
        raise ServiceError(
            "Only the operator's key may manage keys and accounts.", code="AccessDenied", http_status=403
        )
    return caller


Server = Annotated[Parts, Depends(_parts)]
Asking = Annotated[Caller, Depends(_caller)]
ClientGone = Annotated[Callable[[], Awaitable[None]], Depends(_client_gone)]
"""Returns once the client has closed its side."""
Operator = Annotated[Caller, Depends(_operator)]
