"""What a model server reports while it works on an invocation, kept and told at a bearable rate."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType

from sqlalchemy import Connection

from ebbtide import clock
from ebbtide.database import Database
from ebbtide.errors import Unavailable
from ebbtide.queue import progress
from ebbtide.queue.changes import Change, Changes
from ebbtide.queue.invocations import Claim
from ebbtide.queue.progress import Progress

log = logging.getLogger(__name__)

PROGRESS_HEADER = "x-ebbtide-progress"
"""Of an interim response; its value is what `Progress.reported` reads."""

INTERVAL_S = 1.0
"""The least time between two writes for one invocation: of what is reported meanwhile the last counts."""


class Reports:
    """One claim's: a context within which it is called with each interim response's headers."""

    def __init__(self, held: Claim, database: Database, changes: Changes) -> None:
        self._held = held
        self._database = database
        self._changes = changes
        self._unwritten: dict[int, Progress] = {}
        self._writing: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    def __call__(self, headers: Mapping[str, str]) -> None:
        if PROGRESS_HEADER not in headers:
            return
        try:
            reached = Progress.reported(headers[PROGRESS_HEADER], at=clock.now())
        except ValueError as error:
            # A model's own code shares the process with ours, and may write what it likes.
            log.warning("%s: a report of no known form: %s", self._held.invocation.inference_id, error)
            return
        self._unwritten[reached.level] = reached
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_in_turn())

    async def __aenter__(self) -> "Reports":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Write what is left, unless the claim is given up this moment."""
        if self._writing is None:
            return
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._writing.cancel()
            return
        self._over.set()
        await self._writing

    async def _write_in_turn(self) -> None:
        while self._unwritten:
            await self._write()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), INTERVAL_S)

    async def _write(self) -> None:
        reached = list(self._unwritten.values())
        self._unwritten.clear()

        def record(connection: Connection) -> None:
            for one in reached:
                progress.record(connection, self._held, one)

        try:
            await self._database.write(record)
        except Unavailable as error:
            log.warning("%s: progress not kept now: %s", self._held.invocation.inference_id, error)
            return
        invocation = self._held.invocation
        self._changes.tell(
            Change(invocation.id, invocation.endpoint_id, invocation.account, "claimed", one.at, one.told())
            for one in reached
        )
