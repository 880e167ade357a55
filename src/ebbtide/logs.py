"""Log groups and streams: what model servers print, kept in files and read as CloudWatch Logs does.

A stream is a directory of segments, each named by the position in the stream at which it begins, so that a
position stays good when the oldest segment is dropped to keep the stream within its bound. A line of a
segment is one event: its time and the time it came in, both epoch milliseconds in 13 digits, and its message
as JSON. Names never touch the file system: directories are named by their hash.
"""

import errno
import hashlib
import heapq
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ebbtide import clock, disk
from ebbtide.errors import ServiceError

SEGMENT_BYTES = 4 << 20
MAX_SEGMENTS = 16
"""A stream keeps at least SEGMENT_BYTES * (MAX_SEGMENTS - 1) of its newest events."""

PIECE_BYTES = 16 << 10

MAX_MESSAGE_BYTES = 256 * 1024
"""A longer line is cut into several events. Source: PutLogEvents, size of an event."""


MAX_OPEN_STREAMS = 256
"""Most descriptors held; the oldest stream gives way, and opens again when it is written to."""

log = logging.getLogger(__name__)


class GroupNotFound(ServiceError):
    """No log group of that name exists."""

    code = "ResourceNotFoundException"


class StreamNotFound(ServiceError):
    """The log group has no stream of that name."""

    code = "ResourceNotFoundException"


class AlreadyExists(ServiceError):
    """A log group or stream of that name exists."""

    code = "ResourceAlreadyExistsException"


@dataclass(frozen=True, slots=True)
class Event:
    """One logged line. In its stream it begins at `position`, the next one at `end`, both in bytes."""

    at_ms: int
    ingested_at_ms: int
    message: str
    position: int
    end: int


@dataclass(frozen=True, slots=True)
class Group:
    """A log group; `retention_days` is None when its streams are kept for ever."""

    name: str
    created_at_ms: int
    retention_days: int | None
    directory: Path
    tags: Mapping[str, str]


class LogStream:
    """One stream's events, appended and read. Not for two writers in different threads at once."""

    def __init__(self, group: str, name: str, directory: Path) -> None:
        self.group = group
        self.name = name
        self.directory = directory
        self._open: tuple[int, int] | None = None  # the newest segment's descriptor and first position

    def make(self, now: float) -> None:
        """Make the stream, and its group, where they do not exist."""
        created = {"created_at_ms": int(now * 1000)}
        _describe(self.directory.parent, "group.json", {"name": self.group} | created)
        _describe(self.directory, "stream.json", {"name": self.name} | created)

    @property
    def is_open(self) -> bool:
        return self._open is not None

    def created_at_ms(self) -> int:
        return int(json.loads((self.directory / "stream.json").read_text())["created_at_ms"])

    def write(self, line: str, at: float) -> None:
        """Append a line that was printed at `at`; readers see it at once. A line too long becomes several.

        A line that the disk does not take is lost, with a warning: what prints it must not stop for that.
        """
        self.write_all([line], at)

    def write_all(self, lines: Sequence[str], at: float) -> None:
        """`write` each of them, at the cost of one write."""
        try:
            self.append([(int(at * 1000), line) for line in lines], at)
        except OSError as error:
            log.warning(
                "%d lines of log stream %s in %s are lost: %s", len(lines), self.name, self.group, error
            )

    def append(self, events: Iterable[tuple[int, str]], now: float) -> None:
        """Append events given as (epoch milliseconds, message). Raises OSError when the disk is full."""
        ingested_at_ms = int(now * 1000)
        text = "".join(
            f"{at_ms:013d} {ingested_at_ms:013d} {json.dumps(part)}\n"
            for at_ms, message in events
            for part in _parts(message)
        )
        descriptor = self._segment(now)
        data = text.encode()
        size_bytes = os.fstat(descriptor).st_size
        if os.write(descriptor, data) < len(data):
            os.ftruncate(descriptor, size_bytes)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Free the descriptor; a later write opens the stream again."""
        if self._open is not None:
            os.close(self._open[0])
            self._open = None

    def segments(self) -> list[tuple[int, Path]]:
        """The first position and the file of each segment, oldest first."""
        return sorted((int(path.stem), path) for path in self.directory.glob("*.log"))

    def stored_bytes(self) -> int:
        return sum(path.stat().st_size for _, path in self.segments())

    def first(self) -> Event | None:
        return next(self.forward(0), None)

    def last(self) -> Event | None:
        return next(self.backward(None), None)

    def forward(self, position: int, since_ms: int = 0) -> Iterator[Event]:
        """The events at or after `since_ms` from `position` on, oldest first, dropped ones passed over."""
        segments = self.segments()
        since = b"%013d" % since_ms
        for index, (start, path) in enumerate(segments):
            if index + 1 < len(segments) and segments[index + 1][0] <= position:
                continue
            here = max(start, position)
            # One byte early, at the end of the line before: a position that is not ours finds a line's end.
            early = int(here > start)
            lines = _lines(path, here - start - early)
            if early:
                here += len(next(lines, b""))
            for line in lines:
                if line[:13] >= since and (event := _event(line, here)):
                    yield event
                here += len(line) + 1

    def backward(self, position: int | None) -> Iterator[Event]:
        """The events before `position` (None: the end), newest first."""
        for start, path in reversed(self.segments()):
            if position is not None and start >= position:
                continue
            try:
                data = path.read_bytes()
            except FileNotFoundError:  # dropped since the segments were listed, and with it all older ones
                return
            if position is not None:
                data = data[: position - start]
            end = data.rfind(b"\n") + 1
            while end > 0:
                begin = data.rfind(b"\n", 0, end - 1) + 1
                if event := _event(data[begin : end - 1], start + begin):
                    yield event
                end = begin

    def _segment(self, now: float) -> int:
        """The descriptor of the segment to append to."""
        if self._open is None:
            self.make(now)  # somebody may have deleted it while its writer lives
            segments = self.segments()
            return self._begin_segment(segments[-1][0] if segments else 0)
        descriptor, start = self._open
        size_bytes = os.fstat(descriptor).st_size
        return descriptor if size_bytes < SEGMENT_BYTES else self._begin_segment(start + size_bytes)

    def _begin_segment(self, start: int) -> int:
        self.close()
        path = self.directory / f"{start:020d}.log"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._open = (descriptor, start)
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes and os.pread(descriptor, 1, size_bytes - 1) != b"\n":
            # A power failure cut the last line; what is written next must begin one.
            os.write(descriptor, b"\n")
        for _, path in self.segments()[:-MAX_SEGMENTS]:
            path.unlink()
        return descriptor


def _parts(message: str) -> Iterator[str]:
    limit = MAX_MESSAGE_BYTES // 4  # a character takes up to four bytes
    for start in range(0, max(len(message), 1), limit):
        yield message[start : start + limit]


def _event(line: bytes, position: int) -> Event | None:
    """The event of a line; None for what a power failure left of one."""
    try:
        at_ms, ingested_at_ms, message = int(line[:13]), int(line[14:27]), json.loads(line[28:])
    except ValueError:
        return None
    return Event(at_ms, ingested_at_ms, message, position, position + len(line) + 1)


def _lines(path: Path, offset: int) -> Iterator[bytes]:
    """The whole lines of a segment from `offset`, without their ends; none of one that is dropped meanwhile.

    The file is open only while a piece is read: a search goes through very many streams at once.
    """
    rest = b""
    while True:
        try:
            with path.open("rb") as file:
                file.seek(offset)
                piece = file.read(PIECE_BYTES)
        except FileNotFoundError:
            return
        if not piece:
            return
        offset += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines


class LogStore:
    """The log groups of every account, under one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._streams: dict[Path, LogStream] = {}
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def of(self, account: str) -> "AccountLogs":
        """The account's own log groups."""
        return AccountLogs(self._root / account, self._streams)

    def expire(self, now: float) -> None:
        """Delete the streams whose last event is older than their group's retention."""
        for directory in self._root.iterdir():
            AccountLogs(directory, self._streams).expire(now)

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()


