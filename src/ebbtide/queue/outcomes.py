"""An invocation's end: one transaction moves it, shows its object, writes its message and its metrics.

So an outcome is published once, by whoever held the claim, or not at all. Outcomes that come together share
their statements: a statement each would cost a burst several times as much.
"""

import asyncio
import json
import logging
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import replace

from sqlalchemy import Connection

from ebbtide import metrics
from ebbtide.endpoints import Endpoint
from ebbtide.errors import ServiceError, Unavailable
from ebbtide.identifiers import parse_location
from ebbtide.metrics import Point
from ebbtide.metrics.points import Dimensions
from ebbtide.notifications import topics
from ebbtide.objects import batches
from ebbtide.objects.batches import Publication
from ebbtide.objects.contents import Staged
from ebbtide.objects.outside import Hold
from ebbtide.objects.store import ObjectStore
from ebbtide.queue import invocations
from ebbtide.queue.invocations import Claim, Ending, Invocation, LeaseLost, Phases
from ebbtide.queue.messages import INCLUDED_RESPONSE_BYTES, message
from ebbtide.values import value

log = logging.getLogger(__name__)

NAMESPACE = "AWS/SageMaker"

STATUSES = {"succeeded": "Completed", "failed": "Failed", "expired": "Expired", "cancelled": "Cancelled"}
"""State -> invocationStatus. The last is ours: SageMaker has no cancellation."""


@value
class Response:
    """What the model answered, or what we say in its place: bytes staged for the output or failure key.

    included: the bytes themselves when they are few enough for a message.
    """

    staged: Staged
    content_type: str
    included: bytes | None


@value
class Outcome:
    """How an invocation of an endpoint ended, at `at`.

    variant: whose instance worked on it. reason: of what did not succeed. metric: names the error metric that
    it counts in, beside InvocationFailures. claimed_at: None for one that no agent took.
    """

    endpoint: Endpoint
    variant: str
    region: str
    invocation: Invocation
    state: str
    response: Response
    at: float
    reason: str | None = None
    metric: str | None = None
    claimed_at: float | None = None
    phases: Phases = Phases()
    # Of one whose object goes to an outside bucket: that it is there, or why it cannot be.
    delivered: bool = False
    undelivered: ServiceError | None = None

    @property
    def topic(self) -> str | None:
        """Where its message goes, if anywhere."""
        config = self.endpoint.async_config
        assert config is not None  # only asynchronous endpoints have invocations
        return config.success_topic if self.state == "succeeded" else config.error_topic

    @property
    def includes_response(self) -> bool:
        """Whether its message holds the response."""
        config = self.endpoint.async_config
        assert config is not None
        kind = "SUCCESS" if self.state == "succeeded" else "ERROR"
        return f"{kind}_NOTIFICATION_TOPIC" in config.include_response_in


async def deliver(objects: ObjectStore, outcome: Outcome, hold: Hold) -> Outcome:
    """Put the outcome's object in place if it belongs into an outside bucket; returns what to commit then.

    hold: confirms the claim, as in ObjectStore.deliver. Raises what that raises, but a failure object that
    can never be written hinders nothing: the failure itself stands.
    """
    uri = _place(outcome)
    if uri is None or outcome.delivered or outcome.undelivered or not objects.reaches_outside:
        return outcome
    location, response = parse_location(uri), outcome.response
    try:
        delivered = await objects.deliver(
            location.bucket,
            location.key,
            response.staged,
            account=outcome.endpoint.account,
            content_type=response.content_type,
            hold=hold,
        )
    except Unavailable:
        raise
    except ServiceError as error:
        if outcome.state == "succeeded":
            raise
        return replace(outcome, undelivered=error)
    return replace(outcome, delivered=True) if delivered else outcome


