"""The loop that tells those who watch buckets what happened there."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from sqlalchemy import Connection

from ebbtide import loops
from ebbtide.database import Database
from ebbtide.errors import ServiceError, Unavailable
from ebbtide.objects import events
from ebbtide.objects.events import ObjectEvent

log = logging.getLogger(__name__)

Told = Callable[[], None]
"""What is left to do on the event loop after the commit: to wake somebody."""

Handler = Callable[[Connection, ObjectEvent, float], Told | None]
"""Acts on an event within the transaction that removes it. Raises ServiceError to be asked again later,
Refused where that would be in vain."""

BATCH = 200
POLL_S = 1.0
"""Events of objects that the server itself writes wait this long at most; those of requests wake the loop."""

FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 300.0
GIVE_UP_AFTER_S = 14 * 86_400.0
ABANDONED_RETENTION_S = 14 * 86_400.0
SWEEP_INTERVAL_S = 600.0
FORGOTTEN_AT_ONCE = 250


class Refused(Exception):
    """The event will never be acted on, for the reason in the message."""


class Followers:
    """Hands the events of watched buckets to their handlers, by the watch's consumer."""

    def __init__(self, database: Database, handlers: Mapping[str, Handler]) -> None:
        self._database = database
        self._handlers = handlers
        self._woken = asyncio.Event()
        self._next_sweep_at = 0.0

    def wake(self) -> None:
        """Look for events now; called on the event loop after a commit in a watched bucket."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        await loops.run("followers", self.step, stop, self._woken)

    async def step(self, now: float) -> float:
        """Act on a batch of events; the delay before the next step, in s."""
        if now >= self._next_sweep_at:
            forget = partial(
                events.forget_abandoned, before=now - ABANDONED_RETENTION_S, limit=FORGOTTEN_AT_ONCE
            )
            full = await self._database.write(forget) == FORGOTTEN_AT_ONCE
            self._next_sweep_at = now if full else now + SWEEP_INTERVAL_S
        due = await self._database.read(lambda connection: events.due(connection, now, BATCH))
        # Each on its own, so that one that fails undoes no other; together they are one commit.
        await asyncio.gather(*(self._follow(event, now) for event in due))
        return 0.0 if len(due) == BATCH else POLL_S

    async def _follow(self, event: ObjectEvent, now: float) -> None:
        def act(connection: Connection) -> Told | None:
            if not events.take(connection, event):
                return None
            return self._handlers[event.consumer](connection, event, now)

        try:
            told = await self._database.write(act)
        except Unavailable:
            return  # the database's trouble, not the event's: it is due as it was
        except Refused as refused:
            await self._give_up(event, now, str(refused))
        except ServiceError as error:
            await self._put_off(event, now, f"{error.code}: {error.message}")
        except Exception:
            log.exception("%s of %s/%s", event.name, event.bucket, event.key)
            await self._put_off(event, now, "The server could not act on it; its log says why.")
        else:
            if told is not None:
                told()

    async def _put_off(self, event: ObjectEvent, now: float, error: str) -> None:
        if now - event.at >= GIVE_UP_AFTER_S:
            await self._give_up(event, now, error)
            return
        due_at = now + delay_s(event.attempt_count + 1)
        await self._database.write(partial(events.put_off, event=event, due_at=due_at, error=error))

    async def _give_up(self, event: ObjectEvent, now: float, error: str) -> None:
        log.warning("%s of %s/%s for %s: %s", event.name, event.bucket, event.key, event.target, error)
        await self._database.write(partial(events.abandon, event=event, at=now, error=error))


def delay_s(failed_count: int) -> float:
    """The wait after the nth failed attempt: doubling from 1 s to five minutes."""
    return float(min(FIRST_DELAY_S * 2.0 ** min(failed_count - 1, 32), LONGEST_DELAY_S))
