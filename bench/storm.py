"""Exactly one outcome for each accepted request, while the server and its model servers are killed.

    python -m bench.storm --seed 1 --invocations 300 --kills 20

A client uploads payloads of 1 KB to 5 MB and has them invoked, trying again when nobody answers; meanwhile
SIGKILL falls on the server, which is started again, and on its model servers. Then every answer with 202 is
accounted for: its object, its bytes, its notification. The order of the kills follows from the seed, what is
running when they fall does not.
"""

import argparse
import hashlib
import io
import json
import random
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from botocore.exceptions import BotoCoreError, ClientError

from bench.server import IMAGE
from ebbtide.cli.running import RunningServer, find

NAME = "storm"
INSTANCES = 2
SERVER_SHARE = 0.4
"""Of the kills, those that fall on the server."""

PATIENCE_S = 120.0
"""Bounds the wait for the last outcome, and for a server's coming back."""

INFERENCE = b"""
import time
def model_fn(model_dir):
    return None
def input_fn(body, content_type):
    return body
def predict_fn(data, model):
    time.sleep(0.02)
    return data[::-1]
def output_fn(prediction, accept):
    return prediction, "application/octet-stream"
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One answered with 202. `md5` is that of the output it must get."""

    inference_id: str
    output: str
    failure: str
    md5: str


@dataclass(slots=True)
class Tally:
    """What there was in the end. Only `failed` may name any without a promise being broken: a request whose
    model server was killed each time it was tried has failed with just that reason.
    """

    accepted: int = 0
    failed: list[str] = field(default_factory=list)
    without_one_outcome: list[str] = field(default_factory=list)
    wrong_bytes: list[str] = field(default_factory=list)
    unnotified: list[str] = field(default_factory=list)
    processes_left: list[str] = field(default_factory=list)
    recoveries_s: list[float] = field(default_factory=list)


class Server:
    """`ebbtide serve` on one directory and one port, however often it is killed."""

    def __init__(self, data: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            port = str(holder.getsockname()[1])
        self._command = [sys.executable, "-m", "ebbtide", "serve", "--data", str(data), "--port", port]
        self._data = data
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise SystemExit("the server did not start")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE_S)

    def processes(self) -> list[psutil.Process]:
        """The model servers and whatever else runs for this directory, the server itself aside."""
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if process.pid != self._process.pid
            and any(str(self._data) in argument for argument in process.info["cmdline"] or ())
        ]


def storm(data: Path, *, seed: int, invocations: int, kills: int) -> Tally:
    """Run one on an empty directory, to the end of its server."""
    chance = random.Random(seed)
    blows = [(chance.uniform(0.1, 1.0), chance.random() < SERVER_SHARE) for _ in range(kills)]
    server = Server(data)
    try:
        running = find(data)
        queue_url = _deploy(running)
        requests: list[Request] = []
        client = threading.Thread(target=_invoke, args=(running, invocations, seed, requests))
        client.start()
        tally = Tally()
        for after_s, on_server in blows:
            time.sleep(after_s)
            if on_server:
                began_at = time.monotonic()
                server.kill()
                server.start()
                _await_instances(running)
                tally.recoveries_s.append(time.monotonic() - began_at)
            elif alive := server.processes():
                with suppress(psutil.NoSuchProcess):
                    chance.choice(alive).kill()
        client.join()
        tally.accepted = len(requests)
        _account(running, queue_url, requests, tally)
    finally:
        server.stop()
    tally.processes_left = [" ".join(process.info["cmdline"]) for process in server.processes()]
    return tally


def _deploy(running: RunningServer) -> str:
    """An endpoint that answers payloads backwards; returns the URL of the queue that its topic tells."""
    s3, sagemaker = running.client("s3"), running.client("sagemaker")
    sns, sqs = running.client("sns"), running.client("sqs")
    queue_url: str = sqs.create_queue(QueueName=NAME)["QueueUrl"]
    described = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    topic = sns.create_topic(Name=NAME)["TopicArn"]
    sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=described["Attributes"]["QueueArn"],
        Attributes={"RawMessageDelivery": "true"},
    )
    s3.create_bucket(Bucket=NAME)
    s3.put_object(Bucket=NAME, Key="model.tar.gz", Body=_archive())
    sagemaker.create_model(
        ModelName=NAME,
        ExecutionRoleArn=running.role_arn,
        PrimaryContainer={"Image": IMAGE, "ModelDataUrl": f"s3://{NAME}/model.tar.gz"},
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName=NAME,
        ProductionVariants=[
            {
                "VariantName": "v",
                "ModelName": NAME,
                "InstanceType": "ml.m5.large",
                "InitialInstanceCount": INSTANCES,
            }
        ],
        AsyncInferenceConfig={
            "OutputConfig": {
                "S3OutputPath": f"s3://{NAME}/results",
                "S3FailurePath": f"s3://{NAME}/failures",
                "NotificationConfig": {"SuccessTopic": topic, "ErrorTopic": topic},
            },
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 3},
        },
    )
    sagemaker.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
    _await_instances(running)
    return queue_url


