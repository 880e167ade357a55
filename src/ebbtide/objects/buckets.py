"""Buckets: their records, and who may use them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from ebbtide.database import metadata
from ebbtide.objects.errors import (
    AccessDenied,
    BucketAlreadyExists,
    BucketAlreadyOwnedByYou,
    NoSuchBucket,
)

buckets = Table(
    "buckets",
    metadata,
    Column("name", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("region", String, nullable=False),
    Column("created_at", Float, nullable=False),
    # Who is to be told of which objects (events.py): here, so that a bucket nobody watches costs no look.
    Column("watches", JSON(none_as_null=True)),
    Column("tags", JSON(none_as_null=True)),
    Column("cors", JSON(none_as_null=True)),
    Column("public_access_block", JSON(none_as_null=True)),
)

lifecycles = Table(
    "bucket_lifecycles",
    metadata,
    Column("bucket", String, primary_key=True),
    Column("rules", JSON, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket; its name is unique among all accounts'. `watches` are read by `ebbtide.objects.events`,
    `lifecycle` by `ebbtide.objects.lifecycle`.
    """

    name: str
    account: str
    region: str
    created_at: float
    watches: Sequence[Mapping[str, Any]] | None = None
    tags: Mapping[str, str] | None = None
    cors: Sequence[Mapping[str, Any]] | None = None
    public_access_block: Mapping[str, bool] | None = None
    lifecycle: Sequence[Mapping[str, Any]] | None = None


_ALL = select(buckets, lifecycles.c.rules).outerjoin_from(
    buckets, lifecycles, lifecycles.c.bucket == buckets.c.name
)
_FIND = _ALL.where(buckets.c.name == bindparam("bucket"))


def create_bucket(connection: Connection, bucket: Bucket) -> None:
    """Raises BucketAlreadyOwnedByYou, BucketAlreadyExists."""
    found = find_bucket(connection, bucket.name)
    if found is not None:
        raise (BucketAlreadyOwnedByYou if found.account == bucket.account else BucketAlreadyExists)(
            bucket.name
        )
    connection.execute(
        insert(buckets).values(
            name=bucket.name,
            account=bucket.account,
            region=bucket.region,
            created_at=bucket.created_at,
            tags=bucket.tags,
        )
    )


def find_bucket(connection: Connection, name: str) -> Bucket | None:
    row = connection.execute(_FIND, {"bucket": name}).one_or_none()
    return None if row is None else Bucket(*row)


def get_bucket(connection: Connection, name: str, account: str, expected_owner: str | None = None) -> Bucket:
    """The bucket, for its owner's use. Raises NoSuchBucket, AccessDenied."""
    found = find_bucket(connection, name)
    if found is None:
        raise NoSuchBucket(name)
    if found.account != account or expected_owner not in (None, found.account):
        raise AccessDenied
    return found


def all_buckets(connection: Connection, account: str) -> Sequence[Bucket]:
    """The account's buckets by name."""
    rows = connection.execute(_ALL.where(buckets.c.account == account).order_by(buckets.c.name))
    return [Bucket(*row) for row in rows]


def remove_bucket(connection: Connection, name: str) -> None:
    """Forget the bucket, which must be empty."""
    connection.execute(delete(buckets).where(buckets.c.name == name))


def set_tags(connection: Connection, name: str, tags: Mapping[str, str] | None) -> None:
    """Replace the bucket's tags."""
    connection.execute(update(buckets).where(buckets.c.name == name).values(tags=tags))


def set_cors(connection: Connection, name: str, rules: Sequence[Mapping[str, Any]] | None) -> None:
    """Replace the bucket's CORS rules."""
    connection.execute(update(buckets).where(buckets.c.name == name).values(cors=rules))


def set_public_access_block(connection: Connection, name: str, block: Mapping[str, bool] | None) -> None:
    """Replace what the bucket says of access by the public."""
    connection.execute(update(buckets).where(buckets.c.name == name).values(public_access_block=block))


def set_watches(connection: Connection, name: str, watches: Sequence[Mapping[str, Any]]) -> None:
    """Replace what is watched in the bucket."""
    values = {"watches": [dict(watch) for watch in watches] or None}
    connection.execute(update(buckets).where(buckets.c.name == name).values(**values))
