"""From nothing to work: how long until an endpoint at zero instances has an instance at work, and a server
answers at all.
"""

import sqlite3
import statistics
import time
from collections.abc import Iterator

from bench.server import deploy, server

RUNS = 5

AT_REST_S = 1.0
"""An endpoint that waits for its first request has not just been made: nothing else is going on."""


def measure(runs: int = RUNS) -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    starts_s = []
    for _ in range(runs):
        started_at = time.perf_counter()
        with server():
            starts_s.append(time.perf_counter() - started_at)
    yield "serve, start to ready on an empty data directory", f"{statistics.median(starts_s):.2f} s"
    with server() as measured:
        totals_s, phases_s = [], []
        for run in range(runs):
            name = f"wake-{run}"
            deploy(measured, name, model="ebbtide/extractive", instances=0, held=False)
            time.sleep(AT_REST_S)
            answer = measured.client("sagemaker-runtime").invoke_endpoint_async(
                EndpointName=name, Body=b'{"inputs": "' + b"A sentence of some words. " * 100 + b'"}'
            )
            accepted_at = time.perf_counter()
            bucket, _, key = answer["OutputLocation"].removeprefix("s3://").partition("/")
            measured.client("s3").get_waiter("object_exists").wait(
                Bucket=bucket, Key=key, WaiterConfig={"Delay": 0.02, "MaxAttempts": 2000}
            )
            totals_s.append(time.perf_counter() - accepted_at)
            database = sqlite3.connect(f"file:{measured.data / 'ebbtide.db'}?mode=ro", uri=True)
            accepted, wanted, starting, in_service, claimed = database.execute(
                "SELECT accepted_at, created_at, starting_at, in_service_at, claimed_at FROM invocations "
                "JOIN instances ON instances.id = instance_id ORDER BY accepted_at DESC LIMIT 1"
            ).fetchone()
            database.close()
            phases_s.append(
                (
                    wanted - accepted,
                    starting - wanted,
                    in_service - starting,
                    claimed - in_service,
                    claimed - accepted,
                )
            )
    asked, admitted, started, given, total = (
        statistics.median(phase) * 1e3 for phase in zip(*phases_s, strict=True)
    )
    yield (
        "wake, extractive model, from 202 to an instance at work",
        f"{total / 1e3:.2f} s; to the stored summary {statistics.median(totals_s):.2f} s",
    )
    yield (
        "of that: until the instance is asked for; admitted; in service; has its request",
        f"{asked:.0f} ms; {admitted:.0f} ms; {started:.0f} ms; {given:.0f} ms",
    )


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
