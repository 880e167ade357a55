"""Several servers beside one PostgreSQL, as their users and their operator see them."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from ebbtide.cli.running import RunningServer, find
from ebbtide.database import Database
from ebbtide.migrations import migrate
from ebbtide.peers import ARRIVALS, CHANGES, LOOK, MESSAGE_BYTES, LeadershipLost, Peers, _packed
from ebbtide.pytest_plugin import Ebbtide
from ebbtide.settings import Credentials
from tests.deployments import deploy, outcome
from tests.postgresql import PostgreSQL

PATIENCE_S = 120.0


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    with postgresql.database() as url:
        yield url


class Server(Ebbtide):
    """`ebbtide serve` that may be killed, and started again on its directory."""

    def __init__(self, root: Path, name: str, database: str) -> None:
        self.data = root / name
        self.data.mkdir()
        self._command = [sys.executable, "-m", "ebbtide", "serve", "--data", str(self.data), "--port", "0"]
        self._command += ["--database", database, "--objects", str(root / "objects")]
        self.start()

    def start(self) -> None:
        with (self.data / "server.log").open("a") as log:
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        if not self.process.stdout.readline():
            raise RuntimeError((self.data / "server.log").read_text())
        self._server = find(self.data)

    @property
    def leads(self) -> bool:
        return "This server leads" in (self.data / "server.log").read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.terminate()
        with self.process:
            self.process.wait(PATIENCE_S)


Servers = Callable[[str], Server]


@pytest.fixture
def serve(tmp_path: Path, url: str) -> Iterator[Servers]:
    """Start servers by their names, all beside one database."""
    with ExitStack() as running:

        def start(name: str) -> Server:
            server = Server(tmp_path, name, url)
            running.callback(server.close)
            return server

        yield start


def is_back(server: Server) -> bool:
    """It has learnt that another leads, and answers again."""
    if "begins anew as a follower" not in (server.data / "server.log").read_text():
        return False
    try:
        with urllib.request.urlopen(f"{server.url}/_ebbtide/health", timeout=1):
            return True
    except OSError:
        return False


@pytest.fixture
def pair(serve: Servers) -> tuple[Server, Server]:
    """The leader and a follower."""
    first = serve("first")
    until(lambda: first.leads)
    return first, serve("second")


def until(true: Callable[[], Any]) -> Any:
    """What `true` returns once it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def echo(server: Ebbtide, **options: Any) -> Any:
    return deploy(server, environment={"HF_MODEL_ID": "ebbtide/echo"}, **options)


def invoke(server: Ebbtide, name: str, body: bytes) -> dict[str, Any]:
    key = f"in-{hash(body)}"
    server.client("s3").put_object(Bucket=name, Key=key, Body=body)
    answer = server.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=name, InputLocation=f"s3://{name}/{key}"
    )
    return dict(answer)


def test_requests_may_go_to_any_server(pair) -> None:
    """Both take one key; an endpoint made by way of the follower is served, a large object of one is the
    other's, and so are an outcome, a message to a queue and a real-time answer."""
    leader, follower = pair
    body = b"x" * 100_000

    endpoint = echo(follower)
    answers = {server: invoke(server, endpoint.name, body) for server in pair}

    assert leader.credentials == follower.credentials
    for server, answer in answers.items():
        other = follower if server is leader else leader
        assert outcome(other, answer)[:2] == ("output", body)
    real_time = echo(follower, asynchronous=False)
    answered = follower.client("sagemaker-runtime").invoke_endpoint(EndpointName=real_time.name, Body=b"now")
    assert answered["Body"].read() == b"now"
    groups = follower.client("logs").describe_log_groups()["logGroups"]
    assert f"/aws/sagemaker/Endpoints/{endpoint.name}" in {group["logGroupName"] for group in groups}
    assert not follower.leads


def test_a_key_that_was_made_on_one_server_is_known_to_the_other_at_once(pair) -> None:
    leader, follower = pair

    for made_on, used_on in ((leader, follower), (follower, leader)):
        made = find(made_on.data).own().request("POST", "keys", body={"account": "210987654321", "label": ""})
        key = Credentials(made["access_key_id"], made["secret_access_key"], "210987654321")
        told = RunningServer(used_on.url, used_on.region, key).client("sts").get_caller_identity()
        assert told["Account"] == "210987654321"


def test_who_waits_for_a_message_on_one_server_gets_what_was_sent_to_another(pair) -> None:
    leader, follower = pair
    queue = leader.client("sqs").create_queue(QueueName="q")["QueueUrl"]
    received = []

    def receive() -> None:
        answer = follower.client("sqs").receive_message(QueueUrl=queue, WaitTimeSeconds=20)
        received.extend(answer.get("Messages", ()))

    waiting = threading.Thread(target=receive)
    waiting.start()
    leader.client("sqs").send_message(QueueUrl=queue, MessageBody="across")
    waiting.join()

    assert [message["Body"] for message in received] == ["across"]


def test_messages_are_signed_with_one_key(pair) -> None:
    certificates = {
        urllib.request.urlopen(f"{server.url}/_ebbtide/sns/certificate.pem").read() for server in pair
    }

    assert len(certificates) == 1


