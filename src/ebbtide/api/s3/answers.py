"""What answers say of an object."""

from collections.abc import Mapping
from email.utils import formatdate
from urllib.parse import quote

from ebbtide.api.call import Params, Result
from ebbtide.objects import lifecycle
from ebbtide.objects.buckets import Bucket
from ebbtide.objects.records import ObjectRecord

_OVERRIDES = {
    "CacheControl": "ResponseCacheControl",
    "ContentDisposition": "ResponseContentDisposition",
    "ContentEncoding": "ResponseContentEncoding",
    "ContentLanguage": "ResponseContentLanguage",
    "ContentType": "ResponseContentType",
    "Expires": "ResponseExpires",
}
"""Header -> the parameter by which a reader asks for another value of it."""


def quoted(etag: str) -> str:
    return f'"{etag}"'


def checksum_members(checksums: Mapping[str, str]) -> Result:
    """Checksums under the members' names."""
    return {f"Checksum{algorithm}": value for algorithm, value in checksums.items()}


def checksums_of(record: ObjectRecord) -> Result:
    """The object's checksums, with what they are of."""
    if not record.checksums:
        return {}
    return checksum_members(record.checksums) | {"ChecksumType": record.checksum_type}


def expiration(bucket: Bucket, record: ObjectRecord) -> Result:
    """When the bucket's lifecycle will remove the object, if it will."""
    found = lifecycle.expiration(bucket, record)
    if found is None:
        return {}
    at, rule_id = found
    return {"Expiration": f'expiry-date="{formatdate(at, usegmt=True)}", rule-id="{quote(rule_id)}"'}


def description(record: ObjectRecord, params: Params) -> Result:
    """The headers of a GetObject or HeadObject answer, but for those that depend on the range."""
    answer: Result = {
        "AcceptRanges": "bytes",
        "LastModified": record.modified_at,
        "ETag": quoted(record.etag),
        "ContentType": record.content_type,
        "Metadata": record.metadata,
        "TagCount": len(record.tags) or None,
        **record.headers,
    }
    return answer | {name: params[asked] for name, asked in _OVERRIDES.items() if asked in params}
