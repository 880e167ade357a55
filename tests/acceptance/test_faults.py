"""Promises about faults, each broken on purpose: full disk, locked database, set clock, signals, limits."""

import json
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

import psutil
import pytest
from bench.chaos.clients import Clients
from bench.chaos.databases import SQLiteFile
from bench.chaos.server import Server, SmallDisk, Unavailable, WallClock
from botocore.exceptions import BotoCoreError, ClientError
from tests.deployments import deploy, outcome

from ebbtide.cli.running import RunningServer, find

PATIENCE_S = 120.0
HEAP_BYTES = 64 << 20

GATED = """
import os, signal, time

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    told = body.decode() if isinstance(body, bytes) else body
    if told == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    name, gate = told.split()
    with open(name, "a") as began:
        began.write(f"{os.getpid()}\\n")
    while not os.path.exists(gate):
        time.sleep(0.01)
    return "through"
"""
"""Notes in a file that it began, then waits for another to appear."""


class Place:
    """A server on a small disk with a clock that can be set, and an endpoint of gated requests."""

    def __init__(self, tmp_path, stack: ExitStack, **environment: str) -> None:
        self.root = tmp_path
        data = tmp_path / "data"
        try:
            self.disk = SmallDisk(data, HEAP_BYTES)
            self.clock = WallClock(tmp_path)
        except Unavailable as reason:
            pytest.skip(str(reason))
        stack.callback(self.disk.close)
        self.database = SQLiteFile(data / "ebbtide.db", self.disk.enter)
        self.server = Server(
            data,
            tmp_path / "server.log",
            enter=self.disk.enter,
            # None of this ends by the drain's own bound, and no lease outlasts a fault.
            environment={
                "EBBTIDE_DRAIN_TIMEOUT_S": "3600",
                "EBBTIDE_LEASE_S": "2",
                **self.clock.environment,
                **environment,
            },
            options=[],
        )
        stack.callback(self.server.close)
        self.server.await_up()
        self.clients = Clients.of(self.running)

    @property
    def running(self) -> RunningServer:
        return self.server.running

    def deploy(self, **given):
        return deploy(self.running, inference=GATED, **given)

    def invoke(self, endpoint, name: str, gate: str = "gate", **given):
        """One that notes in the file `name` that it began and waits for the file `gate`."""
        return self.send(endpoint, f"{self.root / name} {self.root / gate}", **given)

    def send(self, endpoint, body: str, **given):
        return self.clients.runtime.invoke_endpoint_async(
            EndpointName=endpoint.name, Body=body, ContentType="text/plain", **given
        )

    def open(self, gate: str = "gate") -> None:
        (self.root / gate).touch()

    def began(self, name: str) -> list[int]:
        """The model servers that have begun on it."""
        path = self.root / name
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def outcome(self, answer) -> str:
        kind, body, _ = outcome(self.running, answer, timeout_s=PATIENCE_S)
        return kind if kind == "output" else f"{kind}: {json.loads(body)['message']}"

    def log(self) -> str:
        return (self.root / "server.log").read_text(errors="replace")


@pytest.fixture
def place(tmp_path):
    with ExitStack() as stack:
        place = Place(tmp_path, stack)
        yield place
    assert place.server.broken == []


def until(true):
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it did not become true"
        time.sleep(0.02)


def test_on_a_full_disk_work_waits_says_why_and_goes_on_once_there_is_room(place):
    endpoint = place.deploy()
    under_way = place.invoke(endpoint, "first")
    until(lambda: place.began("first"))

    assert "disk is full" in refusal(place, endpoint)
    place.disk.fill_up_names()
    with pytest.raises(ClientError, match="disk is full"):
        place.clients.s3.put_object(Bucket=endpoint.bucket, Key="large", Body=b"x" * 100_000)
    place.open()
    until(lambda: "not now" in place.log())
    place.disk.free()

    assert place.outcome(under_way) == "output"
    assert place.outcome(place.invoke(endpoint, "second")) == "output"
    assert place.server.ends == 0


