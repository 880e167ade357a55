"""Whether parameters keep the model's constraints, said in AWS's own words."""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any

from ebbtide.wire.models import Member, Operation, Shape
from ebbtide.wire.names import S3_VALIDATION_CODES

Params = dict[str, Any]

_REQUIRED = "Member must not be null"
_NO_NUL = "Member must not contain the character U+0000"
"""Not in the models: no text of ours can hold it, since PostgreSQL's cannot."""

_CHECKED_BY_OPERATIONS = frozenset(
    ("CopySource", "Event", "FilterRuleName", "MessageSystemAttributeName", "QueueAttributeName")
)
"""Strings whose services take more than their models say, or refuse them in other words.

A copy's source may come percent-encoded, its slash included. S3 knows a filter's Prefix and Suffix as well as
prefix and suffix, and has an InvalidArgument for events that are none. SQS takes names of message attributes
where those of queue attributes are modelled.
"""


def validate(operation: Operation, params: Params) -> str | None:
    """AWS's message on all constraints that `params` breaks, None when it keeps them.

    Constraints: required, range, length, pattern, enumeration. Names of instance types are not checked
    against the model's: an operator may add types, and AWS adds some each month.
    """
    if operation.input is None:
        return None
    broken = list(_structure(operation.input, params, ""))
    if operation.service.name == "sqs":
        # It names the characters that its messages may have, and refuses others in words of its own.
        broken = [each for each in broken if not each.endswith(_NO_NUL)]
    if not broken:
        return None
    noun = "error" if len(broken) == 1 else "errors"
    return f"{len(broken)} validation {noun} detected: {'; '.join(broken)}"


_PLACE = re.compile(r" at '([^']*)' failed to satisfy")


def refusal_code(operation: Operation, broken: str) -> str:
    """The service's code for what `validate` says."""
    place = _PLACE.search(broken)
    if operation.service.name != "s3" or operation.input is None or place is None:
        return operation.service.validation_code
    if place[1] in S3_VALIDATION_CODES:
        return S3_VALIDATION_CODES[place[1]]
    document = operation.input.payload
    inside = document is not None and place[1].startswith(f"{_join('', document)}.")
    return "MalformedXML" if inside else operation.service.validation_code


def too_long(payload: Member) -> str:
    """AWS's message on a payload over its maximum, which nobody reads to its end to say more."""
    return (
        f"1 validation error detected: Value at '{_join('', payload.name)}' failed to satisfy constraint: "
        f"Member must have length less than or equal to {payload.shape.maximum}"
    )


def _structure(shape: Shape, params: Params, path: str) -> Iterator[str]:
    for name in shape.required:
        if params.get(name) is None and not shape.members[name].streaming:
            yield _broken(None, _join(path, name), _REQUIRED)
    for name, value in params.items():
        member = shape.members[name]
        if value is not None and not member.streaming:
            yield from _value(member.shape, value, _join(path, name))


def _join(path: str, name: str) -> str:
    name = name[0].lower() + name[1:]
    return f"{path}.{name}" if path else name


def _value(shape: Shape, value: Any, path: str) -> Iterator[str]:
    kind = shape.kind
    if kind == "string":
        yield from _string(shape, value, path)
    elif kind == "structure":
        yield from _structure(shape, value, path)
    elif kind == "list":
        yield from _length(shape, len(value), value, path)
        for number, item in enumerate(value, 1):
            yield from _element(shape.element, item, f"{path}.{number}.member")
    elif kind == "map":
        yield from _length(shape, len(value), value, path)
        for key, item in value.items():
            yield from _value(shape.key.shape, key, f"{path}.key")
            yield from _element(shape.value, item, f"{path}.{key}.member")
    elif kind == "blob":
        yield from _length(shape, len(value), "java.nio.HeapByteBuffer", path)
    elif kind in ("integer", "long", "double", "float"):
        yield from _number(shape, value, path)


_LARGEST = {"integer": 2**31 - 1, "long": 2**63 - 1}
"""What the types hold; the numbers of JSON, and Python's, have no end."""


