"""S3's operations on buckets in outside stores, those that pass through us.

An outside bucket is the operator's account's. What does not pass (uploads in parts, tags, copies) is for that
store's own API.
"""

from collections.abc import AsyncIterator

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.s3.answers import quoted
from ebbtide.api.s3.uploading import checked_key, checked_metadata, receive, stored_headers, tags_of_header
from ebbtide.identifiers import ACCOUNT
from ebbtide.objects.errors import AccessDenied, NotOffered
from ebbtide.objects.outside import Outside
from ebbtide.objects.records import DEFAULT_CONTENT_TYPE, ObjectRecord

_HEADERS = {
    "CacheControl": "Cache-Control",
    "ContentDisposition": "Content-Disposition",
    "ContentEncoding": "Content-Encoding",
    "ContentLanguage": "Content-Language",
}


def outside_bucket(params: Params, call: Call) -> Outside | None:
    """The outside bucket that the request names; None when it names one of ours. Raises AccessDenied."""
    outside = call.parts.objects.outside(params["Bucket"])
    if outside is not None and not call.account == params.get("ExpectedBucketOwner", ACCOUNT) == ACCOUNT:
        raise AccessDenied
    return outside


def refuse_outside(bucket: str, call: Call) -> None:
    """Raises NotImplemented for a bucket in an outside store, of an operation that does not pass."""
    if outside := call.parts.objects.outside(bucket):
        raise _does_not_pass(outside, "ebbtide passes this operation on to no outside store; use its own API")


async def put_object(outside: Outside, params: Params, call: Call) -> Result:
    """Take the body in, compare it with what the client said of it, then send it on.

    Raises what `receive` and `Outside.put` list, NotImplemented for tags.
    """
    if tags_of_header(params):
        raise _does_not_pass(outside, "ebbtide passes no tags on to outside stores")
    headers = {_HEADERS[name]: value for name, value in stored_headers(params).items() if name in _HEADERS}
    content_type = params.get("ContentType", DEFAULT_CONTENT_TYPE)
    staged = await receive(params, call)
    try:
        etag = await outside.put(
            checked_key(params),
            await call.parts.objects.staged(staged),
            size_bytes=staged.size_bytes,
            attributes=checked_metadata(params) | headers | {"Content-Type": content_type},
            if_match=params["IfMatch"].strip('"') if "IfMatch" in params else None,
            if_none_match="IfNoneMatch" in params,
        )
    finally:
        await call.parts.objects.discard(staged)
    return {"ETag": quoted(etag)}


async def read(outside: Outside, record: ObjectRecord, start: int, length: int) -> AsyncIterator[bytes]:
    """Bytes of an object just described. Raises what `Outside.open` lists."""
    whole = length == record.size_bytes  # an empty object has no range that could be asked for
    _, body = await outside.open(
        record.key, start=start, length=None if whole else length, etag=record.etag or None
    )
    return body


def _does_not_pass(outside: Outside, why: str) -> NotOffered:
    bucket = outside.bucket
    return NotOffered(
        f"The bucket {bucket.name} lies in {bucket.place}, and {why}.",
        members={"BucketName": bucket.name},
    )
