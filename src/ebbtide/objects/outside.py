"""A bucket in an outside store: S3, Google Cloud Storage, Azure or a directory, through obstore.

What the store refuses for good (no such key, no access) is a ServiceError that names it. What may pass (no
connection, no answer in time, 5xx, throttling, a full disk) is Unavailable: the work waits until it has.

A write is visible whole or not at all, and an agent that has lost its claim must not overwrite what its
successor wrote. So the right to write is confirmed right before the bytes would become visible, and a small
object is written on condition that the key still names what it named then: a request that a store carries out
after its sender has given up finds the condition broken.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, Any

from ebbtide.errors import ServiceError, Unavailable
from ebbtide.objects.errors import (
    AccessDenied,
    InvalidArgument,
    InvalidRequest,
    NoSuchBucket,
    NoSuchKey,
    PreconditionFailed,
)
from ebbtide.objects.listing import Page, common_prefix
from ebbtide.objects.outside_file import OutsideBucket
from ebbtide.objects.records import DEFAULT_CONTENT_TYPE, ObjectRecord

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta

SILENCE_S = 30.0
"""How long a store may answer nothing, or take in nothing, before it is taken for unavailable."""

PART_BYTES = 8 << 20
"""Most bytes sent in one request; more go in parts of so many, and the key names them after the last."""

PARTS_AT_ONCE = 2

READ_BYTES = 1 << 20

ATTEMPTS = 5
"""How often a conditional write is begun when others write the same key at the same time."""

TRANSIENT = frozenset(("ExpiredToken", "RequestTimeout", "RequestTimeTooSkewed", "SlowDown"))
"""S3's 4xx codes that pass."""

Hold = Callable[[], Awaitable[float]]
"""Confirms that the caller may still write, and returns for how many seconds at least; raises where not."""

_STATUS = re.compile(r"status code: (?P<status>\d{3}[ A-Za-z]*)")
_CODE = re.compile(r"<Code>(?P<code>\w+)</Code>")
_OS_ERROR = re.compile(r"\(os error (?P<number>\d+)\)")
_PASSING_OS_ERRORS = frozenset(("5", "28", "122"))  # EIO, ENOSPC, EDQUOT


class _Steps:
    """An async generator as obstore takes it: step by step, each in a task that goes on when nobody waits for
    obstore any more. A generator cannot be closed in the middle of a step, so closing breaks that off first.
    """

    def __init__(self, generator: AsyncGenerator[bytes, None]) -> None:
        self._generator = generator
        self._step: asyncio.Task[bytes] | None = None

    def __aiter__(self) -> "_Steps":
        return self

    async def __anext__(self) -> bytes:
        self._step = asyncio.ensure_future(anext(self._generator))
        return await self._step

    async def aclose(self) -> None:
        if self._step is not None and not self._step.done():
            self._step.cancel()
            await asyncio.wait([self._step])
        await self._generator.aclose()


class Unconditional(ServiceError):
    """The store has no such operation; where it was a conditional write, a plain one may be."""

    code = "NotImplemented"
    http_status = 501


