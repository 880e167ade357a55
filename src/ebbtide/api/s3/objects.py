"""S3's operations on objects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import unquote_plus

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.s3 import outside
from ebbtide.api.s3.access import (
    access_list,
    cause,
    owned_bucket,
    refuse_access_list,
    refuse_unsupported,
    tell_followers,
)
from ebbtide.api.s3.answers import checksum_members, checksums_of, description, expiration, quoted
from ebbtide.api.s3.outside import outside_bucket, refuse_outside
from ebbtide.api.s3.uploading import (
    LARGEST_PUT_BYTES,
    checked_key,
    checked_metadata,
    checked_tags,
    known_algorithm,
    receive,
    stored_headers,
    tags_of_header,
)
from ebbtide.errors import ServiceError
from ebbtide.objects import contents, records
from ebbtide.objects.buckets import Bucket, get_bucket
from ebbtide.objects.conditions import Conditions, byte_range, is_unchanged
from ebbtide.objects.contents import Piece
from ebbtide.objects.errors import InvalidArgument, InvalidRequest
from ebbtide.objects.records import ObjectRecord

T = TypeVar("T")

MOST_DELETED = 1000
PARTS_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Found:
    """An object, where its bytes are, and what is to be said of its end."""

    record: ObjectRecord
    pieces: Sequence[Piece]
    expiration: Result = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stretch:
    """The bytes of an object that a request asks for; `partial` when it did not ask for all."""

    start: int
    length: int
    partial: bool


async def put_object(params: Params, call: Call) -> Result:
    """Store the body under the key, replacing what is there, once it is whole and as the client said.

    Raises NoSuchBucket, PreconditionFailed, BadDigest and what `receive` lists. Source: PutObject.
    """
    refuse_unsupported(params)
    key, metadata, tags = checked_key(params), checked_metadata(params), tags_of_header(params)
    if bucket_outside := outside_bucket(params, call):
        return await outside.put_object(bucket_outside, params, call)
    # Before a long body is taken in: the answer may be no.
    bucket = await _read(call, lambda connection: owned_bucket(connection, params, call))
    staged = await receive(params, call)
    record = await call.parts.objects.publish_staged(
        staged,
        lambda connection: records.publish(
            connection,
            bucket.name,
            key,
            staged,
            content_type=params.get("ContentType"),
            at=call.now,
            metadata=metadata,
            headers=stored_headers(params),
            tags=tags,
            if_match=params.get("IfMatch"),
            if_none_match=params.get("IfNoneMatch"),
            cause=cause(call, "Put"),
        ),
    )
    tell_followers(bucket, call)
    return {"ETag": quoted(record.etag)} | checksums_of(record) | expiration(bucket, record)


async def get_object(params: Params, call: Call) -> Result:
    """The object's bytes, or the range of them asked for.

    Raises NoSuchKey, NoSuchBucket, PreconditionFailed, InvalidRange. Source: GetObject.
    """
    found = await _find_anywhere(params, call)
    if unchanged := _not_modified(found.record, params):
        return unchanged
    stretch = _stretch(found, params, call)
    if bucket_outside := outside_bucket(params, call):
        body = await outside.read(bucket_outside, found.record, stretch.start, stretch.length)
        return _described(found, stretch, params) | {"Body": body}
    body = await call.parts.objects.read(found.record.content_id, found.pieces, stretch.start, stretch.length)
    return _described(found, stretch, params) | {"Body": body}


async def head_object(params: Params, call: Call) -> Result:
    """What GetObject would answer, without the bytes."""
    found = await _find_anywhere(params, call)
    return _not_modified(found.record, params) or _described(found, _stretch(found, params, call), params)


async def get_object_attributes(params: Params, call: Call) -> Result:
    """Those of the object's facts that the request lists. Source: GetObjectAttributes."""
    found = await _find(params, call)
    record = found.record
    asked = set(params["ObjectAttributes"])
    parts = _parts(found, params) if _is_multipart(record) else None
    attributes: Result = {
        "ETag": record.etag,
        "Checksum": checksums_of(record) or None,
        "ObjectParts": parts,
        "StorageClass": "STANDARD",
        "ObjectSize": record.size_bytes,
    }
    return {"LastModified": record.modified_at} | {
        name: value for name, value in attributes.items() if name in asked
    }


