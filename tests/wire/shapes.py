"""Values of any shape of a service model, for round trips against botocore."""

import string
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import botocore.session
from botocore.model import ServiceModel, Shape
from hypothesis import strategies as st

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=12)
TOKENS = st.text(string.ascii_letters + string.digits + "-_.", min_size=1, max_size=12)
SECONDS = st.integers(0, 2_000_000_000)


@cache
def service_model(service: str) -> ServiceModel:
    """botocore's own reading of a service's model."""
    return botocore.session.Session().get_service_model(service)


def values(shape: Shape, *, depth: int = 0) -> st.SearchStrategy[Any]:
    """What botocore takes for a shape, and what an operation may answer: timestamps are datetimes."""
    in_header = shape.serialization.get("location") in ("header", "headers")
    match shape.type_name:
        case "structure":
            return structures(shape, depth=depth)
        case "list":
            # No empty lists: flattened ones leave no trace in XML.
            return st.lists(values(_in_place(shape.member, shape), depth=depth + 1), min_size=1, max_size=2)
        case "map":
            keys = TOKENS.map(str.lower) if in_header else values(shape.key)
            inner = TOKENS if in_header else values(shape.value, depth=depth + 1)
            return st.dictionaries(keys, inner, min_size=1, max_size=2)
        case "string":
            if getattr(shape, "enum", None):
                return st.sampled_from(shape.enum)
            return TOKENS if in_header else TEXT
        case "integer" | "long":
            return st.integers(-1000, 1_000_000)
        case "float" | "double":
            return st.floats(allow_nan=False, allow_infinity=False, width=32)
        case "boolean":
            return st.booleans()
        case "timestamp":
            whole = in_header or shape.serialization.get("timestampFormat") == "rfc822"
            milliseconds = st.just(0) if whole else st.integers(0, 999)
            return st.tuples(SECONDS, milliseconds).map(
                lambda given: EPOCH + timedelta(seconds=given[0], milliseconds=given[1])
            )
        case "blob":
            return st.binary(min_size=1, max_size=24)
    raise ValueError(f"no values for {shape.type_name}")


def structures(
    shape: Shape, *, depth: int = 0, without: frozenset[str] = frozenset()
) -> st.SearchStrategy[dict[str, Any]]:
    """A structure's required members and any of the others; deep down the required ones only."""
    members = {name: member for name, member in shape.members.items() if name not in without}
    required = {
        name: values(members[name], depth=depth + 1) for name in shape.required_members if name in members
    }
    if shape.is_tagged_union:
        return st.one_of([values(m, depth=depth + 1).map(lambda v, n=n: {n: v}) for n, m in members.items()])
    if depth >= 3:
        return st.fixed_dictionaries(required)
    optional = {name: values(m, depth=depth + 1) for name, m in members.items() if name not in required}
    return st.fixed_dictionaries(required, optional=optional)


def _in_place(element: Shape, owner: Shape) -> Shape:
    """An element in a header is written as the header is."""
    if "location" in owner.serialization:
        element.serialization.setdefault("location", owner.serialization["location"])
    return element


def plain(value: Any) -> Any:
    """A value with its timestamps as epoch seconds, as operations get them.

    Without what is empty: XML and forms tell an empty structure or list from none by nothing.
    """
    if isinstance(value, dict):
        items = {name: plain(item) for name, item in value.items()}
        return {name: item for name, item in items.items() if item not in ({}, [])}
    if isinstance(value, list):
        return [item for item in map(plain, value) if item not in ({}, [])]
    if isinstance(value, datetime):
        return round((value - EPOCH).total_seconds(), 3)
    if isinstance(value, float):
        return round(value, 3)
    return value
