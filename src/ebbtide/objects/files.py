"""Blocking file work of the object store: files of our naming in one directory, written once."""

import errno
import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from io import FileIO
from pathlib import Path

from ebbtide.errors import Unavailable
from ebbtide.identifiers import time_ordered_id
from ebbtide.objects import checksums
from ebbtide.objects.records import Piece, Staged

BLOCK_BYTES = 1 << 20
"""Bytes written, hashed or read at a time: large enough that a thread's hop costs little beside them."""


class Digests:
    """The MD5 that becomes the entity tag, and the checksums asked for, of bytes as they pass."""

    def __init__(self, algorithms: Collection[str]) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._checksums = {name: checksums.new(name) for name in algorithms}
        self._size_bytes = 0

    def update(self, block: bytes | bytearray) -> None:
        self._size_bytes += len(block)
        self._md5.update(block)
        for checksum in self._checksums.values():
            checksum.update(block)

    def staged(self, *, file_name: str | None = None, data: bytes | None = None) -> Staged:
        """What was hashed, as stored in that file or in `data`."""
        return Staged(
            id=file_name or time_ordered_id(),
            size_bytes=self._size_bytes,
            etag=self._md5.hexdigest(),
            checksums={
                name: checksums.encode(checksum.digest()) for name, checksum in self._checksums.items()
            },
            file_name=file_name,
            data=data,
        )


class NewFile:
    """A file being written and hashed, created by the first write. Its methods block, and are called by one
    thread at a time.

    Raises Unavailable when the disk is full.
    """

    def __init__(self, directory: Path, digests: Digests) -> None:
        self._directory = directory
        self._digests = digests
        self._name = time_ordered_id()

    @cached_property
    def _file(self) -> FileIO:
        return FileIO(self._directory / self._name, "xb")

    def write(self, block: bytes | bytearray) -> None:
        self._digests.update(block)
        rest = memoryview(block)
        with _disk_errors():
            while rest:
                rest = rest[self._file.write(rest) :]

    def finish(self) -> Staged:
        """Make the file durable, its name too."""
        with _disk_errors():
            os.fsync(self._file.fileno())
        self._file.close()
        _sync_directory(self._directory)
        return self._digests.staged(file_name=self._name)

    def abandon(self) -> None:
        self._file.close()
        remove(self._directory, self._name)


class FileReader:
    """Reads a stretch of a content's pieces, block by block; blocking, by one thread at a time."""

    def __init__(self, directory: Path, pieces: Sequence[Piece], start: int, length: int) -> None:
        self.in_memory = all(piece.data is not None for piece in pieces)
        self._directory = directory
        self._blocks = self._read(pieces, start, length)

    def next_block(self) -> bytes | None:
        """The next bytes; None at the end."""
        return next(self._blocks, None)

    def _read(self, pieces: Sequence[Piece], start: int, length: int) -> Iterator[bytes]:
        for piece in pieces:
            wanted = min(piece.size_bytes - start, length)
            if wanted > 0:
                yield from self._read_piece(piece, start, wanted)
                length -= wanted
            start = max(0, start - piece.size_bytes)

    def _read_piece(self, piece: Piece, start: int, length: int) -> Iterator[bytes]:
        if piece.data is not None:
            yield piece.data[start : start + length]
            return
        assert piece.file_name is not None  # a piece has the one or the other
        with FileIO(self._directory / piece.file_name) as file:
            file.seek(start)
            while length:
                block = file.read(min(BLOCK_BYTES, length))
                if not block:
                    raise EOFError(f"{file.name} is shorter than its record says")
                length -= len(block)
                yield block


def remove(directory: Path, name: str) -> None:
    (directory / name).unlink(missing_ok=True)


def written_before(directory: Path, before: float) -> list[str]:
    """The files last written before that time."""
    old = []
    with os.scandir(directory) as entries:
        for entry in entries:
            # It may be removed while we look.
            with suppress(FileNotFoundError):
                if entry.stat().st_mtime < before:
                    old.append(entry.name)
    return old


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable("There is no room for the object: the disk is full.") from error
        raise
