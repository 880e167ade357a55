"""Buckets' lifecycle rules: which objects expire when, and the loop that removes what has.

As in S3: days count from an object's last change and end at the next midnight UTC; a rule needs no version or
storage class, since there are none. The loop looks through a bucket in pages and removes few objects in a
transaction, so that it holds up no writer.
"""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field

from sqlalchemy import Connection, delete, insert, select

from ebbtide import loops
from ebbtide.database import Database
from ebbtide.objects import records, uploads
from ebbtide.objects.buckets import Bucket, lifecycles
from ebbtide.objects.errors import NoSuchUpload
from ebbtide.objects.records import ObjectRecord
from ebbtide.objects.uploads import Upload

DAY_S = 86_400.0

PAGE = 500
"""Objects looked at in one read."""

BATCH = 20
"""Objects removed in one transaction: some milliseconds of the one writer."""

EVERY_S = 3600.0
"""How often a bucket is looked through; S3 does so once a day."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Sizes in bytes, exclusive; days or date (epoch s, a midnight): one of them or none.

    abort_days: after so many an upload in parts that was not completed is aborted. unfiltered: the prefix was
    given without a filter around it, as older clients do, and is shown so.
    """

    id: str
    enabled: bool
    prefix: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    larger_than: int | None = None
    smaller_than: int | None = None
    days: int | None = None
    date: float | None = None
    abort_days: int | None = None
    unfiltered: bool = False

    def expires(self, record: ObjectRecord, now: float) -> bool:
        """Whether the rule removes the object now."""
        at = self.expires_at(record)
        return at is not None and now >= at

    def expires_at(self, record: ObjectRecord) -> float | None:
        """When the rule removes the object; None: never. Source: "Expiring objects", S3 user guide."""
        if not (self.enabled and self._matches(record)):
            return None
        if self.days is not None:
            return _midnight_after(record.modified_at + self.days * DAY_S)
        return self.date

    def aborts(self, upload: Upload, now: float) -> bool:
        """Whether the rule aborts the upload now."""
        if not self.enabled or self.abort_days is None or not upload.key.startswith(self.prefix):
            return False
        return now >= _midnight_after(upload.initiated_at + self.abort_days * DAY_S)

    def _matches(self, record: ObjectRecord) -> bool:
        return (
            record.key.startswith(self.prefix)
            and self.tags.items() <= record.tags.items()
            and (self.larger_than is None or record.size_bytes > self.larger_than)
            and (self.smaller_than is None or record.size_bytes < self.smaller_than)
        )


def _midnight_after(at: float) -> float:
    return math.ceil(at / DAY_S) * DAY_S


def rules_of(bucket: Bucket) -> Sequence[Rule]:
    """The bucket's rules; none where it has no lifecycle."""
    return [Rule(**rule) for rule in bucket.lifecycle or ()]


def expiration(bucket: Bucket, record: ObjectRecord) -> tuple[float, str] | None:
    """When the first of the bucket's rules removes the object, and that rule's id; None if none does."""
    found = [(at, rule.id) for rule in rules_of(bucket) if (at := rule.expires_at(record)) is not None]
    return min(found, default=None)


def set_rules(connection: Connection, bucket: str, rules: Sequence[Rule]) -> None:
    """Replace the bucket's rules; without any it has no lifecycle."""
    connection.execute(delete(lifecycles).where(lifecycles.c.bucket == bucket))
    if rules:
        connection.execute(insert(lifecycles).values(bucket=bucket, rules=[asdict(rule) for rule in rules]))


class Lifecycle:
    """Carries the rules out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def step(self, now: float) -> float:
        """Look through every bucket that has rules; returns the delay before the next step, in s."""
        for bucket, rules in await self._database.read(_all_rules):
            await self._expire(bucket, rules, now)
            await self._abort(bucket, rules, now)
        return EVERY_S

    async def run(self, stop: asyncio.Event) -> None:
        await loops.run("lifecycle", self.step, stop)

    async def _expire(self, bucket: str, rules: Sequence[Rule], now: float) -> None:
        if not any(rule.days is not None or rule.date is not None for rule in rules):
            return
        lower = ""
        while page := await self._database.read(_page(bucket, lower)):
            expired = [record for record in page if any(rule.expires(record, now) for rule in rules)]
            for begin in range(0, len(expired), BATCH):
                await self._database.write(_remove(expired[begin : begin + BATCH], now))
            lower = page[-1].key + "\0"

    async def _abort(self, bucket: str, rules: Sequence[Rule], now: float) -> None:
        if not any(rule.abort_days is not None for rule in rules):
            return
        for upload in await self._database.read(lambda connection: uploads.open_uploads(connection, bucket)):
            if any(rule.aborts(upload, now) for rule in rules):
                await self._database.write(_give_up(upload, now))


def _all_rules(connection: Connection) -> list[tuple[str, list[Rule]]]:
    return [
        (row.bucket, [Rule(**rule) for rule in row.rules]) for row in connection.execute(select(lifecycles))
    ]


def _page(bucket: str, lower: str) -> Callable[[Connection], Sequence[ObjectRecord]]:
    return lambda connection: records.scan_objects(connection, bucket, lower, PAGE)


def _remove(expired: Sequence[ObjectRecord], now: float) -> Callable[[Connection], None]:
    bucket = expired[0].bucket
    return lambda connection: records.remove_unchanged(connection, bucket, expired, now)


def _give_up(upload: Upload, now: float) -> Callable[[Connection], None]:
    def work(connection: Connection) -> None:
        with suppress(NoSuchUpload):  # completed or aborted meanwhile
            found = uploads.get_upload(connection, upload.bucket, upload.key, upload.id)
            uploads.abort(connection, found, at=now)

    return work
