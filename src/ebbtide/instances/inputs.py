"""What an invocation works on, as its model server is to get it."""

from collections.abc import AsyncIterator
from functools import partial

from ebbtide.database import Database
from ebbtide.endpoints import Endpoint
from ebbtide.identifiers import parse_location
from ebbtide.objects.records import ObjectRecord
from ebbtide.objects.store import ObjectStore, Reader
from ebbtide.queue import deduplication
from ebbtide.queue.invocations import Invocation
from ebbtide.values import value

INPUT_LIMIT_BYTES = 1024**3
"""Largest input of an asynchronous invocation, as in SageMaker."""


@value
class Input:
    """A request to a model server. The body is in one piece where nothing has to be read for it."""

    headers: dict[str, str]
    body: bytes | AsyncIterator[bytes]


async def open_input(
    invocation: Invocation, endpoint: Endpoint, objects: ObjectStore, database: Database
) -> Input:
    """The invocation's own body, or the object that it names.

    Raises ServiceError, ValueError when it cannot be had; the body's iterator raises ServiceError too.
    """
    size_bytes, content_type, body = await _open(invocation, endpoint, objects, database)
    headers = request_headers(
        content_type=content_type,
        accept=invocation.accept,
        custom_attributes=invocation.custom_attributes,
        inference_id=invocation.inference_id,
    )
    own = {"X-Ebbtide-Invocation-Id": invocation.id, "Content-Length": str(size_bytes)}
    return Input(headers | own, body)


async def _open(
    invocation: Invocation, endpoint: Endpoint, objects: ObjectStore, database: Database
) -> tuple[int, str | None, bytes | AsyncIterator[bytes]]:
    """The input's size, content type and bytes."""
    if invocation.body is not None:
        await _check_digest(invocation, endpoint, None, database)
        return len(invocation.body), invocation.content_type, invocation.body
    assert invocation.input_uri is not None
    location = parse_location(invocation.input_uri)
    record, chunks = await objects.open(location.bucket, location.key, account=endpoint.account, sealed=True)
    if record.size_bytes > INPUT_LIMIT_BYTES:
        raise ValueError(f"it has {record.size_bytes} bytes, more than {INPUT_LIMIT_BYTES}")
    await _check_digest(invocation, endpoint, record, database)
    row = chunks.row if isinstance(chunks, Reader) else None
    return (
        record.size_bytes,
        invocation.content_type or record.content_type,
        chunks if row is None else row,
    )


async def _check_digest(
    invocation: Invocation, endpoint: Endpoint, record: ObjectRecord | None, database: Database
) -> None:
    """Where what is worked on, or the model, is not what was accepted, nobody shares the outcome."""
    if invocation.digest is None:
        return
    if deduplication.digest_of(invocation, endpoint, record) != invocation.digest:
        forget = partial(deduplication.forget, invocation_id=invocation.id)
        await database.write(forget)


def request_headers(
    *,
    content_type: str | None,
    accept: str | None,
    custom_attributes: str | None,
    inference_id: str | None,
) -> dict[str, str]:
    """The headers that a container sees. Source: container contract, SageMaker developer guide."""
    headers = {
        "Content-Type": content_type,
        "Accept": accept,
        "X-Amzn-SageMaker-Custom-Attributes": custom_attributes,
        "X-Amzn-SageMaker-Inference-Id": inference_id,
    }
    return {name: value for name, value in headers.items() if value is not None}
