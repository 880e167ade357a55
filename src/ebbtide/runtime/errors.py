"""The two failures that a model server tells others of; anything else is a defect, of it or of user code."""


class LoadFailure(Exception):
    """The model cannot be served. The message names the cause in one line; it becomes the FailureReason."""


class BadRequest(Exception):
    """The request cannot be served as it is; the caller gets 400 and this message."""
