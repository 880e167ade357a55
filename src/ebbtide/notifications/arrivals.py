"""Who waits for a queue's messages is told of them the moment they are committed (long polling)."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Arrivals:
    """The receivers that wait within this process, by queue ARN. Used on the event loop only."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self.closed = False

    @contextmanager
    def watch(self, queue_arn: str) -> Iterator[asyncio.Event]:
        """An event set at each arrival; the waiter clears it before it looks."""
        event = asyncio.Event()
        self._waiting.setdefault(queue_arn, set()).add(event)
        try:
            yield event
        finally:
            waiting = self._waiting[queue_arn]
            waiting.discard(event)
            if not waiting:
                del self._waiting[queue_arn]

    def notify(self, queue_arn: str) -> None:
        """Wake those who wait for this queue; called after the commit."""
        for event in self._waiting.get(queue_arn, ()):
            event.set()

    def close(self) -> None:
        """Wake everyone for the last time: the server stops, and a long poll must not hold it up."""
        self.closed = True
        for waiting in self._waiting.values():
            for event in waiting:
                event.set()
