"""Lifecycle rules: what expires when, and that the loop removes that and nothing else."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Connection

from ebbtide.objects import lifecycle, records, uploads
from ebbtide.objects.lifecycle import DAY_S, PAGE, Lifecycle, Rule
from ebbtide.objects.records import ObjectRecord

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()
MIDNIGHT = NOON + DAY_S / 2


def record(
    *, key: str = "logs/a", size_bytes: int = 10, modified_at: float = NOON, **tags: str
) -> ObjectRecord:
    return ObjectRecord("b", key, "c", size_bytes, "e", "t", modified_at, tags=tags)


@pytest.mark.parametrize(
    ("rule", "seen", "now", "expires"),
    [
        pytest.param({"days": 1}, {}, MIDNIGHT + DAY_S - 1, False, id="days end at a midnight"),
        pytest.param({"days": 1}, {}, MIDNIGHT + DAY_S, True, id="the next one"),
        pytest.param(
            {"days": 1}, {"modified_at": MIDNIGHT}, MIDNIGHT + DAY_S, True, id="changed at midnight"
        ),
        pytest.param({"date": MIDNIGHT}, {}, MIDNIGHT - 1, False, id="before the date"),
        pytest.param({"date": MIDNIGHT}, {}, MIDNIGHT, True, id="from the date on"),
        pytest.param({"days": 1, "enabled": False}, {}, NOON * 2, False, id="a disabled rule"),
        pytest.param({"days": 1, "prefix": "logs/"}, {}, NOON * 2, True, id="its prefix"),
        pytest.param({"days": 1, "prefix": "data/"}, {}, NOON * 2, False, id="another prefix"),
        pytest.param({"days": 1, "tags": {"a": "1"}}, {"a": "1", "b": "2"}, NOON * 2, True, id="its tag"),
        pytest.param({"days": 1, "tags": {"a": "1"}}, {"a": "2"}, NOON * 2, False, id="another value"),
        pytest.param({"days": 1, "larger_than": 10}, {}, NOON * 2, False, id="not larger than its size"),
        pytest.param({"days": 1, "smaller_than": 11}, {}, NOON * 2, True, id="smaller"),
        pytest.param({"abort_days": 1}, {}, NOON * 2, False, id="a rule for uploads alone"),
    ],
)
def test_what_expires_when(rule, seen, now, expires):
    assert Rule(**{"id": "r", "enabled": True} | rule).expires(record(**seen), now) is expires


async def chunks(body: bytes):
    yield body


async def keys(database) -> list[str]:
    found = await database.read(lambda connection: records.scan_objects(connection, "b", "", 10_000))
    return [each.key for each in found]


async def test_what_has_expired_is_removed_and_nothing_else(store, database):
    for number in range(2 * PAGE + 3):
        await store.put("b", f"old/{number:05}", chunks(b"x"), at=NOON)
    await store.put("b", "old/young", chunks(b"x"), at=NOON + 5 * DAY_S)
    await store.put("b", "other", chunks(b"x"), at=NOON)
    rule = Rule("r", enabled=True, prefix="old/", days=2)
    await database.write(lambda connection: lifecycle.set_rules(connection, "b", [rule]))

    await Lifecycle(database).step(NOON + 5 * DAY_S)

    assert await keys(database) == ["old/young", "other"]


async def test_an_object_replaced_since_it_was_looked_at_stays(store, database):
    old = await store.put("b", "k", chunks(b"old"), at=NOON)
    await store.put("b", "k", chunks(b"new"), at=NOON + 1)

    await database.write(lambda connection: records.remove_unchanged(connection, "b", [old], NOON + DAY_S))

    assert await keys(database) == ["k"]


async def test_an_upload_left_in_parts_is_aborted(store, database):
    def begin(connection: Connection):
        return uploads.begin(
            connection,
            "b",
            "k",
            content_type=None,
            metadata={},
            headers={},
            tags={},
            checksum_algorithm=None,
            checksum_type="COMPOSITE",
            at=NOON,
        )

    upload = await database.write(begin)
    staged = await store.stage(chunks(b"x" * 100_000))
    await database.write(lambda connection: uploads.add_part(connection, upload, 1, staged, at=NOON))
    rule = Rule("r", enabled=True, abort_days=1)
    await database.write(lambda connection: lifecycle.set_rules(connection, "b", [rule]))

    await Lifecycle(database).step(NOON + DAY_S)
    before = await database.read(lambda connection: uploads.open_uploads(connection, "b"))
    await Lifecycle(database).step(NOON + 2 * DAY_S)

    assert len(before) == 1
    assert await database.read(lambda connection: uploads.open_uploads(connection, "b")) == []


async def test_a_bucket_without_rules_is_left_alone(store, database):
    await store.put("b", "k", chunks(b"x"), at=0.0)
    rule = Rule("r", enabled=True, days=1)
    await database.write(lambda connection: lifecycle.set_rules(connection, "b", [rule]))
    await database.write(lambda connection: lifecycle.set_rules(connection, "b", []))

    await Lifecycle(database).step(NOON)

    assert await keys(database) == ["k"]
