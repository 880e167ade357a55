"""Clients of the server under the storm: those that ask, those that follow what comes, and bad ones."""

import io
import itertools
import json
import socket
import struct
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError
from tests.foreign_store import BUCKET as FOREIGN_BUCKET
from tests.foreign_store import ForeignS3
from urllib3.exceptions import HTTPError

from bench.chaos.observation import Accepted, Observations, Told, md5
from bench.chaos.plan import BARE, ECHO, MB, OUTSIDE, PARKED, REVERSE, Ask
from bench.server import IMAGE, hold_at_zero
from ebbtide.cli.running import RunningServer

BUCKET = "storm"
QUEUE = "storm"
CHANNELS = ("http", "sqs")
TTL_S, SLOW_TIMEOUT_S = 60, 1
AGAIN_S = 0.2
CUT_BYTES = 4 * MB

OUTSIDE_BUCKET = "elsewhere"

INSTANCES = {REVERSE: 2, BARE: 1, ECHO: 1, OUTSIDE: 1, PARKED: 0}

INFERENCE = b"""
import os, signal, time
def model_fn(model_dir):
    return None
def input_fn(body, content_type, context):
    inference_id = context.get_request_header(0, "X-Amzn-SageMaker-Inference-Id")
    with open(os.environ["TRIES"], "a") as tries:
        tries.write(inference_id + "\\n")
    return body
def predict_fn(data, model):
    if data.startswith(b"poisonous "):
        os.kill(os.getpid(), signal.SIGKILL)
    if data.startswith(b"slow "):
        time.sleep(3600)
    time.sleep(0.02)
    return data[::-1]
def output_fn(prediction, accept):
    return prediction, "application/octet-stream"
"""

NOT_NOW = (BotoCoreError, ClientError, HTTPError, OSError)
"""What a call raises while a fault has the server."""


@dataclass(frozen=True, slots=True)
class Clients:
    """boto3 clients that try each call once."""

    s3: Any
    sagemaker: Any
    runtime: Any
    sns: Any
    sqs: Any

    @classmethod
    def of(cls, server: RunningServer) -> "Clients":
        config = Config(
            retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=30, max_pool_connections=32
        )
        session = boto3.Session(
            server.credentials.access_key_id, server.credentials.secret_access_key, region_name=server.region
        )
        services = ("s3", "sagemaker", "sagemaker-runtime", "sns", "sqs")
        return cls(*(session.client(name, endpoint_url=server.url, config=config) for name in services))


def deploy(clients: Clients, server: RunningServer, receiver: "Receiver", tries: Path) -> str:
    """The storm's bucket, topic, receivers and endpoints; returns the queue's URL."""
    queue_url: str = clients.sqs.create_queue(QueueName=QUEUE)["QueueUrl"]
    described = clients.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    topic = clients.sns.create_topic(Name="storm")["TopicArn"]
    clients.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=described["Attributes"]["QueueArn"])
    clients.sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url)
    receiver.confirmed.wait()
    clients.s3.create_bucket(Bucket=BUCKET)
    clients.s3.put_object(Bucket=BUCKET, Key="model.tar.gz", Body=_archive())
    clients.s3.put_object(Bucket=BUCKET, Key="cut/kept", Body=b"kept")
    code = {"ModelDataUrl": f"s3://{BUCKET}/model.tar.gz", "Environment": {"TRIES": str(tries)}}
    containers = dict.fromkeys((REVERSE, BARE, OUTSIDE, PARKED), code)
    containers[ECHO] = {"Environment": {"HF_MODEL_ID": "ebbtide/echo"}}
    for name, instances in INSTANCES.items():
        _deploy_endpoint(clients, server, name, containers[name], instances, topic)
    for name in INSTANCES:
        clients.sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName=name, WaiterConfig={"Delay": 0.1, "MaxAttempts": 3000}
        )
    return queue_url


def _deploy_endpoint(
    clients: Clients,
    server: RunningServer,
    name: str,
    container: dict[str, Any],
    instances: int,
    topic: str,
) -> None:
    sagemaker = clients.sagemaker
    sagemaker.create_model(
        ModelName=name, ExecutionRoleArn=server.role_arn, PrimaryContainer={"Image": IMAGE, **container}
    )
    variant: dict[str, Any] = {"VariantName": "v", "ModelName": name, "InstanceType": "ml.m5.large"}
    if instances:
        variant["InitialInstanceCount"] = instances
    bucket = _bucket_of(name)
    output: dict[str, Any] = {
        "S3OutputPath": f"s3://{bucket}/results/{name}",
        "NotificationConfig": {"SuccessTopic": topic, "ErrorTopic": topic},
    }
    if name != BARE:
        output["S3FailurePath"] = f"s3://{bucket}/failures/{name}"
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[variant],
        AsyncInferenceConfig={
            "OutputConfig": output,
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 3},
        },
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    if not instances:
        hold_at_zero(server.client, name)


