"""S3's operations on multipart uploads."""

import re

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.s3.access import cause, owned_bucket, refuse_unsupported, tell_followers
from ebbtide.api.s3.answers import checksum_members, checksums_of, expiration, quoted
from ebbtide.api.s3.objects import find_source
from ebbtide.api.s3.uploading import (
    checked_key,
    checked_metadata,
    known_algorithm,
    receive,
    stated_checksums,
    stored_headers,
    tags_of_header,
)
from ebbtide.errors import ServiceError
from ebbtide.objects import uploads
from ebbtide.objects.buckets import Bucket
from ebbtide.objects.checksums import POLYNOMIALS
from ebbtide.objects.errors import InvalidArgument, InvalidRequest
from ebbtide.objects.records import ObjectRecord
from ebbtide.objects.uploads import NamedPart, Upload

MOST_PARTS = 10_000


async def create_multipart_upload(params: Params, call: Call) -> Result:
    """Begin an upload in parts. Raises NoSuchBucket, InvalidRequest. Source: CreateMultipartUpload."""
    refuse_unsupported(params)
    key, metadata, tags = checked_key(params), checked_metadata(params), tags_of_header(params)
    algorithm = known_algorithm(params)
    checksum_type = _checksum_type(algorithm, params.get("ChecksumType"))

    def work(connection: Connection) -> Upload:
        return uploads.begin(
            connection,
            owned_bucket(connection, params, call).name,
            key,
            content_type=params.get("ContentType"),
            metadata=metadata,
            headers=stored_headers(params),
            tags=tags,
            checksum_algorithm=algorithm,
            checksum_type=checksum_type,
            at=call.now,
        )

    upload = await call.parts.database.write(work)
    return {
        "Bucket": upload.bucket,
        "Key": upload.key,
        "UploadId": upload.id,
        "ChecksumAlgorithm": algorithm,
        "ChecksumType": checksum_type if algorithm else None,
    }


async def upload_part(params: Params, call: Call) -> Result:
    """Store the body as the part of that number, in place of an earlier one.

    Raises NoSuchUpload, InvalidArgument, BadDigest and what `receive` lists. Source: UploadPart.
    """
    refuse_unsupported(params)
    number = _part_number(params)
    upload = await _find(params, call)
    staged = await receive(params, call, algorithm=upload.checksum_algorithm)
    await call.parts.objects.publish_staged(
        staged, lambda connection: uploads.add_part(connection, upload, number, staged, at=call.now)
    )
    return {"ETag": quoted(staged.etag)} | checksum_members(staged.checksums)


async def upload_part_copy(params: Params, call: Call) -> Result:
    """Store another object, or a range of it, as the part of that number. Source: UploadPartCopy."""
    refuse_unsupported(params)
    number = _part_number(params)
    upload = await _find(params, call)
    source = await find_source(params, call)
    start, length = _source_range(params.get("CopySourceRange"), source.record.size_bytes)
    body = await call.parts.objects.read(source.record.content_id, source.pieces, start, length)
    algorithms = [upload.checksum_algorithm] if upload.checksum_algorithm else []
    staged = await call.parts.objects.stage(body, checksum_algorithms=algorithms)
    await call.parts.objects.publish_staged(
        staged, lambda connection: uploads.add_part(connection, upload, number, staged, at=call.now)
    )
    result = {"ETag": quoted(staged.etag), "LastModified": call.now}
    return {"CopyPartResult": result | checksum_members(staged.checksums)}


