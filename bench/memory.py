"""What the server holds in memory: idle, and while a payload of 1 GB passes in and out.

The agent lives in the server, so one process is both. The model server echoes and is not counted.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from bench.server import Measured, deploy, server

PAYLOAD_BYTES = 1024**3
MB = 1e6


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    with server() as measured:
        idle_bytes = measured.rss_bytes()
        yield "memory, server idle after its start", f"{idle_bytes / MB:.0f} MB"
        deploy(measured, "memory", model="ebbtide/echo", instances=1)
        s3 = measured.client("s3")
        s3.create_bucket(Bucket="memory-in")
        for service in ("sqs", "sns", "cloudwatch", "logs", "application-autoscaling", "sts"):
            _touch(measured, service)
        used_bytes = measured.rss_bytes()
        yield "memory, server with every API in use", f"{used_bytes / MB:.0f} MB"
        _reset_peak(measured)
        with TemporaryFile() as payload:
            _fill(payload)
            started_at = time.perf_counter()
            s3.upload_fileobj(payload, "memory-in", "payload")
            uploaded_s = time.perf_counter() - started_at
        answer = measured.client("sagemaker-runtime").invoke_endpoint_async(
            EndpointName="memory", InputLocation="s3://memory-in/payload"
        )
        bucket, _, key = answer["OutputLocation"].removeprefix("s3://").partition("/")
        accepted_at = time.perf_counter()
        s3.get_waiter("object_exists").wait(
            Bucket=bucket, Key=key, WaiterConfig={"Delay": 1, "MaxAttempts": 600}
        )
        passed_s = time.perf_counter() - accepted_at
        received = sum(len(chunk) for chunk in s3.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks())
        if received != PAYLOAD_BYTES:
            raise SystemExit(f"{received} bytes came back of {PAYLOAD_BYTES}")
        raised = _peak_bytes(measured) - used_bytes
        figure = (
            f"+{raised / MB:.0f} MB at its peak; upload {PAYLOAD_BYTES / MB / uploaded_s:.0f} MB/s, "
            f"202 to stored result {passed_s:.1f} s"
        )
        yield "memory, 1 GB uploaded, through the model server, downloaded", figure


def _touch(measured: Measured, service: str) -> None:
    calls: dict[str, Any] = {
        "sqs": "list_queues",
        "sns": "list_topics",
        "cloudwatch": "list_metrics",
        "logs": "describe_log_groups",
        "sts": "get_caller_identity",
    }
    client = measured.client(service)
    if service == "application-autoscaling":
        client.describe_scalable_targets(ServiceNamespace="sagemaker")
    else:
        getattr(client, calls[service])()


def _fill(payload: IO[bytes]) -> None:
    block = os.urandom(1024**2)
    for _ in range(PAYLOAD_BYTES // len(block)):
        payload.write(block)
    payload.seek(0)


def _reset_peak(measured: Measured) -> None:
    """Linux forgets a process's peak when 5 is written here. Source: proc(5), clear_refs."""
    Path(f"/proc/{measured.process.pid}/clear_refs").write_text("5")


def _peak_bytes(measured: Measured) -> int:
    status = Path(f"/proc/{measured.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
