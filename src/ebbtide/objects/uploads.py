"""Multipart uploads: parts arrive in any order, completion makes them one object.

Each part is a content of its own. Completing moves their pieces into one content, whatever their sizes:
no byte is copied.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    String,
    Table,
    delete,
    insert,
    select,
)

from ebbtide.database import metadata
from ebbtide.errors import ServiceError
from ebbtide.identifiers import time_ordered_id
from ebbtide.objects import checksums, contents, records
from ebbtide.objects.checksums import POLYNOMIALS
from ebbtide.objects.contents import Staged
from ebbtide.objects.errors import BadDigest, InvalidRequest, NoSuchUpload
from ebbtide.objects.events import Cause
from ebbtide.objects.records import DEFAULT_CONTENT_TYPE, ObjectRecord

LEAST_PART_BYTES = 5 * 1024 * 1024
"""Every part but the last has at least so many."""

uploads = Table(
    "multipart_uploads",
    metadata,
    Column("id", String, primary_key=True),
    Column("bucket", String, nullable=False),
    Column("key", String, nullable=False),
    Column("initiated_at", Float, nullable=False),
    Column("content_type", String, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("checksum_algorithm", String),
    Column("checksum_type", String, nullable=False),
    Index("multipart_uploads_by_key", "bucket", "key", "id"),
)

parts = Table(
    "multipart_parts",
    metadata,
    Column("upload_id", String, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("content_id", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("etag", String, nullable=False),
    Column("checksums", JSON, nullable=False),
    Column("modified_at", Float, nullable=False),
    sqlite_with_rowid=False,
)


@dataclass(frozen=True, slots=True)
class Upload:
    """A multipart upload under way; ids of later ones sort after earlier ones."""

    id: str
    bucket: str
    key: str
    initiated_at: float
    content_type: str
    metadata: Mapping[str, str]
    headers: Mapping[str, str]
    tags: Mapping[str, str]
    checksum_algorithm: str | None
    checksum_type: str


@dataclass(frozen=True, slots=True)
class Part:
    """A part as it was uploaded last under its number."""

    upload_id: str
    number: int
    content_id: str
    size_bytes: int
    etag: str
    checksums: Mapping[str, str]
    modified_at: float


@dataclass(frozen=True, slots=True)
class NamedPart:
    """A part as the client lists it to complete the upload."""

    number: int
    etag: str
    checksums: Mapping[str, str]


class InvalidPart(ServiceError):
    code = "InvalidPart"

    def __init__(self, upload_id: str, number: int) -> None:
        super().__init__(
            "One or more of the specified parts could not be found. The part may not have been uploaded, or "
            "the specified entity tag may not match the part's entity tag.",
            members={"UploadId": upload_id, "PartNumber": str(number)},
        )


class InvalidPartOrder(ServiceError):
    code = "InvalidPartOrder"

    def __init__(self) -> None:
        super().__init__(
            "The list of parts was not in ascending order. The parts list must be specified in order by part "
            "number."
        )


class EntityTooSmall(ServiceError):
    """A part before the last is smaller than LEAST_PART_BYTES."""

    code = "EntityTooSmall"

    def __init__(self, part: Part) -> None:
        super().__init__(
            "Your proposed upload is smaller than the minimum allowed size",
            members={
                "ProposedSize": str(part.size_bytes),
                "MinSizeAllowed": str(LEAST_PART_BYTES),
                "PartNumber": str(part.number),
                "ETag": part.etag,
            },
        )


def begin(
    connection: Connection,
    bucket: str,
    key: str,
    *,
    content_type: str | None,
    metadata: Mapping[str, str],
    headers: Mapping[str, str],
    tags: Mapping[str, str],
    checksum_algorithm: str | None,
    checksum_type: str,
    at: float,
) -> Upload:
    """Open an upload to a bucket, which must exist."""
    upload = Upload(
        id=time_ordered_id(at),
        bucket=bucket,
        key=key,
        initiated_at=at,
        content_type=content_type or DEFAULT_CONTENT_TYPE,
        metadata=metadata,
        headers=headers,
        tags=tags,
        checksum_algorithm=checksum_algorithm,
        checksum_type=checksum_type,
    )
    connection.execute(
        insert(uploads).values({column.name: getattr(upload, column.name) for column in uploads.c})
    )
    return upload


def get_upload(connection: Connection, bucket: str, key: str, upload_id: str) -> Upload:
    """Raises NoSuchUpload."""
    row = connection.execute(
        select(uploads).where(uploads.c.id == upload_id, uploads.c.bucket == bucket, uploads.c.key == key)
    ).one_or_none()
    if row is None:
        raise NoSuchUpload(upload_id)
    return Upload(*row)


def open_uploads(connection: Connection, bucket: str) -> Sequence[Upload]:
    """The bucket's uploads under way, by key and then by age."""
    rows = connection.execute(
        select(uploads).where(uploads.c.bucket == bucket).order_by(uploads.c.key, uploads.c.id)
    )
    return [Upload(*row) for row in rows]


def uploaded_parts(connection: Connection, upload_id: str) -> Sequence[Part]:
    """The upload's parts by number."""
    rows = connection.execute(select(parts).where(parts.c.upload_id == upload_id).order_by(parts.c.number))
    return [Part(*row) for row in rows]


