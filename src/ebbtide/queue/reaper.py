"""Ends what no agent will: invocations past their TTL, and claims whose agent is gone."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.database import Database
from ebbtide.endpoints import Endpoint
from ebbtide.errors import Unavailable
from ebbtide.objects.store import ObjectStore
from ebbtide.queue import invocations
from ebbtide.queue.changes import Change, Changes
from ebbtide.queue.completion import Completion, change
from ebbtide.queue.invocations import Claim, Invocation, LeaseLost
from ebbtide.queue.outcomes import Outcome, deliver, end_unclaimed, stage_failure
from ebbtide.queue.wakeups import Wakeups
from ebbtide.settings import Settings

log = logging.getLogger(__name__)

BATCH = 100
IDLE_S = 1.0

OUTSIDE_S = 5.0
"""How long an outside store may take for a failure object: other invocations wait for this step."""

OUTSIDE_AGAIN_S = 30.0
"""When one whose store was not available is tried again."""


def poison_reason(lost_count: int) -> str:
    """The failureReason of a request whose model server died each time it was tried."""
    return f"ClientError: The model server died {lost_count} times while it worked on this request."


class Reaper:
    """Its step publishes expiries and puts lapsed claims back into their queues."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        objects: ObjectStore,
        completion: Completion,
        wakeups: Wakeups,
        changes: Changes,
        deliveries_wake: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._objects = objects
        self._completion = completion
        self._wakeups = wakeups
        self._changes = changes
        self._deliveries_wake = deliveries_wake
        # Whose outcomes wait for an outside store, and until when.
        self._later: dict[str, float] = {}

    async def step(self, now: float) -> float:
        """Handle one batch of each kind; returns the delay until the next step, in s."""
        self._later = {id_: at for id_, at in self._later.items() if at > now}
        # Those that wait for their store must not fill the batch.
        limit = BATCH + len(self._later)
        expiring, lapsed, known = await self._database.read(lambda connection: _look(connection, now, limit))
        expiring = [invocation for invocation in expiring if invocation.id not in self._later]
        lapsed = [held for held in lapsed if held.invocation.id not in self._later]
        overdue = [
            await self._expiry(invocation, known[invocation.endpoint_id], now)
            for invocation in expiring
            if invocation.endpoint_id in known
        ]
        if overdue := await self._deliver(overdue, now):
            await self._expire(overdue, now)
        for held in lapsed:
            if endpoint := known.get(held.invocation.endpoint_id):
                await self._return(held, endpoint, now)
        return 0.0 if max(len(expiring), len(lapsed)) >= BATCH else IDLE_S

    async def _expiry(self, invocation: Invocation, endpoint: Endpoint, now: float) -> Outcome:
        reason = "ClientError: The request waited in the queue for longer than its RequestTTLSeconds."
        return Outcome(
            endpoint=endpoint,
            variant=endpoint.variants[0].name,
            region=self._settings.region,
            invocation=invocation,
            state="expired",
            response=await stage_failure(self._objects, reason, 400),
            at=now,
            reason=reason,
        )

    async def _expire(self, overdue: list[Outcome], now: float) -> None:
        def expire(connection: Connection) -> list[Outcome]:
            ended = [o for o in overdue if invocations.expire(connection, o.invocation, o.reason, now=now)]
            end_unclaimed(connection, ended)
            return ended

        expired = await self._database.write(expire)
        await self._discard_outside(overdue)
        self._changes.tell(map(change, expired))
        self._deliveries_wake()

    async def _return(self, held: Claim, endpoint: Endpoint, now: float) -> None:
        """Put a claim of a dead agent back, or end it when it has died too often."""
        lost_count, invocation = held.lost_count + 1, held.invocation
        if lost_count < self._settings.max_claim_count:
            reason = "its agent was not heard of while it worked on this request"
            await self._database.write(
                lambda connection: invocations.release(connection, held, reason=reason, now=now, lost=True)
            )
            self._changes.tell(
                [Change(invocation.id, invocation.endpoint_id, invocation.account, "queued", now)]
            )
            self._wakeups.notify(invocation.endpoint_id)
            return
        reason = poison_reason(lost_count)
        outcome = Outcome(
            endpoint=endpoint,
            variant=endpoint.variants[0].name,
            region=self._settings.region,
            invocation=invocation,
            state="failed",
            response=await stage_failure(self._objects, reason, 500),
            at=now,
            reason=reason,
            claimed_at=held.claimed_at,
        )
        for delivered in await self._deliver([outcome], now):
            with suppress(LeaseLost):
                await self._completion.publish(held, delivered)
            await self._discard_outside([delivered])

    async def _deliver(self, outcomes: list[Outcome], now: float) -> list[Outcome]:
        """Put failure objects that belong into outside buckets in place; leaves out, to be tried again later,
        those whose store is not available.
        """
        tries = [self._deliver_one(outcome, now) for outcome in outcomes]
        return [outcome for outcome in await asyncio.gather(*tries) if outcome is not None]

    async def _deliver_one(self, outcome: Outcome, now: float) -> Outcome | None:
        async def hold() -> float:
            return OUTSIDE_S  # no agent can claim what has expired, or what is not put back

        try:
            async with asyncio.timeout(OUTSIDE_S):
                return await deliver(self._objects, outcome, hold)
        except (Unavailable, TimeoutError) as error:
            log.warning("%s: its outcome waits: %s", outcome.invocation.inference_id, error)
            self._later[outcome.invocation.id] = now + OUTSIDE_AGAIN_S
            await self._objects.discard(outcome.response.staged)
            return None

    async def _discard_outside(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.delivered or outcome.undelivered:
                await self._objects.discard(outcome.response.staged)


def _look(
    connection: Connection, now: float, limit: int
) -> tuple[list[Invocation], list[Claim], dict[str, Endpoint]]:
    """What is to be ended or put back, and its endpoints; what belongs to none any more goes with that."""
    expiring = invocations.expiring(connection, now=now, limit=limit)
    lapsed = invocations.lapsed(connection, now=now, limit=limit)
    found = [
        endpoints.find_endpoint(connection, endpoint_id)
        for endpoint_id in {each.endpoint_id for each in (*expiring, *(held.invocation for held in lapsed))}
    ]
    known = {endpoint.id: endpoint for endpoint in found if endpoint is not None and endpoint.async_config}
    return expiring, lapsed, known
