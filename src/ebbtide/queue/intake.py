"""Where accepted requests enter the queue: those that arrive together are inserted by one statement.

While one group is being committed the next gathers, so that groups grow with the load and a lone request
waits for nobody. This is the hot path of a burst: a statement a request costs several times as much.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from ebbtide.database import Database
from ebbtide.endpoints import Endpoint, get_endpoint
from ebbtide.errors import ServiceError
from ebbtide.queue import invocations
from ebbtide.queue.invocations import Invocation


@dataclass(frozen=True, slots=True)
class _Request:
    account: str
    endpoint_name: str
    make: Callable[[Endpoint], Invocation]
    accepted: "asyncio.Future[Invocation]"


class Intake:
    """Queues invocations, many in a transaction."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gathering: list[_Request] = []
        self._committing: asyncio.Task[None] | None = None

    async def accept(
        self, account: str, endpoint_name: str, make: Callable[[Endpoint], Invocation]
    ) -> Invocation:
        """Queue what `make` makes of the endpoint; returns once it is on disk.

        The endpoint is looked up in the transaction that inserts: one deleted in between would never work
        on it. `make` runs in the database's writer. Raises EndpointNotFound, and the ServiceErrors of `make`.
        """
        accepted: asyncio.Future[Invocation] = asyncio.get_running_loop().create_future()
        self._gathering.append(_Request(account, endpoint_name, make, accepted))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        return await accepted

    async def _commit(self) -> None:
        """Commit group after group until none has gathered."""
        while group := self._gathering:
            self._gathering = []
            try:
                outcomes = await self._database.write(partial(_insert, group=group))
            except Exception as error:  # noqa: BLE001 - each caller raises it
                outcomes = [error] * len(group)
            for request, outcome in zip(group, outcomes, strict=True):
                if request.accepted.cancelled():
                    continue
                if isinstance(outcome, Invocation):
                    request.accepted.set_result(outcome)
                else:
                    request.accepted.set_exception(outcome)
        self._committing = None


def _insert(connection: Connection, group: list[_Request]) -> list[Invocation | Exception]:
    endpoints: dict[tuple[str, str], Endpoint] = {}
    outcomes: list[Invocation | Exception] = []
    for request in group:
        name = (request.account, request.endpoint_name)
        try:
            endpoint = endpoints.get(name) or endpoints.setdefault(name, get_endpoint(connection, *name))
            outcomes.append(request.make(endpoint))
        except ServiceError as error:
            outcomes.append(error)
    if accepted := [outcome for outcome in outcomes if isinstance(outcome, Invocation)]:
        invocations.accept(connection, accepted)
    return outcomes
