"""Who sent a request: its signature is checked, and its body read or made ready to be streamed.

The two belong together because a signature covers the body, by a hash that is declared in a header
or, for most services, is that of the body as it arrived.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping

from ebbtide.accounts import Key
from ebbtide.api.body import MAX_BODY_BYTES, Body, TooLarge
from ebbtide.api.targets import SIGNING_NAMES, path_with_bucket
from ebbtide.errors import ServiceError
from ebbtide.values import value
from ebbtide.wire import models, sigv2, sigv4
from ebbtide.wire.chunked import ChunkedDecoder, ChunkSigner
from ebbtide.wire.request import Request
from ebbtide.wire.validate import too_long

MAX_XML_BYTES = 8 * 1024 * 1024
"""For S3's documents: 10,000 parts with checksums make 4 MB."""

Lookup = Callable[[str], Awaitable[Key | None]]
"""The key of an access key id, None for an unknown one."""


@value
class Caller:
    """Who sent a request. `account` is whose resources it acts on, `submitter` the key's own account, whose
    work it is. `region` is None where the signature names none.
    """

    account: str
    submitter: str
    access_key_id: str
    region: str | None
    operator: bool = False

    @classmethod
    def of(cls, key: Key, region: str | None) -> "Caller":
        return cls(key.account, key.submitter, key.access_key_id, region, key.operator)


async def authenticate(
    request: Request, body: Body, operation: models.Operation, lookup: Lookup, *, wall_clock: float
) -> Caller:
    """Check the signature, and give the request its body unless the operation streams that.

    wall_clock: signatures are dated by the client's, which it is compared with.
    A streamed body is compared with its declared hash, and decoded, while the operation reads it.
    Raises Refused; TooLarge; ServiceError for a body that is not the one signed.
    """
    signature = sigv4.read_signature(request)
    if signature is not None:
        known = await known_key(lookup, signature.access_key_id)
        await _verify(request, body, operation, signature, known.secret_access_key, wall_clock)
        if "X-Amz-Signature" in request.arguments:
            request.headers = _headers_with_arguments(request)
        return Caller.of(known, signature.region)
    if operation.service.name == "s3" and sigv2.is_presigned(request):
        known = await known_key(lookup, sigv2.access_key_id(request))
        sigv2.verify_presigned(request, path_with_bucket(request), known.secret_access_key, now=wall_clock)
        request.headers = _headers_with_arguments(request)
        if operation.streamed is None:
            await read_body(request, body, operation)
        return Caller.of(known, None)
    raise sigv4.Refused(sigv4.Reason.MISSING, "The request has no signature.")


async def known_key(lookup: Lookup, access_key_id: str) -> Key:
    """The key of that id. Raises Refused for an unknown one."""
    known = await lookup(access_key_id)
    if known is None:
        raise sigv4.Refused(
            sigv4.Reason.UNKNOWN_KEY, "The security token included in the request is invalid."
        )
    return known


async def _verify(
    request: Request,
    body: Body,
    operation: models.Operation,
    signature: sigv4.Signature,
    secret: str,
    wall_clock: float,
) -> None:
    signing_name = SIGNING_NAMES.get(operation.service.name, operation.service.name)
    if signature.service != signing_name:
        raise sigv4.Refused(
            sigv4.Reason.MISMATCH, f"Credential should be scoped to correct service: '{signing_name}'."
        )
    declared = sigv4.declared_payload_hash(request, signature)
    if declared is not None and declared.startswith(sigv4.STREAMING_PREFIX):
        sigv4.verify(request, signature, secret, payload_hash=declared, now=wall_clock)
        body.decode_with(_chunk_decoder(declared, signature, secret))
        request.headers = _decoded_headers(request.headers)
        if operation.streamed is None:
            await read_body(request, body, operation)
    elif operation.streamed is not None:
        payload_hash = declared or sigv4.UNSIGNED_PAYLOAD
        sigv4.verify(request, signature, secret, payload_hash=payload_hash, now=wall_clock)
        if payload_hash != sigv4.UNSIGNED_PAYLOAD:
            body.expect_sha256(payload_hash)
    else:
        await read_body(request, body, operation)
        computed = hashlib.sha256(request.body).hexdigest()
        sigv4.verify(request, signature, secret, payload_hash=declared or computed, now=wall_clock)
        if declared not in (None, sigv4.UNSIGNED_PAYLOAD, computed):
            raise sigv4.payload_mismatch()


def _chunk_decoder(declared: str, signature: sigv4.Signature, secret: str) -> ChunkedDecoder:
    match declared.removeprefix(sigv4.STREAMING_PREFIX):
        case "UNSIGNED-PAYLOAD-TRAILER":
            return ChunkedDecoder(None)
        case "AWS4-HMAC-SHA256-PAYLOAD" | "AWS4-HMAC-SHA256-PAYLOAD-TRAILER":
            key = sigv4.signing_key(secret, signature.date, signature.region, signature.service)
            return ChunkedDecoder(ChunkSigner(key, signature.timestamp, signature.scope, signature.value))
    raise ServiceError(f"x-amz-content-sha256 {declared} is not supported.", code="InvalidArgument")


_HEADERS_IN_URLS = frozenset(
    (
        "content-type",
        "content-md5",
        "x-amz-acl",
        "x-amz-expected-bucket-owner",
        "x-amz-server-side-encryption",
        "x-amz-storage-class",
        "x-amz-tagging",
        "x-amz-website-redirect-location",
    )
)
"""Those that mean something in a URL. Checksums do not: SDKs sign that of an empty body."""


def _headers_with_arguments(request: Request) -> dict[str, str]:
    """The headers with those that the signer of a URL put into its query string instead, as SDKs do."""
    arguments = {name.lower(): values[0] for name, values in request.arguments.items()}
    given = {
        name: value
        for name, value in arguments.items()
        if name.startswith("x-amz-meta-") or name in _HEADERS_IN_URLS
    }
    return given | dict(request.headers)


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


async def read_body(request: Request, body: Body, operation: models.Operation) -> None:
    """Read the whole body into the request, if that was not done.

    Raises TooLarge, or ServiceError where a payload exceeds its own maximum in the model.
    """
    if request.body:
        return
    shape = operation.input
    payload = shape.members[shape.payload] if shape is not None and shape.payload else None
    if payload is None or payload.shape.maximum is None:
        limit = MAX_XML_BYTES if operation.service.name == "s3" else MAX_BODY_BYTES
        request.body = await body.read(limit)
        return
    try:
        request.body = await body.read(int(payload.shape.maximum))
    except TooLarge:
        raise ServiceError(too_long(payload), code=operation.service.validation_code) from None
