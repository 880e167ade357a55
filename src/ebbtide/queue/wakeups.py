"""Who waits for work is told of it the moment it is committed, instead of asking again and again; a worker
with free slots is given it in that very commit.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from ebbtide import clock
from ebbtide.endpoints import Endpoint
from ebbtide.queue import invocations
from ebbtide.queue.invocations import Claim


class Worker(Protocol):
    """An instance of an endpoint, that works on what is claimed for it. Used on the event loop only."""

    @property
    def endpoint(self) -> Endpoint: ...

    @property
    def instance_id(self) -> str: ...

    def free(self) -> int:
        """How many slots it could reserve now."""

    def reserve(self, slots: int) -> "Reservation":
        """Keep so many free slots for a claim that the caller commits. It takes no other meanwhile, until the
        caller has called `fill`.
        """

    def fill(self, claims: Sequence[Claim]) -> None:
        """Start what was claimed for the reserved slots; those left over are free again."""

    def start(self, claims: Sequence[Claim]) -> None:
        """Start what was claimed in the place of what has just ended."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """Slots of a worker that are kept for a claim. alone: it has nothing in work."""

    worker: Worker
    slots: int
    alone: bool


def claim_for(worker: Worker, *, lease_s: float) -> "partial[list[Claim]]":
    """The work that claims for a worker now; it lacks how many, the `limit`."""
    return partial(
        invocations.claim,
        endpoint_id=worker.endpoint.id,
        instance_id=worker.instance_id,
        lease_s=lease_s,
        now=clock.now(),
    )


class Subscription:
    """`event` is set at each change of what was subscribed to; the waiter clears it before it looks.

    Of a subscription to every endpoint, `ignored` holds the ids of those whose changes do not set it.
    """

    def __init__(self, wakeups: "Wakeups", endpoint_id: str | None) -> None:
        self.event = asyncio.Event()
        self.ignored: frozenset[str] = frozenset()
        self._wakeups = wakeups
        self._endpoint_id = endpoint_id

    def close(self) -> None:
        self._wakeups._drop(self._endpoint_id, self)


class Wakeups:
    """Changes of endpoints' queues: arrivals, releases, cancellations; and the workers that are here.

    tell: tells the servers beside this one of an endpoint's change.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._tell = tell
        self._waiting: dict[str | None, set[Subscription]] = {}
        self._workers: dict[tuple[str, str], list[Worker]] = {}

    @contextmanager
    def enlist(self, worker: Worker) -> Iterator[None]:
        """Have the worker given arrivals by whoever accepts them."""
        name = (worker.endpoint.account, worker.endpoint.name)
        self._workers.setdefault(name, []).append(worker)
        try:
            yield
        finally:
            self._workers[name].remove(worker)
            if not self._workers[name]:
                del self._workers[name]

    def reserve(self, account: str, endpoint_name: str, wanted: int) -> list[Reservation]:
        """Up to `wanted` free slots of workers of that account's endpoint, those of the idlest first."""
        reserved = []
        workers = self._workers.get((account, endpoint_name), ())
        for worker in sorted(workers, key=lambda each: each.free(), reverse=True):
            slots = min(wanted, worker.free())
            if slots <= 0:
                break
            reserved.append(worker.reserve(slots))
            wanted -= slots
        return reserved

    def subscribe(self, endpoint_id: str | None) -> Subscription:
        """Be told of one endpoint's changes, or with None of every endpoint's."""
        subscription = Subscription(self, endpoint_id)
        self._waiting.setdefault(endpoint_id, set()).add(subscription)
        return subscription

    def notify(self, endpoint_id: str) -> None:
        """Wake those who wait for this endpoint, on any server; called on the event loop after the commit."""
        self.wake(endpoint_id)
        if self._tell is not None:
            self._tell(endpoint_id)

    def wake_all(self) -> None:
        """Wake everyone who waits here: something may have happened that nobody has told of."""
        for waiting in list(self._waiting.values()):
            for subscription in waiting:
                subscription.event.set()

    def wake(self, endpoint_id: str) -> None:
        """Wake those who wait here: another server has told of a change."""
        for subscription in self._waiting.get(endpoint_id, ()):
            subscription.event.set()
        for subscription in self._waiting.get(None, ()):
            if endpoint_id not in subscription.ignored:
                subscription.event.set()

    def _drop(self, endpoint_id: str | None, subscription: Subscription) -> None:
        waiting = self._waiting.get(endpoint_id, set())
        waiting.discard(subscription)
        if not waiting:
            self._waiting.pop(endpoint_id, None)