class AccountLogs:
    """The log groups of one account. streams: those of all accounts that were written to, by directory."""

    def __init__(self, root: Path, streams: dict[Path, LogStream]) -> None:
        self._root = root
        self._streams = streams

    def stream(self, group: str, name: str) -> LogStream:
        """The stream to write to, made with its group if they do not exist; on a full disk by its first line
        that finds room: whoever prints must not wait for that.
        """
        found = self._stream(group, name)
        try:
            found.make(clock.now())
        except OSError as error:
            if error.errno not in disk.FULL:
                raise
            log.warning("log stream %s in %s is not made yet: %s", name, group, error)
        return found

    def _stream(self, group: str, name: str) -> LogStream:
        # One object for each stream: two would begin segments over each other's.
        directory = self._group_directory(group) / _hash(name)
        found = self._streams.get(directory)
        if found is None:
            held_open = [stream for stream in self._streams.values() if stream.is_open]
            if len(held_open) >= MAX_OPEN_STREAMS:
                held_open[0].close()
            found = self._streams[directory] = LogStream(group, name, directory)
        return found

    def create_group(self, group: str, tags: Mapping[str, str] = {}, *, now: float) -> None:
        """Raises AlreadyExists."""
        made = {"name": group, "created_at_ms": int(now * 1000), "tags": dict(tags)}
        if not _describe(self._group_directory(group), "group.json", made):
            raise AlreadyExists("The specified log group already exists")

    def create_stream(self, group: str, name: str) -> None:
        """Raises GroupNotFound, AlreadyExists."""
        directory = self.group(group).directory / _hash(name)
        if (directory / "stream.json").exists():
            raise AlreadyExists("The specified log stream already exists")
        self._stream(group, name).make(clock.now())

    def group(self, name: str) -> Group:
        """Raises GroupNotFound."""
        directory = self._group_directory(name)
        if not (directory / "group.json").exists():
            raise GroupNotFound("The specified log group does not exist.")
        return _read_group(directory)

    def groups(self) -> list[Group]:
        """Every group, by name."""
        directories = (path.parent for path in self._root.glob("*/group.json"))
        return sorted((_read_group(path) for path in directories), key=lambda group: group.name)

    def existing_stream(self, group: str, name: str) -> LogStream:
        """Raises GroupNotFound, StreamNotFound."""
        directory = self.group(group).directory / _hash(name)
        if not (directory / "stream.json").exists():
            raise StreamNotFound("The specified log stream does not exist.")
        return _read_stream(group, directory)

    def streams(self, group: str) -> list[LogStream]:
        """Every stream of a group, by name. Raises GroupNotFound."""
        found = self.group(group).directory.glob("*/stream.json")
        return sorted((_read_stream(group, path.parent) for path in found), key=lambda stream: stream.name)

    def delete_stream(self, group: str, name: str) -> None:
        """Raises GroupNotFound, StreamNotFound."""
        directory = self.existing_stream(group, name).directory
        if written := self._streams.get(directory):
            written.close()
        shutil.rmtree(directory)

    def delete_group(self, name: str) -> None:
        """Delete a group and its streams. Raises GroupNotFound."""
        for stream in self.streams(name):
            self.delete_stream(name, stream.name)
        shutil.rmtree(self._group_directory(name))

    def set_retention(self, group: str, days: int | None) -> None:
        """Keep a group's streams for `days` after their last event, or for ever. Raises GroupNotFound."""
        self._rewrite(replace(self.group(group), retention_days=days))

    def set_tags(self, group: str, tags: Mapping[str, str]) -> None:
        """Give a group these tags and no others. Raises GroupNotFound."""
        self._rewrite(replace(self.group(group), tags=tags))

    def _rewrite(self, group: Group) -> None:
        described = {
            "name": group.name,
            "created_at_ms": group.created_at_ms,
            "retention_days": group.retention_days,
            "tags": dict(group.tags),
        }
        _replace(group.directory / "group.json", described)

    def expire(self, now: float) -> None:
        """Delete the streams whose last event is older than their group's retention."""
        for group in self.groups():
            if group.retention_days is None:
                continue
            oldest_ms = (now - group.retention_days * 86_400) * 1000
            for stream in self.streams(group.name):
                last = stream.last()
                if (last.ingested_at_ms if last else stream.created_at_ms()) < oldest_ms:
                    self.delete_stream(group.name, stream.name)

    def _group_directory(self, group: str) -> Path:
        return self._root / _hash(group)


