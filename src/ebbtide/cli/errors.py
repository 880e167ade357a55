"""Failures that a user can mend: a command prints the message in one line and ends with status 1."""


class CommandError(Exception):
    """A command could not do what was asked; the message says why."""


class NotRunningError(CommandError):
    """There is no server to talk to, or it did not start."""


class ArticleError(CommandError):
    """A file cannot be summarised."""


class DeploymentError(CommandError):
    """The endpoint did not come to stand as wanted."""


class InvocationsError(CommandError):
    """Some of the documents could not be summarised."""


class DemoError(CommandError):
    """The demonstration did not go as it should."""
