"""A full disk, in the words of the rest: what needs room waits until there is some."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ebbtide.errors import Unavailable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Raises Unavailable, naming what there is no room for, when the disk or its quota is full."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise Unavailable(f"There is no room for {what}: the disk is full.") from error
        raise
