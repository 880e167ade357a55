"""Objects in the database: what is known of each, and the content that its key names now.

Replacing an object gives the key another content (`contents`); the old one's is discarded in the same
transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    Row,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from ebbtide.database import metadata
from ebbtide.objects import contents, events
from ebbtide.objects.buckets import buckets, find_bucket
from ebbtide.objects.conditions import check_write
from ebbtide.objects.contents import Staged
from ebbtide.objects.errors import NoSuchBucket, NoSuchKey
from ebbtide.objects.events import CREATED, OWN_WORK, REMOVED, Cause, Happening
from ebbtide.values import value

DEFAULT_CONTENT_TYPE = "binary/octet-stream"

objects = Table(
    "objects",
    metadata,
    Column("bucket", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("content_id", String, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("etag", String, nullable=False),
    Column("content_type", String, nullable=False),
    Column("modified_at", Float, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("headers", JSON, nullable=False),
    Column("checksums", JSON, nullable=False),
    Column("checksum_type", String, nullable=False),
    Column("tags", JSON, nullable=False),
    sqlite_with_rowid=False,
)


@value
class ObjectRecord:
    """What is known of an object beside its bytes.

    etag: without quotes. metadata: the user's own. headers: Cache-Control and the like, under the names that
    the service model gives them. checksums: algorithm -> base64, `checksum_type` saying of what.
    """

    bucket: str
    key: str
    content_id: str
    size_bytes: int
    etag: str
    content_type: str
    modified_at: float
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)
    checksum_type: str = "FULL_OBJECT"
    tags: Mapping[str, str] = field(default_factory=dict)


_FIND = select(objects).where(
    objects.c.bucket == bindparam("in_bucket"), objects.c.key == bindparam("of_key")
)
# The bucket, and beside it what the key names now: one look for both.
_DESTINATION = (
    select(buckets.c.watches, objects.c.content_id, objects.c.etag)
    .outerjoin(objects, (objects.c.bucket == buckets.c.name) & (objects.c.key == bindparam("of_key")))
    .where(buckets.c.name == bindparam("in_bucket"))
)
_IN_ORDER = (
    select(objects)
    .where(objects.c.bucket == bindparam("in_bucket"))
    .order_by(objects.c.key)
    .limit(bindparam("most"))
)
_SCAN = _IN_ORDER.where(objects.c.key >= bindparam("lower"))
_SCAN_BEHIND = _IN_ORDER.where(objects.c.key > bindparam("lower"))
_INSERT = insert(objects)
_REPLACE = (
    update(objects)
    .where(objects.c.bucket == bindparam("in_bucket"), objects.c.key == bindparam("of_key"))
    .values({column.name: bindparam(column.name) for column in objects.c if not column.primary_key})
)
_REMOVE = delete(objects).where(
    objects.c.bucket == bindparam("in_bucket"), objects.c.key == bindparam("of_key")
)


def find_object(connection: Connection, bucket: str, key: str) -> ObjectRecord | None:
    row = connection.execute(_FIND, {"in_bucket": bucket, "of_key": key}).one_or_none()
    return None if row is None else _record(row)


def get_object(connection: Connection, bucket: str, key: str) -> ObjectRecord:
    """Raises NoSuchBucket, NoSuchKey."""
    found = find_object(connection, bucket, key)
    if found is None:
        raise NoSuchBucket(bucket) if find_bucket(connection, bucket) is None else NoSuchKey(key)
    return found


def scan_objects(connection: Connection, bucket: str, lower: str, limit: int) -> Sequence[ObjectRecord]:
    """Objects with keys >= lower, in the order of the keys' UTF-8 bytes."""
    # The least text behind a key ends in a NUL, which no key has and PostgreSQL cannot take.
    scan = _SCAN_BEHIND if lower.endswith("\0") else _SCAN
    place = {"in_bucket": bucket, "lower": lower.removesuffix("\0"), "most": limit}
    rows = connection.execute(scan, place)
    return [_record(row) for row in rows]


