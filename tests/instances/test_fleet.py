"""The fleet with real model servers: what endpoints want comes up, is replaced, drains and leaves nothing."""

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import create_engine, update
from tests.instances.recorded import instances_of
from tests.queue.accepted import invocation

from ebbtide import endpoints, queue
from ebbtide.database import Database, metadata
from ebbtide.endpoints import Endpoint, EndpointConfig, Model, catalogue
from ebbtide.endpoints.states import CREATING, FAILED, IN_SERVICE, UPDATING
from ebbtide.instances import fleet, records, running
from ebbtide.instances.admission import RUNTIME_BYTES
from ebbtide.instances.exchange import ModelServerLost
from ebbtide.instances.fleet import Fleet
from ebbtide.instances.records import Instance, State
from ebbtide.logs import LogStore
from ebbtide.objects.buckets import Bucket, create_bucket
from ebbtide.objects.errors import NoSuchKey
from ebbtide.objects.store import ObjectStore
from ebbtide.queue import invocations
from ebbtide.queue.changes import Changes
from ebbtide.queue.completion import Completion
from ebbtide.queue.wakeups import Wakeups
from ebbtide.settings import Settings

ACCOUNT, REGION = "123456789012", "us-east-1"
ECHO = {"HF_MODEL_ID": "ebbtide/echo"}
PATIENCE_S = 120.0

GATED = """
import os, time

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    told = body if isinstance(body, str) else body.decode()
    if told.startswith("exit"):
        os._exit(int(told.split()[1]))
    started, gate = told.split()
    open(started, "w").close()
    while not os.path.exists(gate):
        time.sleep(0.01)
    return "through"
"""


