"""A model's files, from object storage to a directory that its model servers share.

    ModelDataUrl, ModelDataSource ─> what it names in storage ─> DATA/models/DIGEST

A directory is named by the content it was made from, so a replaced object is another directory, and equal
archives are one. It appears whole or not at all; its files are for reading.
"""

import asyncio
import gzip
import hashlib
import lzma
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from ebbtide import clock
from ebbtide.archives import tarfile
from ebbtide.disk import room_for
from ebbtide.errors import ServiceError, Unavailable
from ebbtide.identifiers import Location, parse_location
from ebbtide.objects.records import ObjectRecord
from ebbtide.objects.store import ObjectStore

MAX_FILES = 100_000

MANY_FILES = 2_000
"""Of an archive that has so many, all are counted before more are unpacked."""

LEFT_FREE_BYTES = 2**30
"""Disk space that no model may take: the queue and the objects need it."""

CHUNK_BYTES = 1 << 20

UNUSED_S = 30 * 86400.0
"""After this long without a use a directory is deleted."""

UNFINISHED = ".unfinished-"


class ModelUnavailable(Exception):
    """The model's files cannot be had. The message says why in one line, for an operator."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a container definition names: one tar archive, one file, or all objects below a prefix."""

    uri: str
    location: Location
    archive: bool
    prefix: bool


def source_of(container: Mapping[str, Any]) -> Source | None:
    """Where a container definition says that its model lies; None when it names no files.

    Raises ModelUnavailable. Source: ContainerDefinition, S3ModelDataSource, SageMaker 2017-07-24.
    """
    uri, archive, prefix = container.get("ModelDataUrl"), True, False
    if given := container.get("ModelDataSource", {}).get("S3DataSource"):
        uri = given["S3Uri"]
        archive = given["CompressionType"] == "Gzip"
        prefix = given["S3DataType"] == "S3Prefix" and not archive
    if not uri:
        return None
    try:
        location = parse_location(uri)
    except ValueError as error:
        raise ModelUnavailable(f"model data {error}") from error
    return Source(uri, location, archive, prefix)


async def find(source: Source, objects: ObjectStore, account: str) -> Sequence[ObjectRecord]:
    """What is stored of the account's model, at least one object. Raises ServiceError when nothing is, or the
    bucket is another's, and Unavailable when the store is down.
    """
    bucket, key = source.location.bucket, source.location.key
    await objects.check_owner(bucket, account)
    if not source.prefix:
        return [await objects.head(bucket, key)]
    # A key that ends in a slash is a folder's marker.
    files = [record for record in await objects.below(bucket, key) if not record.key.endswith("/")]
    if not files:
        raise ServiceError("no object's key begins so", code="NoSuchKey")
    return files


class ModelFiles:
    """The directories under one root."""

    def __init__(self, root: Path, objects: ObjectStore) -> None:
        self._root = root
        self._objects = objects
        self._fetching: dict[str, asyncio.Task[Path]] = {}

    async def fetch(self, container: Mapping[str, Any], account: str) -> Path | None:
        """The directory with the account's container's model; None when the container names no files.

        Instances that ask for the same content wait for one fetch. Raises ModelUnavailable, and Unavailable
        when the store is down or the disk is full.
        """
        source = source_of(container)
        if source is None:
            return None
        try:
            return await self._fetch(source, account)
        except Unavailable as error:
            raise Unavailable(f"model data {source.uri} waits: {error.message}") from error

    async def _fetch(self, source: Source, account: str) -> Path:
        records = await self._find(source, account)
        digest = _digest(source, records)
        directory = self._root / digest
        if digest not in self._fetching:
            task = asyncio.create_task(self._use_or_make(source, records, directory))
            self._fetching[digest] = task
            task.add_done_callback(lambda _: self._fetching.pop(digest))
        # Shielded: one instance that is not wanted any more must not take the files from the others.
        return await asyncio.shield(self._fetching[digest])

    def sweep(self, now: float) -> None:
        """Delete what nobody has used for a month, and what a killed server left half made."""
        for entry in self._root.glob("*") if self._root.is_dir() else ():
            if entry.name.startswith(UNFINISHED) or now - entry.stat().st_mtime > UNUSED_S:
                shutil.rmtree(entry, ignore_errors=True)

    async def _find(self, source: Source, account: str) -> Sequence[ObjectRecord]:
        try:
            return await find(source, self._objects, account)
        except Unavailable:
            raise
        except ServiceError as error:
            raise ModelUnavailable(f"model data {source.uri}: {error.message}") from error

    async def _use_or_make(self, source: Source, records: Sequence[ObjectRecord], directory: Path) -> Path:
        if await asyncio.to_thread(_use, directory):
            return directory
        try:
            with room_for("the model's files"):
                unfinished = await asyncio.to_thread(self._begin)
        except OSError as error:
            raise ModelUnavailable(f"model data {source.uri} could not be stored here: {error}") from error
        try:
            with room_for("the model's files"):
                await self._make(source, records, unfinished)
                await asyncio.to_thread(_publish, unfinished / "model", directory)
        except asyncio.CancelledError:
            raise  # the server ends, and must not wait for many files to go: the next start sweeps
        except BaseException as error:
            await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
            if isinstance(error, ModelUnavailable):
                raise ModelUnavailable(f"model data {source.uri} {error}") from error
            if isinstance(error, ServiceError | OSError) and not isinstance(error, Unavailable):
                raise ModelUnavailable(
                    f"model data {source.uri} could not be stored here: {error}"
                ) from error
            raise
        await asyncio.to_thread(shutil.rmtree, unfinished, ignore_errors=True)
        return directory

    async def _make(self, source: Source, records: Sequence[ObjectRecord], unfinished: Path) -> None:
        if not source.archive:
            for record in records:
                await self._download(record, unfinished / "model" / _name_below(source, record))
            return
        archive, given_up = unfinished / "archive", threading.Event()
        await self._download(records[0], archive)
        extracting = asyncio.ensure_future(
            asyncio.to_thread(extract, archive, unfinished / "model", given_up=given_up)
        )
        try:
            await asyncio.shield(extracting)
        except asyncio.CancelledError:
            given_up.set()
            await asyncio.wait({extracting})
            raise

    def _begin(self) -> Path:
        self._root.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=self._root))
        try:
            (unfinished / "model").mkdir()
        except OSError:
            unfinished.rmdir()
            raise
        return unfinished

    async def _download(self, record: ObjectRecord, target: Path) -> None:
        _, chunks = await self._objects.open(record.bucket, record.key)
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        with await asyncio.to_thread(target.open, "xb") as file:
            async for chunk in chunks:
                await asyncio.to_thread(file.write, chunk)


