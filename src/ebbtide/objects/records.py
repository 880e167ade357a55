"""Objects in the database: what is known of each, and the pieces its bytes lie in.

An object's bytes are its *content*: one or more pieces in order, a multipart object's parts staying the
pieces they were uploaded as. A piece's bytes lie in its row when they are few, else in a file that carries
a name of ours. Replacing an object gives the key another content; the old one's files are listed as
discarded in the same transaction and removed later, when nobody reads them.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    Row,
    String,
    Table,
    bindparam,
    delete,
    insert,
    literal,
    select,
    update,
)

from ebbtide.database import Rows, metadata
from ebbtide.errors import ServiceError
from ebbtide.objects import events
from ebbtide.objects.buckets import buckets
from ebbtide.objects.conditions import check_write
from ebbtide.objects.errors import AccessDenied, NoSuchBucket, NoSuchKey
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

pieces = Table(
    "object_pieces",
    metadata,
    Column("content_id", String, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("file_name", String),
    Column("data", LargeBinary),
    Column("checksums", JSON(none_as_null=True)),
    Index("object_pieces_by_file", "file_name"),
)

discarded_files = Table(
    "discarded_files",
    metadata,
    Column("file_name", String, primary_key=True),
    Column("content_id", String, nullable=False),
    Column("discarded_at", Float, nullable=False),
    Index("discarded_files_by_time", "discarded_at"),
)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Staged:
    """Bytes that are stored but that no key names yet: in a file on disk, or few enough to go into a row.

    etag: the MD5 in hex. checksums: S3's algorithm name -> base64. What is never published must be discarded.
    """

    id: str
    size_bytes: int
    etag: str
    checksums: Mapping[str, str]
    file_name: str | None
    data: bytes | None


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


@value
class Publication:
    """Staged bytes, and the key in a bucket of the account's that is to name them from `at` on."""

    account: str
    bucket: str
    key: str
    staged: Staged
    content_type: str | None
    at: float


@value
class Piece:
    """A stretch of a content's bytes: `data`, or the file of that name. checksums: those of a part."""

    size_bytes: int
    file_name: str | None
    data: bytes | None
    checksums: Mapping[str, str] | None = None


