"""AWS Signature Version 4: who sent a request, and that nobody changed it.

Header and presigned forms. A signature covers the declared hash of the body, so whoever reads the
body compares the two (`payload_mismatch`); `chunked` is for bodies that are signed in chunks.
Source: Create a signed AWS API request, AWS IAM User Guide.
"""

import enum
import hashlib
import hmac
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from urllib.parse import quote, unquote, unquote_to_bytes

from ebbtide.errors import ServiceError
from ebbtide.values import value
from ebbtide.wire.numbers import whole_number
from ebbtide.wire.request import Request

CLOCK_WINDOW_S = 900
MAX_EXPIRES_S = 7 * 24 * 3600
UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
STREAMING_PREFIX = "STREAMING-"
EMPTY_SHA256 = hashlib.sha256().hexdigest()
_ALGORITHM = "AWS4-HMAC-SHA256"


class Reason(enum.Enum):
    """Why a request is refused."""

    MISSING = enum.auto()
    MALFORMED = enum.auto()
    UNKNOWN_KEY = enum.auto()
    MISMATCH = enum.auto()
    CLOCK = enum.auto()
    EXPIRED = enum.auto()


class Refused(Exception):
    """The request proves no identity. The message states the fact."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


_CODES: dict[str, dict[Reason, tuple[str, int]]] = {
    "rest-xml": {
        Reason.MISSING: ("AccessDenied", 403),
        Reason.MALFORMED: ("AuthorizationHeaderMalformed", 400),
        Reason.UNKNOWN_KEY: ("InvalidAccessKeyId", 403),
        Reason.MISMATCH: ("SignatureDoesNotMatch", 403),
        Reason.CLOCK: ("RequestTimeTooSkewed", 403),
        Reason.EXPIRED: ("AccessDenied", 403),
    },
    "query": {
        Reason.MISSING: ("MissingAuthenticationToken", 403),
        Reason.MALFORMED: ("IncompleteSignature", 400),
        Reason.UNKNOWN_KEY: ("InvalidClientTokenId", 403),
        Reason.MISMATCH: ("SignatureDoesNotMatch", 403),
        Reason.CLOCK: ("SignatureDoesNotMatch", 403),
        Reason.EXPIRED: ("SignatureDoesNotMatch", 403),
    },
    "json": {
        Reason.MISSING: ("MissingAuthenticationTokenException", 403),
        Reason.MALFORMED: ("IncompleteSignatureException", 400),
        Reason.UNKNOWN_KEY: ("UnrecognizedClientException", 403),
        Reason.MISMATCH: ("InvalidSignatureException", 403),
        Reason.CLOCK: ("InvalidSignatureException", 403),
        Reason.EXPIRED: ("InvalidSignatureException", 403),
    },
}


def as_service_error(refused: Refused, protocol: str) -> ServiceError:
    """The error that a service of that protocol answers with."""
    code, status = _CODES.get(protocol, _CODES["json"])[refused.reason]
    return ServiceError(refused.message, code=code, http_status=status)


@value
class Signature:
    """A request's claim of who signed it. `timestamp` is as signed, YYYYMMDDTHHMMSSZ."""

    access_key_id: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    value: str
    timestamp: str
    expires_s: int | None
    """How long a presigned request is good for; None for the header form."""

    @property
    def scope(self) -> str:
        return f"{self.date}/{self.region}/{self.service}/aws4_request"


def is_signed(request: Request) -> bool:
    """Whether the request claims an identity at all, by whatever version of signature."""
    return bool(request.headers.get("authorization")) or "Signature=" in request.query


def read_signature(request: Request) -> Signature | None:
    """The signature in the Authorization header or the query string; None when there is none.

    Raises Refused when it is incomplete.
    """
    header = request.headers.get("authorization")
    if header:
        return _from_header(request, header)
    if "X-Amz-Signature=" in request.query:
        return _from_query(request)
    return None