def _archive() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        member = tarfile.TarInfo("code/inference.py")
        member.size = len(INFERENCE)
        tar.addfile(member, io.BytesIO(INFERENCE))
    return packed.getvalue()


def _bucket_of(endpoint: str) -> str:
    """Where what is asked of an endpoint lies, and what it answers."""
    return OUTSIDE_BUCKET if endpoint == OUTSIDE else BUCKET


class Asking:
    """Threads that send the requests at their times, to the servers in turn until one has accepted each."""

    def __init__(
        self, servers: Sequence[Clients], asks: Sequence[Ask], seed: int, seen: Observations
    ) -> None:
        self._servers = servers
        self._seed = seed
        self._seen = seen
        self._given_up = threading.Event()
        self._waiting = iter(sorted(asks, key=lambda ask: ask.at_s))
        self._taking = threading.Lock()
        self._began_at = time.monotonic()
        self._threads = [threading.Thread(target=self._ask_all, name=f"client {n}") for n in range(10)]
        for thread in self._threads:
            thread.start()

    def is_done(self) -> bool:
        """Whether all are accepted."""
        return not any(thread.is_alive() for thread in self._threads)

    def give_up(self) -> None:
        """End the threads, whatever is not accepted yet."""
        self._given_up.set()
        for thread in self._threads:
            thread.join()

    def _ask_all(self) -> None:
        while not self._given_up.is_set():
            with self._taking:
                ask = next(self._waiting, None)
            if ask is None:
                return
            self._given_up.wait(max(0.0, self._began_at + ask.at_s - time.monotonic()))
            self._ask(ask)

    def _ask(self, ask: Ask) -> None:
        body = ask.body(self._seed)
        key = f"inputs/{ask.number}"
        given: dict[str, Any] = {"EndpointName": ask.endpoint, "ContentType": "application/octet-stream"}
        if ask.kind == "parked":
            given["RequestTTLSeconds"] = TTL_S
        if ask.kind == "slow":
            given["InvocationTimeoutSeconds"] = SLOW_TIMEOUT_S
        bucket = _bucket_of(ask.endpoint)
        given |= {"Body": body} if ask.inline else {"InputLocation": f"s3://{bucket}/{key}"}
        uploaded = ask.inline
        attempt = 0
        for clients in itertools.islice(
            itertools.cycle(self._servers), ask.number % len(self._servers), None
        ):
            if self._given_up.is_set():
                return
            try:
                if not uploaded:
                    clients.s3.put_object(Bucket=bucket, Key=key, Body=body)
                    uploaded = True
            except NOT_NOW:
                self._given_up.wait(AGAIN_S)
                continue
            attempt += 1
            if self._invoke(clients, ask, f"{ask.number}-{attempt}", given, body):
                return
            self._given_up.wait(AGAIN_S)

    def _invoke(self, clients: Clients, ask: Ask, name: str, given: dict[str, Any], body: bytes) -> bool:
        try:
            answer = clients.runtime.invoke_endpoint_async(InferenceId=name, **given)
        except ClientError as error:
            status = error.response["ResponseMetadata"]["HTTPStatusCode"]
            words = f"{status} {error.response['Error']['Code']}"
            (self._seen.refused if status < 500 else self._seen.unanswered)[name] = words
            return False
        except NOT_NOW as error:
            self._seen.unanswered[name] = type(error).__name__
            return False
        wanted = body if ask.endpoint == ECHO else body[::-1]
        self._seen.accept(
            Accepted(ask, name, answer["OutputLocation"], answer.get("FailureLocation"), md5(wanted))
        )
        return True