class Workplace:
    """A database, a store and a running fleet, and what tests do with them."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.settings = Settings(root, **settings)
        self.database = Database(root / "ebbtide.db")
        with self.database.engine.begin() as connection:
            metadata.create_all(connection)
        self.objects = ObjectStore(root / "objects", self.database)
        self.wakeups = Wakeups()
        self.logs = LogStore(root / "logs")
        changes = Changes()
        completion = Completion(self.database, changes, lambda: None, lease_s=self.settings.lease_s)
        self.fleet = Fleet(
            self.settings, self.database, self.objects, self.logs, self.wakeups, changes, completion
        )
        with self.database.engine.begin() as connection:
            if not connection.exec_driver_sql("SELECT 1 FROM buckets").first():
                create_bucket(connection, Bucket("b", ACCOUNT, REGION, 0.0))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Workplace"]:
        stop = asyncio.Event()
        loop = asyncio.create_task(self.fleet.run(stop))
        try:
            yield self
        finally:
            stop.set()
            await self.fleet.close()
            await loop
            self.database.close()

    async def configure(
        self,
        name: str,
        environment: dict[str, str] | None = None,
        *,
        count: int = 1,
        code: str | None = None,
        instance_type: str = "ml.m5.xlarge",
    ) -> EndpointConfig:
        container: dict[str, Any] = {
            "Image": "huggingface-pytorch-inference",
            "Environment": ECHO if environment is None else environment,
        }
        if code is not None:
            directory = self.root / "code-of" / name / "code"
            directory.mkdir(parents=True)
            (directory / "inference.py").write_text(code)
            container["Environment"] = {"HF_MODEL_ID": str(directory.parent)}
        variant = {
            "VariantName": "main",
            "ModelName": name,
            "InstanceType": instance_type,
            "InitialInstanceCount": count,
        }
        given = {
            "EndpointConfigName": name,
            "ProductionVariants": [variant],
            "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://b/out"}},
        }
        model = Model(ACCOUNT, name, name, {"ModelName": name, "PrimaryContainer": container}, 0.0)
        config = EndpointConfig(ACCOUNT, name, name, given, 0.0)
        await self.database.write(lambda connection: catalogue.create_model(connection, model))
        await self.database.write(lambda connection: catalogue.create_endpoint_config(connection, config))
        return config

    async def deploy(self, *args: Any, **given: Any) -> Endpoint:
        config = await self.configure("model", *args, **given)
        made = await self.database.write(
            lambda connection: endpoints.create_endpoint(
                connection, config, "summaries", region=REGION, at=time.time()
            )
        )
        self.fleet.wake()
        return made

    async def update(self, endpoint: Endpoint, config: EndpointConfig) -> None:
        now_there = await self.endpoint(endpoint)
        await self.database.write(
            lambda connection: endpoints.update_endpoint(
                connection,
                now_there,
                config,
                region=REGION,
                retain_variant_properties=False,
                excluded_properties=(),
                at=time.time(),
            )
        )
        self.fleet.wake()

    async def scale(self, endpoint: Endpoint, count: int) -> None:
        await self.database.write(
            lambda connection: endpoints.set_desired_instance_counts(
                connection, endpoint.id, {"main": count}, time.time()
            )
        )
        self.fleet.wake()

    async def delete(self, endpoint: Endpoint) -> None:
        now_there = await self.endpoint(endpoint)
        await self.database.write(
            lambda connection: endpoints.begin_delete(connection, now_there, time.time())
        )
        self.fleet.wake()

    async def invoke(self, endpoint: Endpoint, body: str, *, timeout_s: int = 60) -> str:
        name = f"{time.time_ns()}"
        accepted = invocation(
            name,
            endpoint.id,
            time.time(),
            timeout_s=timeout_s,
            input_uri=None,
            content_type="application/json",
            output_uri=f"s3://b/out/{name}.out",
            body=body.encode(),
        )
        await self.database.write(lambda connection: invocations.accept(connection, [accepted]))
        self.wakeups.notify(endpoint.id)
        return f"out/{name}.out"

    async def endpoint(self, endpoint: Endpoint) -> Endpoint:
        found = await self.database.read(lambda connection: endpoints.find_endpoint(connection, endpoint.id))
        assert found is not None
        return found

    async def instances(self, endpoint: Endpoint) -> list[Instance]:
        return await self.database.read(lambda connection: instances_of(connection, endpoint.id))

    async def until(self, true: Callable[[], Any]) -> Any:
        """Wait for what is bound to become true."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            result = true()
            if asyncio.iscoroutine(result):
                result = await result
            if result:
                return result
            assert time.monotonic() < deadline, "it did not become true"
            await asyncio.sleep(0.01)

    async def settled(self, endpoint: Endpoint) -> Endpoint:
        async def look() -> Endpoint | None:
            found = await self.endpoint(endpoint)
            return None if found.status in (CREATING, UPDATING) else found

        found: Endpoint = await self.until(look)
        return found

    async def serving(self, endpoint: Endpoint, count: int) -> None:
        await self.until(lambda: len(self.fleet.in_service(endpoint.id)) == count)

    async def replaced(self, endpoint: Endpoint) -> Instance:
        """The endpoint's first instance, once it has failed and another serves in its place."""

        async def look() -> Instance | None:
            first, *others = await self.instances(endpoint)
            serves = any(each.state == State.IN_SERVICE for each in others)
            return first if first.state == State.FAILED and serves else None

        found: Instance = await self.until(look)
        return found

    async def output(self, key: str) -> bytes:
        async def look() -> bytes | None:
            record = await self.database.read(
                lambda connection: connection.exec_driver_sql(
                    "SELECT 1 FROM objects WHERE key = ?", (key,)
                ).first()
            )
            if record is None:
                return None
            _, chunks = await self.objects.open("b", key)
            return b"".join([chunk async for chunk in chunks])

        found: bytes = await self.until(look)
        return found


