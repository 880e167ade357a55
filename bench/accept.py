"""How many signed, fsynced InvokeEndpointAsync a second the server accepts on one core, and how that holds
with a long queue. The client has the other core and signs beforehand.

    python -m bench.accept [--database postgresql] [--servers 2] [--share 0.3]

PostgreSQL is one of the bench's own, beside the client; of several servers each has the next core, and the
client sends to all of them in turn. Whether two accept more than one does not show where one, the database
and the client take all there is: `--share` gives each server a part of a core, and leaves the others theirs.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from bench.server import (
    Measured,
    database,
    deploy,
    percentile,
    processor_share,
    send_all,
    server,
    signed_invocations,
)

CONNECTIONS = 64
REQUESTS = 10_000
LONG_QUEUE = 100_000
RUNS = 3
BODY = b'{"inputs": "' + b"x" * 200 + b'"}'


def measure(kind: str = "sqlite", servers: int = 1, share: float | None = None) -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs. share: of a core, for each server."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as running:
        url = running.enter_context(database(kind))
        options = [] if url is None else ["--database", url]
        measured = [
            running.enter_context(server(core=cores[n % len(cores)], options=options)) for n in range(servers)
        ]
        running.callback(os.sched_setaffinity, 0, set(cores))
        if share is not None:
            for each in measured:
                running.enter_context(processor_share(each.process, share))
        os.sched_setaffinity(0, set(cores[1:]) or set(cores))
        deploy(measured[0], "accept", model="ebbtide/echo", instances=0)
        _send(measured, 1000)
        each = "1 core" if share is None else f"{share:g} of a core"
        yield _figure(measured, f"{kind}, empty queue", each)
        if share is not None:
            return  # about servers, not about queues
        for _ in range(LONG_QUEUE // REQUESTS - RUNS):
            _send(measured, REQUESTS)
        yield _figure(measured, f"{kind}, {LONG_QUEUE:,} queued", each)


def _figure(measured: Sequence[Measured], queue: str, each: str) -> tuple[str, str]:
    rates, latencies_s = [], []
    cpu_before_s = _cpu_s(measured)
    for _ in range(RUNS):
        run_s, elapsed_s = _send(measured, REQUESTS)
        rates.append(REQUESTS / elapsed_s)
        latencies_s += run_s
    cpu_us = (_cpu_s(measured) - cpu_before_s) / (RUNS * REQUESTS) * 1e6
    figure = (
        f"{statistics.median(rates):,.0f}/s, p50 {percentile(latencies_s, 50) * 1e3:.1f} ms, "
        f"p99 {percentile(latencies_s, 99) * 1e3:.1f} ms, {cpu_us:.0f} us of CPU each"
    )
    return f"accept, {queue}, {CONNECTIONS} connections, {len(measured)} x {each}", figure


def _send(measured: Sequence[Measured], count: int) -> tuple[list[float], float]:
    share = count // len(measured)
    batches = [(each.running, signed_invocations(each.running, "accept", BODY, share)) for each in measured]

    async def send() -> list[list[float]]:
        return await asyncio.gather(
            *(send_all(running, requests, CONNECTIONS // len(measured)) for running, requests in batches)
        )

    started_at = time.perf_counter()
    latencies_s = asyncio.run(send())
    return [each for some in latencies_s for each in some], time.perf_counter() - started_at


def _cpu_s(measured: Sequence[Measured]) -> float:
    times = [each.process.cpu_times() for each in measured]
    return float(sum(each.user + each.system for each in times))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--share", type=float, help="of a core, for each server")
    given = parser.parse_args()
    for what, figure in measure(given.database, given.servers, given.share):
        print(f"{what}: {figure}")
