"""What the server holds in memory, idle and while a payload of 1 GB passes in and out; how fast that passes.

The agent lives in the server, so one process is both. The model server echoes and is not counted. Speeds are
medians of RUNS, beside what `dd conv=fsync` writes to the same disk in the same minutes.
"""

import os
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any
from urllib.parse import urlsplit

from bench.server import Measured, deploy, server

PAYLOAD_BYTES = 1024**3
MB = 1e6
RUNS = 3
BLOCK_BYTES = 1024**2


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
    yield from speeds()


def speeds() -> Iterator[tuple[str, str]]:
    """1 GB in by boto3 and by one plain PUT, out by one plain GET, and what the disk itself takes."""
    with server() as measured, TemporaryFile() as payload:
        _fill(payload)
        s3 = measured.client("s3")
        s3.create_bucket(Bucket="speed")
        presigned = {
            method: s3.generate_presigned_url(method, Params={"Bucket": "speed", "Key": "plain"})
            for method in ("put_object", "get_object")
        }
        taken_s: dict[str, list[float]] = {"disk": [], "boto3": [], "PUT": [], "GET": []}
        for _ in range(RUNS):
            taken_s["disk"].append(_timed(lambda: _write_to_disk(measured.data / "dd")))
            taken_s["PUT"].append(_timed(lambda: _plain("PUT", presigned["put_object"])))
            taken_s["GET"].append(_timed(lambda: _plain("GET", presigned["get_object"])))
            payload.seek(0)
            with Path(f"/proc/self/fd/{payload.fileno()}").open("rb") as again:  # boto3 closes it
                taken_s["boto3"].append(_timed(lambda: s3.upload_fileobj(again, "speed", "boto3")))
            s3.delete_object(Bucket="speed", Key="boto3")
        rate = {way: PAYLOAD_BYTES / MB / statistics.median(runs) for way, runs in taken_s.items()}
        yield (
            "1 GB in: one plain PUT; boto3's upload_fileobj; dd conv=fsync on the same disk",
            f"{rate['PUT']:.0f} MB/s; {rate['boto3']:.0f} MB/s; {rate['disk']:.0f} MB/s",
        )
        yield "1 GB out: one plain GET", f"{rate['GET']:.0f} MB/s"


def _timed(act: Callable[[], None]) -> float:
    began_at = time.perf_counter()
    act()
    return time.perf_counter() - began_at


def _write_to_disk(path: Path) -> None:
    count = PAYLOAD_BYTES // BLOCK_BYTES
    command = ["dd", "if=/dev/zero", f"of={path}", f"bs={BLOCK_BYTES}", f"count={count}", "conv=fsync"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    path.unlink()


def _plain(method: str, url: str) -> None:
    """One request by a client that does nothing but send or receive."""
    address = urlsplit(url)
    length = PAYLOAD_BYTES if method == "PUT" else 0
    head = (
        f"{method} {address.path}?{address.query} HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    block = os.urandom(BLOCK_BYTES)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode())
        for _ in range(length // len(block)):
            connection.sendall(block)
        received = connection.recv(BLOCK_BYTES)
        if not received.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"{method}: {received!r}")
        while connection.recv(BLOCK_BYTES):
            pass


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