async def withdraw(objects: ObjectStore, outcome: Outcome, hold: Hold) -> None:
    """Remove what an earlier attempt, cut off before its transaction, may have left in an outside bucket: of
    an invocation that succeeds now the failure object, of one that fails the output.

    An output under a name that the caller chose stays: it may be another invocation's. hold: confirms the
    claim, as in ObjectStore.deliver. Raises Unavailable, LeaseLost.
    """
    invocation = outcome.invocation
    other = invocation.failure_uri if outcome.state == "succeeded" else invocation.output_uri
    if other is None or invocation.id not in other.rpartition("/")[2]:
        return
    location = parse_location(other)
    outside = objects.outside(location.bucket)
    if outside is None:
        return
    try:
        async with asyncio.timeout(await hold()):
            await outside.delete(location.key)
    except TimeoutError as error:
        raise Unavailable(f"{other} could not be removed in time") from error
    except Unavailable:
        raise
    except ServiceError as error:
        log.warning("%s: an earlier attempt may have left %s: %s", invocation.inference_id, other, error)


def end_claims(
    connection: Connection, outcomes: Sequence[tuple[Claim, Outcome]]
) -> list[LeaseLost | ServiceError | None]:
    """Publish the outcomes of claims, each on its own: LeaseLost for one that another holds now, the
    ServiceError for a success whose output location cannot be written; of these nothing was done.
    """
    held = invocations.still_held(connection, (claim for claim, _ in outcomes))
    results: list[LeaseLost | ServiceError | None] = [
        None if claim.invocation.id in held else LeaseLost(claim.invocation.id) for claim, _ in outcomes
    ]
    mine = [n for n, result in enumerate(results) if result is None]
    shown = _show(connection, [outcomes[n][1] for n in mine])
    ended: list[tuple[Claim, Outcome, bool]] = []
    for n, error in zip(mine, shown, strict=True):
        claim, outcome = outcomes[n]
        if error is not None and outcome.state == "succeeded":
            results[n] = error
        else:
            ended.append((claim, outcome, error is None))
    invocations.finish(connection, [Ending(c, o.state, o.reason, o.phases, o.at) for c, o, _ in ended])
    _tell(connection, [(outcome, visible) for _, outcome, visible in ended])
    return results


