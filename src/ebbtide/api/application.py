"""The server's front door: an ASGI application that turns requests into operations and back.

A request is identified (which service, by which protocol), its signature checked, its body read or
prepared for streaming, its parameters parsed and validated; then the operation's function runs, and
its result or failure is serialised. Whatever else escapes is answered here as InternalFailure.
"""

import hashlib
import importlib
import logging
import re
import time
import uuid
import zlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs, unquote

from ebbtide.api import SERVICES
from ebbtide.api.body import Body, Receive, TooLarge
from ebbtide.api.call import Call, Params, Parts, Result
from ebbtide.errors import ServiceError
from ebbtide.identifiers import ACCOUNT
from ebbtide.settings import Credentials
from ebbtide.wire import models, sigv2, sigv4
from ebbtide.wire.chunked import ChunkedDecoder, ChunkSigner
from ebbtide.wire.parse import parse
from ebbtide.wire.request import Request, Response
from ebbtide.wire.routing import route
from ebbtide.wire.serialise import serialise, serialise_error
from ebbtide.wire.validate import validate

logger = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Function = Callable[[Params, Call], Awaitable[Result | None]]

MAX_BODY_BYTES = 4 * 1024 * 1024
"""For what is read whole and has no limit in its model: 1 MiB of SQS message, form-encoded, fits."""

MAX_XML_BYTES = 8 * 1024 * 1024
"""For S3's documents: 10,000 parts with checksums make 4 MB."""

TARGETS = {
    "SageMaker": "sagemaker",
    "AmazonSQS": "sqs",
    "AnyScaleFrontendService": "application-autoscaling",
    "GraniteServiceVersion20100801": "cloudwatch",
    "Logs_20140328": "logs",
}
"""Target prefixes, which the json and CBOR protocols send, -> services."""

SIGNING_NAMES = {"sagemaker-runtime": "sagemaker", "cloudwatch": "monitoring"}
"""Services whose signatures are scoped to another name."""

QUERY_SERVICES = {"sns": "sns", "sqs": "sqs", "monitoring": "cloudwatch", "sts": "sts", "iam": "iam"}
"""Signing names -> services that speak the query protocol."""

UNSIGNED_ACTIONS = frozenset(("ConfirmSubscription", "Unsubscribe"))
"""SNS's links in messages, which people and programs follow without credentials."""

VALIDATION_CODES = {
    "sagemaker": "ValidationException",
    "application-autoscaling": "ValidationException",
    "logs": "InvalidParameterException",
    "s3": "InvalidArgument",
    "sqs": "InvalidParameterValue",
}
"""What a service calls a parameter outside its constraints, where that is not ValidationError."""


@dataclass(frozen=True, slots=True)
class _Target:
    """What a request is for. `operation` is None where the path decides (REST)."""

    service: str | None
    protocol: str
    operation: str | None = None
    signed: bool = True


