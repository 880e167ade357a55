"""Where accepted requests enter the queue: those that arrive together are inserted by one statement.

While one group is being committed the next gathers, so that groups grow with the load and a lone request
waits for nobody. This is the hot path of a burst: a statement a request costs several times as much.

Instances here that have free slots get their claims in the same transaction: what arrives at an idle endpoint
is in work once it is accepted, with one commit for both.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from ebbtide import accounts
from ebbtide.database import Database
from ebbtide.endpoints import Endpoint, get_endpoint
from ebbtide.errors import ServiceError
from ebbtide.queue import deduplication, invocations
from ebbtide.queue.changes import Change, Changes
from ebbtide.queue.deduplication import Switch, Twin
from ebbtide.queue.invocations import Claim, Invocation
from ebbtide.queue.wakeups import Reservation, Wakeups, claim_for
from ebbtide.values import value

log = logging.getLogger(__name__)

NO_TAGS: Mapping[str, str] = {}


class QuotaExceeded(ServiceError):
    """An account has as many invocations queued as it may."""

    code = "ThrottlingException"


@value
class Request:
    """What asks to be queued: `make` makes an invocation of the account's endpoint."""

    account: str
    endpoint_name: str
    make: Callable[[Endpoint], Invocation]
    tags: Mapping[str, str]
    may_share: bool


Outcome = Invocation | Twin | Exception
"""What became of a request: accepted, sharing another's outcome, or why not."""

_Waiting = tuple[Request, "asyncio.Future[Invocation | Twin]"]


class Intake:
    """Queues invocations, many in a transaction."""

    def __init__(self, database: Database, wakeups: Wakeups, changes: Changes, *, lease_s: float) -> None:
        self._database = database
        self._wakeups = wakeups
        self._changes = changes
        self._lease_s = lease_s
        self._gathering: list[_Waiting] = []
        self._committing: asyncio.Task[None] | None = None

    async def accept(
        self,
        account: str,
        endpoint_name: str,
        make: Callable[[Endpoint], Invocation],
        *,
        tags: Mapping[str, str] = NO_TAGS,
        may_share: bool = True,
    ) -> Invocation | Twin:
        """Queue what `make` makes of the account's endpoint; returns once it is on disk. Where the endpoint
        deduplicates and the request `may_share`, an equal one's outcome is as good: then its Twin.

        The endpoint is looked up in the transaction that inserts: one deleted in between would never work
        on it. `make` runs in the database's writer. Raises EndpointNotFound, QuotaExceeded, and the
        ServiceErrors of `make`.
        """
        accepted: asyncio.Future[Invocation | Twin] = asyncio.get_running_loop().create_future()
        self._gathering.append((Request(account, endpoint_name, make, tags, may_share), accepted))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        return await accepted

    def accept_within(
        self,
        connection: Connection,
        account: str,
        endpoint_name: str,
        make: Callable[[Endpoint], Invocation],
        *,
        tags: Mapping[str, str] = NO_TAGS,
    ) -> Callable[[], None]:
        """Queue what `make` makes of the account's endpoint in the caller's transaction, as `accept` does.

        Returns what is to be called on the event loop after the commit. Raises what `accept` raises.
        """
        [outcome] = _insert(connection, [Request(account, endpoint_name, make, tags, may_share=True)])
        if isinstance(outcome, Exception):
            raise outcome
        return partial(self._tell, [outcome])

    async def _commit(self) -> None:
        """Commit group after group until none has gathered."""
        while group := self._gathering:
            self._gathering = []
            try:
                await self._commit_group(group)
            except Exception as error:
                # Our own defect: no reason to leave these, or all who come later, without an answer.
                log.exception("a group of %d requests", len(group))
                _answer(group, [error] * len(group))
        self._committing = None

    async def _commit_group(self, group: Sequence[_Waiting]) -> None:
        requests = [request for request, _ in group]
        reserved = self._reserve(requests)
        claims_for = [
            partial(claim_for(each.worker, lease_s=self._lease_s), limit=each.slots, alone=each.alone)
            for each in reserved
        ]
        work = partial(accept, requests=requests, claims_for=claims_for)
        outcomes: list[Outcome]
        claims: list[list[Claim]]
        try:
            outcomes, claims = await self._database.write_much(work, of=len(group))
        except Exception as error:  # noqa: BLE001 - each caller raises it
            outcomes, claims = [error] * len(group), [[] for _ in reserved]
        self._tell(outcomes, {held.invocation.id for taken in claims for held in taken})
        for each, taken in zip(reserved, claims, strict=True):
            each.worker.fill(taken)
        _answer(group, outcomes)

    def _reserve(self, requests: Sequence[Request]) -> list[Reservation]:
        wanted = Counter((request.account, request.endpoint_name) for request in requests)
        return [each for name, count in wanted.items() for each in self._wakeups.reserve(*name, count)]

    def _tell(self, outcomes: Sequence[Outcome], claimed: Collection[str] = ()) -> None:
        """Wake those who work on what was accepted and is not claimed yet."""
        accepted = [each for each in outcomes if isinstance(each, Invocation)]
        for endpoint_id in {each.endpoint_id for each in accepted if each.id not in claimed}:
            self._wakeups.notify(endpoint_id)
        self._changes.tell(
            Change(each.id, each.endpoint_id, each.account, "queued", each.accepted_at) for each in accepted
        )


