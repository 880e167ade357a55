"""Buckets in outside stores: a foreign S3 over real sockets, whole and with faults, and a directory."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.foreign_store import VARIABLES, foreign_s3, gateway_to, outside_file

from ebbtide.errors import ServiceError, Unavailable
from ebbtide.identifiers import ACCOUNT
from ebbtide.objects.errors import (
    AccessDenied,
    InvalidArgument,
    InvalidRequest,
    NoSuchBucket,
    NoSuchKey,
    PreconditionFailed,
)
from ebbtide.objects.outside import PART_BYTES, Outside
from ebbtide.objects.outside_file import OutsideBucket, read_file
from ebbtide.objects.store import ObjectStore

LARGE = os.urandom(2 * PART_BYTES + 1000)
WHOLE_AND_PARTS = [pytest.param(b"small", id="in one request"), pytest.param(LARGE, id="in parts")]


class LeaseLost(Exception):
    """What a caller's `hold` raises."""


async def chunks(body: bytes, size: int = 1 << 20) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def held() -> float:
    return 30.0


async def lost() -> float:
    raise LeaseLost


async def deliver(outside, key, body, hold=held):
    await outside.deliver(key, chunks(body), size_bytes=len(body), content_type="text/csv", hold=hold)


async def read(outside, key, **stretch):
    record, body = await outside.open(key, **stretch)
    return record, b"".join([chunk async for chunk in body])


@pytest.fixture(scope="module")
def moto():
    with foreign_s3() as foreign:
        yield foreign


@pytest.fixture
def foreign(moto):
    moto.empty()
    return moto


@pytest.fixture
def gateway(foreign):
    with gateway_to(foreign) as gateway:
        yield gateway


def reach(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, silence_s: float = 30.0, below=""):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    bucket = read_file(outside_file(tmp_path / "outside.toml", url, below=below))["papers"]
    return Outside(bucket, silence_s=silence_s)


@pytest.fixture
def papers(gateway, tmp_path, monkeypatch):
    """The bucket `papers`, which is the folder `in` of the foreign bucket."""
    return reach(gateway.url, tmp_path, monkeypatch, below="/in")


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "root").mkdir()
    return Outside(OutsideBucket("papers", "file", "", str(tmp_path / "root").strip("/")))


@pytest.fixture(params=["s3", "directory"])
def outside(request):
    return request.getfixturevalue("papers" if request.param == "s3" else "directory")


@pytest.mark.parametrize("body", [b"", *WHOLE_AND_PARTS])
async def test_what_is_delivered_is_read(outside, body):
    await deliver(outside, "a/b c.csv", body)

    record, got = await read(outside, "a/b c.csv")
    assert got == body
    assert (record.bucket, record.key, record.size_bytes) == ("papers", "a/b c.csv", len(body))
    assert await outside.head("a/b c.csv") == record


@pytest.mark.parametrize("body", WHOLE_AND_PARTS)
async def test_what_is_delivered_again_replaces_what_an_earlier_attempt_left(outside, body):
    await deliver(outside, "k", b"the first attempt's")
    await deliver(outside, "k", body)

    assert (await read(outside, "k"))[1] == body


@pytest.mark.parametrize("body", WHOLE_AND_PARTS)
async def test_who_has_lost_the_claim_writes_nothing(outside, body):
    await deliver(outside, "k", b"the successor's")

    with pytest.raises(LeaseLost):
        await deliver(outside, "k", body, lost)

    assert (await read(outside, "k"))[1] == b"the successor's"


async def test_an_upload_in_parts_that_is_given_up_leaves_nothing_in_the_store(papers, foreign):
    with pytest.raises(LeaseLost):
        await deliver(papers, "k", LARGE, lost)

    assert foreign.keys() == []
    assert foreign.unfinished_uploads() == []


@pytest.mark.parametrize(("start", "length"), [(0, 2), (2, None), (1, 3)])
async def test_a_stretch_is_read(outside, start, length):
    await deliver(outside, "k", b"012345")

    _, got = await read(outside, "k", start=start, length=length)

    assert got == b"012345"[start : None if length is None else start + length]


async def test_content_type_and_metadata_pass(papers, foreign):
    foreign.client.put_object(
        Bucket="foreign",
        Key="in/k",
        Body=b"x",
        ContentType="a/b",
        CacheControl="no-store",
        Metadata={"n": "v"},
    )

    record = await papers.head("k")

    assert (record.content_type, record.metadata) == ("a/b", {"n": "v"})
    assert record.headers == {"CacheControl": "no-store"}


async def test_only_the_path_that_the_file_names_is_seen(papers, foreign):
    foreign.put("elsewhere", b"x")
    await deliver(papers, "k", b"x")

    assert foreign.keys() == ["elsewhere", "in/k"]
    assert [record.key for record in await papers.all_below("")] == ["k"]
    with pytest.raises(NoSuchKey):
        await papers.head("elsewhere")


