"""How many signed, fsynced InvokeEndpointAsync a second the server accepts on one core, and how that holds
with a long queue. The client has the other core and signs beforehand.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Iterator

from bench.server import deploy, percentile, send_all, server, signed_invocations

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
        deploy(measured, "accept", model="ebbtide/echo", instances=0)
        measured.client("application-autoscaling")  # no scalable target: the queue only grows
        for label, fill in (("empty queue", 0), (f"{LONG_QUEUE:,} queued", LONG_QUEUE)):
            if fill:
                queued = REQUESTS * RUNS
                while queued < fill:
                    _run(measured, min(REQUESTS, fill - queued))
                    queued += REQUESTS
            runs = [_run(measured, REQUESTS) for _ in range(RUNS)]
            rates = [len(latencies) / elapsed_s for latencies, elapsed_s in runs]
            latencies = [latency for run, _ in runs for latency in run]
            yield (
                f"accept, {label}, {CONNECTIONS} connections, 1 core",
                f"{statistics.median(rates):,.0f}/s, p50 {percentile(latencies, 50) * 1e3:.1f} ms, "
                f"p99 {percentile(latencies, 99) * 1e3:.1f} ms",
            )
    os.sched_setaffinity(0, set(cores))


def _run(measured: "object", count: int) -> tuple[list[float], float]:
    requests = signed_invocations(measured.running, "accept", BODY, count)  # type: ignore[attr-defined]
    started_at = time.perf_counter()
    latencies = asyncio.run(send_all(measured.running, requests, CONNECTIONS))  # type: ignore[attr-defined]
    return latencies, time.perf_counter() - started_at


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
