"""S3's lists of objects, of their only versions, of uploads and of parts."""

import base64
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from urllib.parse import quote

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.s3.access import owned_bucket, owner
from ebbtide.api.s3.answers import checksum_members, quoted
from ebbtide.api.s3.outside import outside_bucket
from ebbtide.objects import records, uploads
from ebbtide.objects.errors import InvalidArgument
from ebbtide.objects.listing import Page, common_prefix, page
from ebbtide.objects.records import ObjectRecord
from ebbtide.objects.uploads import Part, Upload

PAGE_LIMIT = 1000

Encode = Callable[[str], str]


async def list_objects_v2(params: Params, call: Call) -> Result:
    """A page of a bucket's objects by key. Raises NoSuchBucket, InvalidArgument. Source: ListObjectsV2."""
    token = params.get("ContinuationToken")
    after = params.get("StartAfter", "") if token is None else _after_token(token)
    listed = await _page(params, call, after)
    encode = _encoder(params)
    next_token = None if listed.next_after is None else _token(listed.next_after)
    return {
        "IsTruncated": listed.next_after is not None,
        "Contents": _contents(listed, call, encode, with_owner=params.get("FetchOwner", False)),
        "Name": params["Bucket"],
        "Prefix": encode(params.get("Prefix", "")),
        "Delimiter": _encoded(params, "Delimiter", encode),
        "MaxKeys": params.get("MaxKeys", PAGE_LIMIT),
        "CommonPrefixes": _common_prefixes(listed, encode),
        "EncodingType": params.get("EncodingType"),
        "KeyCount": len(listed.contents) + len(listed.common_prefixes),
        "ContinuationToken": token,
        "NextContinuationToken": next_token,
        "StartAfter": _encoded(params, "StartAfter", encode),
    }


async def list_objects(params: Params, call: Call) -> Result:
    """A page of a bucket's objects by key. NextMarker only comes with a delimiter: without one it is the
    last key. Raises NoSuchBucket, InvalidArgument. Source: ListObjects.
    """
    listed = await _page(params, call, params.get("Marker", ""))
    encode = _encoder(params)
    marked = params.get("Delimiter") and listed.next_after is not None
    return {
        "IsTruncated": listed.next_after is not None,
        "Marker": encode(params.get("Marker", "")),
        "NextMarker": encode(listed.next_after or "") if marked else None,
        "Contents": _contents(listed, call, encode, with_owner=True),
        "Name": params["Bucket"],
        "Prefix": encode(params.get("Prefix", "")),
        "Delimiter": _encoded(params, "Delimiter", encode),
        "MaxKeys": params.get("MaxKeys", PAGE_LIMIT),
        "CommonPrefixes": _common_prefixes(listed, encode),
        "EncodingType": params.get("EncodingType"),
    }


async def list_object_versions(params: Params, call: Call) -> Result:
    """A page of a bucket's objects, each with its only version, `null`. Source: ListObjectVersions."""
    listed = await _page(params, call, params.get("KeyMarker", ""))
    encode = _encoder(params)
    version = {"VersionId": "null", "IsLatest": True}
    return {
        "IsTruncated": listed.next_after is not None,
        "KeyMarker": encode(params.get("KeyMarker", "")),
        "VersionIdMarker": params.get("VersionIdMarker", ""),
        "NextKeyMarker": None if listed.next_after is None else encode(listed.next_after),
        "NextVersionIdMarker": "null" if listed.contents and listed.next_after is not None else None,
        "Versions": [item | version for item in _contents(listed, call, encode, with_owner=True)],
        "Name": params["Bucket"],
        "Prefix": encode(params.get("Prefix", "")),
        "Delimiter": _encoded(params, "Delimiter", encode),
        "MaxKeys": params.get("MaxKeys", PAGE_LIMIT),
        "CommonPrefixes": _common_prefixes(listed, encode),
        "EncodingType": params.get("EncodingType"),
    }


async def list_multipart_uploads(params: Params, call: Call) -> Result:
    """A page of the uploads under way, by key and then by age. Source: ListMultipartUploads."""

    def work(connection: Connection) -> Sequence[Upload]:
        owned_bucket(connection, params, call)
        return uploads.open_uploads(connection, params["Bucket"])

    # Without an upload's id the marker stands behind all uploads of its key.
    after = (params.get("KeyMarker", ""), params.get("UploadIdMarker") or "\U0010ffff")
    limit = _limit(params, "MaxUploads")
    grouped = _grouped(
        await call.parts.database.read(work), params.get("Prefix", ""), params.get("Delimiter", "")
    )
    remaining = [entry for entry in grouped if _position(entry) > after]
    listed = remaining[:limit]
    next_key, next_id = _position(listed[-1]) if len(remaining) > limit > 0 else (None, None)
    encode = _encoder(params)
    return {
        "Bucket": params["Bucket"],
        "KeyMarker": encode(params.get("KeyMarker", "")),
        "UploadIdMarker": params.get("UploadIdMarker", ""),
        "NextKeyMarker": None if next_key is None else encode(next_key),
        "NextUploadIdMarker": next_id,
        "Prefix": encode(params.get("Prefix", "")),
        "Delimiter": _encoded(params, "Delimiter", encode),
        "MaxUploads": params.get("MaxUploads", PAGE_LIMIT),
        "IsTruncated": next_key is not None,
        "Uploads": [
            {
                "UploadId": upload.id,
                "Key": encode(upload.key),
                "Initiated": upload.initiated_at,
                "StorageClass": "STANDARD",
                "Owner": owner(call.account),
                "Initiator": owner(call.account),
                "ChecksumAlgorithm": upload.checksum_algorithm,
                "ChecksumType": upload.checksum_type if upload.checksum_algorithm else None,
            }
            for upload in listed
            if isinstance(upload, Upload)
        ],
        "CommonPrefixes": [{"Prefix": encode(prefix)} for prefix in listed if isinstance(prefix, str)],
        "EncodingType": params.get("EncodingType"),
    }


