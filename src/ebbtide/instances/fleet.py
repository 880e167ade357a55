"""The local fleet: instances as processes of this machine, kept as the endpoints want them.

A step reads what is wanted and what there is, decides (decision.py), records the moves in one transaction and
then carries them out. What takes time (downloads, starts, drains) runs in a task an instance, and wakes the
next step when it is done. A deployment is prepared once, before its first instance starts. An update's new
generation comes up beside the old one, which serves until the new one is there and is drained then.
"""

import asyncio
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from ebbtide import clock, endpoints, loops, queue
from ebbtide.database import Database
from ebbtide.endpoints import Deployment, Endpoint, Variant
from ebbtide.errors import Unavailable
from ebbtide.instances import machine, model_server, records
from ebbtide.instances.admission import (
    Admitted,
    Machine,
    expected_bytes,
    free_memory_bytes,
    reserve_bytes,
    threads,
)
from ebbtide.instances.agent import Agent
from ebbtide.instances.concurrency import MOST, Concurrency, Search, room
from ebbtide.instances.decision import (
    Failures,
    Generation,
    Key,
    Moves,
    Observation,
    decide,
    deployments_of,
    model_digest,
)
from ebbtide.instances.fork_server import ForkServer
from ebbtide.instances.model_files import ModelFiles, ModelUnavailable, size_bytes_of
from ebbtide.instances.model_server import STARTUP_TIMEOUT_S, Launch, ModelFailed, ModelServer
from ebbtide.instances.plan import RETRY_WINDOW_S
from ebbtide.instances.processes import passed_on
from ebbtide.instances.records import IllegalMove, Instance, State
from ebbtide.instances.running import LONGEST_WAIT_S, Ending, RunningInstance
from ebbtide.instances.types import InstanceType, InstanceTypes
from ebbtide.logs import LogStore
from ebbtide.objects.store import ObjectStore
from ebbtide.queue import invocations
from ebbtide.queue.changes import Changes
from ebbtide.queue.completion import Completion
from ebbtide.queue.wakeups import Wakeups
from ebbtide.settings import Settings

log = logging.getLogger(__name__)

SERVER_STOPPED = "the server stopped"

MEASURE_EVERY_S = 15.0

PARTS = "parts"
"""Where in their cache model servers keep the finished parts of long articles, a folder an invocation.
Source: runtime/loading.py."""

LOOK_AGAIN_S = 1.0
"""While an instance waits for the machine, or is given a bounded time: nothing else would wake us."""