class Application:
    """Serves every AWS service of `ebbtide.api` on one port, and our own pages under /_ebbtide/."""

    def __init__(self, parts: Parts, lookup: Callable[[str], Credentials | None]) -> None:
        """lookup: the credentials of an access key id, None for an unknown one."""
        self._parts = parts
        self._lookup = lookup
        self._functions: dict[models.Operation, Function] = {}

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"only HTTP is served here, not {scope['type']}")
        started = time.perf_counter()
        request = _read_head(scope)
        request_id = str(uuid.uuid4())
        if request.path.startswith("/_ebbtide/"):
            response = self._own(request)
        else:
            response = await self._answer(request, scope["scheme"], receive, request_id)
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
        await _send(response, send, head=request.method == "HEAD")

    def _own(self, request: Request) -> Response:
        if request.path == "/_ebbtide/health":
            return Response(200, {"content-type": "application/json"}, b'{"status": "ok"}')
        if request.path == "/_ebbtide/sns/certificate.pem":
            pem = self._parts.deliveries.signer.certificate_pem()
            return Response(200, {"content-type": "application/x-pem-file"}, pem)
        return Response(404, {"content-type": "application/json"}, b'{"message": "There is no such page."}')

    async def _answer(self, request: Request, scheme: str, receive: Receive, request_id: str) -> Response:
        body = Body(receive, length_bytes=_data_length(request))
        target = _identify(request)
        try:
            return await self._serve(request, target, body, scheme, request_id)
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
        await body.drain()
        service = models.load(target.service) if target.service is not None else None
        return serialise_error(failure, target.protocol, request_id, service=service, resource=request.path)

    async def _serve(
        self, request: Request, target: _Target, body: Body, scheme: str, request_id: str
    ) -> Response:
        now = time.time()
        if target.protocol == "query" and "Action" not in request.arguments:
            request = replace(request, body=await body.read(MAX_BODY_BYTES))
        operation, labels = _operation(target, request)
        account, access_key_id, region = ACCOUNT, "", self._parts.settings.region
        if target.signed:
            try:
                if operation.service.name == "s3" and sigv2.is_presigned(request):
                    known, request = await self._authenticate_v2(request, body, operation, now)
                else:
                    known, region, request = await self._authenticate(request, body, operation, now)
            except sigv4.Refused as refused:
                raise sigv4.as_service_error(refused, target.protocol) from refused
            account, access_key_id = known.account, known.access_key_id
        params = parse(operation, target.protocol, _decompressed(request, operation), labels)
        if operation.streams_input:
            assert operation.input is not None
            assert operation.input.payload is not None
            params[operation.input.payload] = body
        if broken := validate(operation, params):
            raise ServiceError(broken, code=_validation_code(operation.service))
        call = Call(
            parts=self._parts,
            account=account,
            access_key_id=access_key_id,
            region=region,
            base_url=f"{scheme}://{request.headers.get('host', '')}",
            request_id=request_id,
            now=now,
            headers=request.headers,
        )
        result = await self._function(operation, target.protocol)(params, call)
        return serialise(operation, target.protocol, result, request_id)

    async def _authenticate(
        self, request: Request, body: Body, operation: models.Operation, now: float
    ) -> tuple[Credentials, str, Request]:
        """Check who sent the request, and by which region's name; give it back with its body, unless the
        operation streams that: then a body with a declared hash is compared with it while it is read.

        Raises Refused, ServiceError, TooLarge.
        """
        signature = sigv4.read_signature(request)
        if signature is None:
            raise sigv4.Refused(sigv4.Reason.MISSING, "The request has no signature.")
        signing_name = SIGNING_NAMES.get(operation.service.name, operation.service.name)
        if signature.service != signing_name:
            raise sigv4.Refused(
                sigv4.Reason.MISMATCH, f"Credential should be scoped to correct service: '{signing_name}'."
            )
        known = self._credentials(signature.access_key_id)
        secret = known.secret_access_key
        declared = sigv4.declared_payload_hash(request, signature)
        if declared is not None and declared.startswith(sigv4.STREAMING_PREFIX):
            sigv4.verify(request, signature, secret, payload_hash=declared, now=now)
            body.decode_with(_chunk_decoder(declared, signature, secret))
            request = replace(request, headers=_decoded_headers(request.headers))
            if not operation.streams_input:
                request = await _with_body(request, body, operation)
        elif operation.streams_input:
            payload_hash = declared or sigv4.UNSIGNED_PAYLOAD
            sigv4.verify(request, signature, secret, payload_hash=payload_hash, now=now)
            if payload_hash != sigv4.UNSIGNED_PAYLOAD:
                body.expect_sha256(payload_hash)
        else:
            request = await _with_body(request, body, operation)
            computed = hashlib.sha256(request.body).hexdigest()
            sigv4.verify(request, signature, secret, payload_hash=declared or computed, now=now)
            if declared not in (None, sigv4.UNSIGNED_PAYLOAD, computed):
                raise sigv4.payload_mismatch()
        return known, signature.region, request

    async def _authenticate_v2(
        self, request: Request, body: Body, operation: models.Operation, now: float
    ) -> tuple[Credentials, Request]:
        known = self._credentials(sigv2.access_key_id(request))
        sigv2.verify_presigned(request, _bucket_in_path(request), known.secret_access_key, now=now)
        if not operation.streams_input:
            request = await _with_body(request, body, operation)
        return known, request

    def _credentials(self, access_key_id: str) -> Credentials:
        known = self._lookup(access_key_id)
        if known is None:
            raise sigv4.Refused(
                sigv4.Reason.UNKNOWN_KEY, "The security token included in the request is invalid."
            )
        return known

    def _function(self, operation: models.Operation, protocol: str) -> Function:
        known = self._functions.get(operation)
        if known is None:
            module = importlib.import_module(SERVICES[operation.service.name])
            if operation.python_name not in module.__all__:
                raise _unknown_operation(operation.name, protocol)
            known = self._functions[operation] = getattr(module, operation.python_name)
        return known


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


