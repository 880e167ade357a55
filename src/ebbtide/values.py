"""Values that are made in numbers for every invocation."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def value(cls: type[T]) -> type[T]:
    """A dataclass whose instances nobody changes: the type checker sees to it, not each instance.

    Python's own frozen ones set every field by a call, and so take five times as long to make.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)
