"""An invocation's life, from its acceptance to its one published outcome.

A request becomes a row (`invocations.accept`), an instance's agent claims it under a lease (`claim`), and
one transaction moves it to its end together with its message and its metrics (`outcomes`). What a dead
agent held comes back, and what waited too long expires (`reaper`).
"""

from ebbtide.queue.invocations import (
    Backlog,
    Claim,
    Invocation,
    LeaseLost,
    backlog,
    backlogs,
)
from ebbtide.queue.retention import drop_endpoint

__all__ = ["Backlog", "Claim", "Invocation", "LeaseLost", "backlog", "backlogs", "drop_endpoint"]
