"""The agent of one instance: claims work, carries what it is about (inputs.py) to its model server, and what
becomes of it (results.py) from there.

It holds the credentials and does all queue and storage work; the model server sees one HTTP request at a
time per slot and nothing else. Each claim is served by a task of its own, under a lease that is renewed while
the task runs.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from ebbtide import clock
from ebbtide.database import Database
from ebbtide.endpoints import Endpoint
from ebbtide.errors import ServiceError, Unavailable
from ebbtide.instances.concurrency import Concurrency
from ebbtide.instances.exchange import Exchange, ModelServerGone, ModelServerLost, OnInterim
from ebbtide.instances.inputs import open_input
from ebbtide.instances.model_server import ModelServer
from ebbtide.instances.reports import Reports
from ebbtide.instances.results import LONGEST_WAIT_S, NextFor, Results
from ebbtide.logs import LogStore
from ebbtide.objects.store import ObjectStore
from ebbtide.queue import invocations, reaper
from ebbtide.queue.changes import Change, Changes
from ebbtide.queue.completion import Completion, claimed
from ebbtide.queue.invocations import Claim, LeaseLost, Phases
from ebbtide.queue.wakeups import Reservation, Wakeups, Worker, claim_for
from ebbtide.settings import Settings

log = logging.getLogger(__name__)

SETTLE_S = 0.4
"""How long a model server may go on computing for a request that was given up, before it is replaced."""

ASK_S = 0.4
"""How long it may take to say whether it does."""

AFTER_DEFECT_S = 1.0

GATHER_S = 0.004
"""How long an instance that has work already lets arrivals gather, to claim them together."""

POLL_S = 5.0
"""How often an idle agent looks although nothing woke it: what other processes queue is found so."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A claim and the task that serves it."""

    held: Claim
    task: asyncio.Task[None]


