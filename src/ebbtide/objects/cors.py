"""CORS: which other sites' pages a browser lets use a bucket. Pure.

Source: Using cross-origin resource sharing, Amazon S3 user guide.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ebbtide.errors import ServiceError
from ebbtide.objects.errors import InvalidRequest

METHODS = ("GET", "PUT", "HEAD", "POST", "DELETE")
MOST_RULES = 100

Rule = Mapping[str, Any]
"""A CORSRule of PutBucketCors."""


def check(rules: Sequence[Rule]) -> None:
    """Raises InvalidRequest, and ServiceError MalformedXML for none or too many."""
    if not 1 <= len(rules) <= MOST_RULES:
        raise ServiceError(
            "The XML you provided was not well-formed or did not validate against our published schema",
            code="MalformedXML",
        )
    for rule in rules:
        for method in rule["AllowedMethods"]:
            if method not in METHODS:
                raise InvalidRequest(
                    f"Found unsupported HTTP method in CORS config. Unsupported method is {method}"
                )
        for member in ("AllowedOrigin", "AllowedHeader"):
            for pattern in rule.get(f"{member}s", ()):
                if pattern.count("*") > 1:
                    raise InvalidRequest(f'{member} "{pattern}" can not have more than one wildcard.')
        for header in rule.get("ExposeHeaders", ()):
            if "*" in header:
                raise InvalidRequest(
                    f'ExposeHeader "{header}" contains wildcard. We currently do not support wildcard for '
                    "ExposeHeader."
                )


def answer(
    rules: Iterable[Rule], origin: str, method: str, headers: Sequence[str] = ()
) -> dict[str, str] | None:
    """The headers for a page of that origin, by the first rule that allows the request; None if none does.

    headers: those that a preflight asks for.
    """
    for rule in rules:
        pattern = next((each for each in rule["AllowedOrigins"] if _matches(each, origin)), None)
        allowed = [each.lower() for each in rule.get("AllowedHeaders", ())]
        if (
            pattern is not None
            and method in rule["AllowedMethods"]
            and all(any(_matches(each, name.lower()) for each in allowed) for name in headers)
        ):
            return _headers(rule, origin, headers, anybody=pattern == "*")
    return None


def _matches(pattern: str, text: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return pattern == text
    return len(text) >= len(before) + len(after) and text.startswith(before) and text.endswith(after)


def _headers(rule: Rule, origin: str, asked: Sequence[str], *, anybody: bool) -> dict[str, str]:
    found = {
        "access-control-allow-origin": "*" if anybody else origin,
        "access-control-allow-methods": ", ".join(rule["AllowedMethods"]),
        "vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
    }
    if not anybody:
        found["access-control-allow-credentials"] = "true"
    if asked:
        found["access-control-allow-headers"] = ", ".join(name.lower() for name in asked)
    if exposed := rule.get("ExposeHeaders"):
        found["access-control-expose-headers"] = ", ".join(exposed)
    if (age_s := rule.get("MaxAgeSeconds")) is not None:
        found["access-control-max-age"] = str(age_s)
    # What a rule's author wrote goes into headers, which have no line breaks.
    return {name: re.sub(r"[\r\n\0]", "", value) for name, value in found.items()}
