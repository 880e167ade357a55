"""JSON that comes from anybody."""

import json
from collections.abc import Iterable
from typing import Any

MOST_LEVELS = 100
"""How deep it may be nested: what reads the value follows it by recursion, which has an end."""


def parse_json(text: str | bytes) -> Any:
    """The value that the text spells. Raises ValueError, also for what is nested too deep to be read."""
    try:
        document = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    layer = [document]
    for _ in range(MOST_LEVELS):
        layer = [child for node in layer for child in _children(node)]
        if not layer:
            return document
    raise ValueError("it is nested too deep")


def _children(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()
