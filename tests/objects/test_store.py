"""The embedded object store, without its API."""

import asyncio
import os

import pytest

from ebbtide import clock
from ebbtide.database import Database
from ebbtide.errors import ServiceError, Unavailable
from ebbtide.migrations import migrate
from ebbtide.objects import records
from ebbtide.objects.errors import AccessDenied, ContentLost, NoSuchBucket, NoSuchKey, PreconditionFailed
from ebbtide.objects.files import BLOCK_BYTES, MARK
from ebbtide.objects.store import INLINE_BYTES, ORPHAN_AGE_S, REMOVAL_DELAY_S, ObjectStore

LARGE = os.urandom(3_000_000)
SMALL = b"small"


async def chunks(body, size=100_000):
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def broken(body):
    yield body
    raise ServiceError("The body ended early", code="IncompleteBody")


async def read(store, key, **stretch):
    _, body = await store.open("b", key, **stretch)
    return b"".join([chunk async for chunk in body])


def files(store_root):
    return sorted(path.name for path in store_root.iterdir() if not path.name.startswith(MARK))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "objects"


@pytest.mark.parametrize("body", [b"", SMALL, b"x" * INLINE_BYTES, b"x" * (INLINE_BYTES + 1), LARGE])
async def test_what_was_put_is_read(store, body):
    record = await store.put("b", "k", chunks(body), content_type="text/plain", at=5.0)

    assert await read(store, "k") == body
    assert await store.head("b", "k") == record
    assert (record.size_bytes, record.content_type, record.modified_at) == (len(body), "text/plain", 5.0)


@pytest.mark.parametrize("body", [SMALL * 100, LARGE])
@pytest.mark.parametrize(("start", "length"), [(0, 10), (7, 1), (13, None), (0, None), (400, 10**9)])
async def test_a_stretch_is_read(store, body, start, length):
    await store.put("b", "k", chunks(body), at=0.0)

    expected = body[start:] if length is None else body[start : start + length]
    assert await read(store, "k", start=start, length=length) == expected


async def test_only_large_objects_have_files_and_none_is_named_by_its_key(store, root):
    await store.put("b", "small", chunks(SMALL), at=0.0)
    await store.put("b", "../large", chunks(LARGE), at=0.0)

    assert len(files(root)) == 1
    assert "large" not in files(root)[0]


async def test_staged_bytes_are_seen_when_published_and_not_before(store, database):
    staged = await store.stage(chunks(LARGE))
    with pytest.raises(NoSuchKey):
        await store.head("b", "k")

    await database.write(
        lambda connection: store.publish(connection, "b", "k", staged, content_type="text/plain", at=0.0)
    )

    assert await read(store, "k") == LARGE


async def test_a_transaction_that_fails_publishes_nothing(store, database):
    staged = await store.stage(chunks(SMALL))

    def work(connection):
        store.publish(connection, "b", "k", staged, content_type=None, at=0.0)
        raise ServiceError("the outcome was another's")

    with pytest.raises(ServiceError):
        await database.write(work)

    with pytest.raises(NoSuchKey):
        await store.head("b", "k")


async def test_a_missing_bucket_takes_nothing(store, root):
    with pytest.raises(NoSuchBucket):
        await store.put("absent", "k", chunks(LARGE), at=0.0)

    assert files(root) == []


async def test_a_body_that_breaks_off_leaves_nothing(store, root):
    with pytest.raises(ServiceError):
        await store.put("b", "k", broken(LARGE), at=0.0)

    assert files(root) == []
    with pytest.raises(NoSuchKey):
        await store.head("b", "k")


async def test_a_body_given_up_leaves_nothing(store, root):
    arrived = asyncio.Event()

    async def stalled():
        yield LARGE
        arrived.set()
        await asyncio.Event().wait()

    staging = asyncio.create_task(store.stage(stalled()))
    await arrived.wait()
    staging.cancel()

    with pytest.raises(asyncio.CancelledError):
        await staging
    assert files(root) == []


async def test_discarded_bytes_are_gone(store, root):
    staged = await store.stage(chunks(LARGE))

    await store.discard(staged)

    assert files(root) == []


