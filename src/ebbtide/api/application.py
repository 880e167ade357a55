"""The server's front door: an ASGI application that turns requests into operations and back.

A request is identified (which service, by which protocol), its signature checked, its body read or
prepared for streaming, its parameters parsed and validated; then the operation's function runs, and
its result or failure is serialised. Whatever else escapes is answered here as InternalFailure.
"""

import asyncio
import importlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from ebbtide import clock
from ebbtide.api import SERVICES
from ebbtide.api.authentication import Caller, authenticate
from ebbtide.api.body import MAX_BODY_BYTES, Body, TooLarge, is_zipped, unzipped
from ebbtide.api.call import Call, Params, Parts, Result
from ebbtide.api.forwarding import Forwarding
from ebbtide.api.own.mount import OwnAPI
from ebbtide.api.targets import Target, find_operation, form_bucket, identify, place_of, unknown_operation
from ebbtide.errors import ServiceError, Unavailable
from ebbtide.http_server.exchange import ClientGone, Receive, Send
from ebbtide.identifiers import ACCOUNT, random_id
from ebbtide.peers import LOOK
from ebbtide.wire import models, sigv4
from ebbtide.wire.numbers import whole_number
from ebbtide.wire.parse import parse
from ebbtide.wire.request import Request, Response
from ebbtide.wire.serialise import serialise, serialise_error
from ebbtide.wire.validate import refusal_code, validate

logger = logging.getLogger(__name__)

Function = Callable[[Params, Call], Awaitable[Result | None]]