def test_an_instance_that_finds_the_disk_full_waits_says_why_and_comes_up_once_there_is_room(tmp_path):
    with ExitStack() as stack:
        # A socket's address is short, and so is the name of what instances are to put it in.
        temporary = Path(stack.enter_context(TemporaryDirectory(dir="/tmp"))) / "small"
        try:
            disk = SmallDisk(temporary, HEAP_BYTES)
        except Unavailable as reason:
            pytest.skip(str(reason))
        stack.callback(disk.close)
        server = Server(
            tmp_path / "data",
            tmp_path / "log",
            enter=disk.enter,
            environment={"TMPDIR": str(temporary)},
            options=[],
        )
        stack.callback(server.close)
        server.await_up()
        endpoint = deploy(
            server.running,
            environment={"HF_MODEL_ID": "ebbtide/echo"},
            instances=0,
            managed_scaling={"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": 1},
        )

        disk.fill_up_names()
        answer = server.running.client("sagemaker-runtime").invoke_endpoint_async(
            EndpointName=endpoint.name, Body=b"patience"
        )
        own = server.running.own()
        until(lambda: "the disk is full" in (own.get(answer["InferenceId"])["waiting_reason"] or ""))
        disk.free()

        kind, body, _ = outcome(server.running, answer, timeout_s=PATIENCE_S)
        assert (kind, body) == ("output", b"patience")


def refusal(place, endpoint) -> str:
    """Fill the disk until a request is refused, as long as the database has pages left over; why it was."""
    while True:
        place.disk.fill()
        try:
            place.send(endpoint, "nothing that the model could read " * 1000)
        except ClientError as error:
            return str(error)


def test_while_the_database_is_locked_work_waits_and_goes_on_once_it_is_free(place):
    endpoint = place.deploy()
    under_way = place.invoke(endpoint, "first")
    until(lambda: place.began("first"))

    with place.database.locked():
        place.open()
        with pytest.raises(ClientError, match="cannot be used now"):
            place.invoke(endpoint, "refused")
        own = place.server.running.own()
        until(
            lambda: "database cannot be used" in (own.get(under_way["InferenceId"])["waiting_reason"] or "")
        )

    assert place.outcome(under_way) == "output"
    ended = own.get(under_way["InferenceId"])
    assert (ended["claim_count"], ended["waiting_reason"]) == (1, None)
    assert place.outcome(place.invoke(endpoint, "second")) == "output"
    assert place.server.ends == 0
    assert place.began("refused") == []


@pytest.mark.parametrize("days", [3, -3])
def test_a_wall_clock_that_is_set_ends_no_lease_and_no_waiting(place, days):
    endpoint = place.deploy(max_concurrent=1)
    under_way = place.invoke(endpoint, "first")
    until(lambda: place.began("first"))
    waiting = place.invoke(endpoint, "second", RequestTTLSeconds=3600)

    place.clock.set(days * 86_400)
    until(lambda: "The wall clock jumped" in place.log())
    place.clock.set(0)
    place.open()

    assert place.outcome(under_way) == "output"
    assert place.outcome(waiting) == "output"
    assert (len(place.began("first")), len(place.began("second"))) == (1, 1)


def test_what_was_recorded_while_the_wall_clock_was_wrong_is_not_due_in_days_after_a_restart(place):
    sqs = place.clients.sqs
    queue = sqs.create_queue(QueueName="q")["QueueUrl"]
    place.clock.set(3 * 86_400)
    place.server.kill()
    place.server.await_up()
    place.clock.set(0)
    until(lambda: sends(sqs, queue))

    place.server.kill()
    place.server.await_up()

    received = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5)
    assert [message["Body"] for message in received.get("Messages", ())] == ["hello"]


def sends(sqs, queue) -> bool:
    """Whether a message could be sent: not while the server takes our signature for one of another day."""
    try:
        sqs.send_message(QueueUrl=queue, MessageBody="hello")
    except ClientError:
        return False
    return True


def test_a_first_sigterm_lets_running_work_finish_and_leaves_the_rest_to_the_next_server(place):
    endpoint = place.deploy(max_concurrent=1)
    running = place.invoke(endpoint, "first")
    until(lambda: place.began("first"))
    queued = place.invoke(endpoint, "second")

    place.server.send(signal.SIGTERM)
    until(lambda: not answers(place))
    place.open()
    until(lambda: place.server.ends == 1)
    place.server.await_up()

    assert place.outcome(running) == "output"
    assert place.outcome(queued) == "output"
    assert len(place.began("first")) == 1


def test_a_second_sigterm_hands_running_work_back_and_it_is_done_again_onto_the_same_key(place):
    endpoint = place.deploy()
    running = place.invoke(endpoint, "first")
    until(lambda: place.began("first"))

    place.server.terminate(hurry_after_s=0.5)  # would wait for a gate that nobody opens
    place.server.await_up()
    until(lambda: len(place.began("first")) == 2)
    place.open()

    assert place.outcome(running) == "output"