def test_a_follower_takes_over_from_a_leader_that_was_killed(pair) -> None:
    """What was accepted before and what is accepted after has its outcome; the one killed comes back as a
    follower."""
    leader, follower = pair
    endpoint = echo(leader)
    before = [invoke(leader, endpoint.name, b"before %d" % n) for n in range(20)]

    leader.kill()
    after = [invoke(follower, endpoint.name, b"after %d" % n) for n in range(5)]

    for word, answers in (("before", before), ("after", after)):
        for n, answer in enumerate(answers):
            assert outcome(follower, answer)[:2] == ("output", f"{word} {n}".encode())
    assert follower.leads
    leader.start()
    assert outcome(leader, invoke(leader, endpoint.name, b"again"))[:2] == ("output", b"again")


def test_a_follower_takes_over_from_a_leader_that_is_stopped_and_goes_on_later(pair) -> None:
    """PostgreSQL gives up the silent leader's lock though its connection stands."""
    leader, follower = pair
    endpoint = echo(leader)

    leader.process.send_signal(signal.SIGSTOP)
    try:
        taken_over = outcome(follower, invoke(follower, endpoint.name, b"meanwhile"))
    finally:
        leader.process.send_signal(signal.SIGCONT)

    assert taken_over[:2] == ("output", b"meanwhile")
    assert follower.leads
    until(lambda: is_back(leader))
    assert outcome(leader, invoke(leader, endpoint.name, b"again"))[:2] == ("output", b"again")


def test_nothing_is_lost_when_postgresql_is_killed_under_load(
    tmp_path: Path, own_postgresql: PostgreSQL
) -> None:
    """Kill -9 of PostgreSQL while requests come in: the server lives on, and each answered with 202 ends in
    its output."""
    server = Server(tmp_path, "alone", own_postgresql.url("postgres"))
    try:
        endpoint = echo(server)
        accepted: dict[bytes, dict[str, Any]] = {}
        stop = threading.Event()

        def load() -> None:
            n = 0
            while not stop.is_set():
                n += 1
                try:
                    body = b"request %d" % n
                    accepted[body] = invoke(server, endpoint.name, body)
                except (BotoCoreError, ClientError):
                    continue

        sender = threading.Thread(target=load)
        sender.start()
        try:
            for _ in range(3):
                enough = len(accepted) + 20
                until(lambda: len(accepted) > enough)  # noqa: B023
                own_postgresql.kill()
                own_postgresql.start()
        finally:
            stop.set()
            sender.join()

        for body, answer in accepted.items():
            assert outcome(server, answer)[:2] == ("output", body)
        assert server.process.poll() is None
    finally:
        server.close()


async def test_who_led_before_an_interruption_goes_on(url: str) -> None:
    """The lock's connection breaks; the same server has it again and knows that nobody led meanwhile."""
    database = Database(url)
    migrate(database.engine)
    peers = Peers(url, database, "http://first")
    stop = asyncio.Event()
    running = asyncio.create_task(peers.run(stop))
    await peers.leads.wait()
    looks = asyncio.Queue[None]()
    peers.hear(LOOK, looks.put_nowait)

    cut(database)
    await looks.get()  # it has connected again

    await database.read(peers.check_leading)
    stop.set()
    await running
    database.close()


async def test_a_leader_that_was_replaced_learns_it_and_writes_nothing_more(url: str) -> None:
    database = Database(url)
    migrate(database.engine)
    first, second = Peers(url, database, "http://first"), Peers(url, database, "http://second")
    stop = asyncio.Event()
    leading = asyncio.create_task(first.run(stop))
    await first.leads.wait()
    following = asyncio.create_task(second.run(stop))

    # The first is cut off, and PostgreSQL out of its reach until the second leads.
    reachable, first._url = first._url, "postgresql://nobody@127.0.0.1:1/none"
    cut(database)
    await second.leads.wait()
    first._url = reachable

    with pytest.raises(LeadershipLost):
        await leading
    with pytest.raises(LeadershipLost):
        await database.read(first.check_leading)
    assert (await first.leader()).url == "http://second"
    stop.set()
    await following
    database.close()


def cut(database: Database) -> None:
    """Break the connections by which servers lead and listen."""
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'ebbtide'"
        )


def test_messages_between_servers_are_split_where_they_are_too_long() -> None:
    untold = [(CHANGES, '"' + "c" * 1000 + '"')] * 20 + [(ARRIVALS, '"arn"')]

    messages = list(_packed("me", untold))

    assert len(messages) == 4
    assert all(len(message) < MESSAGE_BYTES + 2000 for message in messages)


async def test_a_connection_that_falls_silent_while_it_is_made_is_given_up(
    postgresql: PostgreSQL, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by way of a proxy that swallows what it gets."""
    monkeypatch.setattr("ebbtide.peers.BEAT_TIMEOUT_S", 1.0)
    swallowed = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal swallowed
        answers, requests = await asyncio.open_unix_connection(postgresql.directory / ".s.PGSQL.5432")

        async def pass_back() -> None:
            while block := await answers.read(1 << 16):
                writer.write(block)

        passing_back = asyncio.create_task(pass_back())
        while block := await reader.read(1 << 16):
            if b"idle_session_timeout" in block and not swallowed:
                swallowed += 1
                continue
            requests.write(block)
        requests.close()
        passing_back.cancel()

    database = Database(url)
    migrate(database.engine)
    proxy = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    peers = Peers(
        url.partition("@")[0] + f"@127.0.0.1:{port}/" + url.partition("@/")[2].partition("?")[0],
        database,
        "http://here",
    )
    stop = asyncio.Event()
    running = asyncio.create_task(peers.run(stop))

    async with asyncio.timeout(PATIENCE_S):
        await peers.leads.wait()

    assert swallowed == 1
    stop.set()
    await running
    proxy.close()
    database.close()
