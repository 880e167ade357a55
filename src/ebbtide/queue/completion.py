"""Where finished work leaves the queue: outcomes that come together are published in one transaction.

While one group is being committed the next gathers, as in intake.py. The agents whose slots become free get
their next claims in the same transaction: a busy instance needs no commit of its own to go on.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import Connection

from ebbtide.database import Database
from ebbtide.queue.changes import Change, Changes
from ebbtide.queue.invocations import Claim
from ebbtide.queue.outcomes import Outcome, end_claims
from ebbtide.queue.wakeups import Worker, claim_for
from ebbtide.values import value

LINGER_S = 0.004
"""How long outcomes wait for company while much is in flight: one alone costs as much as eight together."""

WORTH_A_COMMIT = 0.25
"""The part of what is in flight that waits for no company. One of one, two, three or four goes at once."""


@value
class _Ended:
    held: Claim
    outcome: Outcome
    next_for: Worker | None
    published: "asyncio.Future[None]"


_Claimed = tuple[Worker, Sequence[Claim]]
"""What was claimed for a worker."""


class Completion:
    """Publishes the outcomes of claims, many in a transaction. `in_flight` is kept by the agents: how many
    claims they serve.

    `deliveries_wake` is called when notifications were committed.
    """

    def __init__(
        self,
        database: Database,
        changes: Changes,
        deliveries_wake: Callable[[], None],
        *,
        lease_s: float,
    ) -> None:
        self._database = database
        self._changes = changes
        self._deliveries_wake = deliveries_wake
        self._lease_s = lease_s
        self.in_flight = 0
        self._gathering: list[_Ended] = []
        self._committing: asyncio.Task[None] | None = None

    async def publish(self, held: Claim, outcome: Outcome, *, next_for: Worker | None = None) -> None:
        """Publish one claim's outcome; returns once it is on disk.

        next_for: claims another invocation for the slot that this one leaves. Raises LeaseLost when another
        holds the claim, ServiceError when the output location cannot be written, Unavailable when the
        database could not commit; then nothing was done, and the staged bytes are the caller's to discard.
        """
        published: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gathering.append(_Ended(held, outcome, next_for, published))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        await published

    async def _commit(self) -> None:
        """Commit group after group until none has gathered."""
        while self._gathering:
            if len(self._gathering) < self.in_flight * WORTH_A_COMMIT:
                await asyncio.sleep(LINGER_S)
            group, self._gathering = self._gathering, []
            try:
                self._answer(group, *await self._end(group))
            except Exception as error:  # noqa: BLE001 - each caller raises it, even a defect of our own
                for each in group:
                    if not each.published.done():
                        each.published.set_exception(error)
        self._committing = None

    async def _end(self, group: Sequence[_Ended]) -> tuple[Sequence[Exception | None], Sequence[_Claimed]]:
        """Commit the group; returns what hindered each outcome, and what was claimed with them."""
        workers = {each.next_for: None for each in group if each.next_for is not None}
        place: dict[Worker | None, int] = {worker: n for n, worker in enumerate(workers)}
        work = partial(
            _publish,
            ended=[(each.held, each.outcome, place.get(each.next_for)) for each in group],
            claims_for=[claim_for(worker, lease_s=self._lease_s) for worker in workers],
        )
        results, claims = await self._database.write_much(work, of=len(group))
        return results, list(zip(workers, claims, strict=True))

    def _answer(
        self, group: Sequence[_Ended], results: Sequence[Exception | None], claimed_by: Sequence[_Claimed]
    ) -> None:
        for worker, claims in claimed_by:
            worker.start(claims)
        changes, notifies = [], False
        for each, error in zip(group, results, strict=True):
            if error is None:
                changes.append(change(each.outcome))
                notifies = notifies or each.outcome.topic is not None
            if each.published.done():
                continue
            if error is None:
                each.published.set_result(None)
            else:
                each.published.set_exception(error)
        self._changes.tell(changes)
        if notifies:
            self._deliveries_wake()


def _publish(
    connection: Connection,
    ended: Sequence[tuple[Claim, Outcome, int | None]],
    claims_for: "Sequence[partial[list[Claim]]]",
) -> tuple[list[Exception | None], list[list[Claim]]]:
    """Publish each claim's outcome, and claim for the slots that become free.

    ended: with each the number of the claim that is to follow it, if any. Returns what hindered each outcome,
    and the claims.
    """
    results = end_claims(connection, [(held, outcome) for held, outcome, _ in ended])
    # Only a slot whose outcome stands is free: the others publish something else first.
    free = Counter(
        number
        for (_, _, number), error in zip(ended, results, strict=True)
        if number is not None and error is None
    )
    return list(results), [claim(connection, limit=free[n]) for n, claim in enumerate(claims_for)]


def change(outcome: Outcome) -> Change:
    """What followers are told of an outcome."""
    invocation = outcome.invocation
    return Change(invocation.id, invocation.endpoint_id, invocation.account, outcome.state, outcome.at)


def claimed(claims: Sequence[Claim]) -> list[Change]:
    """What followers are told of claims."""
    return [
        Change(
            held.invocation.id,
            held.invocation.endpoint_id,
            held.invocation.account,
            "claimed",
            held.claimed_at,
        )
        for held in claims
    ]