def add_part(connection: Connection, upload: Upload, number: int, staged: Staged, *, at: float) -> None:
    """Make the staged bytes the part of that number, in place of an earlier one. Raises NoSuchUpload."""
    get_upload(connection, upload.bucket, upload.key, upload.id)
    place = (parts.c.upload_id == upload.id) & (parts.c.number == number)
    replaced = connection.execute(select(parts.c.content_id).where(place)).scalar_one_or_none()
    if replaced is not None:
        contents.discard(connection, [replaced], at)
        connection.execute(delete(parts).where(place))
    contents.add_piece(connection, staged.id, 1, staged)
    connection.execute(
        insert(parts).values(
            upload_id=upload.id,
            number=number,
            content_id=staged.id,
            size_bytes=staged.size_bytes,
            etag=staged.etag,
            checksums=staged.checksums,
            modified_at=at,
        )
    )


def complete(
    connection: Connection,
    upload: Upload,
    named: Sequence[NamedPart],
    *,
    at: float,
    size_bytes: int | None = None,
    stated: Mapping[str, str] | None = None,
    if_match: str | None = None,
    if_none_match: str | None = None,
    cause: Cause = Cause("CompleteMultipartUpload"),  # noqa: B008  (frozen)
) -> ObjectRecord:
    """Make the named parts the object, and forget the others.

    size_bytes, stated: the size and the checksums that the client says the whole has, where it does.
    Raises InvalidPart, InvalidPartOrder, EntityTooSmall, BadDigest, InvalidRequest, NoSuchUpload,
    NoSuchBucket, PreconditionFailed; the upload then goes on. Source: CompleteMultipartUpload, S3 2006-03-01.
    """
    get_upload(connection, upload.bucket, upload.key, upload.id)
    there = {part.number: part for part in uploaded_parts(connection, upload.id)}
    chosen = _choose(upload, there, named)
    whole = sum(part.size_bytes for part in chosen)
    if size_bytes not in (None, whole):
        raise InvalidRequest(
            f"The parts have {whole} bytes, not the {size_bytes} that x-amz-mp-object-size says"
        )
    record = ObjectRecord(
        bucket=upload.bucket,
        key=upload.key,
        content_id=upload.id,
        size_bytes=whole,
        etag=_etag(chosen),
        content_type=upload.content_type,
        modified_at=at,
        metadata=upload.metadata,
        headers=upload.headers,
        checksums=_checksums(upload, chosen),
        checksum_type=upload.checksum_type,
        tags=upload.tags,
    )
    for algorithm, value in (stated or {}).items():
        if record.checksums.get(algorithm) != value:
            raise BadDigest(algorithm)
    records.put_object(connection, record, if_match=if_match, if_none_match=if_none_match, cause=cause)
    kept = [
        (part.content_id, {name: part.checksums[name] for name in record.checksums} or None)
        for part in chosen
    ]
    contents.join(connection, kept, upload.id)
    abort(connection, upload, at=at, but=chosen)
    return record


def completed(connection: Connection, bucket: str, key: str, upload_id: str) -> ObjectRecord | None:
    """The object that the upload has become, if the key still names it: what a client asks who did not hear
    the answer to its completion and sends it again.
    """
    found = records.find_object(connection, bucket, key)
    return found if found is not None and found.content_id == upload_id else None


def abort(connection: Connection, upload: Upload, *, at: float, but: Sequence[Part] = ()) -> None:
    """Forget the upload and its parts, `but` those that live on in an object."""
    kept = {part.number for part in but}
    left = [part.content_id for part in uploaded_parts(connection, upload.id) if part.number not in kept]
    contents.discard(connection, left, at)
    connection.execute(delete(parts).where(parts.c.upload_id == upload.id))
    connection.execute(delete(uploads).where(uploads.c.id == upload.id))


def _choose(upload: Upload, there: Mapping[int, Part], named: Sequence[NamedPart]) -> list[Part]:
    numbers = [part.number for part in named]
    if numbers != sorted(set(numbers)):
        raise InvalidPartOrder
    chosen = []
    for name in named:
        part = there.get(name.number)
        stated = name.checksums.items()
        if part is None or part.etag != name.etag.strip('"') or not stated <= part.checksums.items():
            raise InvalidPart(upload.id, name.number)
        chosen.append(part)
    for part in chosen[:-1]:
        if part.size_bytes < LEAST_PART_BYTES:
            raise EntityTooSmall(part)
    return chosen


def _etag(chosen: Sequence[Part]) -> str:
    digests = b"".join(bytes.fromhex(part.etag) for part in chosen)
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(chosen)}"


def _checksums(upload: Upload, chosen: Sequence[Part]) -> dict[str, str]:
    algorithm = upload.checksum_algorithm
    if algorithm is None or any(algorithm not in part.checksums for part in chosen):
        return {}
    if upload.checksum_type == "COMPOSITE":
        return {algorithm: checksums.composite(algorithm, [part.checksums[algorithm] for part in chosen])}
    assert algorithm in POLYNOMIALS  # CreateMultipartUpload refuses the hashes for whole objects
    sizes = [(part.checksums[algorithm], part.size_bytes) for part in chosen]
    return {algorithm: checksums.combine(algorithm, sizes)}