async def test_a_reader_keeps_its_bytes_when_the_key_is_overwritten_and_swept(store, root):
    await store.put("b", "k", chunks(LARGE), at=0.0)
    _, body = await store.open("b", "k")
    first = await anext(body)

    await store.put("b", "k", chunks(LARGE[::-1]), at=1.0)
    await store.step(now=2 * REMOVAL_DELAY_S)

    rest = [chunk async for chunk in body]
    assert first + b"".join(rest) == LARGE
    assert await read(store, "k") == LARGE[::-1]


async def test_a_replaced_file_is_removed_after_a_while_when_nobody_reads_it(store, root):
    await store.put("b", "k", chunks(LARGE), at=0.0)
    await store.put("b", "k", chunks(SMALL), at=100.0)

    await store.step(now=100.0 + REMOVAL_DELAY_S / 2)
    kept = files(root)
    await store.step(now=100.0 + REMOVAL_DELAY_S)

    assert len(kept) == 1
    assert files(root) == []


async def test_a_deleted_objects_file_is_removed_too(store, database, root):
    await store.put("b", "k", chunks(LARGE), at=0.0)

    await database.write(lambda connection: records.delete_object(connection, "b", "k", at=1.0))
    await store.step(now=1.0 + REMOVAL_DELAY_S)

    assert files(root) == []


async def test_what_a_crash_left_is_swept_when_old_and_nothing_else(store, database, root):
    now = clock.now()
    await store.put("b", "k", chunks(LARGE), at=now)
    abandoned = await store.stage(chunks(LARGE))
    (root / "lost+found").mkdir()
    after_the_crash = ObjectStore(root, database)

    await after_the_crash.step(now=now)
    young = files(root)
    later = ObjectStore(root, database)
    await later.step(now=now + ORPHAN_AGE_S + 60)

    assert len(young) == 3
    assert abandoned.file_name not in files(root)
    assert "lost+found" in files(root)
    assert await read(later, "k") == LARGE


async def test_what_may_still_be_published_is_never_swept(store, database, root):
    staged = await store.stage(chunks(LARGE))

    await store.step(now=clock.now() + ORPHAN_AGE_S + 60)

    await database.write(
        lambda connection: store.publish(connection, "b", "k", staged, content_type=None, at=0.0)
    )
    assert await read(store, "k") == LARGE


async def test_what_is_still_arriving_is_never_swept(store, root):
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def slow():
        yield LARGE
        arrived.set()
        await go_on.wait()

    staging = asyncio.create_task(store.stage(slow()))
    await arrived.wait()
    await store.step(now=clock.now() + ORPHAN_AGE_S + 60)
    go_on.set()

    assert (await staging).file_name in files(root)


async def test_a_files_age_is_told_by_our_clock_and_not_by_the_file_systems(store, database, root):
    await store.stage(chunks(LARGE))
    [name] = files(root)
    os.utime(root / name, (0, 0))  # so a wall clock that was wrong then would have it

    await ObjectStore(root, database).step(now=clock.now())

    assert files(root) == [name]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.unlink(), id="gone"),
        pytest.param(lambda path: os.truncate(path, 1000), id="cut short"),
    ],
)
async def test_bytes_that_are_lost_are_told_of_before_the_first(store, root, damage):
    await store.put("b", "k", chunks(LARGE), at=0.0)
    damage(root / files(root)[0])

    with pytest.raises(ContentLost, match=r"The bytes of the object are lost: the file .{36} "):
        await store.open("b", "k")


@pytest.mark.parametrize("empty", [True, False], ids=["not mounted", "moved"])
async def test_while_its_directory_is_not_there_nothing_is_taken_for_lost_nor_put_in_its_place(
    store, root, tmp_path, empty
):
    await store.put("b", "k", chunks(LARGE), at=0.0)
    root.rename(tmp_path / "away")
    if empty:
        root.mkdir()

    with pytest.raises(Unavailable, match="is not the directory that the objects lie in"):
        await store.open("b", "k")
    with pytest.raises(Unavailable, match="is not the directory that the objects lie in"):
        await store.put("b", "k", chunks(b"new" * INLINE_BYTES), at=0.0)
    assert not empty or list(root.iterdir()) == []
    if empty:
        root.rmdir()
    (tmp_path / "away").rename(root)

    assert await read(store, "k") == LARGE