async def get_object_acl(params: Params, call: Call) -> Result:
    """The owner's full control."""
    await _find(params, call)
    return access_list(call.account)


async def put_object_acl(params: Params, call: Call) -> Result:
    """Accept the access list that every object has. Raises NotImplemented for another, NoSuchKey."""
    refuse_access_list(params)
    await _find(params, call)
    return {}


async def delete_object(params: Params, call: Call) -> Result:
    """Delete the object, if there is one. Raises NoSuchBucket, PreconditionFailed. Source: DeleteObject."""
    refuse_unsupported(params)
    if bucket_outside := outside_bucket(params, call):
        await bucket_outside.delete(params["Key"])
        return {}

    def work(connection: Connection) -> Bucket:
        bucket = owned_bucket(connection, params, call)
        records.delete_object(
            connection,
            bucket.name,
            params["Key"],
            at=call.now,
            if_match=params.get("IfMatch"),
            cause=cause(call, "Delete"),
        )
        return bucket

    tell_followers(await call.parts.database.write(work), call)
    return {}


async def delete_objects(params: Params, call: Call) -> Result:
    """Delete many objects; each has its own outcome. Source: DeleteObjects."""
    wanted = params["Delete"]["Objects"]
    if not 1 <= len(wanted) <= MOST_DELETED:
        raise ServiceError(
            "The XML you provided was not well-formed or did not validate against our published schema",
            code="MalformedXML",
        )

    def work(connection: Connection) -> tuple[Bucket, list[Result], list[Result]]:
        bucket = owned_bucket(connection, params, call)
        deleted: list[Result] = []
        failed: list[Result] = []
        for named in wanted:
            key = named["Key"]
            try:
                refuse_unsupported(named)
                records.delete_object(
                    connection,
                    bucket.name,
                    key,
                    at=call.now,
                    if_match=named.get("ETag"),
                    cause=cause(call, "Delete"),
                )
            except ServiceError as error:
                failed.append({"Key": key, "Code": error.code, "Message": error.message})
            else:
                deleted.append({"Key": key})
        return bucket, deleted, failed

    bucket, deleted, failed = await call.parts.database.write(work)
    tell_followers(bucket, call)
    return {"Deleted": [] if params["Delete"].get("Quiet") else deleted, "Errors": failed}


async def copy_object(params: Params, call: Call) -> Result:
    """Store a copy of another object, with its metadata and tags or with new ones.

    Raises NoSuchKey, NoSuchBucket, PreconditionFailed, InvalidRequest. Source: CopyObject.
    """
    refuse_unsupported(params)
    key, metadata = checked_key(params), checked_metadata(params)
    source = await find_source(params, call)
    record = source.record
    replaces = params.get("MetadataDirective") == "REPLACE"
    retags = params.get("TaggingDirective") == "REPLACE"
    changes = replaces or retags or "StorageClass" in params
    if (record.bucket, record.key) == (params["Bucket"], key) and not changes:
        raise InvalidRequest(
            "This copy request is illegal because it is trying to copy an object to itself without changing "
            "the object's metadata, storage class, website redirect location or encryption attributes."
        )
    if record.size_bytes > LARGEST_PUT_BYTES:
        raise InvalidRequest(
            "The specified copy source is larger than the maximum allowable size for a copy source: "
            f"{LARGEST_PUT_BYTES}"
        )
    algorithm = known_algorithm(params)
    body = await call.parts.objects.read(record.content_id, source.pieces, 0, record.size_bytes)
    staged = await call.parts.objects.stage(
        body, checksum_algorithms=[algorithm] if algorithm else list(record.checksums)
    )

    def work(connection: Connection) -> tuple[Bucket, ObjectRecord]:
        bucket = owned_bucket(connection, params, call)
        return bucket, records.publish(
            connection,
            bucket.name,
            key,
            staged,
            content_type=params.get("ContentType") if replaces else record.content_type,
            at=call.now,
            metadata=metadata if replaces else record.metadata,
            headers=stored_headers(params) if replaces else record.headers,
            tags=tags_of_header(params) if retags else record.tags,
            if_match=params.get("IfMatch"),
            if_none_match=params.get("IfNoneMatch"),
            cause=cause(call, "Copy"),
        )

    bucket, copy = await call.parts.objects.publish_staged(staged, work)
    tell_followers(bucket, call)
    result = {"ETag": quoted(copy.etag), "LastModified": copy.modified_at}
    return {"CopyObjectResult": result | checksums_of(copy)} | expiration(bucket, copy)


