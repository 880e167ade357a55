"""The two failures that a model server tells others of; anything else is a defect, of it or of user code."""


class LoadFailure(Exception):
    """The model cannot be served. The message names the cause in one line; it becomes the FailureReason."""


class BadRequest(Exception):
    """The request cannot be served as it is; the caller gets 400 and this message."""


def reason(error: BaseException) -> str:
    """Why a model cannot be served, for an operator: what we found out ourselves, or what was raised."""
    return str(error) if isinstance(error, LoadFailure) else f"Loading the model raised {one_line(error)}"


def one_line(error: BaseException) -> str:
    """An exception's kind and the first line of its message: the trace and the rest are in the log."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