def _identify(request: Request) -> _Target:
    """Which service is meant, by the target header, the path of an RPC or the credential's scope.

    Without credentials it is SNS for the links in its messages, else S3, whose clients may be anonymous.
    """
    prefix, _, operation = request.headers.get("x-amz-target", "").rpartition(".")
    if prefix:
        return _Target(TARGETS.get(prefix), "json", operation)
    steps = request.path.split("/")
    if len(steps) == 5 and steps[1] == "service" and steps[3] == "operation":
        return _Target(TARGETS.get(steps[2]), "smithy-rpc-v2-cbor", steps[4])
    signing_name = _signing_name(request)
    if signing_name == "sagemaker":
        return _Target("sagemaker-runtime", "rest-json")
    if signing_name in QUERY_SERVICES:
        return _Target(QUERY_SERVICES[signing_name], "query")
    if signing_name is None and request.arguments.get("Action", [""])[0] in UNSIGNED_ACTIONS:
        return _Target("sns", "query", signed=False)
    if signing_name in (None, "s3"):
        return _Target("s3", "rest-xml")
    return _Target(None, "query")


def _signing_name(request: Request) -> str | None:
    """The service in the credential's scope, in whatever state the rest of the signature is."""
    text = request.headers.get("authorization") or unquote(request.query)
    _, found, scope = text.partition("Credential=")
    steps = scope.partition("/aws4_request")[0].rsplit("/", 3)
    return steps[3] if found and len(steps) == 4 else None


def _operation(target: _Target, request: Request) -> tuple[models.Operation, dict[str, str]]:
    """The operation meant and its path labels. Raises ServiceError when we know none."""
    name = target.operation
    if target.service is None:
        raise _unknown_operation(name or _action(request) or request.path, target.protocol)
    service = models.load(target.service)
    if target.protocol in ("rest-json", "rest-xml"):
        path = _bucket_in_path(request) if target.protocol == "rest-xml" else request.path
        routed = route(service, replace(request, path=path))
        if routed is None:
            raise _no_route(request, target.protocol)
        return routed
    if target.protocol == "query":
        name = _action(request)
    try:
        return service.operation(name or ""), {}
    except models.UnknownOperation:
        raise _unknown_operation(name or "", target.protocol) from None


def _action(request: Request) -> str:
    form = parse_qs(request.body.decode("latin-1")) if request.body else {}
    return (request.arguments.get("Action") or form.get("Action") or [""])[0]


_VIRTUAL_HOST = re.compile(r"(?P<bucket>[a-z0-9.-]+)\.(s3[.-].+|s3|localhost)(:\d+)?")


def _bucket_in_path(request: Request) -> str:
    """The path with the bucket in front, also where the client has put it into the host's name."""
    found = _VIRTUAL_HOST.fullmatch(request.headers.get("host", "").lower())
    if found is None or found["bucket"].startswith("s3."):
        return request.path
    return f"/{found['bucket']}{request.path}"


def _unknown_operation(name: str, protocol: str) -> ServiceError:
    match protocol:
        case "rest-xml":
            return ServiceError(
                f"{name} is not an operation that ebbtide has.", code="NotImplemented", http_status=501
            )
        case "query":
            return ServiceError(f"Could not find operation {name}.", code="InvalidAction")
    status = 404 if protocol in ("rest-json", "smithy-rpc-v2-cbor") else 400
    return ServiceError(
        f"{name} is not an operation that ebbtide has.", code="UnknownOperationException", http_status=status
    )