async def complete_multipart_upload(params: Params, call: Call) -> Result:
    """Make the listed parts one object; said again of a completed upload it answers the same.

    Raises NoSuchUpload, InvalidPart, InvalidPartOrder, EntityTooSmall, BadDigest, PreconditionFailed; the
    upload then stays open. Source: CompleteMultipartUpload.
    """
    refuse_unsupported(params)
    listed = params.get("MultipartUpload", {}).get("Parts", [])
    if not listed or not all("PartNumber" in part and "ETag" in part for part in listed):
        raise ServiceError(
            "The XML you provided was not well-formed or did not validate against our published schema",
            code="MalformedXML",
        )
    named = [NamedPart(part["PartNumber"], part["ETag"], stated_checksums(part)) for part in listed]
    stated = stated_checksums(params)
    asked_type = params.get("ChecksumType")

    def work(connection: Connection) -> tuple[Bucket, ObjectRecord]:
        bucket = owned_bucket(connection, params, call)
        if done := uploads.completed(connection, bucket.name, params["Key"], params["UploadId"]):
            return bucket, done
        upload = uploads.get_upload(connection, bucket.name, params["Key"], params["UploadId"])
        if asked_type not in (None, upload.checksum_type):
            raise InvalidRequest(
                f"The upload was created with the {upload.checksum_type} checksum type. The complete request "
                f"must include the same type, not {asked_type}."
            )
        return bucket, uploads.complete(
            connection,
            upload,
            named,
            at=call.now,
            size_bytes=params.get("MpuObjectSize"),
            stated=stated,
            if_match=params.get("IfMatch"),
            if_none_match=params.get("IfNoneMatch"),
            cause=cause(call, "CompleteMultipartUpload"),
        )

    bucket, record = await call.parts.database.write(work)
    tell_followers(bucket, call)
    answer: Result = {
        "Location": f"{call.base_url}/{record.bucket}/{record.key}",
        "Bucket": record.bucket,
        "Key": record.key,
        "ETag": quoted(record.etag),
    }
    return answer | checksums_of(record) | expiration(bucket, record)


async def abort_multipart_upload(params: Params, call: Call) -> Result:
    """Forget the upload and its parts. Raises NoSuchUpload. Source: AbortMultipartUpload."""

    def work(connection: Connection) -> None:
        uploads.abort(connection, _look(connection, params, call), at=call.now)

    await call.parts.database.write(work)
    return {}


async def _find(params: Params, call: Call) -> Upload:
    return await call.parts.database.read(lambda connection: _look(connection, params, call))


def _look(connection: Connection, params: Params, call: Call) -> Upload:
    bucket = owned_bucket(connection, params, call).name
    return uploads.get_upload(connection, bucket, params["Key"], params["UploadId"])


def _checksum_type(algorithm: str | None, asked: str | None) -> str:
    """What the whole object's checksum will be of: its bytes, or its parts' checksums.

    Raises InvalidRequest. Source: "Checking object integrity", S3 user guide.
    """
    if asked and not algorithm:
        raise InvalidRequest("The x-amz-checksum-type header can only be used with x-amz-checksum-algorithm.")
    of_parts_only = algorithm not in POLYNOMIALS
    of_bytes_only = algorithm == "CRC64NVME"
    if (asked == "FULL_OBJECT" and of_parts_only) or (asked == "COMPOSITE" and of_bytes_only):
        raise InvalidRequest(
            f"The {asked} checksum type cannot be used with the {str(algorithm).lower()} checksum algorithm."
        )
    return asked or ("FULL_OBJECT" if of_bytes_only else "COMPOSITE")


def _part_number(params: Params) -> int:
    number: int = params["PartNumber"]
    if not 1 <= number <= MOST_PARTS:
        raise InvalidArgument(
            f"Part number must be an integer between 1 and {MOST_PARTS}, inclusive", "partNumber", str(number)
        )
    return number


_SOURCE_RANGE = re.compile(r"^bytes=([0-9]{1,18})-([0-9]{1,18})$")


def _source_range(header: str | None, size_bytes: int) -> tuple[int, int]:
    """The offset and length to copy. Raises InvalidArgument."""
    if header is None:
        return 0, size_bytes
    found = _SOURCE_RANGE.match(header)
    if not found or int(found[1]) > int(found[2]):
        raise InvalidArgument(
            "The x-amz-copy-source-range value must be of the form bytes=first-last where first and last are "
            "the zero-based offsets of the first and last bytes to copy",
            "x-amz-copy-source-range",
            header,
        )
    first, last = int(found[1]), int(found[2])
    if last >= size_bytes:
        raise InvalidArgument(
            f"Range specified is not valid for source object of size: {size_bytes}",
            "x-amz-copy-source-range",
            header,
        )
    return first, last - first + 1
