"""AWS Signature Version 2 of presigned S3 URLs.

boto3 still makes its presigned URLs by it in the regions that are older than Signature Version 4, unless
told otherwise; us-east-1 is one. The header form, which no client uses unasked, is not taken.
Source: Signing and authenticating REST requests, Amazon S3 API Reference.
"""

import base64
import hmac
from urllib.parse import parse_qsl

from ebbtide.wire.numbers import whole_number
from ebbtide.wire.request import Request
from ebbtide.wire.sigv4 import Reason, Refused

_SIGNED_ARGUMENTS = frozenset(
    (
        "acl",
        "analytics",
        "cors",
        "delete",
        "inventory",
        "lifecycle",
        "location",
        "logging",
        "metrics",
        "notification",
        "object-lock",
        "partNumber",
        "policy",
        "replication",
        "requestPayment",
        "response-cache-control",
        "response-content-disposition",
        "response-content-encoding",
        "response-content-language",
        "response-content-type",
        "response-expires",
        "restore",
        "select",
        "select-type",
        "tagging",
        "torrent",
        "uploadId",
        "uploads",
        "versionId",
        "versioning",
        "versions",
        "website",
    )
)
"""Query arguments that are part of the resource signed."""


def is_presigned(request: Request) -> bool:
    """Whether the query string holds such a signature."""
    return "AWSAccessKeyId=" in request.query and "AWSAccessKeyId" in request.arguments


def access_key_id(request: Request) -> str:
    """Whose signature it claims to be."""
    return request.arguments["AWSAccessKeyId"][0]


def verify_presigned(request: Request, path: str, secret_access_key: str, *, now: float) -> None:
    """Check the signature and its time. Raises Refused.

    path: as sent, with the bucket in front also where the host's name holds it.
    """
    arguments = request.arguments
    expires = arguments.get("Expires", [""])[0]
    expires_at = whole_number(expires)
    if expires_at is None or "Signature" not in arguments:
        raise Refused(Reason.MALFORMED, "A presigned request needs AWSAccessKeyId, Signature and Expires.")
    if now > expires_at:
        raise Refused(Reason.EXPIRED, "Request has expired")
    to_sign = "\n".join(
        (
            request.method,
            _header(request, "content-md5"),
            _header(request, "content-type"),
            expires,
            *_amazon_headers(request),
            path + _signed_arguments(request.query),
        )
    )
    digest = hmac.digest(secret_access_key.encode(), to_sign.encode(), "sha1")
    if not hmac.compare_digest(base64.b64encode(digest), arguments["Signature"][0].encode()):
        raise Refused(
            Reason.MISMATCH,
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method.",
        )


def _header(request: Request, name: str) -> str:
    """A header, which the signer may have put into the query string instead."""
    return request.headers.get(name) or request.arguments.get(name, [""])[0]


def _amazon_headers(request: Request) -> list[str]:
    found = {name: values[0] for name, values in request.arguments.items() if name.startswith("x-amz-")}
    found |= {name: value for name, value in request.headers.items() if name.startswith("x-amz-")}
    return [f"{name}:{value.strip()}" for name, value in sorted(found.items())]


def _signed_arguments(query: str) -> str:
    # "uploads" and "uploads=" differ here, which a parsed query string does not tell.
    signed = []
    for part in query.split("&"):
        name, separator, _ = part.partition("=")
        if name in _SIGNED_ARGUMENTS:
            signed.append(f"{name}={dict(parse_qsl(part))[name]}" if separator and part[-1] != "=" else part)
    return f"?{'&'.join(sorted(signed))}" if signed else ""
