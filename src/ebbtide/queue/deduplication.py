"""Equal requests share one outcome, where their endpoint is told to deduplicate.

Equal are requests of the same input bytes, model and parameters. The first is worked on; one that comes
while it is in flight, or within a retention time after its success, gets its inference id and locations.
"""

import hashlib
import json
from dataclasses import dataclass

from sqlalchemy import Boolean, Column, Connection, Float, String, Table, text

from ebbtide.database import Statement, metadata
from ebbtide.endpoints import Endpoint
from ebbtide.identifiers import parse_location
from ebbtide.objects.buckets import find_bucket
from ebbtide.objects.records import ObjectRecord, find_object
from ebbtide.queue.invocations import Invocation

switches = Table(
    "endpoint_deduplication",
    metadata,
    Column("endpoint_id", String, primary_key=True),
    Column("enabled", Boolean, nullable=False),
    Column("retention_s", Float, nullable=False),
)

DEFAULT_RETENTION_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Switch:
    """Whether an endpoint deduplicates, and for how many seconds a success answers its equals."""

    enabled: bool = False
    retention_s: float = DEFAULT_RETENTION_S


@dataclass(frozen=True, slots=True)
class Twin:
    """An earlier invocation whose outcome an equal request shares."""

    inference_id: str
    output_uri: str
    failure_uri: str | None


_SWITCH = Statement("SELECT enabled, retention_s FROM endpoint_deduplication WHERE endpoint_id = ?")

_TWIN = text(
    """
SELECT state, inference_id, output_uri, failure_uri FROM invocations
 WHERE endpoint_id = :endpoint_id AND digest = :digest AND digest IS NOT NULL
   AND (state IN ('queued', 'claimed') OR (state = 'succeeded' AND finished_at > :since))
 ORDER BY id DESC LIMIT 1
"""
)


_FORGET = text("UPDATE invocations SET digest = NULL WHERE id = :id")


def switch(connection: Connection, endpoint_id: str) -> Switch:
    """The endpoint's switch; off when nobody has set it."""
    rows = _SWITCH.execute(connection, (endpoint_id,))
    return Switch(bool(rows[0][0]), rows[0][1]) if rows else Switch()


def set_switch(connection: Connection, endpoint_id: str, to: Switch) -> None:
    """Turn deduplication on or off for what comes from now on."""
    connection.execute(switches.delete().where(switches.c.endpoint_id == endpoint_id))
    connection.execute(
        switches.insert().values(endpoint_id=endpoint_id, enabled=to.enabled, retention_s=to.retention_s)
    )


def digest(connection: Connection, invocation: Invocation, endpoint: Endpoint) -> str | None:
    """What the request comes to, as a hash in hex; None while its input is not in the object store.

    An object's bytes are told by its size and entity tag, inline ones by themselves.
    """
    if invocation.body is not None:
        return digest_of(invocation, endpoint, None)
    assert invocation.input_uri is not None
    location = parse_location(invocation.input_uri)
    found = find_object(connection, location.bucket, location.key)
    return None if found is None else digest_of(invocation, endpoint, found)


def digest_of(invocation: Invocation, endpoint: Endpoint, found: ObjectRecord | None) -> str:
    """`digest` of a request whose input, where it did not come inline, is the object that was found."""
    if found is None:
        assert invocation.body is not None
        content = hashlib.sha256(invocation.body).hexdigest()
    else:
        content = f"{found.size_bytes}-{found.etag}-{found.content_type}"
    models = [variant.model for variant in endpoint.variants]
    parameters = (
        content,
        json.dumps(models, sort_keys=True),
        invocation.content_type,
        invocation.accept,
        invocation.custom_attributes,
    )
    return hashlib.sha256(json.dumps(parameters).encode()).hexdigest()


def forget(connection: Connection, invocation_id: str) -> None:
    """Let no equal request share its outcome: its input was replaced while it waited, or its model."""
    connection.execute(_FORGET, {"id": invocation_id})


def find_twin(
    connection: Connection, endpoint_id: str, digest: str, *, retention_s: float, now: float
) -> Twin | None:
    """The latest equal request that is in flight, or succeeded within the retention time, its output still
    there.
    """
    values = {"endpoint_id": endpoint_id, "digest": digest, "since": now - retention_s}
    row = connection.execute(_TWIN, values).one_or_none()
    if row is None:
        return None
    state, *shared = row
    return None if state == "succeeded" and _is_gone(connection, row.output_uri) else Twin(*shared)


def _is_gone(connection: Connection, output_uri: str) -> bool:
    """Whether the output was removed since. Of one in an outside bucket nobody here knows."""
    place = parse_location(output_uri)
    is_ours = find_bucket(connection, place.bucket) is not None
    return is_ours and find_object(connection, place.bucket, place.key) is None