class Application:
    """Serves every AWS service of `ebbtide.api` on one port, and our own pages under /_ebbtide/."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._own_api = OwnAPI(parts)
        self._forwarding = None if parts.peers is None else Forwarding(parts.peers)
        self._functions: dict[models.Operation, Function] = {}

    async def close(self) -> None:
        """Close the connections to other servers, once no more requests come."""
        if self._forwarding is not None:
            await self._forwarding.close()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"only HTTP is served here, not {scope['type']}")
        started = time.perf_counter()
        request = _read_head(scope)
        body = Body(receive, length_bytes=_data_length(request))
        request_id = random_id()
        if request.path.startswith("/_ebbtide/"):
            answered = await self._own(scope, request, body, receive, send)
            if answered is None:
                if self._parts.peers is not None and request.method not in ("GET", "HEAD"):
                    self._parts.peers.tell_leader(LOOK)
                return
            response = answered
        else:
            response = await self._answer(request, body, scope, request_id)
            if "origin" in request.headers and request.method != "OPTIONS":
                await self._tell_origin(request, response)
        if self._parts.peers is not None and response.status < 300 and _may_concern_loops(request):
            self._parts.peers.tell_leader(LOOK)
        if logger.isEnabledFor(logging.DEBUG):
            elapsed_ms = (time.perf_counter() - started) * 1000
            logger.debug(
                "%s %s -> %d in %.1f ms (%s)",
                request.method,
                request.path,
                response.status,
                elapsed_ms,
                request_id,
            )
        try:
            await _send(response, send, head=request.method == "HEAD")
        except ClientGone:
            raise
        except Exception:
            # Its status is out: that it ends early is all that its client can still be told.
            logger.exception("%s %s: its answer broke off (%s)", request.method, request.path, request_id)

    async def _tell_origin(self, request: Request, response: Response) -> None:
        """Have a browser let another site's page read the answer, where a bucket's rules allow it."""
        from ebbtide.api.s3.cors import answer_headers

        if identify(request).service == "s3":
            with suppress(Unavailable):
                response.headers |= await answer_headers(
                    request.headers, request.method, place_of(request)[0], self._parts.database
                )

    async def _own(
        self, scope: dict[str, Any], request: Request, body: Body, receive: Receive, send: Send
    ) -> Response | None:
        """Answer a page of ours; None where the answer has been sent."""
        if request.path == "/_ebbtide/health":
            return Response(200, {"content-type": "application/json"}, b'{"status": "ok"}')
        if request.path == "/_ebbtide/sns/certificate.pem":
            pem = await asyncio.to_thread(self._parts.deliveries.signer.certificate_pem)
            return Response(200, {"content-type": "application/x-pem-file"}, pem)
        return await self._own_api(scope, request, body, receive, send)

    async def _answer(self, request: Request, body: Body, scope: dict[str, Any], request_id: str) -> Response:
        target = identify(request)
        try:
            return await self._serve(request, target, body, scope, request_id)
        except ServiceError as error:
            failure = error
        except TooLarge:
            failure = ServiceError(
                "The request is larger than the operation takes.",
                code="EntityTooLarge" if target.protocol == "rest-xml" else "RequestEntityTooLarge",
                http_status=400 if target.protocol == "rest-xml" else 413,
            )
        except Exception:
            logger.exception("%s %s failed (%s)", request.method, request.path, request_id)
            failure = ServiceError(
                "We encountered an internal error. Please try again.",
                code="InternalError" if target.protocol == "rest-xml" else "InternalFailure",
                http_status=500,
            )
        service = models.load(target.service) if target.service is not None else None
        return serialise_error(failure, target.protocol, request_id, service=service, resource=request.path)

    async def _serve(
        self, request: Request, target: Target, body: Body, scope: dict[str, Any], request_id: str
    ) -> Response:
        if self._forwarding is not None and self._forwarding.concerns(request, target):
            return await self._forwarding.forward(request, body)
        now = clock.now()

        def call_of(caller: Caller) -> Call:
            return self._call(caller, request, body, scope, request_id, now)

        if target.service == "s3" and request.method == "OPTIONS":
            from ebbtide.api.s3.cors import preflight

            return await preflight(request.headers, *place_of(request), self._parts.database)
        if target.service == "s3" and (bucket := form_bucket(request)) is not None:
            return await self._serve_form(request, body, bucket, call_of)
        if target.protocol == "query" and "Action" not in request.arguments:
            request.body = await body.read(MAX_BODY_BYTES)
        try:
            if target.signed and not sigv4.is_signed(request):
                raise sigv4.Refused(sigv4.Reason.MISSING, "The request has no signature.")
            operation, labels = find_operation(target, request)
            caller = (
                await authenticate(request, body, operation, self._parts.keyring.find, wall_clock=time.time())
                if target.signed
                else Caller(ACCOUNT, ACCOUNT, "", None)
            )
        except sigv4.Refused as refused:
            raise sigv4.as_service_error(refused, target.protocol) from refused
        # Before its parameters are looked at: that there is no such operation is what its caller must know.
        function = self._function(operation, target.protocol)
        if operation.accepts_gzip and is_zipped(request):
            request.body = unzipped(request.body)
        params = parse(operation, target.protocol, request, labels)
        if operation.streamed is not None:
            params[operation.streamed] = body
        if broken := validate(operation, params):
            raise ServiceError(broken, code=refusal_code(operation, broken))
        result = await function(params, call_of(caller))
        return serialise(operation, target.protocol, result, request_id)

    async def _serve_form(
        self, request: Request, body: Body, bucket: str, call_of: Callable[[Caller], Call]
    ) -> Response:
        from ebbtide.api.s3.form import post_object

        try:
            return await post_object(
                request, body, bucket, call_of, self._parts.keyring.find, wall_clock=time.time()
            )
        except sigv4.Refused as refused:
            raise sigv4.as_service_error(refused, "rest-xml") from refused

    def _call(
        self,
        caller: Caller,
        request: Request,
        body: Body,
        scope: dict[str, Any],
        request_id: str,
        now: float,
    ) -> Call:
        return Call(
            parts=self._parts,
            account=caller.account,
            submitter=caller.submitter,
            access_key_id=caller.access_key_id,
            region=caller.region or self._parts.settings.region,
            base_url=f"{scope['scheme']}://{request.headers.get('host', '')}",
            request_id=request_id,
            now=now,
            headers=request.headers,
            source_ip=scope["client"][0],
            client_gone=body.client_gone,
        )

    def _function(self, operation: models.Operation, protocol: str) -> Function:
        known = self._functions.get(operation)
        if known is None:
            module = importlib.import_module(SERVICES[operation.service.name])
            if operation.python_name not in module.__all__:
                raise unknown_operation(operation.name, protocol)
            known = self._functions[operation] = getattr(module, operation.python_name)
        return known


_LOOKS_ONLY = re.compile(r"(Describe|List|Get|Receive|Head|BatchGet)")


def _may_concern_loops(request: Request) -> bool:
    """Whether a request that succeeded may have changed what the leader's loops act on.

    Accepted invocations are told of by the queue itself.
    """
    if request.method in ("GET", "HEAD") or request.path.endswith("/async-invocations"):
        return False
    _, _, operation = request.headers.get("x-amz-target", "").rpartition(".")
    return _LOOKS_ONLY.match(operation) is None


def _read_head(scope: dict[str, Any]) -> Request:
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name = raw_name.decode("latin-1")
        try:
            value = raw_value.decode()
        except UnicodeDecodeError:
            value = raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return Request(
        scope["method"], scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1"), headers
    )


def _data_length(request: Request) -> int | None:
    """The declared length of the body's data; None where the body alone tells."""
    chunked = request.headers.get("x-amz-content-sha256", "").startswith(sigv4.STREAMING_PREFIX)
    length = request.headers.get("x-amz-decoded-content-length" if chunked else "content-length", "")
    return whole_number(length)


async def _send(response: Response, send: Send, *, head: bool) -> None:
    """Send an answer. A HEAD's has the headers of a GET's, its length included, and no body."""
    content = response.body
    bodiless = response.status in (204, 304)
    if isinstance(content, bytes) and not bodiless:
        response.headers.setdefault("content-length", str(len(content)))
    headers = list(response.header_items())
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if isinstance(content, bytes):
        await _send_block(send, b"" if head or bodiless else content, last=True)
        return
    try:
        if not head:
            async for block in content:
                await _send_block(send, block, last=False)
        await _send_block(send, b"", last=True)
    finally:
        if isinstance(content, AsyncGenerator):
            await content.aclose()


async def _send_block(send: Send, block: bytes, *, last: bool) -> None:
    await send({"type": "http.response.body", "body": block, "more_body": not last})