class Receiver:
    """An HTTP subscriber, recording. While `refusing` it answers 503."""

    def __init__(self, seen: Observations) -> None:
        self.refusing = threading.Event()
        self.confirmed = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not receiver.refusing.is_set():
                    receiver._take(json.loads(body), seen)
                self.send_response(503 if receiver.refusing.is_set() else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Listener(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: object) -> None:
                """A server killed while it delivers breaks its connection: the storm's doing."""

        self._server = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/notified"
        self._thread = threading.Thread(target=self._server.serve_forever, name="receiver")
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _take(self, envelope: dict[str, Any], seen: Observations) -> None:
        if envelope["Type"] == "SubscriptionConfirmation":
            with urllib.request.urlopen(envelope["SubscribeURL"], timeout=30):
                self.confirmed.set()
        else:
            _tell(seen, "http", envelope)


class Following:
    """Threads that read the queue and the results as they come, until closed."""

    def __init__(self, clients: Clients, outside: ForeignS3, queue_url: str, seen: Observations) -> None:
        """outside: the outside store itself, which its owner looks into without the server."""
        self._clients = clients
        self._outside = outside
        self._queue_url = queue_url
        self._seen = seen
        self._closing = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(step,), name=name)
            for name, step in (("queue", self._receive), ("results", self._look))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()

    def _run(self, step: Any) -> None:
        while not self._closing.is_set():
            try:
                step()
            except NOT_NOW:
                self._closing.wait(AGAIN_S)
            except Exception as error:  # noqa: BLE001 - a thread's end would go unseen
                self._seen.violate(f"what came could not be followed: {error!r}")
                self._closing.wait(AGAIN_S)

    def _receive(self) -> None:
        answer = self._clients.sqs.receive_message(
            QueueUrl=self._queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=1
        )
        for message in answer.get("Messages", ()):
            _tell(self._seen, "sqs", json.loads(message["Body"]))
            self._clients.sqs.delete_message(QueueUrl=self._queue_url, ReceiptHandle=message["ReceiptHandle"])

    def _look(self) -> None:
        """List all results, and read those not read yet: whatever is listed must be whole."""
        for prefix in ("results/", "failures/"):
            pages = self._clients.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
            for item in (item for page in pages for item in page.get("Contents", ())):
                self._seen.see(
                    f"s3://{BUCKET}/{item['Key']}",
                    item["ETag"].strip('"'),
                    item["LastModified"].isoformat(),
                    item["Size"],
                )
            pages = self._outside.client.get_paginator("list_objects_v2").paginate(
                Bucket=FOREIGN_BUCKET, Prefix=prefix
            )
            for item in (item for page in pages for item in page.get("Contents", ())):
                # Redone work writes there again, the same bytes: no transaction holds both.
                location = f"s3://{OUTSIDE_BUCKET}/{item['Key']}"
                self._seen.see(location, item["ETag"].strip('"'), "", item["Size"])
        for location in self._seen.unread():
            bucket, _, key = location.removeprefix("s3://").partition("/")
            if bucket == OUTSIDE_BUCKET:
                body = self._outside.get(key)
            else:
                body = self._clients.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            self._seen.read(location, md5(body), len(body))
        self._closing.wait(1.0)


def cut_uploads(clients: Clients, server: RunningServer, number: int) -> Iterator[str]:
    """Break off an upload, one over an existing object, and a request, each half way; yields the keys that
    must not come to be.
    """
    for key in (f"cut/{number}", "cut/kept"):
        url = clients.s3.generate_presigned_url("put_object", {"Bucket": BUCKET, "Key": key})
        target = url.removeprefix(server.url)
        _send_half(server, f"PUT {target} HTTP/1.1\r\n", {}, CUT_BYTES)
        if key != "cut/kept":
            yield key
    path = f"/endpoints/{REVERSE}/async-invocations"
    body = bytes(64 * 1024)
    request = AWSRequest(
        "POST", f"{server.url}{path}", data=body, headers={"X-Amzn-SageMaker-Inference-Id": f"cut-{number}"}
    )
    key_pair = Credentials(server.credentials.access_key_id, server.credentials.secret_access_key)
    SigV4Auth(key_pair, "sagemaker", server.region).add_auth(request)
    _send_half(server, f"POST {path} HTTP/1.1\r\n", dict(request.headers.items()), len(body))


def check_cut(clients: Clients, keys: Sequence[str], seen: Observations) -> None:
    """What was broken off must not be there, and what it was to replace must."""
    listed = clients.s3.list_objects_v2(Bucket=BUCKET, Prefix="cut/").get("Contents", ())
    there = {item["Key"]: item["ETag"].strip('"') for item in listed}
    for key in set(keys) & there.keys():
        seen.violate(f"{key} is there, though its upload was broken off")
    if there.get("cut/kept") != md5(b"kept"):
        seen.violate("cut/kept was changed by an upload that was broken off")


def _send_half(server: RunningServer, line: str, headers: dict[str, str], length: int) -> None:
    """Send a request with half its body, then reset the connection."""
    address = urlsplit(server.url)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{line}Host: {address.netloc}\r\nContent-Length: {length}\r\n{lines}\r\n"
    to = (address.hostname, address.port)
    with suppress(OSError), socket.create_connection(to, timeout=5) as half_way:
        half_way.sendall(head.encode() + bytes(length // 2))
        half_way.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _tell(seen: Observations, channel: str, envelope: dict[str, Any]) -> None:
    message = json.loads(envelope["Message"])
    if message["eventName"] == "TestNotification":
        return  # CreateEndpoint's
    places = message.get("responseParameters", {})
    seen.tell(
        Told(
            channel,
            envelope["MessageId"],
            message["inferenceId"],
            message["invocationStatus"],
            message.get("failureReason", ""),
            places.get("outputLocation") or places.get("failureLocation"),
        )
    )