class Fleet:
    """The instances of all endpoints, on this machine."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        objects: ObjectStore,
        logs: LogStore,
        wakeups: Wakeups,
        changes: Changes,
        completion: Completion,
        fence: Callable[[Connection], None] | None = None,
    ) -> None:
        """fence: raises in the transaction of a step when another server has taken the instances over.

        Raises ValueError when the operator's file of instance types is not of the table's form.
        """
        self._settings = settings
        self._database = database
        self._objects = objects
        self._logs = logs
        self._wakeups = wakeups
        self._changes = changes
        self._completion = completion
        self._fence = fence
        self._types = InstanceTypes(settings.instance_types_file)
        self._files = ModelFiles(settings.data / "models", objects)
        self._cache = settings.data / "runtime"
        self._fork_server = ForkServer(passed_on(os.environ), settings.data)
        self._woken = asyncio.Event()
        self._stepping = asyncio.Lock()
        self._closing = False
        self._running: dict[str, RunningInstance] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ended: dict[str, tuple[Ending, float]] = {}
        self._preparations: dict[Generation, asyncio.Task[None]] = {}
        self._prepared: set[Generation] = set()
        self._broken: dict[Generation, str] = {}
        self._failures: dict[Key, Failures] = {}
        self._peaks: dict[str, int | None] = {}
        self._found: dict[str, int] = {}
        self._model_bytes: dict[str, int | None] = {}
        self._expected_instances = 0
        self._measured_at = self._parts_at = 0.0
        self._waiting = False

    def wake(self) -> None:
        """Look at once: what is wanted has changed."""
        self._woken.set()

    def in_service(self, endpoint_id: str) -> list[RunningInstance]:
        """The endpoint's instances that take work now."""
        return [i for i in self._running.values() if i.endpoint.id == endpoint_id and i.serving]

    async def run(self, stop: asyncio.Event) -> None:
        """Step until told to stop; what runs then is left to `close`.

        What a killed server left is cleared first, by the loop's step and so as often as it takes: were it
        given up on a disk that is full just then, nothing would ever start.
        """
        cleared = False

        async def step(now: float) -> float:
            nonlocal cleared
            if not cleared:
                await self._clear_left_over(now)
                cleared = True
            return await self.step(now)

        await loops.run("fleet", step, stop, self._woken)

    async def drain(self) -> None:
        """Start no more; returns when every instance has finished what it has, and ended."""
        await self._start_no_more()
        # What cannot be recorded, on a full disk, is found by the next server as what a killed one leaves.
        with suppress(Unavailable):
            await self._database.write(partial(_record_stop, ids=list(self._running), now=clock.now()))
        for instance in self._running.values():
            instance.drain()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def close(self) -> None:
        """End what has not drained, handing back what is in it. No process stays behind."""
        await self._start_no_more()  # again: a drain may have been cut off before it came so far
        ending = [*self._tasks.values(), *self._preparations.values()]
        for instance in list(self._running.values()):
            instance.abort()
        await asyncio.gather(*ending, return_exceptions=True)
        await self._fork_server.close()
        async with self._stepping:
            with suppress(Unavailable):
                await self._record_endings()

    async def _start_no_more(self) -> None:
        async with self._stepping:
            self._closing = True
        for preparation in self._preparations.values():
            preparation.cancel()

    async def _clear_left_over(self, now: float) -> None:
        await self._database.write(lambda connection: records.end_left_over(connection, SERVER_STOPPED))
        await asyncio.to_thread(model_server.clear_left_over, self._cache)
        await asyncio.to_thread(self._files.sweep, now)

    async def step(self, now: float) -> float:
        """Bring the instances one step nearer to what the endpoints want; the delay before the next, in s."""
        async with self._stepping:
            if self._closing:
                return MEASURE_EVERY_S
            await self._record_endings()
            await self._measure(now)
            await self._forget_parts(now)
            seen = await self._observe(now)
            if seen.endpoints:
                await self._fork_server.start()
            moves = decide(seen, self._types, _new_id)
            try:
                await self._database.write(partial(_record, moves=moves, now=now, fence=self._fence))
            except IllegalMove:
                return 0.0  # an instance moved on meanwhile: decide again on what there is now
            self._carry_out(moves, seen)
            return self._delay_s(moves, seen)

    async def _observe(self, now: float) -> Observation:
        wanted, active = await self._database.read(
            lambda connection: (endpoints.all_endpoints(connection), records.active(connection))
        )
        variants = [v for endpoint in wanted for d in deployments_of(endpoint) for v in d.variants]
        self._expected_instances = sum(variant.desired_instance_count for variant in variants)
        self._forget_past(wanted, now)
        return Observation(
            at=now,
            endpoints=wanted,
            instances=active,
            busy={instance.id for instance in self._running.values() if instance.busy},
            prepared=self._prepared,
            broken=self._broken,
            failures=self._failures,
            needs=await self._needs({model_digest(variant) for variant in variants}),
            machine=self._machine(),
            drain_timeout_s=self._settings.drain_timeout_s,
        )

    async def _needs(self, digests: set[str]) -> dict[str, int]:
        """The memory that an instance of each model takes, or is expected to."""
        if unknown := digests - self._peaks.keys():
            self._peaks |= await self._database.read(
                lambda connection: {
                    digest: records.peak_memory_bytes(connection, digest) for digest in unknown
                }
            )
        return {
            digest: expected_bytes(peak_bytes=self._peaks[digest], model_bytes=self._model_bytes.get(digest))
            for digest in digests
        }

    def _machine(self) -> Machine:
        memory = machine.memory()
        reserve = reserve_bytes(memory.total_bytes)
        limit = self._settings.memory_limit_bytes
        capacity = memory.total_bytes - reserve if limit is None else limit
        gpus = machine.gpus()
        used = {gpu for instance in self._running.values() for gpu in instance.gpus}
        return Machine(
            capacity_bytes=capacity,
            free_bytes=free_memory_bytes(
                capacity_bytes=capacity,
                available_bytes=memory.available_bytes - reserve if limit is None else None,
                promised=[(i.memory_bytes, i.resident_bytes) for i in self._running.values()],
            ),
            gpus=gpus,
            free_gpus=tuple(gpu for gpu in range(gpus) if gpu not in used),
        )

    async def _measure(self, now: float) -> None:
        """See what each instance takes, now and then; keep the peaks, by which later ones are admitted."""
        every_s = LOOK_AGAIN_S if self._waiting else MEASURE_EVERY_S
        if now - self._measured_at < every_s or not self._running:
            return
        self._measured_at = now
        peaks = {}
        for instance in list(self._running.values()):
            if peak := await asyncio.to_thread(instance.measure):
                peaks[instance.id] = peak
                digest = instance.model_digest
                self._peaks[digest] = max(peak, self._peaks.get(digest) or 0)
        chosen = {i.id: i.agent.concurrency for i in self._running.values() if i.serving}
        for id_, concurrency in chosen.items():
            if isinstance(concurrency, Search) and concurrency.settled is not None:
                self._found[self._running[id_].model_digest] = concurrency.limit

        starts = {i.id: i.model_server.start_report() for i in self._running.values() if i.serving}

        def keep(connection: Connection) -> None:
            records.see(connection, peaks, now)
            records.tell_starts(connection, starts)
            records.choose(connection, {id_: (each.limit, each.cause) for id_, each in chosen.items()})

        await self._database.write(keep)

    async def _forget_parts(self, now: float) -> None:
        """Remove what model servers keep of work half done, once its invocation has ended."""
        if now - self._parts_at < MEASURE_EVERY_S:
            return
        self._parts_at = now
        kept = await asyncio.to_thread(_names_in, self._cache / PARTS)
        if kept:
            ended = await self._database.read(lambda connection: invocations.ended(connection, kept))
            for id_ in ended:
                await asyncio.to_thread(shutil.rmtree, self._cache / PARTS / id_, ignore_errors=True)

    def _forget_past(self, wanted: Sequence[Endpoint], now: float) -> None:
        """Drop what is known of deployments that are no more, and give up preparing those not wanted now."""
        current = {(endpoint.id, d.generation) for endpoint in wanted for d in deployments_of(endpoint)}
        for generation, preparation in self._preparations.items():
            if generation not in current:
                preparation.cancel()
        self._prepared &= current
        self._broken = {g: reason for g, reason in self._broken.items() if g in current}
        self._failures = {
            key: failures
            for key, failures in self._failures.items()
            if key[:2] in current and now - failures.at[-1] < RETRY_WINDOW_S
        }

    def _carry_out(self, moves: Moves, seen: Observation) -> None:
        for endpoint, deployment in moves.prepare:
            generation = (endpoint.id, deployment.generation)
            if generation not in self._preparations:
                self._preparations[generation] = asyncio.create_task(self._prepare(endpoint, deployment))
        by_id = {endpoint.id: endpoint for endpoint in seen.endpoints}
        for instance, admitted in moves.start:
            self._start(instance, admitted, by_id[instance.endpoint_id], seen.needs[instance.model_digest])
        for instance, _ in moves.drain:
            if instance.id in self._running:
                self._running[instance.id].drain()
        for instance_id in moves.abort:
            if instance_id in self._running:
                self._running[instance_id].abort()
        for running in self._running.values():
            endpoint_now = by_id.get(running.endpoint.id)
            if endpoint_now is not None and endpoint_now.generation == running.endpoint.generation:
                running.go_live()
        self._waiting = bool(moves.hold)

    def _delay_s(self, moves: Moves, seen: Observation) -> float:
        if moves.settle or moves.fail:
            return 0.0  # what follows from it: the old generation's drain, say
        draining = any(instance.state == State.DRAINING for instance in seen.instances)
        if moves.hold or moves.drain or draining:
            return LOOK_AGAIN_S
        return MEASURE_EVERY_S

    def _start(self, instance: Instance, admitted: Admitted, endpoint: Endpoint, memory_bytes: int) -> None:
        deployment = next(d for d in deployments_of(endpoint) if d.generation == instance.generation)
        variant = deployment.variant(instance.variant)
        assert variant is not None
        running = RunningInstance(
            instance_id=instance.id,
            endpoint=replace(endpoint, live=deployment, target=None, async_config=deployment.async_config),
            variant=variant.name,
            model_digest=instance.model_digest,
            memory_bytes=memory_bytes,
            gpus=admitted.gpus,
        )
        if deployment is endpoint.live:
            running.go_live()
        self._running[instance.id] = running
        self._tasks[instance.id] = asyncio.create_task(self._live(running, variant), name=instance.id)

    async def _live(self, running: RunningInstance, variant: Variant) -> None:
        ending = await running.run(
            start=partial(self._start_model_server, running, variant),
            startup_timeout_s=variant.config.get(
                "ContainerStartupHealthCheckTimeoutInSeconds", STARTUP_TIMEOUT_S
            ),
            on_start=partial(self._on_start, running.id),
            on_wait=partial(self._on_wait, running.id),
            on_in_service=partial(self._on_in_service, running),
            make_agent=self._make_agent,
        )
        now = clock.now()
        log.info("%s: instance %s %s: %s", running.endpoint.name, running.id, ending.state, ending.cause)
        self._ended[running.id] = ending, now
        del self._running[running.id], self._tasks[running.id]
        # One that a request has ended is replaced at once: its neighbours must not wait longer with each
        # poisonous request.
        if ending.state == State.FAILED and not running.draining and not running.failed_by_work:
            self._note_failure(running, ending.cause, now)
        self.wake()

    def _note_failure(self, running: RunningInstance, cause: str, now: float) -> None:
        generation = (running.endpoint.id, running.endpoint.generation)
        key = (*generation, running.variant)
        earlier = self._failures[key].at if key in self._failures else ()
        self._failures[key] = Failures((*earlier, now), cause)
        if not running.came_up:
            self._broken[generation] = (
                f"The primary container for production variant {running.variant} did not pass the ping "
                f"health check: {cause.rstrip('.')}. Please check CloudWatch logs for this endpoint."
            )

    async def _start_model_server(self, running: RunningInstance, variant: Variant) -> ModelServer:
        """Have the model's files here, and start its process. Raises ModelUnavailable."""
        container = variant.container
        instance_type = self._types.get(variant.instance_type)
        count = threads(
            cores=machine.cores(),
            vcpus=instance_type.vcpus,
            expected_instances=self._expected_instances,
        )
        async_config = running.endpoint.async_config
        asked = async_config and async_config.max_concurrent_invocations_per_instance
        launch = Launch(
            image=container.get("Image", ""),
            model_directory=await self._files.fetch(container, running.endpoint.account),
            cache=self._cache,
            cache_bytes=self._settings.model_cache_bytes,
            environment=container.get("Environment", {}),
            region=self._settings.region,
            # An agent finds out how many of them are best; what comes in real time passes none.
            concurrency=asked or (max(2, count) if async_config is None else MOST),
            threads=count,
            gpus=running.gpus,
            memory_limit_bytes=self._memory_limit_bytes(instance_type),
        )
        endpoint = running.endpoint
        stream = self._logs.of(endpoint.account).stream(_log_group(endpoint), f"{variant.name}/{running.id}")
        return await ModelServer.start(launch, stream, self._fork_server)

    def _memory_limit_bytes(self, instance_type: InstanceType) -> int | None:
        """What a model may take before its allocations fail, and not another's."""
        if instance_type.gpus:
            return None  # CUDA maps far more than it uses
        capacity = self._machine().capacity_bytes
        return min(capacity, instance_type.memory_bytes or capacity)

    def _make_agent(self, running: RunningInstance) -> Agent:
        return Agent(
            instance_id=running.id,
            variant=running.variant,
            endpoint=running.endpoint,
            model_server=running.model_server,
            concurrency=self._concurrency(running),
            settings=self._settings,
            database=self._database,
            objects=self._objects,
            wakeups=self._wakeups,
            changes=self._changes,
            completion=self._completion,
            logs=self._logs,
        )

    def _concurrency(self, running: RunningInstance) -> Concurrency:
        """How many invocations it works on at a time: as many as asked for, or as it finds out."""
        async_config = running.endpoint.async_config
        asked = async_config and async_config.max_concurrent_invocations_per_instance
        if asked:
            return Concurrency(asked, "asked for: MaxConcurrentInvocationsPerInstance")
        launch = running.model_server.launch
        # With two, one request's payload moves while the other is computed.
        start = self._found.get(running.model_digest, max(2, launch.threads))
        return Search(start, partial(_room, running, launch.memory_limit_bytes), most=launch.concurrency)

    async def _on_start(self, instance_id: str, pid: int) -> None:
        await loops.until_available(
            lambda: self._database.write(lambda connection: records.set_pid(connection, instance_id, pid))
        )

    async def _on_wait(self, instance_id: str, reason: str) -> None:
        # On a full disk the database may have no room for the reason either; the log has it.
        with suppress(Unavailable):
            await self._database.write(lambda connection: records.delay(connection, instance_id, reason))

    async def _on_in_service(self, running: RunningInstance) -> None:
        start = running.model_server.start_report()

        def record(connection: Connection) -> None:
            records.move(connection, running.id, State.IN_SERVICE, cause="its model is up", at=clock.now())
            records.tell_starts(connection, {running.id: start})

        with suppress(IllegalMove):  # it is to be drained, and will be told so
            await loops.until_available(lambda: self._database.write(record))
        self.wake()

    async def _record_endings(self) -> None:
        ended = dict(self._ended)
        if not ended:
            return

        def record(connection: Connection) -> None:
            for instance_id, (ending, at) in ended.items():
                with suppress(IllegalMove):  # a server that leads in our place has ended it already
                    records.move(connection, instance_id, ending.state, cause=ending.cause, at=at)

        await self._database.write(record)
        for instance_id in ended:
            del self._ended[instance_id]

    async def _prepare(self, endpoint: Endpoint, deployment: Deployment) -> None:
        """Do what a deployment needs once; its instances start when that is done."""
        generation = (endpoint.id, deployment.generation)
        try:
            for variant in deployment.variants:
                await loops.until_available(
                    partial(self._prepare_variant, endpoint, deployment, variant),
                    longest_wait_s=LONGEST_WAIT_S,
                )
            self._prepared.add(generation)
        except (ModelUnavailable, ModelFailed) as error:
            log.warning("%s: cannot be deployed: %s", endpoint.name, error)
            self._broken[generation] = f"The model cannot be served: {error}"
        except Exception as error:
            # Whatever it was, the endpoint must not stay Creating for ever.
            log.exception("%s: cannot be deployed", endpoint.name)
            self._broken[generation] = f"The model could not be prepared: {error!r}"
        finally:
            del self._preparations[generation]
            self.wake()

    async def _prepare_variant(self, endpoint: Endpoint, deployment: Deployment, variant: Variant) -> None:
        container = variant.container
        environment = container.get("Environment", {})
        directory = await self._files.fetch(container, endpoint.account)
        launch = Launch(
            image=container.get("Image", ""),
            model_directory=directory,
            cache=self._cache,
            cache_bytes=self._settings.model_cache_bytes,
            environment=environment,
            region=self._settings.region,
            concurrency=1,
            threads=machine.cores(),
            memory_limit_bytes=self._machine().capacity_bytes,
        )
        stream = f"{variant.name}/preparation-{deployment.generation}"
        log_stream = self._logs.of(endpoint.account).stream(_log_group(endpoint), stream)
        await model_server.prepare(launch, log_stream, self._fork_server)
        self._model_bytes[model_digest(variant)] = await asyncio.to_thread(
            _model_bytes, environment.get("HF_MODEL_ID"), directory
        )


