"""The object store: buckets of our own, and those that the operator's file places in outside stores.

Ours have keys and what is known of them in the database, bytes in rows and files.

Bytes are *staged* first: hashed as they stream in, kept in memory when they are few, else written to a
file under a name of ours and flushed to disk. *Publishing* then lets a key name them, in a transaction that
may do more: an invocation's output appears together with its outcome. Few bytes lie in the database itself,
so that a small object costs its share of one group commit and no flush of its own.

An outcome for an outside bucket cannot be part of a transaction: `deliver` puts it there before, bytes first.
"""

import asyncio
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from sqlalchemy import Connection

from ebbtide import loops
from ebbtide.database import Database
from ebbtide.errors import Unconfirmed
from ebbtide.identifiers import ACCOUNT
from ebbtide.objects import batches, contents, files, records
from ebbtide.objects.buckets import get_bucket
from ebbtide.objects.contents import Piece, Staged
from ebbtide.objects.errors import AccessDenied
from ebbtide.objects.files import BLOCK_BYTES, Digests, FileReader, NewFile
from ebbtide.objects.outside import Hold, Outside
from ebbtide.objects.records import ObjectRecord
from ebbtide.objects.seals import Seal
from ebbtide.shared_secrets import share, shared

STORE = "objects"
"""Under what name the id of the store's directory is shared by the servers beside a database."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

INLINE_BYTES = 16 * 1024
"""Most bytes kept in a row. Measured: below it a row costs less than a file's own flush, even without
company in the group commit; above it the single writer would carry bytes that file threads carry better."""

COPIED_BYTES = 32 * 1024
"""Smaller chunks are copied together: a write each would cost more than the copy."""

THREADS = 4

REMOVAL_DELAY_S = 60.0
"""How long a discarded file stays: a reader that has just looked its name up still opens it."""

ORPHAN_AGE_S = 24 * 3600.0
"""Age at which a file that nothing in the database names is taken for a crash's leftover."""

SWEEP_EVERY_S = 5.0
ORPHANS_EVERY_S = 3600.0
SWEEP_FILES = 200
"""Forgotten in one transaction, which is not to hold up other writers."""

SCAN = 1000
"""Records read at a time."""

_Found = tuple[ObjectRecord, Sequence[Piece]]