def _number(shape: Shape, value: float, path: str) -> Iterator[str]:
    largest = _LARGEST.get(shape.kind)
    maximum = shape.maximum if shape.maximum is not None else largest
    minimum = shape.minimum if shape.minimum is not None or largest is None else -largest - 1
    if maximum is not None and value > maximum:
        yield _broken(value, path, f"Member must have value less than or equal to {maximum}")
    if minimum is not None and value < minimum:
        yield _broken(value, path, f"Member must have value greater than or equal to {minimum}")


def _element(element: Member, item: Any, path: str) -> Iterator[str]:
    if item is None:
        yield _broken(None, path, _REQUIRED)
    else:
        yield from _value(element.shape, item, path)


def _string(shape: Shape, value: str, path: str) -> Iterator[str]:
    yield from _length(shape, len(value), value, path)
    if "\0" in value:
        yield _broken(value, path, _NO_NUL)
    if shape.name in _CHECKED_BY_OPERATIONS:
        return
    if shape.pattern is not None and not pattern(shape.pattern).fullmatch(value):
        yield _broken(value, path, f"Member must satisfy regular expression pattern: {shape.pattern}")
    if shape.enum and value not in shape.enum and not shape.name.endswith("InstanceType"):
        yield _broken(value, path, f"Member must satisfy enum value set: [{', '.join(shape.enum)}]")


def _length(shape: Shape, length: int, value: Any, path: str) -> Iterator[str]:
    if shape.maximum is not None and length > shape.maximum:
        yield _broken(value, path, f"Member must have length less than or equal to {shape.maximum}")
    if shape.minimum is not None and length < shape.minimum:
        yield _broken(value, path, f"Member must have length greater than or equal to {shape.minimum}")


def _broken(value: Any, path: str, rule: str) -> str:
    shown = "null" if value is None else f"'{_shown(value)}'"
    return f"Value {shown} at '{path}' failed to satisfy constraint: {rule}"


SHOWN_CHARACTERS = 1024
"""Most of a value that a message repeats."""


def _shown(value: Any) -> str:
    text = f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


# Patterns: the models write them in Java's dialect


@cache
def pattern(source: str) -> re.Pattern[str]:
    """Python's expression for a pattern of a service model, to be matched against the whole value."""
    text = source.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")
    # Java takes a "-" after a class such as \w for itself; Python takes it for a broken range.
    text = re.sub(r"(\\[wdsWDS])-(?=[^\]])", r"\1\\-", text)
    # Two quantifiers in a row, `${1,128}`: Java lets an anchor repeat.
    text = re.sub(r"\$\{\d+,\d+\}$", "$", text)
    text = text.replace(r"\z", r"\Z")
    text = _CLASS_OR_PROPERTY.sub(_with_ranges, text)
    return re.compile(text)


_POSIX = {"ASCII": r"\x00-\x7f", "Alnum": "a-zA-Z0-9", "Print": r"\x20-\x7e", "Graph": r"\x21-\x7e"}


_PROPERTY = re.compile(r"\\p\{(\w+)\}")
_CLASS_OR_PROPERTY = re.compile(rf"\[(?:\\.|[^\]\\])*\]|{_PROPERTY.pattern}")


def _with_ranges(found: re.Match[str]) -> str:
    """A character class with its properties as ranges; a property outside of one becomes a class."""
    ranges = _PROPERTY.sub(lambda each: _POSIX.get(each[1]) or _categories()[each[1]], found[0])
    return ranges if found[0].startswith("[") else f"[{ranges}]"


@cache
def _categories() -> dict[str, str]:
    """Unicode's categories, L and Lu alike -> their characters as ranges of a character class."""
    ranges: dict[str, list[tuple[int, int]]] = {}
    for code in (*range(0x34000), *range(0xE0000, 0xE0200)):  # there are no characters elsewhere
        category = unicodedata.category(chr(code))
        for name in (category[0], category):
            known = ranges.setdefault(name, [])
            if known and known[-1][1] == code - 1:
                known[-1] = (known[-1][0], code)
            else:
                known.append((code, code))
    return {
        name: "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in known)
        for name, known in ranges.items()
    }