def _record(
    connection: Connection, *, moves: Moves, now: float, fence: Callable[[Connection], None] | None
) -> None:
    """Write one step's moves. Raises IllegalMove when an instance has moved on since it was looked at."""
    if fence is not None:
        fence(connection)
    for instance in moves.add:
        records.add(connection, instance)
    for instance, _ in moves.start:
        records.move(connection, instance.id, State.STARTING, cause=records.WANTED, at=now)
    for instance, cause in moves.drain:
        state = State.STOPPED if instance.state == State.PENDING else State.DRAINING
        records.move(connection, instance.id, state, cause=cause, at=now)
    records.hold(connection, moves.hold)
    for endpoint_id, generation in moves.settle:
        endpoints.settle(connection, endpoint_id, generation, now)
    for (endpoint_id, generation), reason in moves.fail.items():
        endpoints.fail(connection, endpoint_id, generation, reason, now)
    for endpoint_id in moves.remove:
        queue.drop_endpoint(connection, endpoint_id)
        endpoints.remove(connection, endpoint_id)


def _room(running: RunningInstance, limit_bytes: int | None, limit: int, count: int) -> str | None:
    """Why the instance's memory does not hold `count` invocations at a time, where it holds `limit`."""
    return room(
        idle_bytes=running.idle_bytes,
        resident_bytes=running.resident_bytes,
        limit_bytes=limit_bytes,
        limit=limit,
        count=count,
    )


def _record_stop(connection: Connection, *, ids: Sequence[str], now: float) -> None:
    for instance_id in ids:
        with suppress(IllegalMove):  # it is draining already
            records.move(connection, instance_id, State.DRAINING, cause=SERVER_STOPPED, at=now)


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*")]


def _model_bytes(model_id: str | None, directory: Path | None) -> int | None:
    """The size of the model's files; None when they are not on this machine under a path we know."""
    if model_id:
        if model_id.startswith("ebbtide/"):
            return 0  # built in
        directory = Path(model_id)
    return size_bytes_of(directory) if directory is not None and directory.is_dir() else None


def _log_group(endpoint: Endpoint) -> str:
    return f"/aws/sagemaker/Endpoints/{endpoint.name}"


def _new_id() -> str:
    return f"i-{secrets.token_hex(9)[:17]}"