def _answer(group: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
    for (_, accepted), outcome in zip(group, outcomes, strict=True):
        if accepted.done():
            continue
        if isinstance(outcome, Exception):
            accepted.set_exception(outcome)
        else:
            accepted.set_result(outcome)


def accept(
    connection: Connection,
    requests: Sequence[Request],
    claims_for: "Sequence[partial[list[Claim]]]" = (),
) -> tuple[list[Outcome], list[list[Claim]]]:
    """Queue the requests, and claim for the reserved slots what comes next: where others wait, it need not be
    one of these.

    Returns what became of each request, and the claims of each reservation.
    """
    return _insert(connection, requests), [claim(connection) for claim in claims_for]


def _insert(connection: Connection, group: Sequence[Request]) -> list[Outcome]:
    named: dict[tuple[str, str], tuple[Endpoint, Switch]] = {}
    equals: dict[str, Twin] = {}
    room = _Room(connection)
    outcomes: list[Outcome] = []
    tagged: dict[str, Mapping[str, str]] = {}
    for request in group:
        name = (request.account, request.endpoint_name)
        try:
            if name not in named:
                endpoint = get_endpoint(connection, *name)
                named[name] = endpoint, deduplication.switch(connection, endpoint.id)
            endpoint, switch = named[name]
            made = request.make(endpoint)
            shares = switch.enabled and request.may_share
            outcome = _share(connection, made, endpoint, switch, equals) if shares else made
            if isinstance(outcome, Invocation):
                room.take(outcome.account)
                if request.tags:
                    tagged[outcome.id] = request.tags
            outcomes.append(outcome)
        except ServiceError as error:
            outcomes.append(error)
    if accepted := [outcome for outcome in outcomes if isinstance(outcome, Invocation)]:
        invocations.accept(connection, accepted, tagged)
    return outcomes


def _share(
    connection: Connection,
    invocation: Invocation,
    endpoint: Endpoint,
    switch: Switch,
    equals: dict[str, Twin],
) -> Invocation | Twin:
    """The request's twin, in the queue or among those about to enter it; else the request, to have some."""
    digest = deduplication.digest(connection, invocation, endpoint)
    if digest is None:
        return invocation
    twin = equals.get(digest) or deduplication.find_twin(
        connection, endpoint.id, digest, retention_s=switch.retention_s, now=invocation.accepted_at
    )
    if twin is not None:
        return twin
    equals[digest] = Twin(invocation.inference_id, invocation.output_uri, invocation.failure_uri)
    return replace(invocation, digest=digest)


class _Room:
    """How many more invocations each account may queue, in one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._quotas = accounts.queued_quotas(connection)
        self._left: dict[str, int] = {}

    def take(self, account: str) -> None:
        """Take one place. Raises QuotaExceeded when none is left."""
        quota = self._quotas.get(account)
        if quota is None:
            return
        if account not in self._left:
            self._left[account] = quota - invocations.queued_by(self._connection, account)
        if self._left[account] <= 0:
            raise QuotaExceeded(f"Account {account} has {quota} requests queued, and may have no more.")
        self._left[account] -= 1
