"""What a server that does not lead passes on to the one that does.

Real-time requests, whose model servers run there, and everything of CloudWatch Logs, whose files lie there.
A request is passed on as it came, its signature and Host included, and the leader checks it itself.
"""

import asyncio
import re
from typing import TYPE_CHECKING

from ebbtide.api.body import MAX_BODY_BYTES, Body
from ebbtide.api.targets import Target
from ebbtide.errors import Unavailable
from ebbtide.peers import Peers
from ebbtide.wire.request import Request, Response

if TYPE_CHECKING:
    from aiohttp import ClientSession

MARK = "x-ebbtide-forwarded"
"""Borne by what was passed on: servers that take each other for the leader must not go round in circles."""

TIMEOUT_S = 90.0
"""Longer than a model may take for a real-time request."""

MAX_REQUEST_BYTES = 2 * MAX_BODY_BYTES

_REAL_TIME = re.compile(r"/endpoints/[^/]+/invocations")

# Of the connection, not of the request or the answer; the body arrives here whole.
_HOP_BY_HOP = frozenset(
    ("connection", "keep-alive", "transfer-encoding", "te", "upgrade", "content-length", "expect")
)


class Forwarding:
    """Passes requests on to the leader."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self._session: ClientSession | None = None

    def concerns(self, request: Request, target: Target) -> bool:
        """Whether only the leader can answer this, and we are not it."""
        if self._peers.leads.is_set():
            return False
        return target.service == "logs" or _REAL_TIME.fullmatch(request.path) is not None

    async def forward(self, request: Request, body: Body) -> Response:
        """The leader's answer. Raises Unavailable when there is none, TooLarge."""
        from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar
        from yarl import URL

        leader = await self._peers.leader()
        if leader is None or leader.holder == self._peers.id or MARK in request.headers:
            raise Unavailable("No server beside this database leads now, and only that one answers this.")
        if self._session is None:
            self._session = ClientSession(
                timeout=ClientTimeout(total=TIMEOUT_S), cookie_jar=DummyCookieJar(), auto_decompress=False
            )
        query = f"?{request.query}" if request.query else ""
        headers = {name: value for name, value in request.headers.items() if name not in _HOP_BY_HOP}
        try:
            async with self._session.request(
                request.method,
                URL(f"{leader.url}{request.path}{query}", encoded=True),
                headers=headers | {MARK: "1"},
                data=await body.read(MAX_REQUEST_BYTES),
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
        except (ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
            raise Unavailable(
                f"Only the server that leads answers this, and it cannot be reached at {leader.url}: {error}"
            ) from error
        return Response(
            answer.status,
            {
                name.lower(): value
                for name, value in answer.headers.items()
                if name.lower() not in _HOP_BY_HOP
            },
            content,
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