@pytest.mark.parametrize("key", ["../elsewhere", "a//b", "/a", "a/", "a/./b", "", "a\nb"])
async def test_keys_that_lead_elsewhere_or_would_be_changed_are_refused(outside, key):
    with pytest.raises(InvalidArgument):
        await outside.head(key)
    with pytest.raises(InvalidArgument):
        await deliver(outside, key, b"x")


async def test_a_missing_object_and_a_missing_bucket_are_told_apart(papers, gateway, tmp_path, monkeypatch):
    absent = OutsideBucket("b", "s3", "absent", "", gateway.url, None, False, papers.bucket.credentials)

    with pytest.raises(NoSuchKey):
        await papers.open("k")
    with pytest.raises(NoSuchBucket):
        await Outside(absent).open("k")
    with pytest.raises(NoSuchBucket):
        await deliver(Outside(absent), "k", b"x")


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        pytest.param(500, "InternalError", Unavailable, id="the store has trouble"),
        pytest.param(503, "SlowDown", Unavailable, id="it is busy"),
        pytest.param(429, "TooManyRequests", Unavailable, id="we ask too much"),
        pytest.param(403, "AccessDenied", AccessDenied, id="we may not"),
        pytest.param(401, "Unauthorized", AccessDenied, id="it does not know us"),
        pytest.param(400, "InvalidRequest", InvalidRequest, id="it cannot"),
        pytest.param(301, "PermanentRedirect", InvalidRequest, id="it is elsewhere"),
    ],
)
async def test_what_may_pass_is_told_from_what_will_not(papers, gateway, status, code, error):
    gateway.status, gateway.code = status, code

    for attempt in (
        lambda: papers.open("k"),
        lambda: papers.head("k"),
        lambda: deliver(papers, "k", b"x"),
        lambda: deliver(papers, "k", LARGE),
        lambda: papers.all_below(""),
    ):
        with pytest.raises(ServiceError) as caught:
            await attempt()
        assert type(caught.value) is error


@pytest.mark.parametrize(("status", "code"), [(403, "RequestTimeTooSkewed"), (400, "ExpiredToken")])
async def test_refusals_that_pass_are_told_by_their_codes(papers, gateway, status, code):
    gateway.status, gateway.code = status, code

    for attempt in (lambda: papers.open("k"), lambda: deliver(papers, "k", b"x")):
        with pytest.raises(Unavailable, match=code):
            await attempt()


async def test_errors_name_the_store_and_hold_no_secret(papers, gateway):
    gateway.status = 503

    with pytest.raises(
        Unavailable, match=r"^s3://foreign/in at http://127.0.0.1:\d+ answered 503 "
    ) as caught:
        await papers.open("k")

    assert VARIABLES["FOREIGN_SECRET"] not in str(caught.value)


async def test_a_store_that_refuses_connections_is_unavailable_until_it_takes_them(
    foreign, tmp_path, monkeypatch
):
    with gateway_to(foreign, refusing=True) as gateway:
        papers = reach(gateway.url, tmp_path, monkeypatch)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await deliver(papers, "k", b"x")

        gateway.open()
        await deliver(papers, "k", b"x")

    assert foreign.get("k") == b"x"


@pytest.mark.parametrize("body", WHOLE_AND_PARTS)
async def test_a_store_that_does_not_answer_is_unavailable(foreign, gateway, tmp_path, monkeypatch, body):
    papers = reach(gateway.url, tmp_path, monkeypatch, silence_s=0.5)
    gateway.fall_silent()

    with pytest.raises(Unavailable):
        await deliver(papers, "k", body)
    with pytest.raises(Unavailable):
        await papers.open("k")

    gateway.speak()
    assert foreign.keys() == []


@pytest.mark.parametrize("stalls", ["the body", "the claim"])
async def test_a_write_is_given_up_in_the_middle_of_what_it_waits_for(foreign, tmp_path, monkeypatch, stalls):
    gave_up = asyncio.Event()

    async def stall() -> float:
        try:
            await asyncio.Event().wait()
        finally:
            gave_up.set()
        return 30.0

    async def body() -> AsyncIterator[bytes]:
        yield LARGE
        if stalls == "the body":
            await stall()

    with gateway_to(foreign) as gateway:
        papers = reach(gateway.url, tmp_path, monkeypatch, silence_s=0.5)
        with pytest.raises(Unavailable):
            await papers.deliver("k", body(), size_bytes=len(LARGE) + 1, content_type="a/b", hold=stall)

    assert gave_up.is_set()
    assert foreign.keys() == []


