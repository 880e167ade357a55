"""What InvokeEndpointAsync lacks and a request may say beside it, in the header X-Ebbtide-Submission.

The header is a JSON object in ASCII, for example {"priority": 5, "tags": {"project": "trends"},
"deduplicate": false, "ttl_s": 604800}. It may be signed like any other header, or not. `ebbtide.connect()`
gives a boto3 session that sends it.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ebbtide.errors import ServiceError
from ebbtide.queue.steering import MAX_PRIORITY, MIN_PRIORITY
from ebbtide.wire.json_text import parse_json

HEADER = "x-ebbtide-submission"

MAX_LENGTH = 32_768
MAX_TTL_S = 30 * 86_400
MAX_TAGS = 50
MAX_KEY_LENGTH, MAX_VALUE_LENGTH = 128, 256
_TAG_MARKS = frozenset("_.:/=+-@")


@dataclass(frozen=True, slots=True)
class Submission:
    """How a request wants to be queued.

    priority: from -100 to 100, higher first. tags: to find it by. deduplicate: False keeps it from sharing
    the outcome of an identical one, where its endpoint does that. ttl_s: how long it may wait in the queue,
    up to 30 days, in place of RequestTTLSeconds, which ends at AWS's six hours.
    """

    priority: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    deduplicate: bool = True
    ttl_s: int | None = None


DEFAULT = Submission()


def read(headers: Mapping[str, str]) -> Submission:
    """What the request's headers say; names are in lower case. Raises ServiceError naming the wrong field."""
    text = headers.get(HEADER)
    if text is None:
        return DEFAULT
    given = _parsed(text)
    unknown = [name for name in given if name not in ("priority", "tags", "deduplicate", "ttl_s")]
    if unknown:
        raise _refused(f"it has no field {unknown[0]!r}")
    deduplicate = given.get("deduplicate", True)
    if not isinstance(deduplicate, bool):
        raise _refused("deduplicate must be true or false")
    return Submission(
        _priority(given.get("priority", 0)),
        _tags(given.get("tags", {})),
        deduplicate,
        _ttl_s(given.get("ttl_s")),
    )


def _priority(value: object) -> int:
    """A priority as given. Raises ServiceError when it is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not MIN_PRIORITY <= value <= MAX_PRIORITY:
        raise _refused(f"priority must be a whole number from {MIN_PRIORITY} to {MAX_PRIORITY}")
    return value


def _ttl_s(value: object) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_TTL_S:
        raise _refused(f"ttl_s must be a whole number of seconds from 1 to {MAX_TTL_S}")
    return value


def _parsed(text: str) -> dict[str, Any]:
    if len(text) > MAX_LENGTH:
        raise _refused(f"it has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    try:
        given = parse_json(text)
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise _refused('it must be a JSON object such as {"priority": 5}')
    return given


def _tags(given: object) -> Mapping[str, str]:
    if not isinstance(given, dict):
        raise _refused("tags must be an object of keys and values")
    if len(given) > MAX_TAGS:
        raise _refused(f"tags has {len(given)} pairs; at most {MAX_TAGS} are allowed")
    for key, value in given.items():
        if not 1 <= len(key) <= MAX_KEY_LENGTH:
            raise _refused(f"tags: the key {key!r} must have 1 to {MAX_KEY_LENGTH} characters")
        if key.lower().startswith("aws:"):
            raise _refused(f"tags: the key {key!r} begins with aws:, which AWS keeps for itself")
        if not isinstance(value, str) or len(value) > MAX_VALUE_LENGTH:
            raise _refused(
                f"tags: the value of {key!r} must be a text of at most {MAX_VALUE_LENGTH} characters"
            )
        for text in (key, value):
            if not all(_is_tag_character(character) for character in text):
                raise _refused(f"tags: {text!r} may hold letters, digits, spaces and _ . : / = + - @ only")
    return given


def _is_tag_character(character: str) -> bool:
    # Letters, numbers and separators of every script, as in AWS's ^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$
    return character in _TAG_MARKS or unicodedata.category(character)[0] in "LNZ"


def _refused(fact: str) -> ServiceError:
    return ServiceError(f"The header X-Ebbtide-Submission is not valid: {fact}.", code="ValidationError")
