"""What happens to objects of watched buckets, kept until whoever watches was told.

A bucket's *watches* lie in its own row, which every publication reads anyway: a bucket that nobody watches
costs no statement more. What a watch matches becomes a row of `object_events` in the transaction in which it
happens, and leaves the table in the transaction in which its consumer acts on it: each is acted on once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    Row,
    String,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    select,
    update,
)

from ebbtide.database import metadata
from ebbtide.objects.buckets import Bucket

CREATED, REMOVED = "ObjectCreated", "ObjectRemoved"

object_events = Table(
    "object_events",
    metadata,
    # Never used again, since it also says which of two events of one key came later.
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("bucket", String, nullable=False),
    Column("key", String, nullable=False),
    Column("name", String, nullable=False),
    Column("at", Float, nullable=False),
    Column("size_bytes", BigInteger),
    Column("etag", String),
    Column("cause", JSON, nullable=False),
    Column("consumer", String, nullable=False),
    Column("watch_id", String, nullable=False),
    Column("target", String, nullable=False),
    Column("state", String, nullable=False),
    Column("attempt_count", Integer, nullable=False),
    Column("due_at", Float, nullable=False),
    Column("last_error", String),
    Index("object_events_by_due", "state", "due_at"),
    Index("object_events_by_target", "target", "state"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class Watch:
    """Events of objects with that prefix and suffix, and who is to be told of them.

    consumer: which handler of `Followers` acts. target: what that one is told to act on. events: names as
    S3's configuration has them without "s3:", the last part possibly "*".
    """

    id: str
    consumer: str
    target: str
    events: tuple[str, ...]
    prefix: str = ""
    suffix: str = ""

    @classmethod
    def kept(cls, values: Mapping[str, Any]) -> "Watch":
        """Read back what `asdict` made of one."""
        return cls(**(dict(values) | {"events": tuple(values["events"])}))

    def matches(self, name: str, key: str) -> bool:
        wanted = name in self.events or f"{name.partition(':')[0]}:*" in self.events
        return wanted and key.startswith(self.prefix) and key.endswith(self.suffix)


@dataclass(frozen=True, slots=True)
class Cause:
    """By which request something happened; without one, by the server's own work.

    action: Put, Copy, CompleteMultipartUpload or Delete. principal: the id of who asked.
    """

    action: str = "Put"
    principal: str = "AWS:ebbtide"
    request_id: str | None = None
    source_ip: str = "127.0.0.1"


OWN_WORK = Cause()


@dataclass(frozen=True, slots=True)
class Happening:
    """What happened to an object; a removed one has no size and no ETag."""

    kind: str
    bucket: str
    key: str
    at: float
    size_bytes: int | None = None
    etag: str | None = None
    cause: Cause = field(default=OWN_WORK)

    @property
    def name(self) -> str:
        return f"{self.kind}:{self.cause.action}"


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """Something that a watch matched. Later events of one key have greater ids."""

    id: int
    bucket: str
    key: str
    name: str
    at: float
    size_bytes: int | None
    etag: str | None
    cause: Cause
    consumer: str
    watch_id: str
    target: str
    attempt_count: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What one target is still owed, and what it was not told in the end."""

    pending: int
    failing: int
    abandoned: int
    last_error: str | None


def watches_of(bucket: Bucket, consumer: str) -> list[Watch]:
    """What one consumer watches in the bucket."""
    kept = (Watch.kept(values) for values in bucket.watches or ())
    return [watch for watch in kept if watch.consumer == consumer]


def with_watches(bucket: Bucket, consumer: str, watches: Sequence[Watch]) -> list[dict[str, Any]]:
    """All the bucket's watches, one consumer's replaced by these; for `buckets.set_watches`."""
    others = [dict(values) for values in bucket.watches or () if values["consumer"] != consumer]
    return others + [asdict(watch) for watch in watches]


