"""From what a model names in object storage to the directory its model servers read."""

import asyncio
import io
import os
import tarfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ebbtide.database import Database, metadata
from ebbtide.identifiers import ACCOUNT, Location
from ebbtide.instances import model_files
from ebbtide.instances.model_files import ModelFiles, ModelUnavailable, Source, source_of
from ebbtide.objects import store
from ebbtide.objects.buckets import Bucket, create_bucket
from ebbtide.objects.store import ObjectStore

ARCHIVE = {"ModelDataUrl": "s3://models/m.tar.gz"}


class Storage:
    """A bucket, and the model files made from what lies in it."""

    def __init__(self, root: Path) -> None:
        self.database = Database(root / "ebbtide.db")
        with self.database.engine.begin() as connection:
            metadata.create_all(connection)
            create_bucket(connection, Bucket("models", ACCOUNT, "us-east-1", 0.0))
        self.objects = ObjectStore(root / "objects", self.database)
        self.directories = root / "models"
        self.files = ModelFiles(self.directories, self.objects)

    async def put(self, key: str, body: bytes) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield body

        await self.objects.put("models", key, chunks(), at=0.0)


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    storage = Storage(tmp_path)
    yield storage
    storage.database.close()


def archive(files: dict[str, bytes], *, mode: str = "w:gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def archive_of(member: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        tar.addfile(member)
    return packed.getvalue()


def link(target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


def damaged(packed: bytes) -> bytes:
    middle = len(packed) // 2
    return packed[:middle] + bytes(16) + packed[middle + 16 :]


def device() -> tarfile.TarInfo:
    member = tarfile.TarInfo("null")
    member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
    return member


def names_in(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("mode", ["w:gz", "w"])
async def test_an_archive_is_unpacked(storage, mode):
    files = {"config.json": b"{}", "code/inference.py": b"pass"}
    await storage.put("m.tar.gz", archive(files, mode=mode))

    assert contents(await storage.files.fetch(ARCHIVE, ACCOUNT)) == files


async def test_the_same_content_is_unpacked_once_for_all(storage):
    await storage.put("m.tar.gz", archive({"a": b"1"}))
    await storage.put("copy.tar.gz", archive({"a": b"1"}))

    first, second = await asyncio.gather(
        storage.files.fetch(ARCHIVE, ACCOUNT), storage.files.fetch(ARCHIVE, ACCOUNT)
    )
    third = await storage.files.fetch(
        {"ModelDataUrl": "https://models.s3.us-east-1.amazonaws.com/copy.tar.gz"}, ACCOUNT
    )

    assert first == second == third
    assert names_in(storage.directories) == [first.name]


async def test_a_replaced_archive_is_another_directory(storage):
    await storage.put("m.tar.gz", archive({"a": b"1"}))
    before = await storage.files.fetch(ARCHIVE, ACCOUNT)
    await storage.put("m.tar.gz", archive({"a": b"2"}))

    after = await storage.files.fetch(ARCHIVE, ACCOUNT)

    assert (contents(before), contents(after)) == ({"a": b"1"}, {"a": b"2"})


async def test_a_prefix_is_copied_with_its_folders(storage):
    for key in ("m/config.json", "m/code/inference.py", "m/", "mine/other", "n/other"):
        await storage.put(key, key.encode())
    container = {
        "ModelDataSource": {
            "S3DataSource": {"S3Uri": "s3://models/m/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        }
    }

    assert contents(await storage.files.fetch(container, ACCOUNT)) == {
        "config.json": b"m/config.json",
        "code/inference.py": b"m/code/inference.py",
    }


async def test_a_prefix_of_many_objects_is_copied_whole(storage, monkeypatch):
    monkeypatch.setattr(store, "SCAN", 3)
    keys = [f"m/{n}" for n in range(8)]
    for key in [*keys, "n/other"]:
        await storage.put(key, b"")
    container = {
        "ModelDataSource": {
            "S3DataSource": {"S3Uri": "s3://models/m/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        }
    }

    assert len(contents(await storage.files.fetch(container, ACCOUNT))) == len(keys)


async def test_a_model_without_files_has_no_directory(storage):
    assert (
        await storage.files.fetch({"Image": "image", "Environment": {"HF_MODEL_ID": "a/b"}}, ACCOUNT) is None
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"no archive", "is not a whole tar.gz archive", id="not an archive"),
        pytest.param(archive({"a": os.urandom(50_000)})[:-5000], "is not a whole tar.gz archive", id="cut"),
        pytest.param(
            damaged(archive({"a": os.urandom(50_000)})), "is not a whole tar.gz archive", id="damaged"
        ),
        pytest.param(
            damaged(archive({"a": os.urandom(50_000)}, mode="w:xz")),
            "is not a whole tar.gz archive",
            id="damaged, of another compression",
        ),
        pytest.param(archive({"../evil": b""}), "holds what may not be unpacked", id="a path that leads out"),
        pytest.param(
            archive_of(link("/etc/passwd")), "holds what may not be unpacked", id="an absolute link"
        ),
        pytest.param(
            archive_of(link("../../x")), "holds what may not be unpacked", id="a link that leads out"
        ),
        pytest.param(archive_of(device()), "holds what may not be unpacked", id="a device"),
    ],
)
async def test_a_bad_archive_is_refused_and_leaves_nothing(storage, tmp_path, body, reason):
    await storage.put("m.tar.gz", body)

    with pytest.raises(ModelUnavailable, match=rf"^model data s3://models/m\.tar\.gz {reason}[^\n]*$"):
        await storage.files.fetch(ARCHIVE, ACCOUNT)

    assert names_in(storage.directories) == []
    assert not (tmp_path / "evil").exists()


async def test_an_archive_larger_than_the_disk_is_refused(storage, monkeypatch):
    monkeypatch.setattr(model_files, "LEFT_FREE_BYTES", 2**60)
    await storage.put("m.tar.gz", archive({"a": b"1"}))

    with pytest.raises(ModelUnavailable, match="unpacks to more than"):
        await storage.files.fetch(ARCHIVE, ACCOUNT)


async def test_an_archive_of_too_many_files_is_refused_before_most_are_unpacked(storage, monkeypatch):
    monkeypatch.setattr(model_files, "MANY_FILES", 2)
    monkeypatch.setattr(model_files, "MAX_FILES", 5)
    await storage.put("m.tar.gz", archive({str(n): b"1" for n in range(6)}))

    with pytest.raises(ModelUnavailable, match="holds more than 5 files"):
        await storage.files.fetch(ARCHIVE, ACCOUNT)


def test_an_archive_that_is_given_up_is_not_read_on(tmp_path):
    packed, given_up = tmp_path / "m.tar.gz", threading.Event()
    packed.write_bytes(archive({"a": os.urandom(1 << 20)}))
    given_up.set()

    with pytest.raises(model_files.GivenUp):
        model_files.extract(packed, tmp_path, given_up=given_up)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("s3://models/none.tar.gz", "The specified key does not exist", id="no such key"),
        pytest.param("s3://none/m.tar.gz", "The specified bucket does not exist", id="no such bucket"),
    ],
)
async def test_missing_model_data_is_named(storage, url, reason):
    with pytest.raises(ModelUnavailable, match=f"^model data {url}: {reason}"):
        await storage.files.fetch({"ModelDataUrl": url}, ACCOUNT)


async def test_an_instance_that_is_given_up_does_not_take_the_files_from_the_others(storage):
    await storage.put("m.tar.gz", archive({"a": b"1"}))
    given_up = asyncio.create_task(storage.files.fetch(ARCHIVE, ACCOUNT))
    kept = asyncio.create_task(storage.files.fetch(ARCHIVE, ACCOUNT))
    await asyncio.sleep(0)

    given_up.cancel()

    assert contents(await kept) == {"a": b"1"}


async def test_what_is_left_half_made_or_long_unused_is_swept(storage):
    await storage.put("m.tar.gz", archive({"a": b"1"}))
    used = await storage.files.fetch(ARCHIVE, ACCOUNT)
    (storage.directories / ".unfinished-x" / "model").mkdir(parents=True)
    (storage.directories / "old").mkdir()
    os.utime(storage.directories / "old", (0, 0))

    storage.files.sweep(now=used.stat().st_mtime + 86400)

    assert names_in(storage.directories) == [used.name]


def s3_source(kind: str, compression: str) -> dict[str, Any]:
    given = {"S3Uri": "s3://b/k", "S3DataType": kind, "CompressionType": compression}
    return {"ModelDataSource": {"S3DataSource": given}}


@pytest.mark.parametrize(
    ("container", "source"),
    [
        pytest.param({"ModelDataUrl": "s3://b/k"}, ("s3://b/k", True, False), id="ModelDataUrl"),
        pytest.param(s3_source("S3Object", "Gzip"), ("s3://b/k", True, False), id="one archive"),
        pytest.param(s3_source("S3Object", "None"), ("s3://b/k", False, False), id="one file"),
        pytest.param(s3_source("S3Prefix", "None"), ("s3://b/k", False, True), id="a folder"),
        pytest.param({"ModelDataUrl": ""}, None, id="an empty URL is none"),
    ],
)
def test_where_a_container_says_its_model_lies(container, source):
    expected = source and Source(source[0], Location("b", "k"), archive=source[1], prefix=source[2])

    assert source_of(container) == expected


async def test_a_model_in_another_accounts_bucket_is_not_to_be_had(storage: Storage) -> None:
    await storage.put("m.tar.gz", archive({"config.json": b"{}"}))

    with pytest.raises(ModelUnavailable, match="Access Denied"):
        await storage.files.fetch(ARCHIVE, "222222222222")
