"""Ends what no agent will: invocations past their TTL, and claims whose agent is gone.

A lease that is over is not enough for that. While the database is out of reach, or the whole server is
stopped, no lease is renewed; but the agents here go on with what they hold, and renew it after. Nor is it
always an agent's death: a commit that nobody confirmed may have claimed for an agent that never learnt of it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.database import Database
from ebbtide.endpoints import Endpoint
from ebbtide.objects.store import ObjectStore
from ebbtide.queue import invocations
from ebbtide.queue.changes import Change, Changes
from ebbtide.queue.completion import change
from ebbtide.queue.invocations import Claim, Ending, Invocation
from ebbtide.queue.outcomes import Outcome, stage_failure
from ebbtide.queue.owed import publish_or_owe
from ebbtide.queue.wakeups import Wakeups
from ebbtide.settings import Settings

BATCH = 100
IDLE_S = 1.0

EXPIRED = "ClientError: The request waited in the queue for longer than its RequestTTLSeconds."


def poison_reason(lost_count: int) -> str:
    """The failureReason of a request whose model server died each time it was tried."""
    return f"ClientError: The model server died {lost_count} times while it worked on this request."


class Agents(Protocol):
    """Those of the instances that run here."""

    def holds(self, claim: Claim) -> bool:
        """Whether one of them works on the claim."""

    def has(self, instance_id: str) -> bool:
        """Whether the instance's is one of them."""


class Reaper:
    """Its step publishes expiries and puts lapsed claims back into their queues."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        objects: ObjectStore,
        wakeups: Wakeups,
        changes: Changes,
        deliveries_wake: Callable[[], None],
        agents: Agents,
    ) -> None:
        self._settings = settings
        self._database = database
        self._objects = objects
        self._wakeups = wakeups
        self._changes = changes
        self._deliveries_wake = deliveries_wake
        self._agents = agents

    async def step(self, now: float) -> float:
        """Handle one batch of each kind; returns the delay until the next step, in s."""
        expiring, lapsed, known = await self._database.read(lambda connection: _look(connection, now))
        overdue = [
            await self._outcome(invocation, known[invocation.endpoint_id], "expired", EXPIRED, 400, now)
            for invocation in expiring
            if invocation.endpoint_id in known
        ]
        if overdue:
            await self._expire(overdue, now)
        abandoned = [(held, instance_id) for held, instance_id in lapsed if not self._agents.holds(held)]
        for held, instance_id in abandoned:
            endpoint = known.get(held.invocation.endpoint_id)
            if endpoint is not None and self._agents.has(instance_id):
                await self._put_back(held, now, "its agent had not learnt that it was claimed", lost=False)
            elif endpoint is not None:
                await self._return(held, endpoint, now)
        return 0.0 if BATCH in (len(expiring), len(abandoned)) else IDLE_S

    async def _outcome(
        self, invocation: Invocation, endpoint: Endpoint, state: str, reason: str, code: int, now: float
    ) -> Outcome:
        return Outcome(
            endpoint=endpoint,
            variant=endpoint.variants[0].name,
            region=self._settings.region,
            invocation=invocation,
            state=state,
            response=await stage_failure(self._objects, reason, code),
            at=now,
            reason=reason,
        )

    async def _expire(self, overdue: list[Outcome], now: float) -> None:
        def expire(connection: Connection) -> list[Outcome]:
            ended = [o for o in overdue if invocations.expire(connection, o.invocation, o.reason, now=now)]
            publish_or_owe(connection, self._objects, ended, code=400)
            return ended

        expired = await self._database.write(expire)
        self._changes.tell(map(change, expired))
        self._deliveries_wake()

    async def _put_back(self, held: Claim, now: float, reason: str, *, lost: bool) -> None:
        await self._database.write(partial(invocations.release, held=held, reason=reason, now=now, lost=lost))
        invocation = held.invocation
        self._changes.tell([Change(invocation.id, invocation.endpoint_id, invocation.account, "queued", now)])
        self._wakeups.notify(invocation.endpoint_id)

    async def _return(self, held: Claim, endpoint: Endpoint, now: float) -> None:
        """Put a claim of a dead agent back, or end it when it has died too often."""
        lost_count = held.lost_count + 1
        if lost_count < self._settings.max_claim_count:
            reason = "its agent was not heard of while it worked on this request"
            await self._put_back(held, now, reason, lost=True)
            return
        reason = poison_reason(lost_count)
        failed = await self._outcome(held.invocation, endpoint, "failed", reason, 500, now)
        failed = replace(failed, claimed_at=held.claimed_at)

        def fail(connection: Connection) -> bool:
            if not invocations.still_held(connection, [held]):
                return False
            invocations.finish(connection, [Ending(held, failed.state, reason, failed.phases, now)])
            publish_or_owe(connection, self._objects, [failed], code=500)
            return True

        if await self._database.write(fail):
            self._changes.tell([change(failed)])
            self._deliveries_wake()


def _look(
    connection: Connection, now: float
) -> tuple[list[Invocation], list[tuple[Claim, str]], dict[str, Endpoint]]:
    """What is to be ended or put back, and its endpoints; what belongs to none any more goes with that."""
    expiring = invocations.expiring(connection, now=now, limit=BATCH)
    lapsed = invocations.lapsed(connection, now=now, limit=BATCH)
    found = [
        endpoints.find_endpoint(connection, endpoint_id)
        for endpoint_id in {
            each.endpoint_id for each in (*expiring, *(held.invocation for held, _ in lapsed))
        }
    ]
    known = {endpoint.id: endpoint for endpoint in found if endpoint is not None and endpoint.async_config}
    return expiring, lapsed, known