def _hash(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def _describe(directory: Path, name: str, described: dict[str, Any]) -> bool:
    """Make a directory that says what it holds; False when it does already."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if (directory / name).exists():
        return False
    _replace(directory / name, described)
    return True


def _replace(path: Path, described: dict[str, Any]) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(described))
    unfinished.rename(path)


def _read_group(directory: Path) -> Group:
    described = json.loads((directory / "group.json").read_text())
    return Group(
        described["name"],
        described["created_at_ms"],
        described.get("retention_days"),
        directory,
        described.get("tags", {}),
    )


def _read_stream(group: str, directory: Path) -> LogStream:
    described = json.loads((directory / "stream.json").read_text())
    return LogStream(group, described["name"], directory)


def interleaved(
    streams: Iterable[LogStream], positions: dict[str, int], since_ms: int
) -> Iterator[tuple[LogStream, Event]]:
    """The events of several streams at or after `since_ms`, by time, each stream from its position.

    positions: by the stream's directory name, 0 where absent.
    """

    def of(stream: LogStream) -> Iterator[tuple[int, str, LogStream, Event]]:
        for event in stream.forward(positions.get(stream.directory.name, 0), since_ms):
            yield event.at_ms, stream.name, stream, event

    merged = heapq.merge(*map(of, streams), key=lambda item: item[:2])
    return ((stream, event) for _, _, stream, event in merged)


_TERM = re.compile(r'(?P<mark>[?-]?)(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s"]+))')


def matcher(pattern: str) -> Callable[[str], bool]:
    """What a filter pattern of terms lets through: every plain or quoted term, none behind -, and where
    some stand behind ?, one of those.

    Raises ValueError for patterns on JSON, on columns or with regular expressions, which are not supported.
    Source: CloudWatch Logs, filter pattern syntax for unstructured log events.
    """
    text = pattern.strip()
    if text[:1] in ("{", "[") or re.search(r"%.*%", text):
        raise ValueError("Filter patterns on JSON, on columns and with regular expressions are not supported")
    terms: dict[str, list[str]] = {"": [], "?": [], "-": []}
    position = 0
    while position < len(text):
        term = _TERM.match(text, position)
        if term is None:
            raise ValueError(f"Invalid character(s) in term '{text[position:]}'")
        quoted = term["quoted"]
        terms[term["mark"]].append(term["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        position = term.end() + len(text[term.end() :]) - len(text[term.end() :].lstrip())
    required, options, excluded = terms[""], terms["?"], terms["-"]

    def matches(message: str) -> bool:
        return (
            all(term in message for term in required)
            and not any(term in message for term in excluded)
            and (not options or any(term in message for term in options))
        )

    return matches
