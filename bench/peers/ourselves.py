"""ebbtide, measured as its peers are: the same tasks, two model servers that echo."""

import asyncio
import json
import sqlite3
import time

from bench import pipeline
from bench.peers.figures import LONE, LONE_WARM_UP, TASKS, Figures
from bench.server import Measured, deploy, send_all, server, signed_invocations

NAME = "ebbtide"
DURABILITY = "SQLite, synchronous FULL: on disk before the answer"
CONNECTIONS = 64
HOW = f"{pipeline.INSTANCES} model servers with {pipeline.SLOTS} slots; {CONNECTIONS} connections"
WARM_UP = 200
CHECKED = 100


def measure() -> Figures:
    """Take the three figures once, each on a fresh server."""
    rate, latencies_s = _accept()
    with server() as measured:
        deploy(
            measured,
            "pipeline",
            model="ebbtide/echo",
            instances=pipeline.INSTANCES,
            max_concurrent=pipeline.SLOTS,
        )
        pipeline.burst(measured, WARM_UP, connections=CONNECTIONS)
        took_s = pipeline.burst(measured, TASKS, connections=CONNECTIONS)
        _check(measured, WARM_UP + TASKS)
        runtime, s3 = measured.client("sagemaker-runtime"), measured.client("s3")
        lone_s = [pipeline.lone(runtime, s3, run)[0] for run in range(LONE_WARM_UP + LONE)][LONE_WARM_UP:]
    return Figures.of(rate, latencies_s, TASKS / took_s, lone_s)


def _accept() -> tuple[float, list[float]]:
    """Accepted requests a second while no instance serves the endpoint, and the latency of each in s."""
    with server() as measured:
        deploy(measured, "pipeline", model="ebbtide/echo", instances=0)
        warm_up = signed_invocations(measured.running, "pipeline", pipeline.BODY, WARM_UP)
        asyncio.run(send_all(measured.running, warm_up, CONNECTIONS))
        requests = signed_invocations(measured.running, "pipeline", pipeline.BODY, TASKS)
        began = time.monotonic()
        latencies_s = asyncio.run(send_all(measured.running, requests, CONNECTIONS))
        return TASKS / (time.monotonic() - began), latencies_s


def _check(measured: Measured, accepted: int) -> None:
    """Every request succeeded, and what is stored is what was sent."""
    database = sqlite3.connect(f"file:{measured.data / 'ebbtide.db'}?mode=ro", uri=True)
    try:
        states = dict(database.execute("SELECT state, count(*) FROM invocations GROUP BY state"))
        outputs = [
            uri
            for (uri,) in database.execute(
                "SELECT output_uri FROM invocations ORDER BY id LIMIT ?", (CHECKED,)
            )
        ]
    finally:
        database.close()
    if states != {"succeeded": accepted}:
        raise SystemExit(f"of {accepted} requests: {states}")
    s3 = measured.client("s3")
    for uri in outputs:
        bucket, key = uri.removeprefix("s3://").split("/", 1)
        if json.load(s3.get_object(Bucket=bucket, Key=key)["Body"]) != json.loads(pipeline.BODY):
            raise SystemExit(f"{uri} is not what was sent")
