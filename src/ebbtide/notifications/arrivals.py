"""Who waits for a queue's messages is told of them the moment they are committed (long polling)."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Arrivals:
    """The receivers that wait within this process, by queue ARN. Used on the event loop only.

    tell: tells the servers beside this one of an arrival.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._tell = tell
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
        """Wake those who wait for this queue, on any server; called after the commit."""
        self.wake(queue_arn)
        if self._tell is not None:
            self._tell(queue_arn)

    def wake(self, queue_arn: str) -> None:
        """Wake those who wait here: another server has told of an arrival."""
        for event in self._waiting.get(queue_arn, ()):
            event.set()

    def close(self) -> None:
        """Wake everyone for the last time: the server stops, and a long poll must not hold it up."""
        self.closed = True
        for waiting in self._waiting.values():
            for event in waiting:
                event.set()