def publish(connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Publish the outcomes of invocations that have ended without an agent."""
    shown = _show(connection, outcomes)
    _tell(connection, [(outcome, error is None) for outcome, error in zip(outcomes, shown, strict=True)])


def _show(connection: Connection, outcomes: Sequence[Outcome]) -> list[ServiceError | None]:
    """Put the outputs and failure objects where their endpoints want them; what hindered each."""
    errors: list[ServiceError | None] = [None] * len(outcomes)
    places, publications = [], []
    for n, outcome in enumerate(outcomes):
        uri = _place(outcome)
        errors[n] = outcome.undelivered
        if uri is not None and not (outcome.delivered or outcome.undelivered):
            location = parse_location(uri)
            response = outcome.response
            publications.append(
                Publication(
                    outcome.endpoint.account,
                    location.bucket,
                    location.key,
                    response.staged,
                    response.content_type,
                    outcome.at,
                )
            )
            places.append(n)
    for n, error in zip(places, batches.publish_many(connection, publications), strict=True):
        errors[n] = error
    return errors


def _place(outcome: Outcome) -> str | None:
    """Where the outcome's object goes; None for a failure of an endpoint without a failure path."""
    invocation = outcome.invocation
    return invocation.output_uri if outcome.state == "succeeded" else invocation.failure_uri


def _tell(connection: Connection, outcomes: Sequence[tuple[Outcome, bool]]) -> None:
    """Write the messages and the metrics. With each outcome: whether its object could be put in place."""
    points = list(_measured([outcome for outcome, _ in outcomes]))
    by_topic: dict[str, list[tuple[Outcome, str]]] = defaultdict(list)
    for outcome, visible in outcomes:
        if not visible:
            # The failure itself stands: a wrong failure path must not keep the invocation for ever.
            log.warning("%s: no failure object at %s", outcome.invocation.id, outcome.invocation.failure_uri)
            points.append(_count(outcome, "ResponseUploadFailures"))
        if outcome.topic is not None:
            by_topic[outcome.topic].append((outcome, _message(outcome, visible=visible)))
    for topic, messages in by_topic.items():
        try:
            topics.publish_many(
                connection,
                topic,
                [(text, outcome.invocation.id) for outcome, text in messages],
                at=messages[0][0].at,
            )
        except ServiceError as error:
            log.warning("%d outcomes: nobody was notified through %s: %s", len(messages), topic, error)
            points += [_count(outcome, "NotificationFailures") for outcome, _ in messages]
    metrics.record(connection, points)


def _message(outcome: Outcome, *, visible: bool) -> str:
    invocation = outcome.invocation
    shown: dict[str, str] = {}
    if outcome.state == "succeeded":
        shown = {"contentType": outcome.response.content_type, "outputLocation": invocation.output_uri}
    elif visible and invocation.failure_uri is not None:
        shown = {"failureLocation": invocation.failure_uri}
    return message(
        invocation,
        endpoint_name=outcome.endpoint.name,
        region=outcome.region,
        status=STATUSES[outcome.state],
        at=outcome.at,
        failure_reason=outcome.reason,
        response=shown,
        included=outcome.response.included,
        include=outcome.includes_response,
    )


def _measured(outcomes: Sequence[Outcome]) -> Iterator[Point]:
    """What the outcomes count for, and how long their phases took."""
    # Endings that count alike are counted first: in a burst all that came together do.
    alike = Counter(
        (each.endpoint.account, _dimensions(each), _counted(each), int(each.at)) for each in outcomes
    )
    for (account, dimensions, counted, second), count in alike.items():
        for name, amount in counted:
            yield Point(account, NAMESPACE, name, dimensions, amount, _unit(name), second, float(count))
    for outcome in outcomes:
        account, dimensions = outcome.endpoint.account, _dimensions(outcome)
        accepted_at, phases = outcome.invocation.accepted_at, outcome.phases
        waited_until = outcome.at if outcome.claimed_at is None else outcome.claimed_at
        for name, begin, end, per_s, unit in (
            ("TimeInBacklog", accepted_at, waited_until, 1e3, "Milliseconds"),
            ("TotalProcessingTime", accepted_at, outcome.at, 1e3, "Milliseconds"),
            ("RequestDownloadLatency", outcome.claimed_at, phases.opened_at, 1e6, "Microseconds"),
            ("ModelLatency", phases.sent_at, phases.answered_at, 1e6, "Microseconds"),
            ("ResponseUploadLatency", phases.answered_at, outcome.at, 1e6, "Microseconds"),
        ):
            if begin is not None and end is not None:
                value = max(0.0, end - begin) * per_s
                yield Point(account, NAMESPACE, name, dimensions, value, unit, outcome.at)


_SUCCEEDED = (("InvocationsProcessed", 1.0), ("Invocation4XXErrors", 0.0), ("Invocation5XXErrors", 0.0))


def _counted(outcome: Outcome) -> tuple[tuple[str, float], ...]:
    if outcome.state == "succeeded":
        return _SUCCEEDED
    counted = []
    if outcome.claimed_at is not None:
        counted.append(("InvocationsProcessed", 1.0))
        counted += [
            (name, float(name == outcome.metric)) for name in ("Invocation4XXErrors", "Invocation5XXErrors")
        ]
    if outcome.state == "expired":
        counted.append(("ExpiredRequests", 1.0))
    counted.append(("InvocationFailures", 1.0))
    if outcome.metric is not None and not outcome.metric.endswith("XXErrors"):
        counted.append((outcome.metric, 1.0))
    return tuple(counted)


def _count(outcome: Outcome, name: str) -> Point:
    account = outcome.endpoint.account
    return Point(account, NAMESPACE, name, _dimensions(outcome), 1.0, _unit(name), outcome.at)


def _dimensions(outcome: Outcome) -> Dimensions:
    return ("EndpointName", outcome.endpoint.name), ("VariantName", outcome.variant)


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


def _unit(metric: str) -> str:
    return "None" if metric in ("Invocation4XXErrors", "Invocation5XXErrors") else "Count"