async def find_source(params: Params, call: Call) -> Found:
    """The object that a copy is made of, its conditions met; the destination is the caller's.

    Raises NoSuchKey, NoSuchBucket, AccessDenied, PreconditionFailed, InvalidArgument.
    """
    bucket, key = _copy_source(params["CopySource"])
    refuse_outside(bucket, call)

    def look(connection: Connection) -> Found:
        owned_bucket(connection, params, call)
        get_bucket(connection, bucket, call.account, params.get("ExpectedSourceBucketOwner"))
        return _look(connection, bucket, key)

    found = await _read(call, look)
    conditions = Conditions(
        if_match=params.get("CopySourceIfMatch"),
        if_none_match=params.get("CopySourceIfNoneMatch"),
        if_modified_since=params.get("CopySourceIfModifiedSince"),
        if_unmodified_since=params.get("CopySourceIfUnmodifiedSince"),
        prefix="x-amz-copy-source-",
    )
    conditions.check_copy(found.record.etag, found.record.modified_at, call.now)
    return found


async def get_object_tagging(params: Params, call: Call) -> Result:
    """The object's tags. Raises NoSuchKey, NoSuchBucket."""
    found = await _find(params, call)
    return {"TagSet": [{"Key": key, "Value": value} for key, value in found.record.tags.items()]}


async def put_object_tagging(params: Params, call: Call) -> Result:
    """Give the object these tags in place of its old ones. Raises NoSuchKey, InvalidTag, BadRequest."""
    tags = checked_tags([(tag["Key"], tag["Value"]) for tag in params["Tagging"]["TagSet"]])
    await _set_tags(params, call, tags)
    return {}


async def delete_object_tagging(params: Params, call: Call) -> Result:
    """Take the object's tags away. Raises NoSuchKey, NoSuchBucket."""
    await _set_tags(params, call, {})
    return {}


async def _set_tags(params: Params, call: Call, tags: dict[str, str]) -> None:
    refuse_unsupported(params)

    def work(connection: Connection) -> None:
        bucket = owned_bucket(connection, params, call).name
        records.set_tags(connection, bucket, params["Key"], tags)

    await call.parts.database.write(work)


async def _read(call: Call, work: Callable[[Connection], T]) -> T:
    return await call.parts.database.read(work)


async def _find_anywhere(params: Params, call: Call) -> Found:
    """An object of ours, or what an outside store says of one, whose bytes lie in no piece here."""
    if bucket_outside := outside_bucket(params, call):
        refuse_unsupported(params)
        return Found(await bucket_outside.head(params["Key"]), ())
    return await _find(params, call)


async def _find(params: Params, call: Call) -> Found:
    refuse_unsupported(params)

    def look(connection: Connection) -> Found:
        bucket = owned_bucket(connection, params, call)
        found = _look(connection, bucket.name, params["Key"])
        return Found(found.record, found.pieces, expiration(bucket, found.record))

    return await _read(call, look)


def _look(connection: Connection, bucket: str, key: str) -> Found:
    record = records.get_object(connection, bucket, key)
    return Found(record, contents.get_pieces(connection, record.content_id))