async def test_a_write_that_the_store_carries_out_late_does_not_replace_the_successors(
    foreign, gateway, tmp_path, monkeypatch
):
    """The store takes a request in, its sender gives up and loses its claim, another writes; then it acts."""
    papers = reach(gateway.url, tmp_path, monkeypatch, silence_s=0.5)
    with gateway_to(foreign) as another_way:
        successor = reach(another_way.url, tmp_path, monkeypatch)
        gateway.fall_silent(late=True)
        with pytest.raises(Unavailable):
            await deliver(papers, "k", b"the late worker's")
        await asyncio.to_thread(gateway.wait_for_silenced_request)
        await deliver(successor, "k", b"the successor's")

        gateway.speak()
        await asyncio.to_thread(gateway.wait_for_late_request)

    assert foreign.get("k") == b"the successor's"


async def test_a_body_that_breaks_off_is_unavailable(papers, foreign, gateway):
    foreign.put("in/k", LARGE)
    gateway.cuts_bodies = True
    _, body = await papers.open("k")

    with pytest.raises(Unavailable):
        [chunk async for chunk in body]


async def test_conditional_writes_are_passed_on(papers):
    async def put(body, **condition):
        await papers.put("k", chunks(body), size_bytes=len(body), attributes={}, **condition)

    await put(b"1", if_none_match=True)
    with pytest.raises(PreconditionFailed):
        await put(b"2", if_none_match=True)
    etag = (await papers.head("k")).etag
    await put(b"3", if_match=etag)
    with pytest.raises(PreconditionFailed):
        await put(b"4", if_match=etag)

    assert (await read(papers, "k"))[1] == b"3"


async def test_deleting_what_is_not_there_is_no_error(outside):
    await deliver(outside, "k", b"x")

    await outside.delete("k")
    await outside.delete("k")

    with pytest.raises(NoSuchKey):
        await outside.head("k")


KEYS = ["a.txt", "a/1", "a/2", "a/deep/3", "ab/4", "b"]


@pytest.mark.parametrize(
    ("asked", "keys", "prefixes", "more"),
    [
        pytest.param({}, KEYS, [], False, id="all"),
        pytest.param({"limit": 2}, KEYS[:2], [], True, id="a page"),
        pytest.param({"after": "a/1", "limit": 2}, ["a/2", "a/deep/3"], [], True, id="the next"),
        pytest.param({"prefix": "a/"}, KEYS[1:4], [], False, id="a folder"),
        pytest.param({"prefix": "a"}, KEYS[:5], [], False, id="a prefix within a name"),
        pytest.param({"delimiter": "/"}, ["a.txt", "b"], ["a/", "ab/"], False, id="one level"),
        pytest.param({"prefix": "a/", "delimiter": "/"}, ["a/1", "a/2"], ["a/deep/"], False, id="one below"),
        pytest.param({"delimiter": "/", "after": "a/"}, ["b"], ["ab/"], False, id="after a common prefix"),
        pytest.param({"delimiter": "/", "after": "a/1"}, ["b"], ["ab/"], False, id="within a common prefix"),
    ],
)
async def test_keys_are_listed_in_pages(outside, asked, keys, prefixes, more):
    for key in KEYS:
        await deliver(outside, key, b"x")

    page = await outside.page(**{"prefix": "", "delimiter": "", "after": "", "limit": 1000} | asked)

    assert [record.key for record in page.contents] == keys
    assert page.common_prefixes == prefixes
    assert (page.next_after is not None) is more


async def test_the_store_hands_on_what_belongs_outside(tmp_path, database, directory):
    store = ObjectStore(tmp_path / "objects", database, {"papers": directory})
    staged = await store.stage(chunks(LARGE))

    given = {"account": ACCOUNT, "content_type": "text/csv"}
    assert not await store.deliver("ours", "k", staged, hold=lost, **given)
    assert await store.deliver("papers", "in/k", staged, hold=held, **given)
    await store.discard(staged)

    record, body = await store.open("papers", "in/k")
    assert b"".join([chunk async for chunk in body]) == LARGE
    assert await store.head("papers", "in/k") == record
    assert [found.key for found in await store.below("papers", "in/")] == ["in/k"]
    assert (tmp_path / "root" / "in" / "k").read_bytes() == LARGE


async def test_outside_buckets_are_the_operators_accounts(tmp_path, database, directory):
    store = ObjectStore(tmp_path / "objects", database, {"papers": directory})
    staged = await store.stage(chunks(b"x"))

    with pytest.raises(AccessDenied):
        await store.deliver("papers", "k", staged, account="999999999999", content_type="a/b", hold=held)
    with pytest.raises(AccessDenied):
        await store.open("papers", "k", account="999999999999")


async def test_a_directory_that_takes_no_more_says_why(directory, tmp_path):
    (tmp_path / "root" / "k").mkdir()

    with pytest.raises(ServiceError, match="Is a directory"):
        await deliver(directory, "k", b"x")
