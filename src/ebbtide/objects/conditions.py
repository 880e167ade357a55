"""HTTP's conditional and range requests, as S3 answers them. Pure, no I/O."""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime

from ebbtide.objects.errors import InvalidRange, NoSuchKey, NotOffered, PreconditionFailed


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold of an object for it to be read; entity tags as the header has them, times in epoch s.

    prefix: of the headers' names, for the source of a copy.
    """

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: float | None = None
    if_unmodified_since: float | None = None
    prefix: str = ""

    def not_modified(self, etag: str, modified_at: float) -> bool:
        """Whether the reader already has the object: the answer is then 304.

        Raises PreconditionFailed. Source: RFC 9110, 13.2.2: an entity tag decides where both are given.
        """
        # The header carries whole seconds: a fraction would make every object newer than its own date.
        modified_at = int(modified_at)
        if self.if_match is not None:
            if not _matches(self.if_match, etag):
                raise PreconditionFailed(f"{self.prefix}If-Match")
        elif self.if_unmodified_since is not None and modified_at > self.if_unmodified_since:
            raise PreconditionFailed(f"{self.prefix}If-Unmodified-Since")
        if self.if_none_match is not None:
            return _matches(self.if_none_match, etag)
        return self.if_modified_since is not None and modified_at <= self.if_modified_since

    def check_copy(self, etag: str, modified_at: float, now: float) -> None:
        """Check the conditions of a copy's source; a time that is still to come is none.

        Raises PreconditionFailed. Source: CopyObject, S3 2006-03-01.
        """
        since = self.if_modified_since
        asked = replace(self, if_modified_since=None) if since is not None and since > now else self
        if asked.not_modified(etag, modified_at):
            name = "If-Modified-Since" if self.if_none_match is None else "If-None-Match"
            raise PreconditionFailed(f"{self.prefix}{name}")


def check_write(key: str, etag: str | None, *, if_match: str | None, if_none_match: str | None) -> None:
    """Check a conditional write of the key against the entity tag there now, None where no object is.

    Raises PreconditionFailed, NoSuchKey where what is to be replaced is not there, and NotImplemented as S3
    does for an entity tag in If-None-Match, which takes "*" only. Source: PutObject, S3 2006-03-01.
    """
    if if_none_match is not None:
        if if_none_match != "*":
            raise NotOffered(
                "A header you provided implies functionality that is not implemented",
                members={"Header": "If-None-Match"},
            )
        if etag is not None:
            raise PreconditionFailed("If-None-Match")
    if if_match is not None:
        if etag is None:
            raise NoSuchKey(key)
        if not _matches(if_match, etag):
            raise PreconditionFailed("If-Match")


def _matches(header: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]
    return "*" in tags or etag in tags


def is_unchanged(if_range: str | None, etag: str, modified_at: float) -> bool:
    """Whether an If-Range header names the object as it is, so that the Range beside it counts.

    It has an entity tag or the date in Last-Modified; a weak tag names no bytes. Source: RFC 9110, 13.1.5.
    """
    if if_range is None:
        return True
    if if_range.endswith('"'):
        return if_range == f'"{etag}"'
    return if_range == format_datetime(datetime.fromtimestamp(int(modified_at), UTC), usegmt=True)


_RANGE = re.compile(r"^bytes=([0-9]{0,18})-([0-9]{0,18})$")


def byte_range(header: str, size_bytes: int) -> tuple[int, int] | None:
    """The first byte's offset and the number of bytes that a Range header asks of an object.

    None when the header asks for all: several ranges or a malformed one are ignored, as S3 does.
    Raises InvalidRange. Source: RFC 9110, 14.1.2.
    """
    found = _RANGE.match(header.replace(" ", ""))
    if not found or found[1] == found[2] == "":
        return None
    if not found[1]:
        length = min(int(found[2]), size_bytes)
        if not length:
            raise InvalidRange(header, size_bytes)
        return size_bytes - length, length
    start = int(found[1])
    last = int(found[2]) if found[2] else size_bytes - 1
    if found[2] and last < start:
        return None
    if start >= size_bytes:
        raise InvalidRange(header, size_bytes)
    return start, min(last, size_bytes - 1) - start + 1
