"""One instance of the local fleet, from its start to its end: a model server's process and its agent.

model files ─> process ─> /ping ─> InService ─> its generation is live: agent ─> drained, or lost
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ebbtide import loops
from ebbtide.endpoints import Endpoint
from ebbtide.errors import Unavailable
from ebbtide.instances.agent import Agent
from ebbtide.instances.model_files import ModelUnavailable
from ebbtide.instances.model_server import STOP_GRACE_S, ModelFailed, ModelServer
from ebbtide.instances.records import State

log = logging.getLogger(__name__)

EXIT_SEEN_S = 1.0
"""How long after its connections broke a process's end may still go unnoticed."""

PING_EVERY_S, SILENT_S, MAX_SILENCES = 10.0, 10.0, 2
"""An idle model server is pinged now and then; one that does not answer so many times in a row hangs."""

LONGEST_WAIT_S = 30.0
"""Between tries to start on a full disk, or with a model in a store that is down."""

HAND_BACK_S = 10.0
"""How long an agent may take to hand back its claims once its model server is lost."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an instance ended: Stopped or Failed, and why."""

    state: State
    cause: str


class RunningInstance:
    """An instance that was admitted and has not ended yet.

    endpoint: as it was when the instance started, with the generation that it serves as the live one.
    `memory_bytes` is what it was admitted for, `resident_bytes` what it was last seen to take, `idle_bytes`
    what it took when it last had no work.
    """

    def __init__(
        self,
        *,
        instance_id: str,
        endpoint: Endpoint,
        variant: str,
        model_digest: str,
        memory_bytes: int,
        gpus: tuple[int, ...],
    ) -> None:
        self.id = instance_id
        self.endpoint = endpoint
        self.variant = variant
        self.model_digest = model_digest
        self.memory_bytes = memory_bytes
        self.gpus = gpus
        self.resident_bytes = 0
        self.idle_bytes = 0
        self.came_up = False
        self._recorded = self._hung_idle = False
        self._model_server: ModelServer | None = None
        self._agent: Agent | None = None
        self._live = asyncio.Event()
        self._draining = asyncio.Event()
        self._aborting = asyncio.Event()

    @property
    def model_server(self) -> ModelServer:
        """Only while `serving`."""
        assert self._model_server is not None
        return self._model_server

    @property
    def agent(self) -> Agent:
        """Only where it `has_agent`."""
        assert self._agent is not None
        return self._agent

    @property
    def in_service(self) -> bool:
        """Its record says so, its generation is the one that serves, and it is to stay."""
        return self._recorded and self._live.is_set() and not self._draining.is_set()

    @property
    def serving(self) -> bool:
        """It is in service and has its agent: it takes work."""
        return self._agent is not None and self.in_service

    @property
    def has_agent(self) -> bool:
        """It takes work, or finishes what it has."""
        return self._agent is not None

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    @property
    def busy(self) -> bool:
        return self._agent is not None and not self._agent.idle

    @property
    def failed_by_work(self) -> bool:
        """A request has ended it, and has its own bound: how often it may be claimed, or its time limit."""
        return self._agent is not None and self._agent.failed_by_work

    def measure(self) -> int | None:
        """Look how much memory it takes; its peak in bytes once it has come up, else None.

        The peak of a start is not kept: that of one that fails says nothing about those that do not.
        """
        if self._model_server is None:
            return None
        busy = self.busy
        self.resident_bytes, peak = self._model_server.memory_bytes()
        if self.came_up and not busy:
            self.idle_bytes = self.resident_bytes
        return peak if self.came_up and peak else None

    def go_live(self) -> None:
        """Its generation is the one that serves: it may take work."""
        self._live.set()

    def drain(self) -> None:
        """Take no more work; end when what is in flight is done. Before it is in service: end now."""
        self._draining.set()
        if self._agent is not None:
            self._agent.drain()

    def abort(self) -> None:
        """End now: hand back what is in flight."""
        self._draining.set()
        self._aborting.set()

    async def run(
        self,
        *,
        start: Callable[[], Awaitable[ModelServer]],
        startup_timeout_s: float,
        on_start: Callable[[int], Awaitable[None]],
        on_wait: Callable[[str], Awaitable[None]],
        on_in_service: Callable[[], Awaitable[None]],
        make_agent: Callable[["RunningInstance"], Agent],
    ) -> Ending:
        """Live until drained, aborted or lost. Raises nothing.

        start: fetches the model's files and starts its server; on_start: gets the process id; on_wait: gets
        why the start has to wait, for room on the disk or for a store that is down.
        """
        grace_s = 0.0
        try:
            starting = loops.until_available(
                lambda: self._start(start, startup_timeout_s, on_start),
                longest_wait_s=LONGEST_WAIT_S,
                tell=on_wait,
            )
            if not await self._unless_drained(starting):
                return Ending(State.STOPPED, "not wanted any more before it was in service")
            self.came_up = True
            asyncio.get_running_loop().run_in_executor(None, self.measure)  # nobody waits for it
            await on_in_service()
            self._recorded = True
            if not await self._unless_drained(self._wait_for_generation()):
                return Ending(State.STOPPED, "drained")
            ending = await self._serve(make_agent)
            # One that failed has lost what was in it, and its successor waits for its end.
            if ending.state == State.STOPPED and not self._aborting.is_set():
                grace_s = STOP_GRACE_S
            return ending
        except (ModelFailed, ModelUnavailable) as error:
            return Ending(State.FAILED, str(error))
        except Exception:
            # One instance's trouble is not the fleet's; whatever it was, the process must not stay behind.
            log.exception("instance %s failed", self.id)
            return Ending(State.FAILED, "the instance failed; the server's log has the trace")
        finally:
            if self._model_server is not None:
                await self._model_server.stop(grace_s)

    async def _start(
        self,
        start: Callable[[], Awaitable[ModelServer]],
        startup_timeout_s: float,
        on_start: Callable[[int], Awaitable[None]],
    ) -> None:
        model_server = self._model_server = await start()
        await on_start(model_server.pid)
        try:
            await model_server.ready(startup_timeout_s)
        except Unavailable:
            self._model_server = None
            await model_server.stop(0)
            raise

    async def _wait_for_generation(self) -> None:
        live = asyncio.create_task(self._live.wait())
        await asyncio.wait({live, self.model_server.exited}, return_when=asyncio.FIRST_COMPLETED)
        live.cancel()
        if self.model_server.exited.done():
            raise ModelFailed(self.model_server.describe_end())

    async def _serve(self, make_agent: Callable[["RunningInstance"], Agent]) -> Ending:
        agent = self._agent = make_agent(self)
        serving = asyncio.create_task(agent.run())
        hung = asyncio.create_task(agent.replace_requested.wait())
        watching = asyncio.create_task(self._watch_idle(agent))
        aborting = asyncio.create_task(self._aborting.wait())
        lost = self.model_server.exited
        await asyncio.wait({serving, hung, aborting, lost}, return_when=asyncio.FIRST_COMPLETED)
        for task in (hung, watching, aborting):
            task.cancel()
        if serving.done():
            serving.result()
            if self._draining.is_set():
                return Ending(State.STOPPED, "drained")
            # The agent has given its model server up, which is often seen before the process's end.
            await asyncio.wait({lost}, timeout=EXIT_SEEN_S)
            if lost.done():
                return Ending(State.FAILED, self.model_server.describe_end())
            return Ending(State.FAILED, "the model server broke a connection with a request in it")
        if self._aborting.is_set():
            ending = Ending(State.STOPPED, "ended with work in flight, which was handed back")
            await agent.abort()
            await self.model_server.stop(0)  # real-time requests in it are nobody's claims
        else:
            agent.drain()
            if not lost.done():
                # What is in it is lost with its connections, and the agent puts that back.
                await self.model_server.stop(0)
                cause = "hung without work" if self._hung_idle else "went on computing what had timed out"
                ending = Ending(State.FAILED, f"the model server {cause}")
            else:
                ending = Ending(State.FAILED, self.model_server.describe_end())
        await asyncio.wait({serving}, timeout=HAND_BACK_S)
        if not serving.done():
            await agent.abort()
            await serving
        return ending

    async def _watch_idle(self, agent: Agent) -> None:
        """Have a model server replaced that hangs while it has nothing to do: the next request would find it,
        and wait for it until its own time is over.
        """
        silences = 0
        while silences < MAX_SILENCES:
            await asyncio.sleep(PING_EVERY_S)
            # One that is busy may have no time for us; what was silent before it got work is not.
            if agent.idle or silences:
                silences = silences + 1 if await self.model_server.hangs(SILENT_S) else 0
        self._hung_idle = True
        agent.replace_requested.set()

    async def _unless_drained(self, work: Awaitable[None]) -> bool:
        """Do the work, and say so; on a drain give it up half way."""
        working = asyncio.ensure_future(work)
        draining = asyncio.create_task(self._draining.wait())
        await asyncio.wait({working, draining}, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        if working.done():
            await working
            return True
        working.cancel()
        await asyncio.wait({working})
        return False
