"""The loop around a step. A step is an ordinary call a test can make; the loop has nothing to test."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from ebbtide import clock
from ebbtide.errors import Unavailable

log = logging.getLogger(__name__)

AFTER_FAILURE_S = 1.0

T = TypeVar("T")


async def until_available(
    work: Callable[[], Awaitable[T]],
    *,
    longest_wait_s: float = AFTER_FAILURE_S,
    tell: Callable[[str], Awaitable[None]] | None = None,
) -> T:
    """Do the work, again a second later while it is Unavailable, and then after twice as long each time up to
    `longest_wait_s`: for what must come about before all else.

    It must bear to be done twice. tell: gets the reason before each wait.
    """
    wait_s = AFTER_FAILURE_S
    while True:
        try:
            return await work()
        except Unavailable as error:
            log.warning("not now: %s", error)
            if tell is not None:
                await tell(error.message)
            await asyncio.sleep(wait_s)
            wait_s = min(longest_wait_s, 2 * wait_s)


async def run(
    name: str,
    step: Callable[[float], Awaitable[float]],
    stop: asyncio.Event,
    wake: asyncio.Event | None = None,
) -> None:
    """Call `step(now)`, wait as long as it says or until `wake` is set, and again, until `stop` is set.

    A step that raises is logged and tried again a second later: one bad record must not end the work on all.
    """
    stopping = asyncio.ensure_future(stop.wait())
    try:
        while not stop.is_set():
            if wake is not None:
                wake.clear()
            try:
                delay_s = await step(clock.now())
            except Unavailable as error:  # a full disk, say: the step's doing it is not, and it may pass
                log.warning("%s: not now: %s", name, error)
                delay_s = AFTER_FAILURE_S
            except Exception:
                log.exception("%s: a step failed", name)
                delay_s = AFTER_FAILURE_S
            waits = [stopping] if wake is None else [stopping, asyncio.ensure_future(wake.wait())]
            await asyncio.wait(waits, timeout=delay_s, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits[1:]:
                wait.cancel()
    finally:
        stopping.cancel()
        with suppress(asyncio.CancelledError):
            await stopping