def record(
    connection: Connection, watches: Sequence[Mapping[str, Any]] | None, happenings: Sequence[Happening]
) -> None:
    """Keep what the watches of a bucket match of what happened in it."""
    if not watches:
        return
    kept = [Watch.kept(watch) for watch in watches]
    rows = [
        {
            "bucket": each.bucket,
            "key": each.key,
            "name": each.name,
            "at": each.at,
            "size_bytes": each.size_bytes,
            "etag": each.etag,
            "cause": asdict(each.cause),
            "consumer": watch.consumer,
            "watch_id": watch.id,
            "target": watch.target,
            "due_at": each.at,
        }
        for each in happenings
        for watch in kept
        if watch.matches(each.name, each.key)
    ]
    if rows:
        connection.execute(_ADD, rows)


def due(connection: Connection, now: float, limit: int) -> list[ObjectEvent]:
    """Events to act on now, the longest due first."""
    return [_event(row) for row in connection.execute(_DUE, {"now": now, "most": limit})]


def take(connection: Connection, event: ObjectEvent) -> bool:
    """Remove an event that is acted on in this transaction; False when somebody else did."""
    return bool(connection.execute(_TAKE, {"event": event.id}).rowcount)


def put_off(connection: Connection, event: ObjectEvent, due_at: float, error: str) -> None:
    """It could not be acted on; the next attempt is due at `due_at`."""
    connection.execute(_PUT_OFF, {"event": event.id, "due": due_at, "error": error, "new_state": "pending"})


def abandon(connection: Connection, event: ObjectEvent, at: float, error: str) -> None:
    """It could not be acted on, and will not be tried again."""
    connection.execute(_PUT_OFF, {"event": event.id, "due": at, "error": error, "new_state": "abandoned"})


def forget_abandoned(connection: Connection, before: float, limit: int) -> int:
    """Remove up to `limit` events that were given up before then; how many."""
    old = select(object_events.c.id).where(
        object_events.c.state == "abandoned", object_events.c.due_at < before
    )
    return connection.execute(delete(object_events).where(object_events.c.id.in_(old.limit(limit)))).rowcount


def standing(connection: Connection, target: str) -> Standing:
    """How things stand with a target."""
    row = connection.execute(_STANDING, {"of_target": target}).one()
    error = connection.execute(_LAST_ERROR, {"of_target": target}).scalar()
    return Standing(row.pending or 0, row.failing or 0, row.abandoned or 0, error)


def _event(row: Row[Any]) -> ObjectEvent:
    values = dict(row._mapping)
    return ObjectEvent(**values | {"cause": Cause(**values["cause"])})


_ADD = insert(object_events).values(state="pending", attempt_count=0)
_DUE = (
    select(*(object_events.c[name] for name in ObjectEvent.__slots__))
    .where(object_events.c.state == "pending", object_events.c.due_at <= bindparam("now"))
    .order_by(object_events.c.due_at, object_events.c.id)
    .limit(bindparam("most"))
)
_TAKE = delete(object_events).where(
    object_events.c.id == bindparam("event"), object_events.c.state == "pending"
)
_PUT_OFF = (
    update(object_events)
    .where(object_events.c.id == bindparam("event"))
    .values(
        state=bindparam("new_state"),
        attempt_count=object_events.c.attempt_count + 1,
        due_at=bindparam("due"),
        last_error=bindparam("error"),
    )
)
_OF_TARGET = object_events.c.target == bindparam("of_target")
_STANDING = select(
    func.sum(case((object_events.c.state == "pending", 1), else_=0)).label("pending"),
    func.sum(
        case(((object_events.c.state == "pending") & (object_events.c.attempt_count > 0), 1), else_=0)
    ).label("failing"),
    func.sum(case((object_events.c.state == "abandoned", 1), else_=0)).label("abandoned"),
).where(_OF_TARGET)
_LAST_ERROR = (
    select(object_events.c.last_error)
    .where(_OF_TARGET, object_events.c.last_error.is_not(None))
    .order_by(object_events.c.id.desc())
    .limit(1)
)