_FIND = select(objects).where(
    objects.c.bucket == bindparam("in_bucket"), objects.c.key == bindparam("of_key")
)
_PIECES = (
    select(pieces.c.size_bytes, pieces.c.file_name, pieces.c.data, pieces.c.checksums)
    .where(pieces.c.content_id == bindparam("content"))
    .order_by(pieces.c.position)
)
# The bucket, and beside it what the key names now: one look for both.
_DESTINATION = (
    select(buckets.c.watches, objects.c.content_id, objects.c.etag)
    .outerjoin(objects, (objects.c.bucket == buckets.c.name) & (objects.c.key == bindparam("of_key")))
    .where(buckets.c.name == bindparam("in_bucket"))
)
_BUCKET = select(buckets.c.account, buckets.c.watches).where(buckets.c.name == bindparam("in_bucket"))
# Straight to the driver, for what every invocation pays for.
_OPEN = Rows(
    """
WITH wanted (bucket, key) AS (VALUES {})
SELECT buckets.account, wanted.bucket, wanted.key, objects.content_id, objects.size_bytes, objects.etag,
       objects.content_type, objects.modified_at, CAST(objects.metadata AS text),
       CAST(objects.headers AS text), CAST(objects.checksums AS text), objects.checksum_type,
       CAST(objects.tags AS text), pieces.size_bytes, pieces.file_name, pieces.data
  FROM wanted JOIN buckets ON buckets.name = wanted.bucket
  LEFT JOIN objects ON objects.bucket = wanted.bucket AND objects.key = wanted.key
  LEFT JOIN object_pieces pieces ON pieces.content_id = objects.content_id
 ORDER BY pieces.position
""",
    "(?, ?)",
)
_TAKEN = Rows(
    "WITH wanted (bucket, key) AS (VALUES {}) SELECT objects.key FROM wanted "
    "JOIN objects ON objects.bucket = wanted.bucket AND objects.key = wanted.key",
    "(?, ?)",
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
_ADD_PIECE = insert(pieces)
_ADD_PUBLISHED = Rows(
    "INSERT INTO objects (bucket, key, content_id, size_bytes, etag, content_type, modified_at, checksums, "
    "checksum_type, metadata, headers, tags) VALUES {}",
    "(?, ?, ?, ?, ?, ?, ?, ?, 'FULL_OBJECT', '{}', '{}', '{}')",
)
_ADD_PUBLISHED_PIECE = Rows(
    "INSERT INTO object_pieces (content_id, position, size_bytes, file_name, data) VALUES {}",
    "(?, 1, ?, ?, ?)",
)
_DISCARD_FILES = insert(discarded_files).from_select(
    ["file_name", "content_id", "discarded_at"],
    select(pieces.c.file_name, pieces.c.content_id, bindparam("at", type_=Float)).where(
        pieces.c.content_id == bindparam("content"), pieces.c.file_name.is_not(None)
    ),
)
_REMOVE_PIECES = delete(pieces).where(pieces.c.content_id == bindparam("content"))


def find_object(connection: Connection, bucket: str, key: str) -> ObjectRecord | None:
    row = connection.execute(_FIND, {"in_bucket": bucket, "of_key": key}).one_or_none()
    return None if row is None else _record(row)


def get_object(connection: Connection, bucket: str, key: str) -> ObjectRecord:
    """Raises NoSuchBucket, NoSuchKey."""
    found = find_object(connection, bucket, key)
    if found is None:
        _check_bucket(connection, bucket)
        raise NoSuchKey(key)
    return found


def open_many(
    connection: Connection, wanted: Sequence[tuple[str, str, str | None]]
) -> list[tuple[ObjectRecord, Sequence[Piece]] | ServiceError]:
    """Of each bucket, key and account that reads (None: whoever) the object and its pieces in order, or
    NoSuchBucket, AccessDenied, NoSuchKey: by one statement for many.
    """
    owners: dict[str, str] = {}
    found: dict[tuple[str, str], tuple[ObjectRecord, list[Piece]]] = {}
    places = list(dict.fromkeys((bucket, key) for bucket, key, _ in wanted))
    for owner, bucket, key, *about in _OPEN.execute(connection, places):
        owners[bucket] = owner
        if about[0] is None:
            continue
        if (bucket, key) not in found:
            found[bucket, key] = _opened(bucket, key, *about[:10]), []
        if about[10] is not None:
            found[bucket, key][1].append(Piece(*about[10:]))
    opened: list[tuple[ObjectRecord, Sequence[Piece]] | ServiceError] = []
    for bucket, key, account in wanted:
        if bucket not in owners:
            opened.append(NoSuchBucket(bucket))
        elif account is not None and owners[bucket] != account:
            opened.append(AccessDenied())
        else:
            opened.append(found.get((bucket, key)) or NoSuchKey(key))
    return opened


def get_pieces(connection: Connection, content_id: str) -> Sequence[Piece]:
    """The content's pieces in order."""
    return [Piece(*row) for row in connection.execute(_PIECES, {"content": content_id})]


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
    add_piece(connection, staged.id, 1, staged)
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
        discard_content(connection, replaced, record.modified_at)
    events.record(connection, watches, [_created(record, cause)])


def publish_many(connection: Connection, publications: Sequence[Publication]) -> list[ServiceError | None]:
    """Publish each on its own, new keys by statements that they share.

    Returns for each None, or what hindered it; its staged bytes are then the caller's to discard.
    """
    results: list[ServiceError | None] = [None] * len(publications)
    destinations = {
        name: _taken_keys(connection, name, {each.key for each in publications if each.bucket == name})
        for name in {each.bucket for each in publications}
    }
    new: list[Publication] = []
    replacing: list[Publication] = []
    watched: list[tuple[Sequence[Mapping[str, Any]], Happening]] = []
    for n, each in enumerate(publications):
        destination = destinations[each.bucket]
        if destination is None:
            results[n] = NoSuchBucket(each.bucket)
            continue
        owner, watches, keys = destination
        if owner != each.account:
            results[n] = AccessDenied()
            continue
        if each.key in keys:
            replacing.append(each)
        else:
            keys.add(each.key)  # a second publication of the same key replaces the first
            new.append(each)
            if watches:
                watched.append((watches, _created(_published(each), OWN_WORK)))
    if new:
        _ADD_PUBLISHED.execute(connection, [_row(each) for each in new])
        _ADD_PUBLISHED_PIECE.execute(connection, [_piece_row(each.staged) for each in new])
    for watches, happening in watched:
        events.record(connection, watches, [happening])
    for each in replacing:
        publish(connection, each.bucket, each.key, each.staged, content_type=each.content_type, at=each.at)
    return results


def _published(publication: Publication) -> ObjectRecord:
    staged = publication.staged
    return ObjectRecord(
        bucket=publication.bucket,
        key=publication.key,
        content_id=staged.id,
        size_bytes=staged.size_bytes,
        etag=staged.etag,
        content_type=publication.content_type or DEFAULT_CONTENT_TYPE,
        modified_at=publication.at,
        checksums=staged.checksums,
    )


def _row(publication: Publication) -> tuple[Any, ...]:
    staged = publication.staged
    return (
        publication.bucket,
        publication.key,
        staged.id,
        staged.size_bytes,
        staged.etag,
        publication.content_type or DEFAULT_CONTENT_TYPE,
        publication.at,
        json.dumps(dict(staged.checksums)) if staged.checksums else "{}",
    )


def _piece_row(staged: Staged) -> tuple[Any, ...]:
    return staged.id, staged.size_bytes, staged.file_name, staged.data


def _taken_keys(
    connection: Connection, bucket: str, keys: Collection[str]
) -> tuple[str, Sequence[Mapping[str, Any]] | None, set[str]] | None:
    """The bucket's account and watches, and those of the keys that name an object; None without a bucket."""
    found = connection.execute(_BUCKET, {"in_bucket": bucket}).first()
    if found is None:
        return None
    taken = _TAKEN.execute(connection, [(bucket, key) for key in keys])
    return found.account, found.watches, {key for (key,) in taken}


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


def _piece_values(content_id: str, position: int, staged: Staged) -> dict[str, Any]:
    return {
        "content_id": content_id,
        "position": position,
        "size_bytes": staged.size_bytes,
        "file_name": staged.file_name,
        "data": staged.data,
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
    discard_content(connection, content_id, at)
    events.record(connection, watches, [Happening(REMOVED, bucket, key, at, cause=cause)])


def remove_unchanged(connection: Connection, bucket: str, seen: Sequence[ObjectRecord], at: float) -> None:
    """Forget those of a bucket's objects that are still what they were when they were seen.

    By statements that they share, and nobody is told: S3 says nothing of what a lifecycle removes.
    """
    named = (objects.c.bucket == bucket) & objects.c.key.in_([record.key for record in seen])
    there = {row.key: _record(row) for row in connection.execute(select(objects).where(named))}
    gone = [record for record in seen if there.get(record.key) == record]
    contents = pieces.c.content_id.in_([record.content_id for record in gone])
    connection.execute(
        delete(objects).where(objects.c.bucket == bucket, objects.c.key.in_([record.key for record in gone]))
    )
    connection.execute(
        insert(discarded_files).from_select(
            ["file_name", "content_id", "discarded_at"],
            select(pieces.c.file_name, pieces.c.content_id, literal(at, Float)).where(
                contents, pieces.c.file_name.is_not(None)
            ),
        )
    )
    connection.execute(delete(pieces).where(contents))


def _created(record: ObjectRecord, cause: Cause) -> Happening:
    return Happening(
        CREATED, record.bucket, record.key, record.modified_at, record.size_bytes, record.etag, cause
    )


def add_piece(connection: Connection, content_id: str, position: int, staged: Staged) -> None:
    connection.execute(_ADD_PIECE, _piece_values(content_id, position, staged))


def join_contents(
    connection: Connection, parts: Sequence[tuple[str, Mapping[str, str] | None]], whole_id: str
) -> None:
    """Make contents of one piece each the pieces of another content, in that order.

    parts: each content's id, and the checksums to keep of it.
    """
    connection.execute(
        update(pieces)
        .where(pieces.c.content_id == bindparam("part"))
        .values(content_id=bindparam("whole"), position=bindparam("place"), checksums=bindparam("sums")),
        [
            {"part": part, "whole": whole_id, "place": place, "sums": checksums}
            for place, (part, checksums) in enumerate(parts, start=1)
        ],
    )


def discard_content(connection: Connection, content_id: str, at: float) -> None:
    """Forget a content's bytes; its files are removed later, when nobody reads them."""
    connection.execute(_DISCARD_FILES, {"content": content_id, "at": at})
    connection.execute(_REMOVE_PIECES, {"content": content_id})


def files_discarded_before(connection: Connection, before: float, limit: int) -> Sequence[tuple[str, str]]:
    """File names and the contents they belonged to, the longest discarded first."""
    rows = connection.execute(
        select(discarded_files.c.file_name, discarded_files.c.content_id)
        .where(discarded_files.c.discarded_at <= before)
        .order_by(discarded_files.c.discarded_at)
        .limit(limit)
    )
    return [(row.file_name, row.content_id) for row in rows]


def forget_files(connection: Connection, file_names: Sequence[str]) -> None:
    """The discarded files are gone."""
    connection.execute(delete(discarded_files).where(discarded_files.c.file_name.in_(file_names)))


def known_files(connection: Connection, file_names: Sequence[str]) -> set[str]:
    """Those of the files that some content has, or had: the others were left by a crash."""
    kept = select(pieces.c.file_name).where(pieces.c.file_name.in_(file_names))
    leaving = select(discarded_files.c.file_name).where(discarded_files.c.file_name.in_(file_names))
    return set(connection.execute(kept.union_all(leaving)).scalars())


def _check_bucket(connection: Connection, bucket: str) -> None:
    if connection.execute(_BUCKET, {"in_bucket": bucket}).first() is None:
        raise NoSuchBucket(bucket)


def _opened(
    bucket: str,
    key: str,
    content_id: str,
    size_bytes: int,
    etag: str,
    content_type: str,
    modified_at: float,
    metadata: str,
    headers: str,
    checksums: str,
    checksum_type: str,
    tags: str,
) -> ObjectRecord:
    return ObjectRecord(
        bucket=bucket,
        key=key,
        content_id=content_id,
        size_bytes=size_bytes,
        etag=etag,
        content_type=content_type,
        modified_at=modified_at,
        metadata=json.loads(metadata),
        headers=json.loads(headers),
        checksums=json.loads(checksums),
        checksum_type=checksum_type,
        tags=json.loads(tags),
    )


def _record(row: Row[tuple[object, ...]]) -> ObjectRecord:
    return ObjectRecord(**row._mapping)