def model_servers() -> list[psutil.Process]:
    """The fleet's processes, among others that this one may have started."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended between the two questions
            parent = child.parent()
            # Servers in processes of their own have fork servers too, of their own.
            if "ebbtide.runtime.forkserver" in parent.cmdline() and parent.ppid() == os.getpid():
                found.append(child)
    return found


@pytest.fixture
async def workplace(tmp_path: Path) -> AsyncIterator[Workplace]:
    async with Workplace(tmp_path).running() as workplace:
        yield workplace


def states(instances: Iterable[Instance]) -> list[State]:
    return [instance.state for instance in instances]


async def test_an_endpoint_comes_into_service_with_its_instances(workplace):
    endpoint = await workplace.deploy(count=2)

    assert (await workplace.settled(endpoint)).status == IN_SERVICE
    await workplace.serving(endpoint, 2)
    assert states(await workplace.instances(endpoint)) == [State.IN_SERVICE] * 2
    assert await workplace.output(await workplace.invoke(endpoint, '{"a": 1}')) == b'{"a": 1}'


async def test_an_endpoint_without_instances_comes_into_service_and_starts_one_when_told(workplace):
    endpoint = await workplace.deploy(count=0)
    assert (await workplace.settled(endpoint)).status == IN_SERVICE
    assert await workplace.instances(endpoint) == []

    await workplace.scale(endpoint, 1)

    await workplace.serving(endpoint, 1)
    assert (await workplace.settled(endpoint)).status == IN_SERVICE


async def test_a_model_that_is_not_there_fails_the_endpoint_even_at_zero_instances(workplace):
    endpoint = await workplace.deploy({"HF_MODEL_ID": "/nowhere"}, count=0)

    failed = await workplace.settled(endpoint)

    assert failed.status == FAILED
    assert "/nowhere, which does not exist" in failed.failure_reason


async def test_a_model_that_does_not_come_up_fails_the_endpoint_and_leaves_no_process(workplace):
    code = "def model_fn(model_dir):\n    raise RuntimeError('no weights')\ndef predict_fn(data, model): ..."
    endpoint = await workplace.deploy(code=code, count=2)

    failed = await workplace.settled(endpoint)

    assert failed.status == FAILED
    assert "The primary container for production variant main did not pass" in failed.failure_reason
    assert "no weights" in failed.failure_reason
    await workplace.until(lambda: not model_servers())


async def test_work_in_flight_is_finished_before_an_instance_goes(workplace):
    endpoint = await workplace.deploy(code=GATED)
    await workplace.settled(endpoint)
    started, gate = workplace.root / "started", workplace.root / "gate"
    key = await workplace.invoke(endpoint, f"{started} {gate}")
    await workplace.until(started.exists)

    await workplace.scale(endpoint, 0)
    await workplace.serving(endpoint, 0)
    (draining,) = await workplace.instances(endpoint)
    gate.touch()

    assert draining.state == State.DRAINING
    assert await workplace.output(key) == b"through"
    await workplace.until(lambda: not model_servers())


async def test_a_model_server_that_dies_is_replaced(workplace):
    endpoint = await workplace.deploy(code=GATED)
    await workplace.settled(endpoint)
    (first,) = workplace.fleet.in_service(endpoint.id)
    (workplace.root / "gate").touch()

    psutil.Process(first.model_server.pid).kill()

    async def replaced() -> bool:
        return [i.id for i in workplace.fleet.in_service(endpoint.id)] not in ([], [first.id])

    await workplace.until(replaced)
    key = await workplace.invoke(endpoint, f"{workplace.root}/started {workplace.root}/gate")
    assert await workplace.output(key) == b"through"
    failed, _ = await workplace.instances(endpoint)
    assert (failed.state, failed.cause) == (
        State.FAILED,
        "the model server was killed (SIGKILL), as the kernel does when memory runs out",
    )
    assert (await workplace.endpoint(endpoint)).status == IN_SERVICE


async def test_poisonous_requests_do_not_make_their_neighbours_wait_for_instances(workplace):
    endpoint = await workplace.deploy(code=GATED)
    await workplace.settled(endpoint)
    (workplace.root / "gate").touch()
    causes = set()

    for _ in range(3):
        await workplace.invoke(endpoint, "exit 1")
    neighbour = await workplace.invoke(endpoint, f"{workplace.root}/started {workplace.root}/gate")

    async def all_ended() -> bool:
        causes.update(instance.cause for instance in await workplace.instances(endpoint))
        backlog = await workplace.database.read(lambda connection: queue.backlog(connection, endpoint.id))
        return backlog.size == 0

    await workplace.until(all_ended)
    assert await workplace.output(neighbour) == b"through"
    assert not [cause for cause in causes if cause.startswith("waits after a failed start")]


async def test_a_fleet_whose_database_is_locked_when_it_starts_starts_once_it_is_free(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr("ebbtide.database.writer.PATIENCE_S", 0.0)
    workplace = Workplace(tmp_path)
    with closing(sqlite3.connect(tmp_path / "ebbtide.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        async with workplace.running():
            await workplace.until(lambda: "fleet: not now" in caplog.text)
            other.execute("ROLLBACK")

            endpoint = await workplace.deploy()

            assert (await workplace.settled(endpoint)).status == IN_SERVICE


async def test_a_model_server_that_goes_on_computing_what_has_timed_out_is_replaced(workplace):
    endpoint = await workplace.deploy(code=GATED)
    await workplace.settled(endpoint)

    async def over() -> bool:
        backlog = await workplace.database.read(lambda connection: queue.backlog(connection, endpoint.id))
        return backlog.size == 0

    started = workplace.root / "started"
    for timeout_s in (1, 8, 64):  # its time may be over before the model has begun on it
        await workplace.invoke(endpoint, f"{started} {workplace.root}/never", timeout_s=timeout_s)
        await workplace.until(over)
        if started.exists():
            break

    hung = await workplace.replaced(endpoint)
    assert hung.cause == "the model server went on computing what had timed out"


async def test_a_model_server_that_hangs_without_work_is_replaced(workplace, monkeypatch):
    monkeypatch.setattr(running, "PING_EVERY_S", 0.05)
    endpoint = await workplace.deploy()
    await workplace.settled(endpoint)
    (first,) = workplace.fleet.in_service(endpoint.id)

    psutil.Process(first.model_server.pid).suspend()
    monkeypatch.setattr(running, "SILENT_S", 1.0)  # only now: on a slow machine one that is well takes longer

    hung = await workplace.replaced(endpoint)
    assert hung.cause == "the model server hung without work"


async def test_what_is_kept_of_half_done_work_goes_when_its_invocation_has_ended(workplace, monkeypatch):
    monkeypatch.setattr(fleet, "MEASURE_EVERY_S", 0.01)
    endpoint = await workplace.deploy(code=GATED)
    await workplace.settled(endpoint)
    key = await workplace.invoke(endpoint, f"{workplace.root}/started {workplace.root}/gate")
    id_ = key.removeprefix("out/").removesuffix(".out")
    parts = workplace.root / "runtime" / "parts"
    for name in (id_, "ended"):
        (parts / name).mkdir(parents=True)
    workplace.fleet.wake()

    await workplace.until(lambda: [path.name for path in parts.iterdir()] == [id_])
    (workplace.root / "gate").touch()
    await workplace.output(key)
    workplace.fleet.wake()
    await workplace.until(lambda: not list(parts.iterdir()))


async def test_an_update_replaces_the_instances_and_the_queue_stays(workplace):
    endpoint = await workplace.deploy()
    await workplace.settled(endpoint)
    (old,) = workplace.fleet.in_service(endpoint.id)

    await workplace.update(endpoint, await workplace.configure("next", code=GATED))
    updated = await workplace.settled(endpoint)

    assert (updated.status, updated.generation, updated.config_name) == (IN_SERVICE, 2, "next")

    async def replaced() -> bool:
        return states(await workplace.instances(endpoint)) == [State.STOPPED, State.IN_SERVICE]

    await workplace.until(replaced)
    await workplace.serving(endpoint, 1)
    assert old.id not in [i.id for i in workplace.fleet.in_service(endpoint.id)]


async def test_an_update_that_cannot_come_up_leaves_what_serves(workplace):
    endpoint = await workplace.deploy()
    await workplace.settled(endpoint)
    (old,) = workplace.fleet.in_service(endpoint.id)

    await workplace.update(endpoint, await workplace.configure("next", {"HF_MODEL_ID": "/nowhere"}))
    kept = await workplace.settled(endpoint)

    assert (kept.status, kept.generation) == (IN_SERVICE, 1)
    assert "/nowhere" in kept.failure_reason
    assert workplace.fleet.in_service(endpoint.id) == [old]


async def test_a_deleted_endpoint_goes_with_its_instances_and_its_queue(workplace):
    endpoint = await workplace.deploy()
    await workplace.settled(endpoint)

    await workplace.delete(endpoint)

    async def gone() -> bool:
        find = endpoints.find_endpoint
        return await workplace.database.read(lambda connection: find(connection, endpoint.id)) is None

    await workplace.until(gone)
    assert states(await workplace.instances(endpoint)) == [State.STOPPED]
    assert not model_servers()
    backlogs = await workplace.database.read(queue.backlogs)
    assert endpoint.id not in backlogs


async def test_work_in_flight_does_not_keep_a_deleted_endpoint_for_ever(tmp_path):
    async with Workplace(tmp_path, drain_timeout_s=0.1).running() as workplace:
        endpoint = await workplace.deploy(code=GATED)
        await workplace.settled(endpoint)
        started = tmp_path / "started"
        await workplace.invoke(endpoint, f"{started} {tmp_path}/never")
        await workplace.until(started.exists)

        await workplace.delete(endpoint)

        await workplace.until(lambda: not model_servers())


async def test_what_the_memory_does_not_hold_waits_with_its_cause(tmp_path):
    async with Workplace(tmp_path, memory_limit_bytes=RUNTIME_BYTES + 10 * 2**20).running() as workplace:
        endpoint = await workplace.deploy(count=2)
        assert (await workplace.settled(endpoint)).status == IN_SERVICE

        (held,) = [i for i in await workplace.instances(endpoint) if i.state == State.PENDING]

        assert re.fullmatch(r"waits for 0\.\d\d GiB of memory: 0\.01 GiB are free", held.cause)
        assert [each.variant for each in workplace.fleet.in_service(endpoint.id)] == ["main"]


async def test_a_type_that_needs_a_gpu_is_not_started_without_one(workplace):
    endpoint = await workplace.deploy(instance_type="ml.p3.16xlarge")

    failed = await workplace.settled(endpoint)

    assert failed.status == FAILED
    assert failed.failure_reason.startswith("CapacityError: an instance of type ml.p3.16xlarge needs 8 GPUs")


async def test_what_the_model_prints_is_in_the_endpoints_log(workplace):
    code = "def model_fn(model_dir): print('loaded ' + 'here')\ndef predict_fn(data, model): return data"
    endpoint = await workplace.deploy(code=code)
    await workplace.settled(endpoint)
    (instance,) = await workplace.instances(endpoint)

    stream = workplace.logs.of(ACCOUNT).stream("/aws/sagemaker/Endpoints/summaries", f"main/{instance.id}")

    await workplace.until(lambda: "loaded here" in [event.message for event in stream.forward(0)])


async def test_instances_of_a_killed_server_are_failed_and_replaced(tmp_path):
    async with Workplace(tmp_path).running() as first:
        endpoint = await first.deploy()
        await first.settled(endpoint)
    with create_engine(f"sqlite:///{tmp_path}/ebbtide.db").begin() as connection:
        # What the table holds when a server is killed: nobody recorded an end.
        connection.execute(update(records.instances).values(state=State.IN_SERVICE, ended_at=None))

    async with Workplace(tmp_path).running() as second:
        await second.serving(endpoint, 1)
        old, new = await second.instances(endpoint)

    assert (old.state, old.cause) == (State.FAILED, "the server stopped")
    assert new.state == State.IN_SERVICE


async def test_stopping_lets_work_finish_and_leaves_no_process(workplace):
    endpoint = await workplace.deploy(code=GATED)
    await workplace.settled(endpoint)
    started, gate = workplace.root / "started", workplace.root / "gate"
    key = await workplace.invoke(endpoint, f"{started} {gate}")
    await workplace.until(started.exists)

    draining = asyncio.create_task(workplace.fleet.drain())
    await workplace.serving(endpoint, 0)
    gate.touch()
    await draining
    await workplace.fleet.close()

    assert await workplace.output(key) == b"through"
    assert states(await workplace.instances(endpoint)) == [State.STOPPED]
    assert not model_servers()


async def test_stopping_without_patience_hands_the_work_back(workplace):
    endpoint = await workplace.deploy(code=GATED)
    await workplace.settled(endpoint)
    started = workplace.root / "started"
    await workplace.invoke(endpoint, f"{started} {workplace.root}/never")
    await workplace.until(started.exists)

    await workplace.fleet.close()

    backlog = await workplace.database.read(lambda connection: queue.backlog(connection, endpoint.id))
    assert (backlog.queued, backlog.claimed) == (1, 0)
    assert not model_servers()


async def test_stopping_without_patience_does_not_wait_for_a_real_time_request(workplace):
    endpoint = await workplace.deploy(code=GATED)
    await workplace.settled(endpoint)
    started = workplace.root / "started"
    [instance] = workplace.fleet.in_service(endpoint.id)

    async def ask():
        body = f"{started} {workplace.root}/never".encode()
        async with instance.agent.exchange({"Content-Length": str(len(body))}, body):
            pass

    asking = asyncio.create_task(ask())
    await workplace.until(started.exists)

    await workplace.fleet.close()

    with pytest.raises(ModelServerLost):
        await asking
    assert not model_servers()


async def test_a_request_that_kills_its_model_server_takes_no_other_with_it(workplace):
    endpoint = await workplace.deploy(code=GATED)
    await workplace.settled(endpoint)
    (workplace.root / "gate").touch()

    poison = await workplace.invoke(endpoint, "exit 3")
    others = [
        await workplace.invoke(endpoint, f"{workplace.root}/started {workplace.root}/gate") for _ in range(8)
    ]

    for key in others:
        assert await workplace.output(key) == b"through"
    with pytest.raises(NoSuchKey):
        await workplace.objects.head("b", poison)
