"""The local fleet: instances as processes of this machine, kept as the endpoints want them.

A step reads what is wanted and what there is, decides (decision.py), records the moves in one transaction and
then carries them out. What takes time (downloads, starts, drains) runs in a task an instance, and wakes the
next step when it is done. A deployment is prepared once, before its first instance starts. An update's new
generation comes up beside the old one, which serves until the new one is there and is drained then.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from ebbtide import clock, endpoints, loops, queue
from ebbtide.database import Database
from ebbtide.endpoints import Deployment, Endpoint, Variant
from ebbtide.errors import Unavailable
from ebbtide.instances import parts, records
from ebbtide.instances.admission import Admitted
from ebbtide.instances.agent import Agent
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
from ebbtide.instances.launching import Launcher
from ebbtide.instances.measurements import Measurements
from ebbtide.instances.model_files import ModelUnavailable
from ebbtide.instances.model_server import STARTUP_TIMEOUT_S, ModelFailed, ModelServer
from ebbtide.instances.plan import RETRY_WINDOW_S
from ebbtide.instances.records import IllegalMove, Instance, State
from ebbtide.instances.running import LONGEST_WAIT_S, Ending, RunningInstance
from ebbtide.instances.types import InstanceTypes
from ebbtide.logs import LogStore
from ebbtide.objects.store import ObjectStore
from ebbtide.queue.changes import Changes
from ebbtide.queue.completion import Completion
from ebbtide.queue.invocations import Claim
from ebbtide.queue.wakeups import Wakeups
from ebbtide.settings import Settings

log = logging.getLogger(__name__)

SERVER_STOPPED = "the server stopped"

MEASURE_EVERY_S = 15.0

LOOK_AGAIN_S = 1.0
"""While an instance waits for the machine, or is given a bounded time: nothing else would wake us."""


class Fleet:
    """The instances of all endpoints, on this machine: one loop, and a task for each of them."""

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
        self._launcher = Launcher(settings, self._types, objects, logs)
        self._measurements = Measurements(database, settings.memory_limit_bytes)
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
        self._expected_instances = 0
        self._measured_at = self._parts_at = 0.0
        self._waiting = False

    def wake(self) -> None:
        """Look at once: what is wanted has changed."""
        self._woken.set()

    def in_service(self, endpoint_id: str) -> list[RunningInstance]:
        """The endpoint's instances that take work now."""
        return [i for i in self._running.values() if i.endpoint.id == endpoint_id and i.serving]

    def holds(self, claim: Claim) -> bool:
        """Whether an agent here works on the claim."""
        return any(agent.holds(claim) for agent in self._agents())

    def has(self, instance_id: str) -> bool:
        """Whether the instance has an agent here."""
        return any(agent.instance_id == instance_id for agent in self._agents())

    def waiting_reason(self, invocation_id: str) -> str | None:
        """Why the invocation's outcome is not published yet though its work is done, if that is so."""
        found = (agent.waiting_reasons.get(invocation_id) for agent in self._agents())
        return next((reason for reason in found if reason is not None), None)

    def _agents(self) -> Iterator[Agent]:
        return (each.agent for each in self._running.values() if each.has_agent)

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
        await self._launcher.close()
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
        await self._launcher.clear_left_over(now)

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
                await self._launcher.warm()
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
            needs=await self._measurements.needs({model_digest(variant) for variant in variants}),
            machine=self._measurements.machine(self._running.values()),
            drain_timeout_s=self._settings.drain_timeout_s,
        )

    async def _measure(self, now: float) -> None:
        """See what each instance takes, now and then."""
        every_s = LOOK_AGAIN_S if self._waiting else MEASURE_EVERY_S
        if now - self._measured_at >= every_s and self._running:
            self._measured_at = now
            await self._measurements.take(self._running, now)

    async def _forget_parts(self, now: float) -> None:
        if now - self._parts_at >= MEASURE_EVERY_S:
            self._parts_at = now
            await parts.forget_ended(self._launcher.cache, self._database)

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
        async def start() -> ModelServer:
            return await self._launcher.start(running, variant, expected_instances=self._expected_instances)

        ending = await running.run(
            start=start,
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

    def _make_agent(self, running: RunningInstance) -> Agent:
        return Agent(
            instance_id=running.id,
            variant=running.variant,
            endpoint=running.endpoint,
            model_server=running.model_server,
            concurrency=self._measurements.concurrency(running),
            settings=self._settings,
            database=self._database,
            objects=self._objects,
            wakeups=self._wakeups,
            changes=self._changes,
            completion=self._completion,
            logs=self._logs,
        )

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
                size_bytes = await loops.until_available(
                    partial(self._launcher.prepare, endpoint, deployment, variant),
                    longest_wait_s=LONGEST_WAIT_S,
                )
                self._measurements.note_size(model_digest(variant), size_bytes)
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


def _record_stop(connection: Connection, *, ids: Sequence[str], now: float) -> None:
    for instance_id in ids:
        with suppress(IllegalMove):  # it is draining already
            records.move(connection, instance_id, State.DRAINING, cause=SERVER_STOPPED, at=now)


def _new_id() -> str:
    return f"i-{secrets.token_hex(9)[:17]}"
