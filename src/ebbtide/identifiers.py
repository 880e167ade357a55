"""ARNs, S3 locations and ids: parse, check, build. No I/O."""

import os
import re
import uuid
from urllib.parse import unquote, urlsplit

from ebbtide import clock
from ebbtide.values import value

ACCOUNT = "123456789012"
"""The account of the server's own access key."""


def time_ordered_id(now: float | None = None) -> str:
    """A UUID of version 7 (RFC 9562, 5.7) in its text form: ids made later sort after earlier ones."""
    milliseconds = int((clock.now() if now is None else now) * 1000)
    return _text_form((milliseconds & (1 << 48) - 1) << 80 | 7 << 76 | _random_128_bits() & (1 << 76) - 1)


def random_id() -> str:
    """A UUID of version 4 (RFC 9562, 5.4) in its text form."""
    return _text_form(_random_128_bits() & ~(0xF << 76) | 4 << 76)


def _text_form(value: int) -> str:
    """A UUID as text, its variant set. Every invocation has several; uuid.UUID takes three times as long."""
    digits = f"{value & ~(0b11 << 62) | 0b10 << 62:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_DRAWN_BYTES = 4096

_drawn: list[bytes] = []
os.register_at_fork(after_in_child=_drawn.clear)


def _random_128_bits() -> int:
    """From the system, drawn in advance: a call for each id costs more than all else of it."""
    while True:
        try:
            return int.from_bytes(_drawn.pop())  # atomic: two threads never get the same
        except IndexError:
            block = os.urandom(_DRAWN_BYTES)
            _drawn.extend(block[at : at + 16] for at in range(0, _DRAWN_BYTES, 16))


def first_id(at: float) -> str:
    """The lowest id that `time_ordered_id` makes in that millisecond; before 1970 it makes none."""
    return str(uuid.UUID(int=max(0, int(at * 1000)) << 80 | 7 << 76 | 0b10 << 62))


def time_of_id(id_: str) -> float:
    """When `time_ordered_id` made the id, to the millisecond. Raises ValueError for any other text."""
    made = uuid.UUID(id_)
    if made.version != 7 or str(made) != id_:
        raise ValueError(f"{id_} is not a time-ordered id")
    return (made.int >> 80) / 1000


def arn(service: str, region: str, account: str, resource: str) -> str:
    """Build an ARN of the standard partition; `resource` is the part after the account."""
    return f"arn:aws:{service}:{region}:{account}:{resource}"


@value
class Location:
    """Where an object lies: a bucket and a key, or for an output path a key prefix."""

    bucket: str
    key: str

    @property
    def uri(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


_VIRTUAL_HOST = re.compile(r"^(?P<bucket>.+)\.s3[.-]([a-z0-9-]+\.)?[^/]+$")
_PATH_HOST = re.compile(r"^s3[.-]")


def parse_location(uri: str) -> Location:
    """Find the bucket and key that an s3:// or https:// location names.

    https forms: `https://BUCKET.s3.REGION.amazonaws.com/KEY` (virtual host),
    `https://s3.REGION.amazonaws.com/BUCKET/KEY` and `http[s]://any.host:port/BUCKET/KEY` (path style).
    Raises ValueError when no bucket is named. Source: InputLocation, SageMaker Runtime 2017-05-13.
    """
    scheme, _, rest = uri.partition("://")
    if scheme == "s3":
        # Keys may hold "?" and "#", which are nothing special in an s3:// URI.
        bucket, _, key = rest.partition("/")
    elif scheme in ("http", "https"):
        parts = urlsplit(uri)
        path = unquote(parts.path).removeprefix("/")
        host = parts.hostname or ""
        virtual = None if _PATH_HOST.match(host) else _VIRTUAL_HOST.match(host)
        bucket, key = (virtual["bucket"], path) if virtual else path.partition("/")[::2]
    else:
        raise ValueError(f"{uri} is neither an s3:// nor an https:// location")
    if not bucket:
        raise ValueError(f"{uri} names no bucket")
    return Location(bucket, key)
