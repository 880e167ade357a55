"""JSON that comes from anybody."""

import json
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """The value that the text spells. Raises ValueError, also for what is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