def publish(
    connection: Connection,
    bucket: str,
    key: str,
    staged: Staged,
    *,
    content_type: str | None,
    at: float,
    metadata: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
    if_match: str | None = None,
    if_none_match: str | None = None,
    cause: Cause = OWN_WORK,
) -> ObjectRecord:
    """Let the key name the staged bytes: visible, durable and in force together with this transaction.

    Raises NoSuchBucket, PreconditionFailed; the staged bytes are then the caller's to discard.
    """
    record = ObjectRecord(
        bucket=bucket,
        key=key,
        content_id=staged.id,
        size_bytes=staged.size_bytes,
        etag=staged.etag,
        content_type=content_type or DEFAULT_CONTENT_TYPE,
        modified_at=at,
        metadata=metadata or {},
        headers=headers or {},
        checksums=staged.checksums,
        tags=tags or {},
    )
    put_object(connection, record, if_match=if_match, if_none_match=if_none_match, cause=cause)
    contents.add_piece(connection, staged.id, 1, staged)
    return record


def put_object(
    connection: Connection,
    record: ObjectRecord,
    *,
    if_match: str | None = None,
    if_none_match: str | None = None,
    cause: Cause = OWN_WORK,
) -> None:
    """Let the key name the record's content, whose pieces the caller adds in the same transaction.

    Raises NoSuchBucket, PreconditionFailed.
    """
    place = {"in_bucket": record.bucket, "of_key": record.key}
    destination = connection.execute(_DESTINATION, place).one_or_none()
    if destination is None:
        raise NoSuchBucket(record.bucket)
    watches, replaced, etag = destination
    check_write(record.key, etag, if_match=if_match, if_none_match=if_none_match)
    values = _values(record)
    if replaced is None:
        connection.execute(_INSERT, values | {"bucket": record.bucket, "key": record.key})
    else:
        connection.execute(_REPLACE, values | place)
        contents.discard(connection, [replaced], record.modified_at)
    events.record(connection, watches, [created(record, cause)])


def _values(record: ObjectRecord) -> dict[str, Any]:
    """All columns but the key's."""
    return {
        "content_id": record.content_id,
        "size_bytes": record.size_bytes,
        "etag": record.etag,
        "content_type": record.content_type,
        "modified_at": record.modified_at,
        "metadata": record.metadata,
        "headers": record.headers,
        "checksums": record.checksums,
        "checksum_type": record.checksum_type,
        "tags": record.tags,
    }


def set_tags(connection: Connection, bucket: str, key: str, tags: Mapping[str, str]) -> None:
    """Raises NoSuchBucket, NoSuchKey."""
    get_object(connection, bucket, key)
    connection.execute(
        update(objects).where(objects.c.bucket == bucket, objects.c.key == key).values(tags=tags)
    )


def delete_object(
    connection: Connection,
    bucket: str,
    key: str,
    *,
    at: float,
    if_match: str | None = None,
    cause: Cause = Cause("Delete"),  # noqa: B008  (frozen)
) -> None:
    """Forget the key; one that names nothing is as good as deleted.

    Raises NoSuchBucket, PreconditionFailed.
    """
    place = {"in_bucket": bucket, "of_key": key}
    found = connection.execute(_DESTINATION, place).one_or_none()
    if found is None:
        raise NoSuchBucket(bucket)
    watches, content_id, etag = found
    if content_id is None:
        return
    check_write(key, etag, if_match=if_match, if_none_match=None)
    connection.execute(_REMOVE, place)
    contents.discard(connection, [content_id], at)
    events.record(connection, watches, [Happening(REMOVED, bucket, key, at, cause=cause)])


def remove_unchanged(connection: Connection, bucket: str, seen: Sequence[ObjectRecord], at: float) -> None:
    """Forget those of a bucket's objects that are still what they were when they were seen.

    By statements that they share, and nobody is told: S3 says nothing of what a lifecycle removes.
    """
    named = (objects.c.bucket == bucket) & objects.c.key.in_([record.key for record in seen])
    there = {row.key: _record(row) for row in connection.execute(select(objects).where(named))}
    gone = [record for record in seen if there.get(record.key) == record]
    connection.execute(
        delete(objects).where(objects.c.bucket == bucket, objects.c.key.in_([record.key for record in gone]))
    )
    contents.discard(connection, [record.content_id for record in gone], at)


def created(record: ObjectRecord, cause: Cause) -> Happening:
    """What those who watch the bucket are told of an object that its key names from now on."""
    return Happening(
        CREATED, record.bucket, record.key, record.modified_at, record.size_bytes, record.etag, cause
    )


def _record(row: Row[tuple[object, ...]]) -> ObjectRecord:
    return ObjectRecord(**row._mapping)
