"""Ends what no agent will: invocations past their TTL, and claims whose agent is gone.

A lease that is over is not enough for that. While the database is out of reach, or the whole server is
stopped, no lease is renewed; but the agents here go on with what they hold, and renew it after.
"""

from collections.abc import Callable
from dataclasses import replace

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


class Reaper:
    """Its step publishes expiries and puts lapsed claims back into their queues.

    is_held: whether an agent here works on a claim.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        objects: ObjectStore,
        wakeups: Wakeups,
        changes: Changes,
        deliveries_wake: Callable[[], None],
        is_held: Callable[[Claim], bool],
    ) -> None:
        self._settings = settings
        self._database = database
        self._objects = objects
        self._wakeups = wakeups
        self._changes = changes
        self._deliveries_wake = deliveries_wake
        self._is_held = is_held

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
        abandoned = [held for held in lapsed if not self._is_held(held)]
        for held in abandoned:
            if endpoint := known.get(held.invocation.endpoint_id):
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
        failed = await self._outcome(invocation, endpoint, "failed", reason, 500, now)
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


def _look(connection: Connection, now: float) -> tuple[list[Invocation], list[Claim], dict[str, Endpoint]]:
    """What is to be ended or put back, and its endpoints; what belongs to none any more goes with that."""
    expiring = invocations.expiring(connection, now=now, limit=BATCH)
    lapsed = invocations.lapsed(connection, now=now, limit=BATCH)
    found = [
        endpoints.find_endpoint(connection, endpoint_id)
        for endpoint_id in {each.endpoint_id for each in (*expiring, *(held.invocation for held in lapsed))}
    ]
    known = {endpoint.id: endpoint for endpoint in found if endpoint is not None and endpoint.async_config}
    return expiring, lapsed, known