def _from_header(request: Request, header: str) -> Signature:
    algorithm, _, rest = header.partition(" ")
    if algorithm != _ALGORITHM:
        raise Refused(Reason.MALFORMED, f"The authorization mechanism is not supported; use {_ALGORITHM}.")
    parts = dict(_pair(part) for part in rest.split(","))
    missing = [name for name in ("Credential", "SignedHeaders", "Signature") if not parts.get(name)]
    if missing:
        raise Refused(Reason.MALFORMED, f"Authorization header requires '{missing[0]}' parameter.")
    timestamp = request.headers.get("x-amz-date") or _from_http_date(request.headers.get("date"))
    return _signature(parts["Credential"], parts["SignedHeaders"], parts["Signature"], timestamp, None)


def _pair(part: str) -> tuple[str, str]:
    name, _, value = part.partition("=")
    return name.strip(), value.strip()


def _from_query(request: Request) -> Signature:
    def argument(name: str) -> str:
        values = request.arguments.get(name)
        if not values or not values[0]:
            raise Refused(
                Reason.MALFORMED, f"The query string lacks {name}, which a presigned request needs."
            )
        return values[0]

    if argument("X-Amz-Algorithm") != _ALGORITHM:
        raise Refused(Reason.MALFORMED, f"X-Amz-Algorithm only supports {_ALGORITHM}.")
    expires_s = whole_number(argument("X-Amz-Expires"))
    if expires_s is None or not 0 < expires_s <= MAX_EXPIRES_S:
        raise Refused(Reason.MALFORMED, f"X-Amz-Expires must be from 1 to {MAX_EXPIRES_S} seconds.")
    return _signature(
        argument("X-Amz-Credential"),
        argument("X-Amz-SignedHeaders"),
        argument("X-Amz-Signature"),
        argument("X-Amz-Date"),
        expires_s,
    )


def _signature(
    credential: str, signed_headers: str, value: str, timestamp: str | None, expires_s: int | None
) -> Signature:
    try:
        # A key id may hold slashes; the scope after it cannot.
        access_key_id, date, region, service, terminator = credential.rsplit("/", 4)
    except ValueError:
        terminator = ""
    if terminator != "aws4_request":
        raise Refused(
            Reason.MALFORMED, "The credential is not of the form KEY/YYYYMMDD/REGION/SERVICE/aws4_request."
        )
    if not timestamp:
        raise Refused(Reason.MALFORMED, "The request lacks the header X-Amz-Date or Date.")
    if not timestamp.startswith(date):
        raise Refused(
            Reason.MISMATCH, f"The credential's date {date} is not that of the request, {timestamp}."
        )
    headers = tuple(signed_headers.split(";"))
    if "host" not in headers:
        raise Refused(Reason.MALFORMED, "The header host must be signed.")
    return Signature(access_key_id, date, region, service, headers, value, timestamp, expires_s)


def _from_http_date(header: str | None) -> str | None:
    if header is None:
        return None
    try:
        return parsedate_to_datetime(header).astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    except (ValueError, OverflowError):
        return header


def declared_payload_hash(request: Request, signature: Signature) -> str | None:
    """What the request says its signature covers in the body's place: a SHA-256 in hex, UNSIGNED-PAYLOAD
    or STREAMING-...; None when that is the hash of the body, which then must be computed."""
    declared = request.headers.get("x-amz-content-sha256")
    if declared is not None or signature.service != "s3":
        return declared
    named = request.arguments.get("X-Amz-Content-Sha256")
    return named[0] if named else UNSIGNED_PAYLOAD