class Agent:
    """One instance's agent. `in_flight` counts the requests in its model server, `concurrency` bounds what it
    claims.
    """

    def __init__(
        self,
        *,
        instance_id: str,
        variant: str,
        endpoint: Endpoint,
        model_server: ModelServer,
        concurrency: Concurrency,
        settings: Settings,
        database: Database,
        objects: ObjectStore,
        wakeups: Wakeups,
        changes: Changes,
        completion: Completion,
        logs: LogStore,
    ) -> None:
        self.replace_requested = asyncio.Event()
        self.instance_id = instance_id
        self.endpoint = endpoint
        self._model_server = model_server
        self.concurrency = concurrency
        self._settings = settings
        self._database = database
        self._objects = objects
        self._wakeups = wakeups
        self._changes = changes
        self._completion = completion
        self._results = Results(
            endpoint=endpoint,
            variant=variant,
            settings=settings,
            database=database,
            objects=objects,
            completion=completion,
            data_log=logs.of(endpoint.account).stream(
                f"/aws/sagemaker/Endpoints/{endpoint.name}", f"{variant}/{instance_id}/data-log"
            ),
            next_for=self._next_for,
        )
        self._serving: dict[str, _Work] = {}
        self._successors = 0  # claimed with the outcomes of others that are not gone from _serving yet
        self._surplus = 0  # slots that a lower limit takes away, each when its work is done
        self._watching: set[asyncio.Task[None]] = set()
        self._lost_work = False
        # A claim for free slots is being committed, by this agent or by who accepts arrivals.
        self._reserved = False
        self._asked_meanwhile = False
        self._draining = asyncio.Event()
        self._changed = wakeups.subscribe(endpoint.id)
        model_server.exchanges.on_end = self._exchange_ended

    @property
    def in_flight(self) -> int:
        return self._model_server.exchanges.in_flight

    @property
    def idle(self) -> bool:
        return self.in_flight == 0 and not self._serving

    @property
    def waiting_reasons(self) -> Mapping[str, str]:
        """By invocation id: why an outcome is not published yet though its work is done."""
        return self._results.waiting_reasons

    @property
    def failed_by_work(self) -> bool:
        """Its model server died with a request in it, or had to be replaced for one that had timed out."""
        return self._lost_work or self.replace_requested.is_set()

    def holds(self, claim: Claim) -> bool:
        """Whether it works on the claim, whatever has become of the lease."""
        work = self._serving.get(claim.invocation.id)
        return work is not None and work.held.count == claim.count

    def drain(self) -> None:
        """Claim no more; `run` returns when what is in flight is done."""
        self._draining.set()
        self._changed.event.set()

    def _exchange_ended(self) -> None:
        # Slots are freed by what is done with an answer; only who drains waits for exchanges themselves.
        if self._draining.is_set():
            self._changed.event.set()

    async def abort(self) -> None:
        """Hand every lease back at once: its instance is going without a drain."""
        self.drain()
        # What is being committed, arrivals or an outcome, may still bring a claim.
        while self._serving or self._reserved:
            tasks = [work.task for work in self._serving.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._reserved:
                self._changed.event.clear()
                await self._changed.event.wait()

    async def run(self) -> None:
        """Serve until drained."""
        with self._changes.on_cancel(self._stop), self._wakeups.enlist(self):
            await self._run()

    async def _run(self) -> None:
        renewing = asyncio.create_task(self._renew())
        try:
            if self.endpoint.async_config is None:
                await self._draining.wait()  # a real-time endpoint has no queue
            while not self._draining.is_set():
                await self._claim()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.event.wait(), POLL_S)
                if len(self._serving) * 4 > self.concurrency.limit:
                    await asyncio.sleep(GATHER_S)
            while self._serving or self.in_flight or self._reserved:
                self._changed.event.clear()
                await self._changed.event.wait()
        finally:
            renewing.cancel()
            self._changed.close()

    async def _claim(self) -> None:
        """Fill the free slots with what is queued, or the whole instance with one suspect."""
        self._changed.event.clear()
        self._asked_meanwhile = self._reserved
        free = self.free()
        if free <= 0:
            return
        reserved = self.reserve(free)
        take = partial(
            claim_for(self, lease_s=self._settings.lease_s), limit=reserved.slots, alone=reserved.alone
        )
        claims: list[Claim] = []
        try:
            claims = await self._database.write_much(take, of=len(self._serving))
        except Unavailable as error:
            log.warning("%s: claims nothing now: %s", self.instance_id, error)
        finally:
            self.fill(claims)

    def free(self) -> int:
        """How many slots it may reserve."""
        if self._reserved or self._isolated or self._draining.is_set():
            return 0
        return max(0, self.concurrency.limit - len(self._serving))

    def reserve(self, slots: int) -> Reservation:
        self._reserved = True
        return Reservation(self, slots, alone=not self._serving)

    def fill(self, claims: Sequence[Claim]) -> None:
        self._reserved = False
        self._begin(claims)
        if self._asked_meanwhile or self._draining.is_set():
            self._changed.event.set()

    @property
    def _isolated(self) -> bool:
        """A suspect is being worked on, and may have nothing beside it."""
        return any(work.held.lost_count for work in self._serving.values())

    def start(self, claims: Sequence[Claim]) -> None:
        self._successors += len(claims)
        self._begin(claims)

    def _begin(self, claims: Sequence[Claim]) -> None:
        for held in claims:
            id_ = held.invocation.id
            task = asyncio.create_task(self._serve(held), name=f"invocation {id_}")
            self._serving[id_] = _Work(held, task)
            self._completion.in_flight += 1
            task.add_done_callback(partial(self._served, held))
        self._changes.tell(claimed(claims))

    def _served(self, held: Claim, task: asyncio.Task[None]) -> None:
        # The same invocation may have been claimed again, by this very instance.
        self._completion.in_flight -= 1
        work = self._serving.get(held.invocation.id)
        if not task.cancelled():
            self._learn()
        if work is not None and work.task is task:
            del self._serving[held.invocation.id]
        # A slot that got its next claim with the outcome's commit needs no look of its own.
        if len(self._serving) < self.concurrency.limit:
            self._changed.event.set()

    def _learn(self) -> None:
        """One is done, and has its successor where more work was waiting: perhaps another limit is better."""
        limit, followed = self.concurrency.limit, self._successors > 0
        self._successors -= followed
        self.concurrency.finished(clock.now(), saturated=followed)
        self._surplus = max(0, self._surplus + limit - self.concurrency.limit)

    def _stop(self, invocation_id: str) -> None:
        """The invocation was cancelled: stop computing it, if it is here."""
        if work := self._serving.get(invocation_id):
            work.task.cancel()
            self.give_up()

    async def _renew(self) -> None:
        wait_s = self._settings.lease_s / 3
        while True:
            await asyncio.sleep(wait_s)
            wait_s = self._settings.lease_s / 3
            work = partial(
                invocations.renew,
                claims=[work.held for work in self._serving.values()],
                lease_s=self._settings.lease_s,
                now=clock.now(),
            )
            try:
                lost = await self._database.write(work)
            except Unavailable as error:
                log.warning("%s: leases not renewed now: %s", self.instance_id, error)
                wait_s = min(wait_s, AFTER_DEFECT_S)
                continue
            for held in lost:
                # Another agent has it, or it was cancelled elsewhere: what we compute would be thrown away.
                self._stop(held.invocation.id)

    async def _serve(self, held: Claim) -> None:
        """Bring one claim to its end, or put it back."""
        try:
            await self._process(held)
        except ModelServerLost as error:
            log.warning("%s: %s", held.invocation.inference_id, error)
            # What is claimed from now on would be lost with it; the fleet brings another instance.
            self.drain()
            if isinstance(error, ModelServerGone) or self.replace_requested.is_set():
                # Dead before it, or killed by us for another's sake: not this request's doing.
                await self._release(held, str(error))
            else:
                self._lost_work = True
                await self._lost(held)
        except LeaseLost:
            log.info("%s: another agent holds it now", held.invocation.inference_id)
        except asyncio.CancelledError:
            await self._release(held, "its instance was given up", patient=False)
            raise
        except Unavailable as error:
            log.warning("%s: waits, and is tried again: %s", held.invocation.inference_id, error)
            await asyncio.sleep(min(LONGEST_WAIT_S, AFTER_DEFECT_S * 2 ** min(held.count, 10)))
            await self._release(held, str(error))
        except Exception:
            # Our own defect: no fault of the request, which must not be lost.
            log.exception("%s: could not be served, and is put back", held.invocation.inference_id)
            await asyncio.sleep(AFTER_DEFECT_S)
            await self._release(held, "the server had trouble of its own; its log has the trace")

    def exchange(
        self,
        headers: dict[str, str],
        body: bytes | AsyncIterator[bytes],
        on_interim: OnInterim | None = None,
    ) -> Exchange:
        """POST one request to the model server; see `Exchanges.post`."""
        return self._model_server.exchanges.post("/invocations", headers, body, on_interim)

    def give_up(self) -> None:
        """A request's time is over: ask for another model server if this one goes on computing it."""
        task = asyncio.create_task(self._watch_abandoned())
        self._watching.add(task)
        task.add_done_callback(self._watching.discard)

    async def _watch_abandoned(self) -> None:
        await asyncio.sleep(SETTLE_S)
        running = await self._model_server.running_requests(ASK_S)
        if running is None or running > self.in_flight:
            self.replace_requested.set()

    async def _process(self, held: Claim) -> None:
        invocation = held.invocation
        try:
            given = await open_input(invocation, self.endpoint, self._objects, self._database)
        except (ServiceError, ValueError) as error:
            await self._results.fail_unread(held, error, Phases())
            return
        opened_at = sent_at = clock.now()
        try:
            async with (
                Reports(held, self._database, self._changes) as reports,
                asyncio.timeout(invocation.timeout_s),
                self.exchange(given.headers, given.body, reports) as answer,
            ):
                status, response = answer.status, await self._results.receive(answer)
        except ServiceError as error:
            await self._results.fail_unread(held, error, Phases(opened_at))
            return
        except TimeoutError:
            self.give_up()
            await self._results.fail_late(held, Phases(opened_at, sent_at, clock.now()))
            return
        phases = Phases(opened_at, sent_at, clock.now())
        if status < 300:
            await self._results.succeed(held, response, phases)
        else:
            await self._results.report(held, status, response, phases)

    def _next_for(self, held: Claim) -> NextFor:
        is_surplus = self._surplus > 0
        self._surplus -= is_surplus

        def worker() -> Worker | None:
            ends = self._draining.is_set() or self.replace_requested.is_set()
            return None if ends or held.lost_count or is_surplus else self

        return worker

    async def _lost(self, held: Claim) -> None:
        """The model server died with this request in it: try again elsewhere, but not for ever."""
        lost_count = held.lost_count + 1
        if lost_count >= self._settings.max_claim_count:
            reason = reaper.poison_reason(lost_count)
            await self._results.fail(held, reason, 500, "Invocation5XXErrors", Phases())
            return
        await self._release(held, "the model server died while it worked on this request", lost=True)

    async def _release(self, held: Claim, reason: str, *, lost: bool = False, patient: bool = True) -> None:
        """Put the claim back. patient: it is kept until it can be, else it would seem to be an agent's that
        died with it; one that has to go leaves it to the reaper, once its lease is over.
        """
        while True:
            now = clock.now()
            work = partial(invocations.release, held=held, reason=reason, now=now, lost=lost)
            try:
                put_back = await self._database.write(work)
                break
            except Unavailable as error:
                log.warning("%s: not put back now: %s", held.invocation.inference_id, error)
                if not patient:
                    return
                await asyncio.sleep(AFTER_DEFECT_S)
        if put_back:
            invocation = held.invocation
            self._changes.tell(
                [Change(invocation.id, invocation.endpoint_id, invocation.account, "queued", now)]
            )
            self._wakeups.notify(self.endpoint.id)
