"""Posting messages to HTTP receivers."""

import errno
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ebbtide.notifications.addresses import refusal
from ebbtide.notifications.outbox import Undelivered

if TYPE_CHECKING:
    from aiohttp import ClientSession

TIMEOUT_S = 15.0
TOO_MANY_REQUESTS = 429


def open_session(*, private_delivery: bool) -> "ClientSession":
    """A client for deliveries: 15 s for all of an attempt, no cookies, no proxies, no refused addresses."""
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0, socket_factory=_guard(private_delivery=private_delivery), use_dns_cache=False
        ),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def post(session: "ClientSession", url: str, body: str, headers: Mapping[str, str]) -> int:
    """Post one message; the status that was answered. Raises Undelivered.

    2xx is success. 5xx, 429 and whatever keeps us from an answer may succeed later; other answers are final.
    """
    import aiohttp

    try:
        async with session.post(url, data=body.encode(), headers=headers, allow_redirects=False) as response:
            status = response.status
    except aiohttp.ClientConnectorError as error:
        # Refused by us, most likely; an operator's packet filter says the same.
        refused = isinstance(error.os_error, PermissionError)
        raise Undelivered(f"{error.host}:{error.port}: {error.os_error}", final=refused) from error
    except aiohttp.InvalidURL as error:
        raise Undelivered(f"{url} is not a valid URL", final=True) from error
    except TimeoutError as error:
        raise Undelivered(f"No answer within {TIMEOUT_S:g} s") from error
    except aiohttp.ClientError as error:
        raise Undelivered(f"{type(error).__name__}: {error}") from error
    if not 200 <= status < 300:
        final = status < 500 and status != TOO_MANY_REQUESTS
        raise Undelivered(f"Answered {status}", final=final, status_code=status)
    return status


def _guard(*, private_delivery: bool) -> Callable[[tuple[Any, ...]], socket.socket]:
    def connectable(address_info: tuple[Any, ...]) -> socket.socket:
        # The last step before connecting, so no name that resolves anew to another address gets past it.
        family, kind, protocol, _, address = address_info
        if reason := refusal(address[0], private_delivery=private_delivery):
            raise PermissionError(errno.EACCES, reason)
        return socket.socket(family=family, type=kind, proto=protocol)

    return connectable
