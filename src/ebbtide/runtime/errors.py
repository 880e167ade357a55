"""The failures that a model server tells others of; anything else is a defect, of it or of user code."""

import errno
import os


class LoadFailure(Exception):
    """The model cannot be served. The message names the cause in one line; it becomes the FailureReason."""


class NoRoom(LoadFailure):
    """The disk was full; once it is not, the model may be served."""


class BadRequest(Exception):
    """The request cannot be served as it is; the caller gets 400 and this message."""


def reason(error: BaseException) -> str:
    """Why a model cannot be served, for an operator: what we found out ourselves, or what was raised."""
    return str(error) if isinstance(error, LoadFailure) else f"Loading the model raised {one_line(error)}"


def exit_status(error: BaseException) -> int:
    """The exit status of a process that ends for this: EX_TEMPFAIL where the disk was full, else 1."""
    found: BaseException | None = error
    while found is not None:
        full = isinstance(found, OSError) and found.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(found, NoRoom):
            return os.EX_TEMPFAIL
        found = found.__cause__ or found.__context__
    return 1


def one_line(error: BaseException) -> str:
    """An exception's kind and the first line of its message: the trace and the rest are in the log."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
