"""Objects opened and published by the batch: what every invocation pays for, by one statement for many.

They go straight to the database's driver; what is rare (a key that names something already) goes the way of a
single object (`records`).
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select

from ebbtide.database import Rows
from ebbtide.errors import ServiceError
from ebbtide.objects import events, records
from ebbtide.objects.buckets import buckets
from ebbtide.objects.contents import Piece, Staged
from ebbtide.objects.errors import AccessDenied, NoSuchBucket, NoSuchKey
from ebbtide.objects.events import OWN_WORK, Happening
from ebbtide.objects.records import DEFAULT_CONTENT_TYPE, ObjectRecord
from ebbtide.values import value


@value
class Publication:
    """Staged bytes, and the key in a bucket of the account's that is to name them from `at` on."""

    account: str
    bucket: str
    key: str
    staged: Staged
    content_type: str | None
    at: float


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
_BUCKET = select(buckets.c.account, buckets.c.watches).where(buckets.c.name == bindparam("in_bucket"))
_TAKEN = Rows(
    "WITH wanted (bucket, key) AS (VALUES {}) SELECT objects.key FROM wanted "
    "JOIN objects ON objects.bucket = wanted.bucket AND objects.key = wanted.key",
    "(?, ?)",
)
_ADD_PUBLISHED = Rows(
    "INSERT INTO objects (bucket, key, content_id, size_bytes, etag, content_type, modified_at, checksums, "
    "checksum_type, metadata, headers, tags) VALUES {}",
    "(?, ?, ?, ?, ?, ?, ?, ?, 'FULL_OBJECT', '{}', '{}', '{}')",
)
_ADD_PUBLISHED_PIECE = Rows(
    "INSERT INTO object_pieces (content_id, position, size_bytes, file_name, data) VALUES {}",
    "(?, 1, ?, ?, ?)",
)


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
                watched.append((watches, records.created(_published(each), OWN_WORK)))
    if new:
        _ADD_PUBLISHED.execute(connection, [_row(each) for each in new])
        _ADD_PUBLISHED_PIECE.execute(connection, [_piece_row(each.staged) for each in new])
    for watches, happening in watched:
        events.record(connection, watches, [happening])
    for each in replacing:
        records.publish(
            connection, each.bucket, each.key, each.staged, content_type=each.content_type, at=each.at
        )
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
