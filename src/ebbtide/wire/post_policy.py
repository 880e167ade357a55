"""The policy of a browser's upload: which forms its signer allows, and until when. Pure.

Source: POST policy, Amazon S3 API Reference.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ebbtide.errors import ServiceError
from ebbtide.wire.json_text import parse_json

LARGEST_BYTES = 5 << 30

_FREE = frozenset(("awsaccesskeyid", "file", "policy", "signature", "x-amz-signature"))
"""Fields that need no condition; nor do those that begin with x-ignore-."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long the file may be, both ends included."""

    least_bytes: int = 0
    most_bytes: int = LARGEST_BYTES


@dataclass(frozen=True, slots=True)
class _Condition:
    """That a field has this value, or begins with it. `text` is the condition as its author wrote it."""

    field: str
    value: str
    prefix: bool
    text: str

    def holds(self, fields: Mapping[str, str]) -> bool:
        found = fields.get(self.field)
        if found is None:
            return False
        if not self.prefix:
            return found == self.value
        # A list of content types must match in each of them.
        values = found.split(",") if self.field == "content-type" else [found]
        return all(value.strip().startswith(self.value) for value in values)


def check(policy: str, fields: Mapping[str, str], *, now: float) -> Sizes:
    """Check that the policy allows the form; how long its file may be.

    policy: in base64. fields: by name in lower case, the bucket among them, `${filename}` filled in.
    Raises ServiceError InvalidPolicyDocument, and AccessDenied naming the condition that does not hold.
    """
    document = _document(policy)
    if now > _expiration(document):
        raise _denied("Policy expired.")
    conditions, sizes = _conditions(document)
    for condition in conditions:
        if not condition.holds(fields):
            raise _denied(f"Policy Condition failed: {condition.text}")
    covered = _FREE | {condition.field for condition in conditions}
    extra = [name for name in fields if name not in covered and not name.startswith("x-ignore-")]
    if extra:
        raise _denied(f"Extra input fields: {', '.join(sorted(extra))}")
    return sizes


def _document(policy: str) -> dict[str, Any]:
    try:
        document = parse_json(base64.b64decode(policy, validate=True))
    except ValueError:
        raise _invalid("Invalid JSON.") from None
    if not isinstance(document, dict):
        raise _invalid("Invalid JSON.")
    return document


def _expiration(document: Mapping[str, Any]) -> float:
    text = document.get("expiration")
    if text is None:
        raise _invalid("Policy missing expiration.")
    try:
        if not isinstance(text, str) or not _TIME.fullmatch(text):
            raise ValueError
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise _invalid(f"Invalid 'expiration' value: {text!r}") from None


def _conditions(document: Mapping[str, Any]) -> tuple[list[_Condition], Sizes]:
    listed = document.get("conditions")
    if not isinstance(listed, list):
        raise _invalid("Policy missing conditions.")
    conditions: list[_Condition] = []
    sizes = Sizes()
    for each in listed:
        if isinstance(each, list) and len(each) == 3 and str(each[0]).lower() == "content-length-range":
            sizes = _sizes(each)
        else:
            conditions.append(_field(each))
    return conditions, sizes


def _sizes(condition: list[Any]) -> Sizes:
    try:
        least, most = (int(value) for value in condition[1:])
    except (TypeError, ValueError, OverflowError):
        raise _not_simple(condition) from None
    return Sizes(least, min(most, LARGEST_BYTES))


def _field(condition: Any) -> _Condition:
    """`{"acl": "private"}` or `["eq", "$acl", "private"]`."""
    if isinstance(condition, dict):
        if len(condition) != 1:
            raise _invalid(
                "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified."
            )
        [(name, value)] = condition.items()
        if not isinstance(value, str):
            raise _not_simple(condition)
        return _Condition(name.lower(), value, False, json.dumps(["eq", f"${name}", value]))
    match condition:
        case [str(operator), str(name), str(value)]:
            kind = operator.lower()
            if kind in ("eq", "starts-with") and name.startswith("$"):
                return _Condition(name[1:].lower(), value, kind == "starts-with", json.dumps(condition))
    raise _not_simple(condition)


def _not_simple(condition: Any) -> ServiceError:
    return _invalid(f"Invalid condition: {json.dumps(condition)[:200]}")


def _invalid(detail: str) -> ServiceError:
    return ServiceError(f"Invalid Policy: {detail}", code="InvalidPolicyDocument")


def _denied(detail: str) -> ServiceError:
    return ServiceError(f"Invalid according to Policy: {detail}", code="AccessDenied", http_status=403)