async def list_parts(params: Params, call: Call) -> Result:
    """A page of an upload's parts by number. Raises NoSuchUpload. Source: ListParts."""

    def work(connection: Connection) -> tuple[Upload, Sequence[Part]]:
        owned_bucket(connection, params, call)
        upload = uploads.get_upload(connection, params["Bucket"], params["Key"], params["UploadId"])
        return upload, uploads.uploaded_parts(connection, upload.id)

    upload, parts = await call.parts.database.read(work)
    after, limit = params.get("PartNumberMarker", 0), _limit(params, "MaxParts")
    remaining = [part for part in parts if part.number > after]
    listed = remaining[:limit]
    return {
        "Bucket": upload.bucket,
        "Key": upload.key,
        "UploadId": upload.id,
        "PartNumberMarker": after,
        "NextPartNumberMarker": listed[-1].number if listed else 0,
        "MaxParts": params.get("MaxParts", PAGE_LIMIT),
        "IsTruncated": len(remaining) > len(listed),
        "Parts": [
            {
                "PartNumber": part.number,
                "LastModified": part.modified_at,
                "ETag": quoted(part.etag),
                "Size": part.size_bytes,
            }
            | checksum_members(part.checksums)
            for part in listed
        ],
        "Initiator": owner(call.account),
        "Owner": owner(call.account),
        "StorageClass": "STANDARD",
        "ChecksumAlgorithm": upload.checksum_algorithm,
        "ChecksumType": upload.checksum_type if upload.checksum_algorithm else None,
    }


async def _page(params: Params, call: Call, after: str) -> Page[ObjectRecord]:
    limit = _limit(params, "MaxKeys")
    if outside := outside_bucket(params, call):
        return await outside.page(
            prefix=params.get("Prefix", ""), delimiter=params.get("Delimiter", ""), after=after, limit=limit
        )

    def work(connection: Connection) -> Page[ObjectRecord]:
        owned_bucket(connection, params, call)
        return page(
            partial(records.scan_objects, connection, params["Bucket"]),
            prefix=params.get("Prefix", ""),
            delimiter=params.get("Delimiter", ""),
            after=after,
            limit=limit,
        )

    return await call.parts.database.read(work)


def _limit(params: Params, name: str) -> int:
    limit: int = params.get(name, PAGE_LIMIT)
    if limit < 0:
        raise InvalidArgument(
            f"Argument {name} must be an integer between 0 and 2147483647", name, str(limit)
        )
    return min(limit, PAGE_LIMIT)


def _contents(listed: Page[ObjectRecord], call: Call, encode: Encode, *, with_owner: bool) -> list[Result]:
    return [
        {
            "Key": encode(record.key),
            "LastModified": record.modified_at,
            "ETag": quoted(record.etag),
            "ChecksumAlgorithm": list(record.checksums) or None,
            "ChecksumType": record.checksum_type if record.checksums else None,
            "Size": record.size_bytes,
            "StorageClass": "STANDARD",
            "Owner": owner(call.account) if with_owner else None,
        }
        for record in listed.contents
    ]


def _common_prefixes(listed: Page[ObjectRecord], encode: Encode) -> list[Result]:
    return [{"Prefix": encode(prefix)} for prefix in listed.common_prefixes]


def _grouped(open_: Sequence[Upload], prefix: str, delimiter: str) -> Iterator[Upload | str]:
    """The uploads below the prefix, those with a common prefix as that, once."""
    last = None
    for upload in open_:
        if not upload.key.startswith(prefix):
            continue
        common = common_prefix(upload.key, prefix, delimiter)
        if common is None:
            yield upload
        elif common != last:
            yield common
        last = common


def _position(entry: Upload | str) -> tuple[str, str]:
    return (entry, "") if isinstance(entry, str) else (entry.key, entry.id)


def _encoder(params: Params) -> Encode:
    """How keys are written: percent-encoded on request, as XML cannot hold every character of a key."""
    if params.get("EncodingType") == "url":
        return lambda text: quote(text, safe="/")
    return lambda text: text


def _encoded(params: Params, name: str, encode: Encode) -> str | None:
    return encode(params[name]) if params.get(name) else None


def _token(after: str) -> str:
    return base64.urlsafe_b64encode(after.encode()).decode()


def _after_token(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise InvalidArgument(
            "The continuation token provided is incorrect", "continuation-token", token
        ) from error
