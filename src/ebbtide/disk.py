"""A disk that takes nothing now, in the words of the rest: what needs it waits until it does."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ebbtide.errors import Unavailable

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

OUT_OF_REACH = frozenset(
    {errno.EROFS, errno.EACCES, errno.EPERM, errno.ESTALE, errno.ENODEV}
    | {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
)
"""What an operator can put right, and nothing of ours is lost by: a file system that was remounted for
reading, permissions, a stale mount, limits (of processes too).
"""


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Raises Unavailable, naming what there is no room for, when the disk or its quota is full, or takes
    nothing for another reason that may pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise Unavailable(f"There is no room for {what}: the disk is full.") from error
        if error.errno in OUT_OF_REACH or error.errno == errno.EIO:
            raise Unavailable(f"There is no place for {what} now: {error.strerror}.") from error
        raise