def test_signals_that_come_while_it_leaves_do_not_make_a_clean_end_a_crash(tmp_path):
    command = [sys.executable, "-m", "ebbtide", "serve", "--data", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline()

        while server.poll() is None:
            server.terminate()
            time.sleep(0.005)

    assert server.returncode == 0


def test_under_a_low_limit_of_open_files_idle_connections_leave_the_server_what_it_needs(tmp_path):
    limited = ["bash", "-c", 'ulimit -n 256 && exec "$@"', "-"]
    command = [*limited, sys.executable, "-m", "ebbtide", "serve", "--data", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as server, ExitStack() as idle:
        idle.callback(server.terminate)
        assert server.stdout is not None
        assert server.stdout.readline()
        running = find(tmp_path)
        place = urlsplit(running.url)
        for _ in range(300):
            idle.enter_context(socket.create_connection((place.hostname, place.port)))

        s3 = Clients.of(running).s3
        s3.create_bucket(Bucket="bucket")
        s3.put_object(Bucket="bucket", Key="large", Body=b"x" * 100_000)

        assert s3.get_object(Bucket="bucket", Key="large")["Body"].read() == b"x" * 100_000
    assert server.returncode == 0


def answers(place) -> bool:
    try:
        place.clients.sqs.list_queues()
    except (BotoCoreError, ClientError):
        return False
    return True


def test_a_request_over_its_time_is_ended_in_its_model_server_and_its_neighbour_is_done_again(place):
    endpoint = place.deploy(max_concurrent=2)
    neighbour = place.invoke(endpoint, "neighbour")
    until(lambda: place.began("neighbour"))

    for limit_s in (1, 8, 64):  # its time may be over before the model has begun on it
        slow = place.invoke(endpoint, "slow", "never", InvocationTimeoutSeconds=limit_s)
        assert "InvocationTimeoutSeconds" in place.outcome(slow)
        if place.began("slow"):
            break

    computing = place.began("slow")[-1]
    until(lambda: not psutil.pid_exists(computing))
    until(lambda: place.began("neighbour")[-1] != computing)
    place.open()
    assert place.outcome(neighbour) == "output"
    assert place.outcome(place.invoke(endpoint, "next")) == "output"


def test_a_poisonous_request_fails_after_a_bounded_number_of_tries_and_its_neighbours_do_not(place):
    endpoint = place.deploy(max_concurrent=2)
    neighbours = [place.invoke(endpoint, f"neighbour-{n}") for n in range(2)]
    until(lambda: all(place.began(f"neighbour-{n}") for n in range(2)))
    poison = place.send(endpoint, "die")
    place.open()

    assert "The model server died 3 times" in place.outcome(poison)
    assert [place.outcome(each) for each in neighbours] == ["output", "output"]
    assert place.outcome(place.invoke(endpoint, "next")) == "output"


def test_a_server_that_slept_past_its_leases_publishes_each_outcome_once(tmp_path):
    with ExitStack() as stack:
        place = Place(tmp_path, stack, EBBTIDE_LEASE_S="1")
        queue, topic = subscribed_queue(place)
        endpoint = place.deploy(notification={"SuccessTopic": topic})
        running = place.invoke(endpoint, "first", InferenceId="first")
        until(lambda: place.began("first"))

        place.server.send(signal.SIGSTOP)
        time.sleep(2.0)  # past the lease: there is nothing to wait for but time
        place.open()
        place.server.send(signal.SIGCONT)

        assert place.outcome(running) == "output"
        last = place.invoke(endpoint, "last", InferenceId="last")
        assert place.outcome(last) == "output"
        assert sorted(told(place, queue, until={"first", "last"})) == ["first", "last"]


def subscribed_queue(place) -> tuple[str, str]:
    """A queue's URL and the ARN of the topic that it is subscribed to."""
    sqs, sns = place.clients.sqs, place.clients.sns
    queue = sqs.create_queue(QueueName="told")["QueueUrl"]
    attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]
    topic = sns.create_topic(Name="told")["TopicArn"]
    sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=attributes["QueueArn"],
        Attributes={"RawMessageDelivery": "true"},
    )
    return queue, topic


def told(place, queue: str, *, until: set[str]) -> list[str]:
    """The inference ids of the messages up to the last of those."""
    sqs, ids = place.clients.sqs, list[str]()
    deadline = time.monotonic() + PATIENCE_S
    while not until <= set(ids):
        assert time.monotonic() < deadline
        answer = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=5)
        for message in answer.get("Messages", ()):
            sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            body = json.loads(message["Body"])
            if body["eventName"] == "InferenceResult":
                ids.append(body["inferenceId"])
    return ids