async def test_a_server_that_starts_before_its_directory_is_mounted_waits_for_it(
    store, root, tmp_path, database
):
    await store.put("b", "k", chunks(LARGE), at=0.0)
    root.rename(tmp_path / "away")
    early = ObjectStore(root, database)

    with pytest.raises(Unavailable, match="is not the directory that the objects lie in"):
        await early.open("b", "k")
    root.rmdir()
    (tmp_path / "away").rename(root)

    assert await read(early, "k") == LARGE


async def test_the_directory_of_another_databases_objects_is_refused(store, root, tmp_path):
    await store.put("b", "k", chunks(LARGE), at=0.0)
    other = Database(tmp_path / "other.db")
    migrate(other.engine)

    with pytest.raises(ValueError, match="holds the objects of another database"):
        ObjectStore(root, other)
    other.close()


async def test_bytes_that_get_lost_while_they_are_read_are_told_of(store, root):
    await store.put("b", "k", chunks(LARGE), at=0.0)
    _, body = await store.open("b", "k")
    await anext(body)
    os.truncate(root / files(root)[0], 1000)

    with pytest.raises(ContentLost, match="is shorter than its record says"):
        [chunk async for chunk in body]


async def test_sealed_bytes_are_whole_only_where_none_has_changed(store, root):
    await store.put("b", "k", chunks(LARGE), at=0.0)
    assert await read(store, "k", sealed=True) == LARGE
    with (root / files(root)[0]).open("r+b") as file:
        file.write(bytes([LARGE[0] ^ 1]))
    _, body = await store.open("b", "k", sealed=True)

    for _ in range(len(LARGE) // BLOCK_BYTES):
        await anext(body)
    with pytest.raises(ContentLost, match="their MD5 was"):
        await anext(body)  # the last


async def test_a_reader_of_another_account_is_refused(store):
    await store.put("b", "k", chunks(SMALL), at=0.0)

    await store.open("b", "k", account="123456789012")
    with pytest.raises(AccessDenied):
        await store.open("b", "k", account="999999999999")


async def test_two_writers_who_read_the_same_object_do_not_both_replace_it(store, database):
    etag = (await store.put("b", "k", chunks(SMALL), at=0.0)).etag

    async def replace(body):
        staged = await store.stage(chunks(body))
        await database.write(
            lambda connection: store.publish(
                connection, "b", "k", staged, content_type=None, at=0.0, if_match=etag
            )
        )

    outcomes = await asyncio.gather(replace(b"one"), replace(b"two"), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes].count(PreconditionFailed) == 1


async def test_checksums_are_computed_as_the_bytes_pass(store):
    staged = await store.stage(chunks(b"123456789"), checksum_algorithms=("CRC32C", "CRC64NVME"))

    assert staged.checksums == {"CRC32C": "4waSgw==", "CRC64NVME": "rosUhgp5mIg="}
    assert staged.etag == "25f9e794323b453885f5181f1b624d0b"


async def test_of_objects_that_are_opened_together_each_gets_its_own_or_its_own_error(store):
    written = {f"k{n}": b"%d" % n for n in range(40)} | {"large": LARGE}
    expected = {key: await store.put("b", key, chunks(body), at=0.0) for key, body in written.items()}

    opened = await asyncio.gather(
        *(store.open("b", key) for key in written),
        store.open("b", "none"),
        store.open("nowhere", "k1"),
        store.open("b", "k1", account="999999999999"),
        return_exceptions=True,
    )

    found = [(record, b"".join([chunk async for chunk in body])) for record, body in opened[:-3]]
    assert found == [(expected[key], body) for key, body in written.items()]
    assert [type(each) for each in opened[-3:]] == [NoSuchKey, NoSuchBucket, AccessDenied]
