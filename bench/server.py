"""A server under measurement, in a process of its own, and signed requests to throw at it."""

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import psutil
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from ebbtide.cli.running import RunningServer, find

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:latest"


PERIOD_US = 4_000
"""Within which a limited process has its share, so that no request waits for long."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A server process and how to reach it."""

    process: psutil.Process
    running: RunningServer
    data: Path

    def client(self, service: str) -> Any:
        key = self.running.credentials
        return boto3.client(
            service,
            endpoint_url=self.running.url,
            region_name=self.running.region,
            aws_access_key_id=key.access_key_id,
            aws_secret_access_key=key.secret_access_key,
        )

    def rss_bytes(self) -> int:
        return int(self.process.memory_info().rss)


@contextmanager
def server(core: int | None = None, options: Sequence[str] = ()) -> Iterator[Measured]:
    """A fresh server on an empty data directory; `core` pins it to one processor core, `options` are those of
    `ebbtide serve`.
    """
    data = Path(tempfile.mkdtemp(prefix="ebbtide-bench-"))
    command = [sys.executable, "-m", "ebbtide", "serve", "--data", str(data), "--port", "0", *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=None if core is None else lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit("the server did not start")
        yield Measured(psutil.Process(process.pid), find(data), data)
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(data, ignore_errors=True)


@contextmanager
def processor_share(process: psutil.Process, share: float) -> Iterator[None]:
    """Let a process, and what it starts from now on, compute for such a part of the time of one core.

    Needs root, and control groups with the `cpu` controller, of either version.
    """
    second = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    group = Path("/sys/fs/cgroup", "" if second else "cpu", f"ebbtide-bench-{process.pid}")
    group.mkdir()
    try:
        quota_us = round(share * PERIOD_US)
        if second:
            (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (group / "cpu.cfs_quota_us").write_text(str(quota_us))
        (group / "cgroup.procs").write_text(str(process.pid))
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (group.parent / "cgroup.procs").write_text(pid)
        group.rmdir()


@contextmanager
def database(kind: str) -> Iterator[str | None]:
    """The URL of a PostgreSQL of the bench's own, which flushes what it commits; None for `sqlite`."""
    if kind == "sqlite":
        yield None
        return
    # The driver and the server's package are needed for this alone.
    from tests.postgresql import PostgreSQL

    postgresql = PostgreSQL(durable=True)
    try:
        yield postgresql.url("postgres")
    finally:
        postgresql.close()


def deploy(
    measured: Measured,
    name: str,
    *,
    model: str,
    instances: int,
    held: bool = True,
    max_concurrent: int = 4,
    success_topic: str | None = None,
    **environment: str,
) -> None:
    """An asynchronous endpoint serving `model` (an HF_MODEL_ID), in service with so many instances.

    success_topic: the ARN of a topic. held: without instances it also stays without, whatever arrives.
    """
    sagemaker = measured.client("sagemaker")
    measured.client("s3").create_bucket(Bucket=f"{name}-out")
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=measured.running.role_arn,
        PrimaryContainer={
            "Image": IMAGE,
            "Environment": {"HF_MODEL_ID": model, "HF_TASK": "summarization", **environment},
        },
    )
    variant = {"VariantName": "v", "ModelName": name, "InstanceType": "ml.m5.xlarge"}
    if instances:
        variant["InitialInstanceCount"] = instances  # type: ignore[assignment]
    output: dict[str, Any] = {"S3OutputPath": f"s3://{name}-out/results"}
    if success_topic is not None:
        output["NotificationConfig"] = {"SuccessTopic": success_topic}
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[variant],
        AsyncInferenceConfig={
            "OutputConfig": output,
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": max_concurrent},
        },
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    if held and not instances:
        hold_at_zero(measured.client, name)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )


def hold_at_zero(client: Callable[[str], Any], endpoint: str) -> None:
    """Register the endpoint's variant `v` for scaling and suspend that: no request wakes an instance.

    client: makes the boto3 client of a service.
    """
    client("application-autoscaling").register_scalable_target(
        ServiceNamespace="sagemaker",
        ResourceId=f"endpoint/{endpoint}/variant/v",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        MinCapacity=0,
        MaxCapacity=10,
        SuspendedState={"DynamicScalingInSuspended": True, "DynamicScalingOutSuspended": True},
    )


def signed_invocations(
    running: RunningServer, endpoint: str, body: bytes, count: int, *, input_uri: str | None = None
) -> list[bytes]:
    """Whole HTTP requests, signed beforehand: writing them is all the client does while it measures.

    input_uri: where the input lies of requests whose body is empty.
    """
    located = {} if input_uri is None else {"X-Amzn-SageMaker-InputLocation": input_uri}
    key = running.credentials
    host = urlsplit(running.url).netloc
    made = []
    for n in range(count):
        path = f"/endpoints/{endpoint}/async-invocations"
        request = AWSRequest(
            "POST",
            f"{running.url}{path}",
            data=body,
            headers={
                "X-Amzn-SageMaker-Content-Type": "application/json",
                "X-Amzn-SageMaker-Inference-Id": f"bench-{n}",
                **located,
            },
        )
        SigV4Auth(
            Credentials(key.access_key_id, key.secret_access_key), "sagemaker", running.region
        ).add_auth(request)
        headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        made.append(head.encode() + body)
    return made


async def send_all(running: RunningServer, requests: Sequence[bytes], connections: int) -> list[float]:
    """Send all over so many connections at once; the latencies in s. Exits on any answer but 202."""
    address = urlsplit(running.url)
    waiting = iter(requests)
    latencies_s: list[float] = []
    loop = asyncio.get_running_loop()

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        for request in waiting:
            sent_at = loop.time()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 202"):
                raise SystemExit(f"not accepted: {head!r} {await reader.read(1000)!r}")
            [length] = [
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ]
            await reader.readexactly(length)
            latencies_s.append(loop.time() - sent_at)
        writer.close()

    await asyncio.gather(*(connection() for _ in range(connections)))
    return latencies_s


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which so many percent lie."""
    return statistics.quantiles(values, n=1000, method="inclusive")[round(percent * 10) - 1]