def verify(
    request: Request, signature: Signature, secret_access_key: str, *, payload_hash: str, now: float
) -> None:
    """Check the signature and its time; the body itself is not looked at. Raises Refused.

    Services other than S3 encode the path once more than it is on the wire; S3 takes it as it is.
    """
    _check_time(signature, now)
    if signature.service == "s3":
        _check_headers_signed(request, signature)
    canonical = "\n".join(
        (
            request.method,
            _canonical_path(request.path, signature.service),
            _canonical_query(request.query) if request.query else "",
            *_canonical_headers(request, signature.signed_headers),
            "",
            ";".join(signature.signed_headers),
            payload_hash,
        )
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = f"{_ALGORITHM}\n{signature.timestamp}\n{signature.scope}\n{digest}"
    key = signing_key(secret_access_key, signature.date, signature.region, signature.service)
    if not hmac.compare_digest(sign(key, to_sign).encode(), signature.value.encode()):
        raise Refused(
            Reason.MISMATCH,
            "The request signature we calculated does not match the signature you provided. "
            "Check your AWS Secret Access Key and signing method.",
        )


def _check_headers_signed(request: Request, signature: Signature) -> None:
    """Who was given a presigned upload must not make of it, by one header more, a copy of another object."""
    for name in request.headers:
        if name.startswith("x-amz-") and name not in signature.signed_headers:
            raise Refused(
                Reason.MISSING, f"There were headers present in the request which were not signed: {name}"
            )


def _check_time(signature: Signature, now: float) -> None:
    signed_at = _epoch_s(signature.timestamp)
    if signed_at is None:
        raise Refused(
            Reason.MALFORMED, f"X-Amz-Date {signature.timestamp} is not of the form YYYYMMDDTHHMMSSZ."
        )
    if signature.expires_s is not None:
        if now > signed_at + signature.expires_s:
            raise Refused(Reason.EXPIRED, "Request has expired")
        if now < signed_at - CLOCK_WINDOW_S:
            raise Refused(Reason.EXPIRED, "Request is not valid yet")
    elif abs(now - signed_at) > CLOCK_WINDOW_S:
        here = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        raise Refused(
            Reason.CLOCK,
            f"Signature expired or not yet current: {signature.timestamp} is more than "
            f"{CLOCK_WINDOW_S // 60} min. from the server's time {here}.",
        )


@lru_cache(64)
def _epoch_s(timestamp: str) -> float | None:
    try:
        return datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def _canonical_path(path: str, service: str) -> str:
    if path == "/":
        return path
    if service == "s3":
        return quote(unquote_to_bytes(path), safe="/-_.~")
    return quote(_normalised(path), safe="/-_.~")


def _normalised(path: str) -> str:
    """Without empty, "." and ".." segments (RFC 3986, 5.2.4)."""
    if "//" not in path and "/." not in path:
        return path
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment not in ("", "."):
            kept.append(segment)
    slash = "/" if path.endswith("/") and kept else ""
    return f"/{'/'.join(kept)}{slash}"


def _canonical_query(query: str) -> str:
    pairs = []
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if part and name != "X-Amz-Signature":
            pairs.append((_requoted(name), _requoted(value)))
    return "&".join(f"{name}={value}" for name, value in sorted(pairs))


def _requoted(text: str) -> str:
    return text if text.isalnum() and text.isascii() else quote(unquote(text), safe="-_.~")


def _canonical_headers(request: Request, names: tuple[str, ...]) -> Iterator[str]:
    for name in names:
        value = request.headers.get(name)
        if value is None:
            raise Refused(Reason.MISMATCH, f"The signed header {name} is not in the request.")
        yield f"{name}:{' '.join(value.split())}"


@lru_cache(256)
def signing_key(secret_access_key: str, date: str, region: str, service: str) -> bytes:
    """The key for one day, region and service; deriving it costs four HMACs, so it is kept."""
    key = f"AWS4{secret_access_key}".encode()
    for part in (date, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def sign(key: bytes, text: str) -> str:
    """HMAC-SHA256 in hex."""
    return hmac.digest(key, text.encode(), "sha256").hex()


def payload_mismatch() -> ServiceError:
    """The body is not the one that was signed."""
    return ServiceError(
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
        code="XAmzContentSHA256Mismatch",
    )
