"""An invocation's end: one transaction moves it, shows its object, writes its message and its metrics.

So an outcome is published once, by whoever held the claim, or not at all.
"""

import json
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass

from sqlalchemy import Connection

from ebbtide import metrics
from ebbtide.endpoints import AsyncConfig, Endpoint
from ebbtide.errors import ServiceError
from ebbtide.identifiers import parse_location
from ebbtide.metrics import Point
from ebbtide.notifications import topics
from ebbtide.objects.records import Staged
from ebbtide.objects.store import ObjectStore
from ebbtide.queue import invocations
from ebbtide.queue.invocations import Claim, Invocation
from ebbtide.queue.messages import INCLUDED_RESPONSE_BYTES, message

log = logging.getLogger(__name__)

NAMESPACE = "AWS/SageMaker"


@dataclass(frozen=True, slots=True)
class Response:
    """What the model answered, or what we say in its place: bytes staged for the output or failure key.

    included: the bytes themselves when they are few enough for a message.
    """

    staged: Staged
    content_type: str
    included: bytes | None


@dataclass(frozen=True, slots=True)
class Timings:
    """How long the steps of one claim took, in s; None for a step that was not reached."""

    download_s: float | None = None
    model_s: float | None = None
    upload_s: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an invocation failed. `metric` names the error metric it counts in, beside InvocationFailures."""

    reason: str
    metric: str | None = None


@dataclass(frozen=True, slots=True)
class Publisher:
    """Publishes the outcomes of one endpoint's invocations on one variant's instances."""

    endpoint: Endpoint
    variant: str
    region: str
    objects: ObjectStore

    def succeed(
        self, connection: Connection, held: Claim, response: Response, timings: Timings, now: float
    ) -> None:
        """Publish the output. Raises LeaseLost when another holds the claim, ServiceError when the output
        location cannot be written; then nothing was done.
        """
        invocation = held.invocation
        invocations.finish(connection, held, "succeeded", reason=None, now=now)
        self._show(connection, invocation.output_uri, response, now)
        self._notify(
            connection,
            invocation,
            "Completed",
            {"contentType": response.content_type, "outputLocation": invocation.output_uri},
            response,
            None,
            now,
        )
        counts = {"InvocationsProcessed": 1.0, "Invocation4XXErrors": 0.0, "Invocation5XXErrors": 0.0}
        self._measure(connection, invocation, held.claimed_at, counts, timings, now)

    def fail(
        self,
        connection: Connection,
        held: Claim,
        failure: Failure,
        response: Response,
        timings: Timings,
        now: float,
    ) -> None:
        """Publish the failure: an object where the endpoint has a failure path, the message, the counts.

        Raises LeaseLost when another holds the claim.
        """
        invocations.finish(connection, held, "failed", reason=failure.reason, now=now)
        shown = self._show_failure(connection, held.invocation, response, now)
        self._notify(connection, held.invocation, "Failed", shown, response, failure.reason, now)
        counts = {"InvocationsProcessed": 1.0, "InvocationFailures": 1.0}
        counts |= dict.fromkeys(("Invocation4XXErrors", "Invocation5XXErrors"), 0.0)
        if failure.metric:
            counts[failure.metric] = 1.0
        self._measure(connection, held.invocation, held.claimed_at, counts, timings, now)

    def expire(
        self, connection: Connection, invocation_id: str, reason: str, response: Response, now: float
    ) -> bool:
        """Publish that a queued invocation waited past its TTL; False when it was claimed meanwhile."""
        invocation = invocations.expire(connection, invocation_id, reason=reason, now=now)
        if invocation is None:
            return False
        shown = self._show_failure(connection, invocation, response, now)
        self._notify(connection, invocation, "Expired", shown, response, reason, now)
        counts = {"ExpiredRequests": 1.0, "InvocationFailures": 1.0}
        self._measure(connection, invocation, None, counts, Timings(), now)
        return True

    def _show(self, connection: Connection, uri: str, response: Response, now: float) -> None:
        location = parse_location(uri)
        self.objects.publish(
            connection,
            location.bucket,
            location.key,
            response.staged,
            content_type=response.content_type,
            at=now,
        )

    def _show_failure(
        self, connection: Connection, invocation: Invocation, response: Response, now: float
    ) -> dict[str, str]:
        """Put the failure object where the endpoint wants it; returns the message's responseParameters."""
        if invocation.failure_uri is None:
            return {}
        try:
            self._show(connection, invocation.failure_uri, response, now)
        except ServiceError as error:
            # The failure itself stands: a wrong failure path must not keep the invocation for ever.
            log.warning("%s: no failure object at %s: %s", invocation.id, invocation.failure_uri, error)
            self._count(connection, "ResponseUploadFailures", now)
            return {}
        return {"failureLocation": invocation.failure_uri}

    def _notify(
        self,
        connection: Connection,
        invocation: Invocation,
        status: str,
        parameters: dict[str, str],
        response: Response,
        failure_reason: str | None,
        now: float,
    ) -> None:
        config = self.endpoint.async_config
        assert config is not None  # only asynchronous endpoints have invocations
        topic, include = _topic(config, status)
        if topic is None:
            return
        text = message(
            invocation,
            endpoint_name=self.endpoint.name,
            region=self.region,
            status=status,
            at=now,
            failure_reason=failure_reason,
            response=parameters,
            included=response.included,
            include=include,
        )
        try:
            topics.publish(connection, topic, text, at=now)
        except ServiceError as error:
            log.warning("%s: nobody was notified through %s: %s", invocation.id, topic, error)
            self._count(connection, "NotificationFailures", now)

    def _measure(
        self,
        connection: Connection,
        invocation: Invocation,
        claimed_at: float | None,
        counts: dict[str, float],
        timings: Timings,
        now: float,
    ) -> None:
        waited_until = now if claimed_at is None else claimed_at
        milliseconds = {
            "TimeInBacklog": waited_until - invocation.accepted_at,
            "TotalProcessingTime": now - invocation.accepted_at,
        }
        microseconds = {
            "RequestDownloadLatency": timings.download_s,
            "ModelLatency": timings.model_s,
            "ResponseUploadLatency": timings.upload_s,
        }
        points = [self._point(name, value, _unit(name), now) for name, value in counts.items()]
        points += [
            self._point(name, max(0.0, seconds) * 1e3, "Milliseconds", now)
            for name, seconds in milliseconds.items()
        ]
        points += [
            self._point(name, seconds * 1e6, "Microseconds", now)
            for name, seconds in microseconds.items()
            if seconds is not None
        ]
        metrics.record(connection, points)

    def _count(self, connection: Connection, name: str, now: float) -> None:
        metrics.record(connection, [self._point(name, 1.0, _unit(name), now)])

    def _point(self, name: str, value: float, unit: str, at: float) -> Point:
        dimensions = (("EndpointName", self.endpoint.name), ("VariantName", self.variant))
        return Point(NAMESPACE, name, dimensions, value, unit, at)


async def stage_failure(objects: ObjectStore, reason: str, code: int) -> Response:
    """Stage a failure object for what failed without an answer of the model, in the toolkit's error shape."""
    body = json.dumps({"code": code, "type": "InternalServerException", "message": reason}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    return Response(await objects.stage(chunks()), "application/json", body)


def includable(chunks: Iterable[bytes]) -> bytes | None:
    """The response's bytes when they fit into a message, else None."""
    joined = b"".join(chunks)
    return joined if len(joined) <= INCLUDED_RESPONSE_BYTES else None


def _topic(config: AsyncConfig, status: str) -> tuple[str | None, bool]:
    """The topic for a status, and whether its messages hold the response."""
    if status == "Completed":
        return config.success_topic, "SUCCESS_NOTIFICATION_TOPIC" in config.include_response_in
    return config.error_topic, "ERROR_NOTIFICATION_TOPIC" in config.include_response_in


def _unit(metric: str) -> str:
    return "None" if metric in ("Invocation4XXErrors", "Invocation5XXErrors") else "Count"
