"""Blocking file work of the object store: files of our naming in one directory, written once."""

import hashlib
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path

from ebbtide.disk import OUT_OF_REACH, room_for
from ebbtide.errors import Unavailable
from ebbtide.identifiers import time_of_id, time_ordered_id
from ebbtide.objects import checksums
from ebbtide.objects.contents import Piece, Staged
from ebbtide.objects.errors import ContentLost
from ebbtide.objects.seals import Seal

BLOCK_BYTES = 1 << 20
"""Bytes written, hashed or read at a time: large enough that a thread's hop costs little beside them."""

FLUSH_BYTES = 8 << 20
"""After so many bytes their way to the disk begins."""


MARK = "store-"
"""What the name of the empty file begins with that tells a store's directory from others; its id follows."""


@dataclass(frozen=True, slots=True)
class Directory:
    """Where a store's files lie. What else may be found at its path, the empty directory below a disk that is
    not mounted, say, lacks the store's mark: nothing of it is taken for lost there, and nothing is put there.
    """

    path: Path
    id: str

    def check(self) -> None:
        """Raises Unavailable while this is not the directory that the store's files lie in."""
        with room_for("objects"):
            try:
                (self.path / f"{MARK}{self.id}").stat()
            except (FileNotFoundError, NotADirectoryError):
                raise Unavailable(
                    f"{self.path} is not the directory that the objects lie in: it was moved, replaced or is "
                    f"not mounted. That one has a file {MARK}{self.id}."
                ) from None

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    def begun_before(self, before: float) -> list[str]:
        """The files of ours begun before that time of our clock, which is in their names.

        Their own times are the wall clock's: after that was set back, a file just written would look old.
        """
        return [name for name, begun_at in _begun(self.path) if begun_at < before]


def mark(path: Path) -> str:
    """The id of the store whose directory this is; a new one where it is no other's yet. Raises ValueError
    where a mark says that it is.
    """
    marks = [entry.name.removeprefix(MARK) for entry in path.iterdir() if entry.name.startswith(MARK)]
    if not marks:
        id_ = time_ordered_id()
        (path / f"{MARK}{id_}").touch()
        _sync_directory(path)
        return id_
    if any(True for _ in _begun(path)):
        raise ValueError(f"{path} holds the objects of another database; each has a directory of its own")
    return marks[0]  # made by a start that came no further, or by a server beside this one


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

    def __init__(self, directory: Directory, digests: Digests) -> None:
        self.name = time_ordered_id()
        self._directory = directory
        self._digests = digests
        self._written = 0
        self._flushing = 0

    @cached_property
    def _file(self) -> FileIO:
        self._directory.check()
        return FileIO(self._directory.path / self.name, "xb")

    def write(self, chunks: Sequence[bytes | bytearray]) -> None:
        for chunk in chunks:
            self._digests.update(chunk)
            rest = memoryview(chunk)
            with room_for("the object"):
                while rest:
                    written = self._file.write(rest)
                    self._written += written
                    rest = rest[written:]
        if self._written - self._flushing >= FLUSH_BYTES:
            # They begin their way to the disk, and none is dropped that is not there yet. Else the flush at
            # the end would have all of a large object before it.
            length = self._written - self._flushing
            os.posix_fadvise(self._file.fileno(), self._flushing, length, os.POSIX_FADV_DONTNEED)
            self._flushing = self._written

    def finish(self) -> Staged:
        """Make the file durable, its name too."""
        with room_for("the object"):
            os.fsync(self._file.fileno())
        self._file.close()
        _sync_directory(self._directory.path)
        return self._digests.staged(file_name=self.name)

    def abandon(self) -> None:
        if "_file" not in self.__dict__:
            return  # there was no room even for its name
        self._file.close()
        self._directory.remove(self.name)


class FileReader:
    """Reads a stretch of a content's pieces, block by block; blocking, by one thread at a time.

    Its methods raise ContentLost where a piece's file is not what its record says.
    """

    def __init__(
        self,
        directory: Directory,
        pieces: Sequence[Piece],
        start: int,
        length: int,
        seal: Seal | None = None,
    ) -> None:
        """seal: of all the bytes; the last block is given only once they have proved to be what they were."""
        self.in_memory = all(piece.data is not None for piece in pieces)
        self._directory = directory
        self._stretches = list(_stretches(pieces, start, length))
        self._blocks = self._read() if seal is None else self._read_sealed(seal)

    def check(self) -> None:
        """Find out before the first block whether all files are there, and long enough."""
        for piece, _, _ in self._stretches:
            if piece.file_name is not None:
                with _read_errors(self._directory, piece.file_name):
                    there_bytes = (self._directory.path / piece.file_name).stat().st_size
                if there_bytes < piece.size_bytes:
                    raise _too_short(piece.file_name)

    def next_block(self) -> bytes | None:
        """The next bytes; None at the end."""
        return next(self._blocks, None)

    def _read(self) -> Iterator[bytes]:
        for stretch in self._stretches:
            yield from self._read_stretch(*stretch)

    def _read_sealed(self, seal: Seal) -> Iterator[bytes]:
        held: bytes | None = None
        for stretch in self._stretches:
            for block in self._read_stretch(*stretch):
                if held is not None:
                    yield held
                held = block
                seal.update(block)
            seal.end_piece()
        seal.check()
        if held is not None:
            yield held

    def _read_stretch(self, piece: Piece, start: int, length: int) -> Iterator[bytes]:
        if piece.data is not None:
            yield piece.data[start : start + length]
        else:
            yield from self._read_file(str(piece.file_name), start, length)

    def _read_file(self, name: str, start: int, length: int) -> Iterator[bytes]:
        with _read_errors(self._directory, name), FileIO(self._directory.path / name) as file:
            file.seek(start)
            while length:
                block = file.read(min(BLOCK_BYTES, length))
                if not block:
                    raise _too_short(name)
                length -= len(block)
                yield block


def _stretches(pieces: Sequence[Piece], start: int, length: int) -> Iterator[tuple[Piece, int, int]]:
    """What of which pieces makes up a stretch of the whole: (piece, first byte in it, bytes)."""
    for piece in pieces:
        wanted = min(piece.size_bytes - start, length)
        if wanted > 0:
            yield piece, start, wanted
            length -= wanted
        start = max(0, start - piece.size_bytes)


def _begun(path: Path) -> Iterator[tuple[str, float]]:
    """The files of ours in a directory, each with when it was begun."""
    with os.scandir(path) as entries:
        for entry in entries:
            with suppress(ValueError):  # no file of ours
                yield entry.name, time_of_id(entry.name)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _read_errors(directory: Directory, name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in OUT_OF_REACH:
            raise Unavailable(f"The object cannot be read now: {error.strerror}.") from error
        directory.check()
        raise ContentLost(f"the file {name} cannot be read: {error.strerror}") from error


def _too_short(name: str) -> ContentLost:
    return ContentLost(f"the file {name} is shorter than its record says")
