"""The client of one peer, in the peer's own environment: does what its standard input orders, a line each.

`python load.py MODULE`: MODULE has submit(payload), result(submitted) and stored(), all functions or all
coroutine functions, and may have connect(). Orders and answers are JSON; times are of the machine's monotonic
clock, in s, so that those of several clients compare.

    {"submit": 5000, "submitters": 64}   -> {"began": ..., "ended": ..., "latencies_s": [...]}
    {"stored": 5000}                     -> {"at": ...}  once so many results are stored
    {"check": 100}                       -> {"checked": 100}  reads results; ends the client if one differs
    {"lone": 300}                        -> {"latencies_s": [...]}  one request at a time
"""

import asyncio
import contextlib
import importlib
import inspect
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

PAYLOAD = {"inputs": "x" * 1000}
COUNT_AGAIN_S = 0.01


class Client:
    """Carries out orders on one peer's module. Plain functions run in threads, a submitter each."""

    def __init__(self, peer: Any) -> None:
        self._peer = peer
        self._submitted: list[Any] = []

    async def connect(self) -> None:
        if connect := getattr(self._peer, "connect", None):
            await connect()

    async def obey(self, order: dict[str, int]) -> dict[str, Any]:
        match order:
            case {"submit": count, "submitters": submitters}:
                return await self._submit(count, submitters)
            case {"stored": count}:
                while (stored := await _call(self._peer.stored)) < count:
                    await asyncio.sleep(COUNT_AGAIN_S)
                if stored > count:
                    raise SystemExit(f"{stored} results of {count} requests")
                return {"at": monotonic()}
            case {"check": count}:
                step = max(1, len(self._submitted) // count)
                for submitted in self._submitted[::step]:
                    if await _call(self._peer.result, submitted) != PAYLOAD:
                        raise SystemExit("a result is not what was sent")
                return {"checked": len(self._submitted[::step])}
            case {"lone": count}:
                return {"latencies_s": [await self._lone() for _ in range(count)]}
        raise SystemExit(f"no such order: {order}")

    async def _submit(self, count: int, submitters: int) -> dict[str, Any]:
        waiting = iter(range(count))
        latencies_s: list[float] = []
        # Kept until the last is in: Celery unsubscribes from what is forgotten, one by one.
        self._submitted = []

        def submit_some() -> None:
            for _ in waiting:
                sent_at = monotonic()
                self._submitted.append(self._peer.submit(PAYLOAD))
                latencies_s.append(monotonic() - sent_at)

        async def submit_some_async() -> None:
            for _ in waiting:
                sent_at = monotonic()
                self._submitted.append(await self._peer.submit(PAYLOAD))
                latencies_s.append(monotonic() - sent_at)

        if inspect.iscoroutinefunction(self._peer.submit):
            began = monotonic()
            await asyncio.gather(*(submit_some_async() for _ in range(submitters)))
        elif submitters == 1:
            began = monotonic()
            submit_some()
        else:
            with ThreadPoolExecutor(submitters) as pool:
                began = monotonic()
                for done in [pool.submit(submit_some) for _ in range(submitters)]:
                    done.result()
        return {"began": began, "ended": monotonic(), "latencies_s": latencies_s}

    async def _lone(self) -> float:
        sent_at = monotonic()
        if inspect.iscoroutinefunction(self._peer.submit):
            await self._peer.result(await self._peer.submit(PAYLOAD))
        else:
            self._peer.result(self._peer.submit(PAYLOAD))
        return monotonic() - sent_at


async def _call(function: Any, *arguments: Any) -> Any:
    outcome = function(*arguments)
    return await outcome if inspect.isawaitable(outcome) else outcome


async def _obey_all(client: Client) -> None:
    await client.connect()
    print(json.dumps("connected"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await client.obey(json.loads(line))), flush=True)


def main(module: str) -> None:
    factory = None
    with contextlib.suppress(ImportError):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(_obey_all(Client(importlib.import_module(module))))


if __name__ == "__main__":
    main(sys.argv[1])