def _no_route(request: Request, protocol: str) -> ServiceError:
    if protocol == "rest-xml":
        return ServiceError(
            "The specified method is not allowed against this resource.",
            code="MethodNotAllowed",
            http_status=405,
        )
    return _unknown_operation(f"{request.method} {request.path}", protocol)


def _validation_code(service: models.Service) -> str:
    return VALIDATION_CODES.get(service.name, "ValidationError")


def _data_length(request: Request) -> int | None:
    """The declared length of the body's data; None where the body alone tells."""
    length = request.headers.get("x-amz-decoded-content-length") or request.headers.get("content-length")
    return int(length) if length is not None and length.isdecimal() else None


def _decoded_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers as if the data had come without the aws-chunked encoding, which is not the object's."""
    encodings = [part.strip() for part in headers.get("content-encoding", "").split(",")]
    kept = ",".join(part for part in encodings if part and part != "aws-chunked")
    decoded = {name: value for name, value in headers.items() if name != "content-encoding"}
    if kept:
        decoded["content-encoding"] = kept
    if "x-amz-decoded-content-length" in headers:
        decoded["content-length"] = headers["x-amz-decoded-content-length"]
    return decoded


def _chunk_decoder(declared: str, signature: sigv4.Signature, secret: str) -> ChunkedDecoder:
    match declared.removeprefix(sigv4.STREAMING_PREFIX):
        case "UNSIGNED-PAYLOAD-TRAILER":
            return ChunkedDecoder(None)
        case "AWS4-HMAC-SHA256-PAYLOAD" | "AWS4-HMAC-SHA256-PAYLOAD-TRAILER":
            key = sigv4.signing_key(secret, signature.date, signature.region, signature.service)
            return ChunkedDecoder(ChunkSigner(key, signature.timestamp, signature.scope, signature.value))
    raise ServiceError(f"x-amz-content-sha256 {declared} is not supported.", code="InvalidArgument")


async def _with_body(request: Request, body: Body, operation: models.Operation) -> Request:
    """The request with its whole body. Raises ServiceError where a payload exceeds its model's maximum."""
    if request.body:
        return request
    shape = operation.input
    payload = shape.members[shape.payload] if shape is not None and shape.payload else None
    maximum = payload.shape.maximum if payload is not None else None
    if payload is None or maximum is None:
        limit = MAX_XML_BYTES if operation.service.name == "s3" else MAX_BODY_BYTES
        return replace(request, body=await body.read(limit))
    try:
        return replace(request, body=await body.read(int(maximum)))
    except TooLarge:
        name = payload.name[0].lower() + payload.name[1:]
        raise ServiceError(
            f"1 validation error detected: Value at '{name}' failed to satisfy constraint: "
            f"Member must have length less than or equal to {maximum}",
            code=_validation_code(operation.service),
        ) from None


def _decompressed(request: Request, operation: models.Operation) -> Request:
    """Undo the gzip that clients apply to large metric data. Raises ServiceError."""
    if not operation.accepts_gzip or request.headers.get("content-encoding") != "gzip":
        return request
    unpacker = zlib.decompressobj(wbits=31)
    try:
        body = unpacker.decompress(request.body, MAX_BODY_BYTES)
    except zlib.error as error:
        raise ServiceError("The body is not valid gzip.", code="SerializationException") from error
    if unpacker.unconsumed_tail:
        raise TooLarge
    return replace(request, body=body)


async def _send(response: Response, send: Send, *, head: bool) -> None:
    """Send an answer. A HEAD's has the headers of a GET's, its length included, and no body."""
    body = response.body
    bodiless = head or response.status in (204, 304)
    if isinstance(body, bytes) and response.status not in (204, 304):
        response.headers.setdefault("content-length", str(len(body)))
    headers = list(response.header_items())
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    if bodiless or isinstance(body, bytes):
        content = body if isinstance(body, bytes) and not bodiless else b""
        await send({"type": "http.response.body", "body": content, "more_body": False})
        if isinstance(body, AsyncGenerator):
            await body.aclose()
        return
    try:
        async for block in body:
            await send({"type": "http.response.body", "body": block, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        if isinstance(body, AsyncGenerator):
            await body.aclose()