def _copy_source(text: str) -> tuple[str, str]:
    """The bucket and key of `[/]BUCKET/KEY[?versionId=null]`, percent-encoded or as in a form, where a space
    is a plus: clients do either. Raises InvalidArgument.
    """
    path, _, version = text.partition("?versionId=")
    bucket, _, key = unquote_plus(path).removeprefix("/").partition("/")
    if not bucket or not key or bucket.startswith("arn:"):
        raise InvalidArgument(
            "Copy Source must mention the source bucket and key: sourcebucket/sourcekey",
            "x-amz-copy-source",
            text,
        )
    if version not in ("", "null"):
        raise InvalidArgument("Invalid version id specified", "x-amz-copy-source", text)
    return bucket, key


def _not_modified(record: ObjectRecord, params: Params) -> Result | None:
    """The 304 for a reader that has the object already. Raises PreconditionFailed."""
    conditions = Conditions(
        if_match=params.get("IfMatch"),
        if_none_match=params.get("IfNoneMatch"),
        if_modified_since=params.get("IfModifiedSince"),
        if_unmodified_since=params.get("IfUnmodifiedSince"),
    )
    if not conditions.not_modified(record.etag, record.modified_at):
        return None
    return {
        "ETag": quoted(record.etag),
        "LastModified": record.modified_at,
        "ResponseMetadata": {"HTTPStatusCode": 304},
    }


def _stretch(found: Found, params: Params, call: Call) -> Stretch:
    """Raises InvalidRange, InvalidPartNumber, InvalidRequest."""
    size_bytes = found.record.size_bytes
    header, number = params.get("Range"), params.get("PartNumber")
    if header is not None and number is not None:
        raise InvalidRequest("Cannot specify both Range header and partNumber query parameter")
    if number is not None:
        if not 1 <= number <= len(found.pieces):
            raise ServiceError(
                "The requested partnumber is not satisfiable",
                code="InvalidPartNumber",
                http_status=416,
                members={
                    "PartNumberRequested": str(number),
                    "ActualPartCount": str(len(found.pieces)),
                },
            )
        start = sum(piece.size_bytes for piece in found.pieces[: number - 1])
        return Stretch(start, found.pieces[number - 1].size_bytes, partial=True)
    if not is_unchanged(call.headers.get("if-range"), found.record.etag, found.record.modified_at):
        header = None  # what the caller has a part of is not this object any more
    asked = None if header is None else byte_range(header, size_bytes)
    return Stretch(0, size_bytes, partial=False) if asked is None else Stretch(*asked, partial=True)


def _described(found: Found, stretch: Stretch, params: Params) -> Result:
    record = found.record
    answer = description(record, params) | {"ContentLength": stretch.length} | found.expiration
    number = params.get("PartNumber")
    if number and _is_multipart(record):
        answer["PartsCount"] = len(found.pieces)
    if params.get("ChecksumMode") == "ENABLED":
        # Of a range the checksum is not known, and SDKs would compare the whole object's with it.
        if not stretch.partial:
            answer |= checksums_of(record)
        elif number and (kept := found.pieces[number - 1].checksums):
            answer |= checksum_members(kept) | {"ChecksumType": record.checksum_type}
    if not stretch.partial:
        return answer
    last = stretch.start + stretch.length - 1
    if stretch.length:
        answer["ContentRange"] = f"bytes {stretch.start}-{last}/{record.size_bytes}"
    return answer | {"ResponseMetadata": {"HTTPStatusCode": 206}}


def _is_multipart(record: ObjectRecord) -> bool:
    return "-" in record.etag


def _parts(found: Found, params: Params) -> Result:
    after, limit = params.get("PartNumberMarker", 0), params.get("MaxParts", PARTS_LIMIT)
    numbered = list(enumerate(found.pieces, start=1))
    listed = numbered[after : after + limit]
    return {
        "TotalPartsCount": len(numbered),
        "PartNumberMarker": after,
        "NextPartNumberMarker": listed[-1][0] if listed else after,
        "MaxParts": limit,
        "IsTruncated": after + len(listed) < len(numbered),
        "Parts": [
            {"PartNumber": number, "Size": piece.size_bytes} | checksum_members(piece.checksums or {})
            for number, piece in listed
        ],
    }
