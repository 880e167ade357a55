"""Where our own API meets the server: a request's signature is checked, then FastAPI answers it.

FastAPI and pydantic are loaded at the first request that needs them, in a thread: a server that nobody asks
starts without their time and memory.
"""

import asyncio
import hashlib
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from ebbtide.api.authentication import Caller, Lookup, known_key
from ebbtide.api.body import MAX_BODY_BYTES, Body, TooLarge
from ebbtide.api.call import Parts
from ebbtide.errors import ServiceError
from ebbtide.http_server.exchange import Receive, Send
from ebbtide.wire import sigv4
from ebbtide.wire.request import Request, Response

if TYPE_CHECKING:
    from starlette.applications import Starlette


SIGNING_NAMES = ("ebbtide", "sagemaker", "execute-api")
"""Signatures may be scoped to any of these: the last two are what signers for AWS know."""

UNSIGNED = ("/_ebbtide/openapi.json",)


class OwnAPI:
    """Answers what is under /_ebbtide/ and neither the health nor a certificate."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._loading: asyncio.Future[Starlette] | None = None

    async def __call__(
        self, scope: dict[str, Any], request: Request, body: Body, receive: Receive, send: Send
    ) -> Response | None:
        """Answer through `send`; or return the answer of a request that is refused before FastAPI sees it."""
        try:
            caller = None
            if request.path not in UNSIGNED:
                caller = await authenticate(request, body, self._parts.keyring.find, wall_clock=time.time())
        except ServiceError as error:
            return failure(error)
        except TooLarge:
            return failure(_too_large())
        application = await self._application()
        # Every body here is JSON, whatever its sender calls it: curl, say, calls all it sends a form.
        headers = [header for header in scope["headers"] if header[0] != b"content-type"]
        headers.append((b"content-type", b"application/json"))
        own = scope | {"headers": headers, "root_path": "", "path": _stepwise(scope["raw_path"])}
        own["state"] = {"caller": caller, "client_gone": body.client_gone}
        await application(own, _replayed(request.body, receive), send)
        return None

    async def _application(self) -> "Starlette":
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = asyncio.ensure_future(asyncio.to_thread(_load, self._parts))
        # Shielded: that the first to ask has gone must not end the loading for those who ask beside it.
        return await asyncio.shield(self._loading)


async def authenticate(request: Request, body: Body, lookup: Lookup, *, wall_clock: float) -> Caller:
    """Check the signature, in a header or the query string, and read the body.

    Raises TooLarge; ServiceError for a request that proves no identity.
    """
    try:
        signature = sigv4.read_signature(request)
        if signature is None:
            raise sigv4.Refused(sigv4.Reason.MISSING, "The request has no signature.")
        if signature.service not in SIGNING_NAMES:
            raise sigv4.Refused(
                sigv4.Reason.MISMATCH,
                f"Credential should be scoped to one of the services {', '.join(SIGNING_NAMES)}.",
            )
        key = await known_key(lookup, signature.access_key_id)
        request.body = await body.read(MAX_BODY_BYTES)
        declared = sigv4.declared_payload_hash(request, signature)
        computed = hashlib.sha256(request.body).hexdigest()
        sigv4.verify(
            request, signature, key.secret_access_key, payload_hash=declared or computed, now=wall_clock
        )
        if declared not in (None, sigv4.UNSIGNED_PAYLOAD, computed):
            raise sigv4.payload_mismatch()
    except sigv4.Refused as refused:
        raise sigv4.as_service_error(refused, "json") from refused
    return Caller.of(key, signature.region)


def failure(error: ServiceError) -> Response:
    """The answer for a failure: its code and message as JSON."""
    content = json.dumps({"code": error.code, "message": error.message}).encode()
    return Response(error.http_status, {"content-type": "application/json"}, content)


def _stepwise(raw_path: bytes) -> str:
    """The path as it is routed: decoded, but for slashes within a step (an InferenceId may have them)."""
    steps = raw_path.decode("latin-1").split("/")
    return "/".join(unquote(step).replace("%", "%25").replace("/", "%2F") for step in steps)


def _too_large() -> ServiceError:
    return ServiceError(
        f"The body is larger than {MAX_BODY_BYTES} bytes.", code="RequestTooLarge", http_status=413
    )


def _load(parts: Parts) -> "Starlette":
    from ebbtide.api.own.application import create

    return create(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Hand on the body that was read, then whatever comes after it: that the client has gone."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> dict[str, Any]:
        return unread.pop() if unread else await receive()

    return replay
