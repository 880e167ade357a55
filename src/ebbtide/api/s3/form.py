"""S3's POST Object: an upload by a browser's form, under a policy that whoever has a key has signed.

The form becomes a PutObject of the signer's: its fields are that operation's headers under their own names.
Source: Browser-based uploads using POST, Amazon S3 API Reference.
"""

import base64
import hmac
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from urllib.parse import parse_qsl, quote, urlencode, urlsplit
from xml.sax.saxutils import escape

from ebbtide.accounts import Key
from ebbtide.api.authentication import Caller, Lookup, known_key
from ebbtide.api.body import Body
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.s3.objects import put_object
from ebbtide.errors import ServiceError
from ebbtide.objects.errors import InvalidArgument
from ebbtide.wire import models, post_policy, sigv4
from ebbtide.wire.forms import Form
from ebbtide.wire.parse import parse
from ebbtide.wire.post_policy import Sizes
from ebbtide.wire.request import Request, Response
from ebbtide.wire.validate import refusal_code, validate

_OWN = frozenset(
    (
        "awsaccesskeyid",
        "bucket",
        "key",
        "policy",
        "redirect",
        "signature",
        "success_action_redirect",
        "success_action_status",
        "x-amz-algorithm",
        "x-amz-credential",
        "x-amz-date",
        "x-amz-security-token",
        "x-amz-signature",
    )
)
"""Fields that are about the form; all others are about the object."""

_HEADERS = {"acl": "x-amz-acl"}
"""Fields whose header has another name."""

_REDIRECTION = re.compile(r"https?://[\x21-\x7e]+")


class _File:
    """The form's file as an operation's body, which must be as long as the policy allows."""

    trailers: Mapping[str, str] = {}

    def __init__(self, form: Form, sizes: Sizes) -> None:
        self._form = form
        self._sizes = sizes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for block in self._form:
            size += len(block)
            if size > self._sizes.most_bytes:
                raise ServiceError(
                    "Your proposed upload exceeds the maximum allowed size",
                    code="EntityTooLarge",
                    members={"ProposedSize": str(size), "MaxSizeAllowed": str(self._sizes.most_bytes)},
                )
            yield block
        if size < self._sizes.least_bytes:
            raise ServiceError(
                "Your proposed upload is smaller than the minimum allowed size",
                code="EntityTooSmall",
                members={"ProposedSize": str(size), "MinSizeAllowed": str(self._sizes.least_bytes)},
            )


async def post_object(
    request: Request,
    body: Body,
    bucket: str,
    call_of: Callable[[Caller], Call],
    lookup: Lookup,
    *,
    wall_clock: float,
) -> Response:
    """Store a form's file under the key that its fields name.

    wall_clock: policies expire by it. Raises sigv4.Refused for a signature that is not there or wrong,
    ServiceError for a form that its policy does not allow, and what PutObject raises.
    """
    form = Form(request.headers["content-type"], aiter(body))
    has_file = await form.read_fields()
    fields = form.fields
    if "key" not in fields or not has_file:
        raise InvalidArgument(
            "POST requires exactly one file upload per request."
            if "key" in fields
            else "Bucket POST must contain a field named 'key'. It must come before the file.",
            "file" if "key" in fields else "key",
            "0" if "key" in fields else "",
        )
    fields["key"] = fields["key"].replace("${filename}", form.filename)
    key, region = await _signer(fields, lookup)
    sizes = post_policy.check(fields["policy"], fields | {"bucket": bucket}, now=wall_clock)
    call = call_of(Caller.of(key, region))
    params, headers = _as_put(fields, bucket)
    params["Body"] = _File(form, sizes)
    result = await put_object(params, replace(call, headers=headers))
    return _answer(fields, bucket, result, call)


