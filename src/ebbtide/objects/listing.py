"""Pages of keys: prefix, delimiter and continuation as S3's list operations mean them. Pure, no I/O."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """Whatever is listed by its key."""

    @property
    def key(self) -> str: ...


K = TypeVar("K", bound=Keyed)

Scan = Callable[[str, int], Sequence[K]]
"""`scan(lower, limit)`: what has keys >= lower, in the order of the keys' code points, at most `limit`."""

BATCH = 1000
"""Keys read at a time where common prefixes may swallow any number of them."""


@dataclass(frozen=True, slots=True)
class Page(Generic[K]):
    """One page of a listing. `next_after` is the last thing listed, None when nothing follows."""

    contents: list[K]
    common_prefixes: list[str]
    next_after: str | None


def page(scan: "Scan[K]", *, prefix: str, delimiter: str, after: str, limit: int) -> Page[K]:
    """List what comes after `after`: at most `limit` keys and common prefixes together.

    Keys that share what lies between `prefix` and the next `delimiter` are listed as that common prefix,
    once. A common prefix is after `after` as a whole or not listed. Each key is looked at once, or skipped
    by a seek, so a folder of a million keys costs one batch.
    """
    contents: list[K] = []
    prefixes: list[str] = []
    last = None
    cursor: str | None = max(prefix, _following(after)) if after else prefix
    if common := common_prefix(after, prefix, delimiter):
        cursor = _beyond(common)
    while cursor is not None and limit > 0:
        size = BATCH if delimiter else limit - len(contents) + 1
        batch = scan(cursor, size)
        for item in batch:
            if not item.key.startswith(prefix):
                return Page(contents, prefixes, None)
            if cursor is None or item.key < cursor:
                continue  # in the common prefix just listed
            if len(contents) + len(prefixes) == limit:
                return Page(contents, prefixes, last)
            if common := common_prefix(item.key, prefix, delimiter):
                prefixes.append(common)
                last, cursor = common, _beyond(common)
            else:
                contents.append(item)
                last, cursor = item.key, _following(item.key)
        if len(batch) < size:
            break
    return Page(contents, prefixes, None)


def common_prefix(key: str, prefix: str, delimiter: str) -> str | None:
    """The key up to and with the first delimiter behind the prefix."""
    if not delimiter or not key.startswith(prefix):
        return None
    end = key.find(delimiter, len(prefix))
    return None if end < 0 else key[: end + len(delimiter)]


def _following(key: str) -> str:
    """The smallest string greater than the key."""
    return key + "\0"


def _beyond(prefix: str) -> str | None:
    """The smallest string greater than everything that starts with the prefix; None when there is none."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    # Surrogates are no characters of their own, so no key holds one.
    following = 0xE000 if kept[-1] == "\ud7ff" else ord(kept[-1]) + 1
    return kept[:-1] + chr(following)
