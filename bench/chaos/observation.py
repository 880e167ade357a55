"""What clients and receivers have seen of a storm: written by many threads, judged in `verdict`."""

import hashlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from bench.chaos.plan import Ask


@dataclass(frozen=True, slots=True)
class Accepted:
    """An attempt that was answered with 202; `md5` is that of the output it must get if it gets one."""

    ask: Ask
    inference_id: str
    output: str
    failure: str | None
    md5: str


@dataclass(frozen=True, slots=True)
class Told:
    """One notification as it arrived at a receiver (`channel`), about one attempt."""

    channel: str
    message_id: str
    inference_id: str
    status: str
    reason: str
    location: str | None


@dataclass(frozen=True, slots=True)
class Object:
    """An object as it was when it was first listed, and what reading it gave (None: not read yet)."""

    etag: str
    modified: str
    size_bytes: int
    md5: str | None = None


@dataclass(slots=True)
class Observations:
    """Everything seen. Times are of the monotonic clock, in s; locations are s3:// URIs."""

    accepted: dict[str, Accepted] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    """Inference id of an attempt -> the server's answer, for those that it has surely not taken."""
    unanswered: dict[str, str] = field(default_factory=dict)
    """Those that it may have taken: no answer came, or that something went wrong."""
    told: list[Told] = field(default_factory=list)
    objects: dict[str, Object] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    """Promises seen broken, in words."""
    accepted_at: list[float] = field(default_factory=list)
    told_at: list[float] = field(default_factory=list)
    ended: list[tuple[str, float]] = field(default_factory=list)
    """Faults and when each was over."""
    struck: Counter[str] = field(default_factory=Counter)
    tries: Counter[str] = field(default_factory=Counter)
    """Inference id -> how often a model began to work on it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def accept(self, accepted: Accepted) -> None:
        with self._lock:
            self.accepted[accepted.inference_id] = accepted
            self.accepted_at.append(time.monotonic())

    def tell(self, told: Told) -> None:
        with self._lock:
            self.told.append(told)
            self.told_at.append(time.monotonic())

    def see(self, location: str, etag: str, modified: str, size_bytes: int) -> None:
        """Record a listed object; one that has changed since it was seen breaks a promise."""
        with self._lock:
            known = self.objects.get(location)
            if known is None:
                self.objects[location] = Object(etag, modified, size_bytes)
            elif (known.etag, known.modified, known.size_bytes) != (etag, modified, size_bytes):
                self.broken.append(f"{location} was overwritten: {known}, then {etag} {modified}")

    def read(self, location: str, body_md5: str, size_bytes: int) -> None:
        """Record an object's bytes; fewer than listed, or others, break a promise."""
        with self._lock:
            known = self.objects[location]
            # One that was stored in parts has another kind of tag.
            tagged = "-" not in known.etag
            if size_bytes != known.size_bytes or (tagged and body_md5 != known.etag):
                self.broken.append(f"{location} could be read with {size_bytes} bytes of {body_md5}: {known}")
            self.objects[location] = Object(known.etag, known.modified, known.size_bytes, body_md5)

    def violate(self, words: str) -> None:
        with self._lock:
            self.broken.append(words)

    def strike_ended(self, name: str) -> None:
        with self._lock:
            self.struck[name] += 1
            self.ended.append((name, time.monotonic()))

    @property
    def progress(self) -> int:
        """Grows with what comes for the first time, and not with repeats."""
        with self._lock:
            told = {(each.channel, each.inference_id) for each in self.told}
            return len(told) + sum(each.md5 is not None for each in self.objects.values())

    def unlisted(self) -> set[str]:
        """The locations that notifications name and no list had yet."""
        with self._lock:
            return {each.location for each in self.told if each.location} - self.objects.keys()

    def snapshot_told(self) -> list[Told]:
        with self._lock:
            return list(self.told)

    def unread(self) -> list[str]:
        with self._lock:
            return [location for location, each in self.objects.items() if each.md5 is None]


def md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
