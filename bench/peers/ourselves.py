"""ebbtide, measured as its peers are: the same tasks, two model servers that echo."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench import pipeline
from bench.peers.figures import LONE, LONE_WARM_UP, TASKS, Figures
from bench.peers.peer import CHECKED, TRIAL, WARM_UP, Fastest, Submitters
from bench.server import Measured, deploy, send_all, server, signed_invocations

SUBMITTERS = (Submitters(1, 64, "connections"), Submitters(1, pipeline.CONNECTIONS, "connections"))


@dataclass(frozen=True, slots=True)
class Ebbtide:
    """Measured as a `Peer` is, each figure on a fresh server."""

    name: str = "ebbtide"
    durability: str = "SQLite, synchronous FULL: on disk before the answer"
    concurrency: str = f"{pipeline.INSTANCES} model servers with {pipeline.SLOTS} slots"

    def try_submitters(self) -> Fastest:
        """Find the fastest of the submitters by a short trial of each."""
        with _unserved() as measured:
            alone = {tried: _accept(measured, tried, TRIAL)[0] for tried in SUBMITTERS}
        with _served() as measured:
            beside = {tried: pipeline.burst(measured, TRIAL, connections=tried.each) for tried in SUBMITTERS}
        return Fastest(max(alone, key=alone.__getitem__), min(beside, key=beside.__getitem__))

    def measure(self, fastest: Fastest) -> Figures:
        """Take the three figures once."""
        with _unserved() as measured:
            rate, latencies_s = _accept(measured, fastest.alone, TASKS)
        with _served() as measured:
            took_s = pipeline.burst(measured, TASKS, connections=fastest.beside_workers.each)
            _check(measured, WARM_UP + TASKS)
            runtime, s3 = measured.client("sagemaker-runtime"), measured.client("s3")
            lone_s = [pipeline.lone(runtime, s3, run)[0] for run in range(LONE_WARM_UP + LONE)]
        return Figures.of(rate, latencies_s, TASKS / took_s, lone_s[LONE_WARM_UP:])


@contextmanager
def _unserved() -> Iterator[Measured]:
    """A server whose endpoint has no instance, warm."""
    with server() as measured:
        deploy(measured, "pipeline", model="ebbtide/echo", instances=0)
        _accept(measured, SUBMITTERS[0], WARM_UP)
        yield measured


@contextmanager
def _served() -> Iterator[Measured]:
    """A server whose endpoint has worked."""
    with server() as measured:
        deploy(
            measured,
            "pipeline",
            model="ebbtide/echo",
            instances=pipeline.INSTANCES,
            max_concurrent=pipeline.SLOTS,
        )
        pipeline.burst(measured, WARM_UP, connections=SUBMITTERS[0].each)
        yield measured


def _accept(measured: Measured, submitters: Submitters, count: int) -> tuple[float, list[float]]:
    """Accepted requests a second, and the latency of each in s."""
    requests = signed_invocations(measured.running, "pipeline", pipeline.BODY, count)
    began = time.monotonic()
    latencies_s = asyncio.run(send_all(measured.running, requests, submitters.each))
    return count / (time.monotonic() - began), latencies_s


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
