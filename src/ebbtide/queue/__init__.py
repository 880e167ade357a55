"""An invocation's life, from its acceptance to its one published outcome.

A request becomes a row (`intake`), an instance's agent has it under a lease (`invocations.claim`), and one
transaction moves it to its end together with its object, its message and its metrics (`completion`,
`outcomes`). What a dead agent held comes back, and what waited too long expires (`reaper`). Users see it
(`listing`, `estimates`, `changes`) and steer it (`steering`). The states and their moves: `tables`.
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
