"""Ends what no agent will: invocations past their TTL, and claims whose agent is gone."""

from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import Connection

from ebbtide import endpoints
from ebbtide.database import Database
from ebbtide.objects.store import ObjectStore
from ebbtide.queue import invocations
from ebbtide.queue.invocations import Claim, Invocation, LeaseLost
from ebbtide.queue.outcomes import Failure, Publisher, Timings, stage_failure
from ebbtide.queue.wakeups import Wakeups
from ebbtide.settings import Settings

BATCH = 100
IDLE_S = 1.0


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
        wakeups: Wakeups,
        deliveries_wake: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._database = database
        self._objects = objects
        self._wakeups = wakeups
        self._deliveries_wake = deliveries_wake

    async def step(self, now: float) -> float:
        """Handle one batch of each kind; returns the delay until the next step, in s."""
        expiring, lapsed = await self._database.read(
            lambda connection: (
                invocations.expiring(connection, now=now, limit=BATCH),
                invocations.lapsed(connection, now=now, limit=BATCH),
            )
        )
        for invocation in expiring:
            await self._expire(invocation, now)
        for held in lapsed:
            await self._return(held, now)
        if expiring or lapsed:
            self._deliveries_wake()
        return 0.0 if BATCH in (len(expiring), len(lapsed)) else IDLE_S

    async def _expire(self, invocation: Invocation, now: float) -> None:
        publisher = await self._publisher(invocation)
        if publisher is None:
            return
        waited_s = invocation.expires_at - invocation.accepted_at
        reason = f"ClientError: The request waited longer than its RequestTTLSeconds of {waited_s:.0f} s."
        response = await stage_failure(self._objects, reason, 400)
        expired = await self._database.write(
            lambda connection: publisher.expire(connection, invocation.id, reason, response, now)
        )
        if not expired:
            await self._objects.discard(response.staged)

    async def _return(self, held: Claim, now: float) -> None:
        """Put a claim of a dead agent back, or end it when it has died too often."""
        publisher = await self._publisher(held.invocation)
        if publisher is None:
            return
        if held.lost_count + 1 < self._settings.max_claim_count:
            await self._database.write(lambda connection: invocations.release(connection, held, lost=True))
            self._wakeups.notify(held.invocation.endpoint_id)
            return
        await fail(self._objects, publisher, held, poison_reason(held.lost_count + 1), now=now)

    async def _publisher(self, invocation: Invocation) -> Publisher | None:
        """None when the endpoint is gone: its invocations go with it."""

        def find(connection: Connection) -> endpoints.Endpoint | None:
            return endpoints.find_endpoint(connection, invocation.endpoint_id)

        endpoint = await self._database.read(find)
        if endpoint is None or endpoint.async_config is None:
            return None
        return Publisher(endpoint, endpoint.variants[0].name, self._settings.region, self._objects)


async def fail(
    objects: ObjectStore,
    publisher: Publisher,
    held: Claim,
    reason: str,
    *,
    now: float,
    metric: str | None = None,
    code: int = 500,
    timings: Timings = Timings(),  # noqa: B008  (frozen)
) -> None:
    """Publish a failure that the model did not word; nothing when the claim is no longer held."""
    response = await stage_failure(objects, reason, code)
    failure = Failure(reason, metric)
    with suppress(LeaseLost):
        await objects.publish_staged(
            response.staged,
            lambda connection: publisher.fail(connection, held, failure, response, timings, now),
        )
