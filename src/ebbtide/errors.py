"""Failures a caller can act on, under AWS's codes.

An operation raises one of these; `wire/` turns it into the service's own error response. Anything else
that escapes an operation is a defect: it is logged with its trace and answered as InternalFailure.
"""

import copyreg
from collections.abc import Mapping
from typing import Any


class ServiceError(Exception):
    """A failure the caller can act on.

    `code` names an error shape of the operation's service model, which then gives the HTTP status and the
    code on the wire; a code that the model lacks is sent as it is, with `http_status`. `members` are further
    members of that shape (ModelError's OriginalStatusCode, for example). The message states the facts.
    """

    code: str = "ValidationException"
    http_status: int = 400

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        http_status: int | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code is not None:
            self.code = code
        if http_status is not None:
            self.http_status = http_status
        self.members = dict(members or {})

    def __reduce__(self) -> tuple[Any, ...]:
        # As any other object, without its class's own parameters: an exception's would be its arguments.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]


class Unavailable(ServiceError):
    """The server cannot do this now and did nothing; the same call may succeed later. SDKs retry it."""

    code = "ServiceUnavailable"
    http_status = 503


class Unconfirmed(Unavailable):
    """It was done or it was not: what was to confirm it, the database, was lost on the way.

    What the work may have made visible must stay: bytes that a key may name by now, for example.
    """
