"""Bodies that do not come as they should."""

from typing import Any

import pytest

from ebbtide.api.body import Body
from ebbtide.errors import ServiceError


async def test_a_sender_that_falls_silent_is_given_up() -> None:
    pieces = [{"type": "http.request", "body": b"half", "more_body": True}]

    async def receive() -> dict[str, Any]:
        if not pieces:
            raise TimeoutError  # as the HTTP server does
        return pieces.pop()

    body = Body(receive, length_bytes=8)

    with pytest.raises(ServiceError) as caught:
        await body.read(100)
    assert caught.value.code == "RequestTimeout"
