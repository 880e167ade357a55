"""From nothing to work: how long until an endpoint at zero instances has an instance at work, and a server
answers at all.
"""

import sqlite3
import statistics
import time
from collections.abc import Iterator

from bench.server import deploy, server

RUNS = 5


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    starts_s = []
    for _ in range(RUNS):
        started_at = time.perf_counter()
        with server():
            starts_s.append(time.perf_counter() - started_at)
    yield "serve, start to ready on an empty data directory", f"{statistics.median(starts_s):.2f} s"
    with server() as measured:
        claims_s, totals_s = [], []
        for run in range(RUNS):
            name = f"wake-{run}"
            deploy(measured, name, model="ebbtide/extractive", instances=0)
            measured.client("application-autoscaling").register_scalable_target(
                ServiceNamespace="sagemaker",
                ResourceId=f"endpoint/{name}/variant/v",
                ScalableDimension="sagemaker:variant:DesiredInstanceCount",
                MinCapacity=0,
                MaxCapacity=1,
            )
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
            [wait_s] = database.execute(
                "SELECT claimed_at - accepted_at FROM invocations ORDER BY accepted_at DESC LIMIT 1"
            ).fetchone()
            database.close()
            claims_s.append(wait_s)
    yield (
        "wake, extractive model, from 202 to an instance at work",
        f"{statistics.median(claims_s):.2f} s; to the stored summary {statistics.median(totals_s):.2f} s",
    )


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
