"""Values that are made in numbers for every invocation."""

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, TypeVar, cast, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """A dataclass whose instances nobody changes: the type checker sees to it, not each instance.

    Python's own frozen ones set every field by a call, and so take five times as long to make.
    """
    made: Any = dataclass(slots=True, unsafe_hash=True)(cls)
    # Python's own way to pickle what has slots asks for each field by a call.
    read = attrgetter("__class__", *(each.name for each in fields(made)))
    made.__reduce__ = lambda self: (made, read(self)[1:])
    return cast("type[T]", made)
