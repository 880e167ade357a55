"""Who follows invocations is told of each change of their states, after it was committed.

Within this process; nothing is kept for those who come later or read too slowly.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from ebbtide.values import value

MAX_UNREAD = 10_000
"""Changes kept for a follower who does not take them: then it is told that it has missed some."""


@value
class Change:
    """An invocation came into `state`, one of `MOVES`, at `at`; or, with `progress`, came on in it."""

    invocation_id: str
    endpoint_id: str
    account: str
    state: str
    at: float
    progress: Mapping[str, int] | None = None


class Missed(Exception):
    """The follower read too slowly, and changes were dropped."""


class Follower:
    """The changes of what is followed, in the order of their commits."""

    def __init__(self) -> None:
        self._unread: asyncio.Queue[Change] = asyncio.Queue(MAX_UNREAD)
        self._missed = False

    async def next(self) -> Change:
        """The next change. Raises Missed when some were dropped before it."""
        if self._missed:
            raise Missed
        return await self._unread.get()

    def offer(self, change: Change) -> None:
        try:
            self._unread.put_nowait(change)
        except asyncio.QueueFull:
            self._missed = True


class Changes:
    """Passes changes on to their followers. Used on the event loop only.

    tell_others: tells the servers beside this one.
    """

    def __init__(self, tell_others: Callable[[Change], None] | None = None) -> None:
        self._tell_others = tell_others
        # By invocation or endpoint id; under None those who follow all.
        self._followers: dict[str | None, set[Follower]] = {}
        self._on_cancel: set[Callable[[str], None]] = set()

    @contextmanager
    def follow(self, of_id: str | None = None) -> Iterator[Follower]:
        """Follow one invocation or one endpoint's by its id, or all, from now on."""
        follower = Follower()
        self._followers.setdefault(of_id, set()).add(follower)
        try:
            yield follower
        finally:
            followers = self._followers[of_id]
            followers.discard(follower)
            if not followers:
                del self._followers[of_id]

    @contextmanager
    def on_cancel(self, stop: Callable[[str], None]) -> Iterator[None]:
        """Have `stop` called with the id of each invocation that was cancelled: it may be worked on."""
        self._on_cancel.add(stop)
        try:
            yield
        finally:
            self._on_cancel.discard(stop)

    def tell(self, changes: Iterable[Change]) -> None:
        """Tell of committed changes, in their order, on any server."""
        for change in changes:
            self.pass_on(change)
            if self._tell_others is not None:
                self._tell_others(change)

    def pass_on(self, change: Change) -> None:
        """Tell those who follow here: another server has told of a change."""
        if change.state == "cancelled":
            for stop in list(self._on_cancel):
                stop(change.invocation_id)
        if self._followers:
            for of_id in (change.invocation_id, change.endpoint_id, None):
                for follower in self._followers.get(of_id, ()):
                    follower.offer(change)
