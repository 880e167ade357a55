"""Who waits for work is told of it the moment it is committed, instead of asking again and again."""

import asyncio
from collections.abc import Callable


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
    """Changes of endpoints' queues: arrivals, releases, cancellations.

    tell: tells the servers beside this one of an endpoint's change.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._tell = tell
        self._waiting: dict[str | None, set[Subscription]] = {}

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
