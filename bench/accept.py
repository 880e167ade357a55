"""How many signed, fsynced InvokeEndpointAsync a second the server accepts on one core, and how that holds
with a long queue. The client has the other core and signs beforehand.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Iterator

from bench.server import Measured, deploy, percentile, send_all, server, signed_invocations

CONNECTIONS = 64
REQUESTS = 10_000
LONG_QUEUE = 100_000
RUNS = 3
BODY = b'{"inputs": "' + b"x" * 200 + b'"}'


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    cores = sorted(os.sched_getaffinity(0))
    with server(core=cores[0]) as measured:
        os.sched_setaffinity(0, set(cores[1:]) or set(cores))
        try:
            deploy(measured, "accept", model="ebbtide/echo", instances=0)
            _send(measured, 1000)
            yield _figure(measured, "empty queue")
            for _ in range(LONG_QUEUE // REQUESTS - RUNS):
                _send(measured, REQUESTS)
            yield _figure(measured, f"{LONG_QUEUE:,} queued")
        finally:
            os.sched_setaffinity(0, set(cores))


def _figure(measured: Measured, queue: str) -> tuple[str, str]:
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
    return f"accept, {queue}, {CONNECTIONS} connections, 1 core", figure


def _send(measured: Measured, count: int) -> tuple[list[float], float]:
    requests = signed_invocations(measured.running, "accept", BODY, count)
    started_at = time.perf_counter()
    latencies_s = asyncio.run(send_all(measured.running, requests, CONNECTIONS))
    return latencies_s, time.perf_counter() - started_at


def _cpu_s(measured: Measured) -> float:
    times = measured.process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