class GivenUp(Exception):
    """Nobody waits for the archive's files any more."""


class _Archive(FileIO):
    """An archive's file, which can be read until it is given up."""

    def __init__(self, path: Path, given_up: threading.Event) -> None:
        super().__init__(path)
        self._given_up = given_up

    def read(self, size: int | None = -1, /) -> bytes:
        if self._given_up.is_set():
            raise GivenUp
        return super().read(-1 if size is None else size)


def extract(archive: Path, directory: Path, *, given_up: threading.Event) -> None:
    """Unpack a tar archive, compressed or not, below an existing directory.

    Nothing lands outside of it, no device, no link that leads out; nothing fills the disk.
    Raises ModelUnavailable; GivenUp soon after `given_up` is set.
    """
    room_bytes = max(0, shutil.disk_usage(directory).free - LEFT_FREE_BYTES)
    size_bytes = count = 0
    try:
        with _Archive(archive, given_up) as file, tarfile.open(fileobj=file) as tar:
            for member in tar:
                size_bytes += member.size
                count += 1
                if size_bytes > room_bytes:
                    raise ModelUnavailable(f"unpacks to more than the {room_bytes} bytes that are free")
                if count == MANY_FILES:
                    _check_count(archive, given_up)
                tar.extract(member, directory, filter="data")
            # To its end, behind the archive's own: there lies the checksum by which damage shows.
            while tar.fileobj is not None and tar.fileobj.read(CHUNK_BYTES):
                pass
    except tarfile.FilterError as error:
        raise ModelUnavailable(f"holds what may not be unpacked: {error}") from error
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        # tarfile tells line by line what each of the compressions it tried had to say.
        cause = str(error).partition(":\n")[0]
        raise ModelUnavailable(f"is not a whole tar.gz archive: {cause}") from error


def _check_count(archive: Path, given_up: threading.Event) -> None:
    """Raises ModelUnavailable for too many files: reading their names is quicker than making them."""
    with _Archive(archive, given_up) as file, tarfile.open(fileobj=file) as tar:
        for count, _ in enumerate(tar, start=1):
            tar.members.clear()  # it would remember them all
            if count > MAX_FILES:
                raise ModelUnavailable(f"holds more than {MAX_FILES} files")


def size_bytes_of(directory: Path) -> int:
    """What the files below a directory take together."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _name_below(source: Source, record: ObjectRecord) -> Path:
    """The object's place in the model's directory: its key from the prefix on.

    Raises ModelUnavailable for a key that would lead out of it.
    """
    folder = source.location.key.rpartition("/")[0] if source.prefix else record.key.rpartition("/")[0]
    name = Path(record.key[len(folder) :].lstrip("/"))
    if ".." in name.parts or "\0" in str(name):
        raise ModelUnavailable(f"has the key {record.key}, which names no file below it")
    return name


def _digest(source: Source, records: Sequence[ObjectRecord]) -> str:
    digest = hashlib.sha256(b"archive" if source.archive else b"files")
    for record in records:
        name = "" if source.archive else str(_name_below(source, record))
        digest.update(f"\n{record.etag} {record.size_bytes} {name}".encode())
    return digest.hexdigest()


def _use(directory: Path) -> bool:
    """Whether the directory is there; it was used just now."""
    try:
        _stamp(directory)
    except FileNotFoundError:
        return False
    return True


def _stamp(directory: Path) -> None:
    # By our clock, with which `sweep` compares it, and not the wall's.
    now = clock.now()
    os.utime(directory, (now, now))


def _publish(made: Path, directory: Path) -> None:
    for path in made.rglob("*"):
        if path.is_file() and not path.is_symlink():
            _flush(path)
    _stamp(made)  # an archive's root entry brings its own time, perhaps ancient
    made.rename(directory)
    _flush(directory.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