class Outside:
    """One outside bucket. Times in s, sizes in bytes; records have entity tags without quotes."""

    def __init__(self, bucket: OutsideBucket, *, silence_s: float = SILENCE_S) -> None:
        """Raises ValueError where the bucket cannot be reached as the operator's file says."""
        self.bucket = bucket
        self._silence_s = silence_s
        self._store = bucket.connect(silence_s=silence_s)

    async def head(self, key: str) -> ObjectRecord:
        """Raises NoSuchBucket, NoSuchKey, AccessDenied, InvalidArgument, InvalidRequest, Unavailable."""
        return self._record(await self._get(key, {"head": True}))

    async def open(
        self, key: str, *, start: int = 0, length: int | None = None, etag: str | None = None
    ) -> tuple[ObjectRecord, AsyncIterator[bytes]]:
        """The object and its bytes, or those from `start` on, at most `length`, all of one version: that of
        `etag` where it is given, else PreconditionFailed.

        Raises what `head` does; the iterator raises Unavailable.
        """
        options: dict[str, Any] = {}
        if length is not None:
            options["range"] = (start, start + length)
        elif start:
            options["range"] = {"offset": start}
        if etag is not None:
            options["if_match"] = f'"{etag}"'
        found = await self._get(key, options)
        return self._record(found), self._chunks(key, found)

    async def put(
        self,
        key: str,
        chunks: AsyncIterator[bytes],
        *,
        size_bytes: int,
        attributes: Mapping[str, str],
        if_match: str | None = None,
        if_none_match: bool = False,
    ) -> str:
        """Store the bytes under the key; returns the entity tag. attributes: headers and the user's metadata.

        Raises PreconditionFailed, Unconditional for a condition on more than PART_BYTES, what `head` does.
        """
        mode: Any = {"e_tag": f'"{if_match}"'} if if_match else "create" if if_none_match else "overwrite"

        async def unlimited() -> float:
            return self._silence_s

        if size_bytes <= PART_BYTES:
            body = b"".join([chunk async for chunk in chunks])
            return await self._put_whole(key, body, self._kept(attributes), mode, self._silence_s)
        if mode == "overwrite":
            return await self._put_parts(key, chunks, self._kept(attributes), unlimited)
        raise Unconditional(
            f"{self.bucket.place} takes conditional writes of at most {PART_BYTES} bytes through ebbtide"
        )

    async def deliver(
        self, key: str, chunks: AsyncIterator[bytes], *, size_bytes: int, content_type: str, hold: Hold
    ) -> None:
        """Store an outcome's bytes under its key, in place of what an earlier attempt left there.

        Raises what `hold` raises: nothing was written then; and what `head` does.
        """
        attributes = self._kept({"Content-Type": content_type})
        if size_bytes > PART_BYTES:
            await self._put_parts(key, chunks, attributes, hold)
            return
        body = b"".join([chunk async for chunk in chunks])
        # A directory has nothing under way once its writer is gone; what other stores promise they are asked.
        mode: Any = "overwrite" if self.bucket.scheme == "file" else "create"
        for _ in range(ATTEMPTS):
            within_s = await hold()
            try:
                await self._put_whole(key, body, attributes, mode, within_s)
            except Unconditional:
                if mode == "overwrite":
                    raise
                mode = "overwrite"
            except PreconditionFailed:
                mode = await self._version(key)
            else:
                return
        raise Unavailable(f"{self.bucket.place}: the key {key} is written by others at the same time")

    async def delete(self, key: str) -> None:
        """Raises what `head` does but for NoSuchKey: what is not there is as good as deleted."""
        import obstore

        _check_key(key)
        with self._failures(key):
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError as error:
                if isinstance(self._reason(key, error), NoSuchBucket):
                    raise

    async def page(self, *, prefix: str, delimiter: str, after: str, limit: int) -> Page[ObjectRecord]:
        """What comes after `after`: at most `limit` keys and common prefixes together.

        Raises InvalidArgument for a delimiter other than "/", and what `head` does but for NoSuchKey.
        """
        if delimiter not in ("", "/"):
            raise InvalidArgument(
                f"{self.bucket.place} lists by the delimiter / only", "delimiter", delimiter
            )
        with self._failures(prefix):
            found = await (self._level(prefix) if delimiter else self._below(prefix, after, limit))
        # A common prefix is after `after` as a whole or not listed.
        skipped = common_prefix(after, prefix, delimiter)
        named = sorted(name for name in found if name > after and name != skipped)
        listed = named[:limit]
        return Page(
            [record for name in listed if (record := found[name]) is not None],
            [name for name in listed if found[name] is None],
            listed[-1] if len(named) > limit > 0 else None,
        )

    async def all_below(self, prefix: str) -> list[ObjectRecord]:
        """All objects whose keys begin so, by key."""
        with self._failures(prefix):
            found = await self._below(prefix, "", None)
        return [record for _, record in sorted(found.items()) if record is not None]

    async def _level(self, prefix: str) -> dict[str, ObjectRecord | None]:
        """The keys and, without a record, the common prefixes of one folder that begin with the prefix."""
        import obstore

        listed = await obstore.list_with_delimiter_async(self._store, _folder(prefix))
        found = {meta["path"]: self._listed(meta) for meta in listed["objects"]}
        names = [*found, *(f"{path}/" for path in listed["common_prefixes"])]
        return {name: found.get(name) for name in names if name.startswith(prefix)}

    async def _below(self, prefix: str, after: str, limit: int | None) -> dict[str, ObjectRecord | None]:
        """The keys that begin with the prefix, those after `after` at least up to one more than `limit`."""
        import obstore

        found: dict[str, ObjectRecord | None] = {}
        # A directory is not listed in any order; where all are listed in order, they may be left early.
        ordered = self.bucket.scheme != "file"
        offset = after.rstrip("/") or None if ordered else None
        async for batch in obstore.list(self._store, _folder(prefix), offset=offset):
            for meta in batch:
                if meta["path"].startswith(prefix):
                    found[meta["path"]] = self._listed(meta)
            passed = ordered and batch[-1]["path"] > prefix and not batch[-1]["path"].startswith(prefix)
            if passed or (ordered and limit is not None and sum(key > after for key in found) > limit):
                break
        return found

    async def _get(self, key: str, options: Any) -> "GetResult":
        import obstore

        _check_key(key)
        with self._failures(key):
            return await obstore.get_async(self._store, key, options=options)

    async def _chunks(self, key: str, found: "GetResult") -> AsyncIterator[bytes]:
        stream = found.stream(min_chunk_size=READ_BYTES)
        with self._failures(key):
            while True:
                async with asyncio.timeout(self._silence_s):
                    try:
                        chunk = await anext(stream)
                    except StopAsyncIteration:
                        return
                yield bytes(chunk)

    async def _put_whole(
        self, key: str, body: bytes, attributes: dict[str, str] | None, mode: Any, within_s: float
    ) -> str:
        import obstore

        _check_key(key)
        with self._failures(key):
            async with asyncio.timeout(min(within_s, self._silence_s)):
                written = await obstore.put_async(
                    self._store, key, body, attributes=attributes, mode=mode, use_multipart=False
                )
        return (written["e_tag"] or "").strip('"')

    async def _put_parts(
        self, key: str, chunks: AsyncIterator[bytes], attributes: dict[str, str] | None, hold: Hold
    ) -> str:
        import obstore

        _check_key(key)
        loop = asyncio.get_running_loop()

        async def confirmed() -> AsyncGenerator[bytes, None]:
            # obstore completes the upload once this has ended, and takes it back when this raises.
            async for chunk in chunks:
                limit.reschedule(loop.time() + self._silence_s)
                yield chunk
            limit.reschedule(loop.time() + await hold())

        with self._failures(key):
            async with asyncio.timeout(self._silence_s) as limit, aclosing(_Steps(confirmed())) as sent:
                written = await obstore.put_async(
                    self._store,
                    key,
                    sent,
                    attributes=attributes,
                    chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_ONCE,
                )
        return (written["e_tag"] or "").strip('"')

    async def _version(self, key: str) -> Any:
        """The mode of a write that replaces what the key names now."""
        try:
            found = await self._get(key, {"head": True})
        except NoSuchKey:
            return "create"
        named = {"e_tag": found.meta["e_tag"], "version": found.meta["version"]}
        return {name: value for name, value in named.items() if value is not None}

    def _kept(self, attributes: Mapping[str, str]) -> dict[str, str] | None:
        # A directory keeps bytes only, and refuses to be told more.
        return None if self.bucket.scheme == "file" else dict(attributes)

    def _record(self, found: "GetResult") -> ObjectRecord:
        given = dict(found.attributes)
        content_type = given.pop("Content-Type", DEFAULT_CONTENT_TYPE)
        headers = {name.replace("-", ""): given.pop(name) for name in _HEADERS if name in given}
        given.pop("Storage-Class", None)
        return self._listed(found.meta, content_type=content_type, metadata=given, headers=headers)

    def _listed(self, meta: "ObjectMeta", **described: Any) -> ObjectRecord:
        return ObjectRecord(
            bucket=self.bucket.name,
            key=meta["path"],
            content_id="",
            size_bytes=meta["size"],
            etag=(meta["e_tag"] or "").strip('"'),
            modified_at=meta["last_modified"].timestamp(),
            **{"content_type": DEFAULT_CONTENT_TYPE, **described},
        )

    @contextmanager
    def _failures(self, key: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError, NotImplementedError, TimeoutError, ValueError) as error:
            raise self._reason(key, error) from error

    def _reason(self, key: str, error: Exception) -> Exception:
        """Our own words and code for a failure: obstore's hold whole requests, and so perhaps secrets."""
        from obstore import exceptions

        place, text = self.bucket.place, str(error)
        code = found["code"] if (found := _CODE.search(text)) else ""
        status = found["status"].strip() if (found := _STATUS.search(text)) else ""
        said = " ".join(filter(None, (status, code)))
        if code in TRANSIENT:
            return Unavailable(f"{place} answered {said}")
        match error:
            case TimeoutError():
                return Unavailable(f"{place} did not answer in time")
            case FileNotFoundError():
                missing = code in ("NoSuchBucket", "ContainerNotFound")
                return NoSuchBucket(self.bucket.name) if missing else NoSuchKey(key)
            case exceptions.PermissionDeniedError() | exceptions.UnauthenticatedError():
                return AccessDenied(f"{place} refuses access{said and f': {said}'}")
            case exceptions.AlreadyExistsError() | exceptions.PreconditionError():
                return PreconditionFailed("If-Match")
            case NotImplementedError():
                return Unconditional(f"{place} has no such operation")
            case ValueError():
                return InvalidArgument(f"{place} has no such keys", "Key", key)
        if status.startswith("501"):
            return Unconditional(f"{place} answered {said}")
        if status.startswith(("401", "403")):
            return AccessDenied(f"{place} refuses access: {said}")
        if status.startswith("4") and not status.startswith(("408", "429")):
            return InvalidRequest(f"{place} answered {said}")
        if "redirect" in text:
            return InvalidRequest(f"{place} is in another region than the operator's file says")
        if self.bucket.scheme == "file":
            number = found["number"] if (found := _OS_ERROR.search(text)) else ""
            kind = Unavailable if number in _PASSING_OS_ERRORS else InvalidRequest
            return kind(f"{place}: {text.splitlines()[0]}")
        return Unavailable(f"{place} answered {said}" if said else f"{place} cannot be reached")


_HEADERS = ("Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language")


def _folder(prefix: str) -> str | None:
    """The whole path segments of a prefix: obstore lists by these."""
    return prefix.rpartition("/")[0] or None


def _check_key(key: str) -> None:
    """Raises InvalidArgument for a key that obstore would take for another, or that leads elsewhere."""
    steps = key.split("/")
    if "" in steps or "." in steps or ".." in steps or any(ord(character) < 32 for character in key):
        raise InvalidArgument(
            "A key in an outside store has no empty, . or .. step between slashes, and no control characters",
            "Key",
            key,
        )