def _archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(INFERENCE)
        tar.addfile(member, io.BytesIO(INFERENCE))
    return packed.getvalue()


def _invoke(running: RunningServer, count: int, seed: int, accepted: list[Request]) -> None:
    """Upload and invoke, one after the other, each until it is accepted."""
    chance = random.Random(seed)
    s3, runtime = running.client("s3"), running.client("sagemaker-runtime")
    for number in range(count):
        body = chance.randbytes(int(1000 * 5000 ** chance.random()))
        md5 = hashlib.md5(body[::-1], usedforsecurity=False).hexdigest()
        key, inference_id = f"inputs/{number}", f"storm-{number}"
        while True:
            try:
                s3.put_object(Bucket=NAME, Key=key, Body=body)
                answer = runtime.invoke_endpoint_async(
                    EndpointName=NAME,
                    InputLocation=f"s3://{NAME}/{key}",
                    ContentType="application/octet-stream",
                    InferenceId=inference_id,
                )
            except (BotoCoreError, ClientError):
                continue
            accepted.append(Request(inference_id, answer["OutputLocation"], answer["FailureLocation"], md5))
            break


def _await_instances(running: RunningServer) -> None:
    sagemaker = running.client("sagemaker")
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        endpoint = sagemaker.describe_endpoint(EndpointName=NAME)
        if endpoint["EndpointStatus"] == "InService":
            [variant] = endpoint["ProductionVariants"]
            if variant["CurrentInstanceCount"] == INSTANCES:
                return
        time.sleep(0.05)
    raise SystemExit(f"the endpoint is not back after {PATIENCE_S:.0f} s: {endpoint}")


def _account(running: RunningServer, queue_url: str, requests: list[Request], tally: Tally) -> None:
    """Wait for the outcomes, then look at each."""
    deadline = time.monotonic() + PATIENCE_S
    wanted = {location for request in requests for location in (request.output, request.failure)}
    while True:
        found = _locations(running) & wanted
        if len(found) >= len(requests) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    notified = _notified(running, queue_url, {request.inference_id for request in requests})
    s3 = running.client("s3")
    for request in requests:
        if (request.output in found) == (request.failure in found):
            tally.without_one_outcome.append(request.inference_id)
        elif request.failure in found:
            tally.failed.append(request.inference_id)
        else:
            key = request.output.removeprefix(f"s3://{NAME}/")
            body = s3.get_object(Bucket=NAME, Key=key)["Body"].read()
            if hashlib.md5(body, usedforsecurity=False).hexdigest() != request.md5:
                tally.wrong_bytes.append(request.inference_id)
        if request.inference_id not in notified:
            tally.unnotified.append(request.inference_id)


def _locations(running: RunningServer) -> set[str]:
    pages = running.client("s3").get_paginator("list_objects_v2").paginate(Bucket=NAME)
    return {f"s3://{NAME}/{item['Key']}" for page in pages for item in page.get("Contents", ())}


def _notified(running: RunningServer, queue_url: str, awaited: set[str]) -> set[str]:
    """The inference ids in the queue's messages, read until all have come or none comes any more."""
    sqs = running.client("sqs")
    told: set[str] = set()
    while not awaited <= told:
        answer = sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=5)
        messages: list[dict[str, Any]] = answer.get("Messages", [])
        if not messages:
            break
        told |= {json.loads(message["Body"]).get("inferenceId", "") for message in messages}
        entries = [
            {"Id": str(n), "ReceiptHandle": message["ReceiptHandle"]} for n, message in enumerate(messages)
        ]
        sqs.delete_message_batch(QueueUrl=queue_url, Entries=entries)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("seed", 1), ("invocations", 300), ("kills", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ebbtide-storm-") as data:
        tally = storm(Path(data), seed=given.seed, invocations=given.invocations, kills=given.kills)
    recoveries = ", ".join(f"{seconds:.1f}" for seconds in tally.recoveries_s)
    print(f"accepted {tally.accepted}, failed {len(tally.failed)}; back in service after (s): {recoveries}")
    broken = (tally.without_one_outcome, tally.wrong_bytes, tally.unnotified, tally.processes_left)
    if any(broken):
        raise SystemExit(f"promises broken: {tally}")


if __name__ == "__main__":
    main()