class ObjectStore:
    """Objects of all buckets, their files below `root`."""

    def __init__(self, root: Path, database: Database, outside: Mapping[str, Outside] | None = None) -> None:
        """outside: the buckets that are not ours, by name; they hide one of ours with the same name.

        Raises ValueError when `root` holds the objects of another database.
        """
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        id_ = shared(database.engine, STORE) or share(database.engine, STORE, files.mark(root))
        self._directory = files.Directory(root, id_)
        self._database = database
        self._outside = outside or {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="objects")
        # Who reads which content: a content's files stay while a reader of it lives.
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        # What is being staged, or was and may still be published by whoever holds it: by file name.
        self._staged: weakref.WeakValueDictionary[str, NewFile | Staged] = weakref.WeakValueDictionary()
        self._next_orphan_search_at = 0.0
        self._asked: list[tuple[tuple[str, str, str | None], asyncio.Future[_Found]]] = []
        self._looking: asyncio.Task[None] | None = None

    publish = staticmethod(records.publish)

    async def stage(
        self, chunks: AsyncIterable[bytes], *, checksum_algorithms: Collection[str] = ()
    ) -> Staged:
        """Store the bytes where no key names them yet, durably but for those that go into a row.

        Memory is bounded, whatever their number. The result must be published or discarded within a day.
        Raises what `chunks` raises, and Unavailable when the disk is full; nothing is kept then.
        """
        digests = Digests(checksum_algorithms)
        gathered: list[bytes | bytearray] = []
        size_bytes = 0
        file: NewFile | None = None
        writing: asyncio.Future[None] | None = None
        try:
            async for chunk in chunks:
                if len(chunk) >= COPIED_BYTES:
                    gathered.append(chunk)
                elif gathered and isinstance(gathered[-1], bytearray):
                    gathered[-1] += chunk
                else:
                    gathered.append(bytearray(chunk))
                size_bytes += len(chunk)
                if size_bytes < BLOCK_BYTES:
                    continue
                file = file or self._new_file(digests)
                # One block is written and hashed while the next arrives.
                if writing is not None:
                    await writing
                writing = self._in_thread(file.write, gathered)
                gathered, size_bytes = [], 0
            if writing is not None:
                await writing
            if file is None and size_bytes <= INLINE_BYTES:
                data = b"".join(gathered)
                digests.update(data)
                return digests.staged(data=data)
            file = file or self._new_file(digests)
            staged = await self._in_thread(_write_last, file, gathered)
            self._staged[file.name] = staged
            return staged
        except BaseException:
            if file is not None:
                if writing is not None:
                    await asyncio.wait([writing])
                await self._in_thread(file.abandon)
            raise

    def stage_row(self, data: bytes) -> Staged:
        """Stage so few bytes, at most INLINE_BYTES, that they go into a row."""
        assert len(data) <= INLINE_BYTES
        digests = Digests(())
        digests.update(data)
        return digests.staged(data=data)

    async def put(
        self,
        bucket: str,
        key: str,
        chunks: AsyncIterable[bytes],
        *,
        at: float,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectRecord:
        """Stage and publish. Raises NoSuchBucket, and what `stage` raises."""
        staged = await self.stage(chunks)
        return await self.publish_staged(
            staged,
            lambda connection: records.publish(
                connection,
                bucket,
                key,
                staged,
                content_type=content_type,
                metadata=metadata,
                at=at,
            ),
        )

    async def publish_staged(self, staged: Staged, work: Callable[[Connection], T]) -> T:
        """Commit `work`, which makes the staged bytes part of something; discard them when it fails.

        They stay when nobody knows whether it did: if not, they go as orphans.
        """
        try:
            return await self._database.write(work)
        except Unconfirmed:
            raise
        except Exception:  # not when cancelled: the work may be committed all the same
            await self.discard(staged)
            raise

    async def discard(self, staged: Staged) -> None:
        """Remove bytes that were staged and never published."""
        if staged.file_name is not None:
            await self._in_thread(self._directory.remove, staged.file_name)

    @property
    def reaches_outside(self) -> bool:
        """Whether any bucket is an outside one."""
        return bool(self._outside)

    def outside(self, bucket: str) -> Outside | None:
        """The outside bucket of that name; None when it is ours, or nobody's."""
        return self._outside.get(bucket)

    async def deliver(
        self, bucket: str, key: str, staged: Staged, *, account: str, content_type: str, hold: Hold
    ) -> bool:
        """Put an outcome's staged bytes at their key in an outside bucket, before its transaction.

        Returns at once False for a bucket of ours: the transaction itself publishes the bytes then. After
        True it must not, and the staged bytes are the caller's to discard once it is committed; what an
        earlier attempt left under the key was replaced, and doing it again is harmless.

        hold: called right before the bytes become visible. It confirms that the caller still holds the claim
        (renews the lease), and returns for how many s that is certain; sending is given up after these. It
        raises LeaseLost otherwise, which is raised here, and nothing was written.
        Raises Unavailable when the store cannot be reached or does not answer: try again later, with the same
        staged bytes; another ServiceError when it will never take them (no access, no such bucket, an account
        that is not the operator's).
        """
        outside = self.outside(bucket)
        if outside is None:
            return False
        _check_operators(account)
        await outside.deliver(
            key, await self.staged(staged), size_bytes=staged.size_bytes, content_type=content_type, hold=hold
        )
        return True

    async def staged(self, staged: Staged) -> AsyncIterator[bytes]:
        """The bytes of what was staged. Raises ContentLost."""
        piece = Piece(staged.size_bytes, staged.file_name, staged.data)
        return await self.read(staged.id, [piece], 0, staged.size_bytes)

    async def below(self, bucket: str, prefix: str) -> Sequence[ObjectRecord]:
        """All objects whose keys begin so, by key. Raises what `head` does but for NoSuchKey."""
        if outside := self.outside(bucket):
            return await outside.all_below(prefix)
        return await self._database.read(lambda connection: _below(connection, bucket, prefix))

    async def head(self, bucket: str, key: str) -> ObjectRecord:
        """Raises NoSuchBucket, NoSuchKey, and of an outside bucket what `Outside.head` does."""
        if outside := self.outside(bucket):
            return await outside.head(key)
        return await self._database.read(lambda connection: records.get_object(connection, bucket, key))

    async def check_owner(self, bucket: str, account: str) -> None:
        """Raises NoSuchBucket, AccessDenied when the bucket is another account's."""
        if bucket in self._outside:
            _check_operators(account)
            return
        await self._database.read(lambda connection: get_bucket(connection, bucket, account))

    async def open(
        self,
        bucket: str,
        key: str,
        *,
        account: str | None = None,
        start: int = 0,
        length: int | None = None,
        sealed: bool = False,
    ) -> tuple[ObjectRecord, AsyncIterator[bytes]]:
        """The object and its bytes, or those from `start` on, at most `length`.

        account: who reads, where that is to be checked; AccessDenied when the bucket is another's.
        sealed: of all bytes, the last are given only once all have proved to be those that were put.
        The bytes stay readable as they are now though the key is overwritten or deleted meanwhile.
        Raises NoSuchBucket, NoSuchKey, ContentLost; the bytes' iterator raises ContentLost too. Of an outside
        bucket what `Outside.open` does.
        """
        if outside := self.outside(bucket):
            if account is not None:
                _check_operators(account)
            return await outside.open(key, start=start, length=length)
        record, pieces = await self._look_up(bucket, key, account)
        length = record.size_bytes if length is None else length
        seal = Seal.of(record, pieces) if sealed else None
        return record, await self.read(record.content_id, pieces, start, length, seal)

    async def _look_up(self, bucket: str, key: str, account: str | None) -> _Found:
        """An object's record and pieces. Inputs that are claimed together are looked up together: what is
        asked for during one look waits for the next.
        """
        found: asyncio.Future[tuple[ObjectRecord, Sequence[Piece]]] = (
            asyncio.get_running_loop().create_future()
        )
        self._asked.append(((bucket, key, account), found))
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        return await found

    async def _look(self) -> None:
        while asked := self._asked:
            self._asked = []
            answers: Sequence[_Found | Exception]
            try:
                answers = await self._database.read(
                    partial(batches.open_many, wanted=[wanted for wanted, _ in asked])
                )
            except Exception as error:  # noqa: BLE001 - each caller raises it
                answers = [error] * len(asked)
            for (_, found), answer in zip(asked, answers, strict=True):
                if found.cancelled():
                    continue
                if isinstance(answer, Exception):
                    found.set_exception(answer)
                else:
                    found.set_result(answer)
        self._looking = None

    async def read(
        self, content_id: str, pieces: Sequence[Piece], start: int, length: int, seal: Seal | None = None
    ) -> AsyncIterator[bytes]:
        """Bytes of a content just looked up. Raises ContentLost when they are not there, before the first."""
        blocks = FileReader(self._directory, pieces, start, length, seal)
        reader = Reader(content_id, blocks, self._in_thread)
        self._readers.add(reader)
        if not blocks.in_memory:
            await self._in_thread(blocks.check)
        return reader

    async def step(self, now: float) -> float:
        """Remove files nobody needs any more; returns the delay before the next step, in s."""
        if now >= self._next_orphan_search_at:
            await self._remove_orphans(now)
            self._next_orphan_search_at = now + ORPHANS_EVERY_S
        discarded = await self._database.read(
            lambda connection: contents.files_discarded_before(connection, now - REMOVAL_DELAY_S, SWEEP_FILES)
        )
        read = {reader.content_id for reader in self._readers}
        unneeded = [name for name, content_id in discarded if content_id not in read]
        if unneeded:
            await self._in_thread(_remove_all, self._directory, unneeded)
            await self._database.write(lambda connection: contents.forget_files(connection, unneeded))
        return 0.0 if len(unneeded) == SWEEP_FILES else SWEEP_EVERY_S

    async def run(self, stop: asyncio.Event) -> None:
        await loops.run("objects", self.step, stop)

    async def _remove_orphans(self, now: float) -> None:
        """Remove what a crash left between staging and publishing."""
        old = await self._in_thread(self._directory.begun_before, now - ORPHAN_AGE_S)
        for begin in range(0, len(old), SWEEP_FILES):
            # What somebody here holds may be published yet; what nobody holds was by now, or never is.
            names = [name for name in old[begin : begin + SWEEP_FILES] if name not in self._staged]
            known = await self._database.read(lambda connection: contents.known_files(connection, names))  # noqa: B023
            await self._in_thread(_remove_all, self._directory, [name for name in names if name not in known])

    def _new_file(self, digests: Digests) -> NewFile:
        file = NewFile(self._directory, digests)
        self._staged[file.name] = file
        return file

    def _in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, function, *args)