async def _signer(fields: Mapping[str, str], lookup: Lookup) -> tuple[Key, str | None]:
    """Whose key signed the policy, and for which region if it says so. Raises sigv4.Refused."""
    if "policy" not in fields:
        raise sigv4.Refused(sigv4.Reason.MISSING, "Access Denied")
    if "x-amz-signature" in fields:
        return await _signer_v4(fields, lookup)
    access_key_id, claimed = fields.get("awsaccesskeyid"), fields.get("signature")
    if access_key_id is None or claimed is None:
        missing = "AWSAccessKeyId" if access_key_id is None else "Signature"
        raise InvalidArgument(f"Bucket POST must contain a field named '{missing}'.", missing, "")
    key = await known_key(lookup, access_key_id)
    digest = hmac.digest(key.secret_access_key.encode(), fields["policy"].encode(), "sha1")
    _compare(base64.b64encode(digest).decode(), claimed)
    return key, None


async def _signer_v4(fields: Mapping[str, str], lookup: Lookup) -> tuple[Key, str]:
    access_key_id, *scope = fields.get("x-amz-credential", "").rsplit("/", 4)
    if len(scope) != 4 or scope[2:] != ["s3", "aws4_request"]:
        raise InvalidArgument(
            "The credential is not of the form KEY/YYYYMMDD/REGION/s3/aws4_request.",
            "x-amz-credential",
            fields.get("x-amz-credential", ""),
        )
    key = await known_key(lookup, access_key_id)
    date, region, service, _ = scope
    signing_key = sigv4.signing_key(key.secret_access_key, date, region, service)
    _compare(sigv4.sign(signing_key, fields["policy"]), fields["x-amz-signature"])
    return key, region


def _compare(computed: str, claimed: str) -> None:
    if not hmac.compare_digest(computed.encode(), claimed.encode()):
        raise sigv4.Refused(
            sigv4.Reason.MISMATCH,
            "The request signature we calculated does not match the signature you provided. "
            "Check your key and signing method.",
        )


def _as_put(fields: Mapping[str, str], bucket: str) -> tuple[Params, dict[str, str]]:
    """PutObject's parameters, without the body, and the headers in which they would have come."""
    operation = models.load("s3").operation("PutObject")
    headers = {_HEADERS.get(name, name): value for name, value in fields.items() if name not in _OWN}
    if "tagging" in headers:
        headers["x-amz-tagging"] = urlencode(_tags(headers.pop("tagging")))
    for name, value in headers.items():
        # A form's field may have several lines, which a reader of the object would be sent as a header.
        if not value.isprintable():
            raise InvalidArgument("A field of the form has a line break or control character.", name, value)
    params = parse(
        operation, "rest-xml", Request("PUT", "/", "", headers), {"Bucket": bucket, "Key": fields["key"]}
    )
    if broken := validate(operation, params):
        raise ServiceError(broken, code=refusal_code(operation, broken))
    return params, headers


def _tags(document: str) -> list[tuple[str, str]]:
    """The pairs of the field `tagging`, a document as PutObjectTagging takes it. Raises MalformedXML."""
    operation = models.load("s3").operation("PutObjectTagging")
    request = Request("PUT", "/", "tagging", {}, document.encode())
    tagging = parse(operation, "rest-xml", request, {}).get("Tagging", {})
    return [(tag.get("Key", ""), tag.get("Value", "")) for tag in tagging.get("TagSet", [])]


def _answer(fields: Mapping[str, str], bucket: str, stored: Result, call: Call) -> Response:
    """What the form's author wished for: a redirection, a document, or 200 or 204 with neither."""
    key, etag = fields["key"], stored["ETag"]
    location = f"{call.base_url}/{bucket}/{quote(key, safe='/-_.~')}"
    headers = {"x-amz-request-id": call.request_id, "etag": etag, "location": location}
    wished = fields.get("success_action_redirect", fields.get("redirect", ""))
    if _REDIRECTION.fullmatch(wished):
        asked = urlsplit(wished)
        added = [*parse_qsl(asked.query), ("bucket", bucket), ("key", key), ("etag", etag)]
        headers["location"] = asked._replace(query=urlencode(added)).geturl()
        return Response(303, headers)
    if fields.get("success_action_status") == "201":
        document = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<PostResponse><Location>{escape(location)}</Location>'
            f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><ETag>{escape(etag)}</ETag></PostResponse>"
        )
        return Response(201, headers | {"content-type": "application/xml"}, document.encode())
    return Response(200 if fields.get("success_action_status") == "200" else 204, headers)
