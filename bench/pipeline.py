"""The whole way of a request with a model server that echoes: what ebbtide itself costs.

At low load one request at a time, from its 202 until a reader finds the stored result; then a burst, from
the first submission to the last result.

    python -m bench.pipeline [--database postgresql]
"""

import argparse
import asyncio
import http.client
import statistics
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import create_engine, text

from bench.server import Measured, database, deploy, percentile, send_all, server, signed_invocations
from ebbtide.database import postgresql_url

BODY = b'{"inputs": "' + b"x" * 1000 + b'"}'
WARM_UP, LONE = 20, 300
ASK_AGAIN_S = 0.001
BURST, CONNECTIONS = 10_000, 128
INSTANCES, SLOTS = 2, 100
RUNS = 3


def measure(kind: str = "sqlite") -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    with database(kind) as url, server(options=[] if url is None else ["--database", url]) as measured:
        deploy(measured, "pipeline", model="ebbtide/echo", instances=INSTANCES, max_concurrent=SLOTS)
        runtime, s3 = measured.client("sagemaker-runtime"), measured.client("s3")
        alone = [lone(runtime, s3, run) for run in range(WARM_UP + LONE)][WARM_UP:]
        for begin, lone_s in zip(("boto3's call", "202"), zip(*alone, strict=True), strict=True):
            yield (
                f"pipeline, {kind}, one request at a time, {begin} to stored result",
                f"p50 {percentile(lone_s, 50) * 1e3:.1f} ms, p99 {percentile(lone_s, 99) * 1e3:.1f} ms",
            )
        what = f"pipeline, {kind}, burst of {BURST:,} over 2 instances, first 202 to last stored result"
        yield what, _bursts(measured, "pipeline", url)
        s3.create_bucket(Bucket="pipeline-in")
        s3.put_object(Bucket="pipeline-in", Key="input.json", Body=BODY)
        yield f"{what}, inputs in a bucket", _bursts(measured, "pipeline", url, "s3://pipeline-in/input.json")
        topic = _topic_with_queue(measured)
        deploy(
            measured,
            "told",
            model="ebbtide/echo",
            instances=INSTANCES,
            max_concurrent=SLOTS,
            success_topic=topic,
        )
        yield f"{what}, each told to a queue through a topic", _bursts(measured, "told", url)


def _bursts(measured: Measured, endpoint: str, url: str | None, input_uri: str | None = None) -> str:
    """The figures of some bursts one after the other."""
    cpu_before_s = _cpu_s(measured)
    rates = [
        BURST
        / burst(measured, BURST, connections=CONNECTIONS, url=url, endpoint=endpoint, input_uri=input_uri)
        for _ in range(RUNS)
    ]
    cpu_us = (_cpu_s(measured) - cpu_before_s) / (RUNS * BURST) * 1e6
    return f"{statistics.median(rates):,.0f}/s, {cpu_us:.0f} us of the server's CPU each"


def _topic_with_queue(measured: Measured) -> str:
    """The ARN of a topic to which a queue subscribes."""
    sns, sqs = measured.client("sns"), measured.client("sqs")
    topic = str(sns.create_topic(Name="successes")["TopicArn"])
    url = sqs.create_queue(QueueName="successes")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=attributes["QueueArn"])
    return topic


def lone(runtime: Any, s3: Any, run: int) -> tuple[float, float]:
    """Seconds from the submission, and from the 202, until the result is there: asked for again and again."""
    # The result's name is given, so that the question can be signed before the clock runs.
    asked = {"Bucket": "pipeline-out", "Key": f"results/lone-{run}"}
    url = urlsplit(s3.generate_presigned_url("head_object", Params=asked))
    connection = http.client.HTTPConnection(url.netloc)
    connection.connect()
    submitted_at = time.perf_counter()
    runtime.invoke_endpoint_async(
        EndpointName="pipeline", Body=BODY, ContentType="application/json", Filename=f"lone-{run}"
    )
    accepted_at = time.perf_counter()
    while True:
        connection.request("HEAD", f"{url.path}?{url.query}")
        response = connection.getresponse()
        response.read()
        if response.status == 200:
            connection.close()
            seen_at = time.perf_counter()
            return seen_at - submitted_at, seen_at - accepted_at
        time.sleep(ASK_AGAIN_S)


def burst(
    measured: Measured,
    count: int,
    *,
    connections: int,
    url: str | None = None,
    endpoint: str = "pipeline",
    input_uri: str | None = None,
) -> float:
    """Seconds from the first request of a burst to the last stored result. url: the PostgreSQL database's.
    input_uri: where the input lies that otherwise comes with each request.
    """
    before = _completed(measured, url)
    body = BODY if input_uri is None else b""
    requests = signed_invocations(measured.running, endpoint, body, count, input_uri=input_uri)
    started_at = time.perf_counter()
    asyncio.run(send_all(measured.running, requests, connections))
    while _completed(measured, url) < before + count:
        time.sleep(0.05)
    return time.perf_counter() - started_at


def _cpu_s(measured: Measured) -> float:
    """Of the server's process: event loop, writer and HTTP, without the model servers."""
    times = measured.process.cpu_times()
    return float(times.user + times.system)


def _completed(measured: Measured, url: str | None) -> int:
    """Results there are, counted in the server's own database without asking the server."""
    where = (
        postgresql_url(url).set(drivername="postgresql+psycopg")
        if url is not None
        else f"sqlite:///file:{measured.data / 'ebbtide.db'}?mode=ro&uri=true"
    )
    engine = create_engine(where)
    try:
        with engine.connect() as connection:
            return int(connection.execute(_COUNT).scalar_one())
    finally:
        engine.dispose()


_COUNT = text("SELECT count(*) FROM invocations WHERE state IN ('succeeded', 'failed')")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    for what, figure in measure(parser.parse_args().database):
        print(f"{what}: {figure}")