def _check_operators(account: str) -> None:
    """Outside buckets are the operator's account's. Raises AccessDenied."""
    if account != ACCOUNT:
        raise AccessDenied


def _below(connection: Connection, bucket: str, prefix: str) -> list[ObjectRecord]:
    found: list[ObjectRecord] = []
    lower = prefix
    while batch := records.scan_objects(connection, bucket, lower, SCAN):
        inside = [record for record in batch if record.key.startswith(prefix)]
        found += inside
        if len(inside) < SCAN:
            break
        lower = batch[-1].key + "\0"
    return found


class Reader:
    """An asynchronous iterator over some bytes of one content."""

    def __init__(
        self,
        content_id: str,
        blocks: FileReader,
        in_thread: Callable[[Callable[[], bytes | None]], Awaitable[bytes | None]],
    ) -> None:
        self.content_id = content_id
        self._blocks = blocks
        self._in_thread = in_thread

    @property
    def row(self) -> bytes | None:
        """All of the bytes, where nothing has to be read for them: they lie in rows."""
        return b"".join(iter(self._blocks.next_block, None)) if self._blocks.in_memory else None

    def __aiter__(self) -> "Reader":
        return self

    async def __anext__(self) -> bytes:
        next_block = self._blocks.next_block
        block = next_block() if self._blocks.in_memory else await self._in_thread(next_block)
        if block is None:
            raise StopAsyncIteration
        return block


def _write_last(file: NewFile, chunks: Sequence[bytes | bytearray]) -> Staged:
    file.write(chunks)
    return file.finish()


def _remove_all(directory: files.Directory, names: Sequence[str]) -> None:
    # Elsewhere there is nothing to remove, and it would be forgotten all the same.
    directory.check()
    for name in names:
        directory.remove(name)
