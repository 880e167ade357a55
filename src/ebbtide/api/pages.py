"""Lists that answer in pages. A token holds the key of a page's last item, so that what is created or
deleted between two pages neither repeats nor hides others.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterable
from typing import TypeVar

from ebbtide.errors import ServiceError
from ebbtide.wire.json_text import parse_json

T = TypeVar("T")

Key = tuple[str | float, ...]


def page(
    items: Iterable[T],
    key: Callable[[T], Key],
    *,
    limit: int,
    token: str | None,
    descending: bool = False,
    error_code: str = "ValidationException",
) -> tuple[list[T], str | None]:
    """The items behind the token in the order of their unique keys, `limit` at most, and the next token.

    Raises ServiceError with `error_code` for a token that no page gave.
    """
    ordered = sorted(items, key=key, reverse=descending)
    if token is not None:
        last = _key(token, error_code)
        ordered = [item for item in ordered if (key(item) < last if descending else key(item) > last)]
    if len(ordered) <= limit:
        return ordered, None
    return ordered[:limit], _token(key(ordered[limit - 1]))


def next_page(token: str | None) -> dict[str, str]:
    """The member of an answer that leads to the next page, if there is one."""
    return {} if token is None else {"NextToken": token}


def _token(key: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _key(token: str, error_code: str) -> Key:
    try:
        parts = parse_json(base64.b64decode(token, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError):
        parts = None
    if not isinstance(parts, list) or not all(isinstance(part, str | float | int) for part in parts):
        raise ServiceError("The pagination token is not one that a list operation returned.", code=error_code)
    return tuple(parts)
