"""SageMaker Runtime, 2017-05-13: accept invocations of asynchronous endpoints, pass on real-time ones."""

import asyncio
import re
import time
from functools import partial

from ebbtide import clock, metrics
from ebbtide.api import submission
from ebbtide.api.call import Call, Params, Parts, Result
from ebbtide.api.submission import Submission
from ebbtide.endpoints import Endpoint, get_endpoint
from ebbtide.endpoints.states import DELETING, FAILED
from ebbtide.errors import ServiceError, Unavailable
from ebbtide.identifiers import parse_location, time_ordered_id
from ebbtide.instances.exchange import ModelServerLost
from ebbtide.instances.inputs import request_headers
from ebbtide.metrics import Point
from ebbtide.queue.invocations import Invocation

__all__ = ["invoke_endpoint", "invoke_endpoint_async"]

TTL_S = 21_600
TIMEOUT_S = 900
BODY_LIMIT_BYTES = 128_000
REAL_TIME_TIMEOUT_S = 60.0


class ValidationError(ServiceError):
    """The request cannot be meant. This service's own code: the control plane says ValidationException."""

    code = "ValidationError"


async def invoke_endpoint_async(params: Params, call: Call) -> Result:
    """Accept one inference and say where its output will appear, before any model has run.

    params: checked against the service model; RequestTTLSeconds and InvocationTimeoutSeconds in s, default
    21600 and 900. Raises ValidationError for an endpoint that does not exist or is real-time, and unless
    exactly one of Body and InputLocation is given. Source: InvokeEndpointAsync, SageMaker Runtime 2017-05-13.
    The header X-Ebbtide-Submission adds what AWS lacks (submission.py).
    """
    wanted = submission.read(call.headers)
    accepted = await call.parts.intake.accept(
        call.account,
        params["EndpointName"],
        partial(invocation, params, account=call.submitter, now=call.now, wanted=wanted),
        tags=wanted.tags,
        may_share=wanted.deduplicate,
    )
    result = {"InferenceId": accepted.inference_id, "OutputLocation": accepted.output_uri}
    if accepted.failure_uri is not None:
        result["FailureLocation"] = accepted.failure_uri
    return result


async def invoke_endpoint(params: Params, call: Call) -> Result:
    """Pass one request to an instance of a real-time endpoint and its answer back.

    Raises ValidationError for an endpoint that does not exist or is asynchronous, ModelError (424) when the
    model answers with an error or not within 60 s, Unavailable when no instance is in service.
    Source: InvokeEndpoint, SageMaker Runtime 2017-05-13.
    """
    endpoint = await call.parts.database.read(
        lambda connection: get_endpoint(connection, call.account, params["EndpointName"])
    )
    if endpoint.async_config is not None:
        raise _wrong_type(endpoint)
    running = call.parts.fleet.in_service(endpoint.id)
    if target := params.get("TargetVariant"):
        running = [instance for instance in running if instance.variant == target]
        if target not in {variant.name for variant in endpoint.variants}:
            raise ValidationError(f"Variant {target} not found for Request")
    if not running:
        raise Unavailable(f"Endpoint {endpoint.name} has no instance in service.")
    instance = min(running, key=lambda candidate: candidate.agent.in_flight)
    body = params.get("Body", b"")
    headers = request_headers(
        content_type=params.get("ContentType"),
        accept=params.get("Accept"),
        custom_attributes=params.get("CustomAttributes"),
        inference_id=params.get("InferenceId"),
    ) | {"Content-Length": str(len(body))}
    started_at = time.perf_counter()
    try:
        async with (
            asyncio.timeout(REAL_TIME_TIMEOUT_S),
            instance.agent.exchange(headers, body) as answer,
        ):
            status, answered = answer.status, await answer.read()
    except TimeoutError as error:
        instance.agent.give_up()
        await _measure(call.parts, endpoint, instance.variant, 0, time.perf_counter() - started_at)
        raise _model_error(call, endpoint, 0, _TIMED_OUT) from error
    except ModelServerLost as error:
        await _measure(call.parts, endpoint, instance.variant, 500, time.perf_counter() - started_at)
        raise _model_error(call, endpoint, 500, str(error)) from error
    await _measure(call.parts, endpoint, instance.variant, status, time.perf_counter() - started_at)
    if status >= 300:
        raise _model_error(call, endpoint, status, answered.decode(errors="replace"))
    result = {
        "Body": answered,
        "ContentType": answer.headers.get("content-type", "application/octet-stream"),
        "InvokedProductionVariant": instance.variant,
    }
    if (attributes := answer.headers.get("x-amzn-sagemaker-custom-attributes")) is not None:
        result["CustomAttributes"] = attributes
    return result


_TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. "
    "Review the latency metrics for each container in Amazon CloudWatch, resolve the issue, and try again."
)

_FILENAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_-]*(\.[a-zA-Z0-9_-]*)?")


def invocation(
    params: Params, endpoint: Endpoint, account: str, now: float, wanted: Submission = submission.DEFAULT
) -> Invocation:
    """What InvokeEndpointAsync makes of its parameters. Raises ValidationError."""
    config = endpoint.async_config
    if config is None:
        raise _wrong_type(endpoint)
    if endpoint.status in (DELETING, FAILED):
        # Nothing would ever work on it: better told now than found out when its TTL is over.
        raise ValidationError(
            f"Endpoint {endpoint.name} of account {account} takes no requests: it is {endpoint.status}."
        )
    # botocore's blob arrives as bytes; an absent body and an empty one look the same on the wire.
    body = params.get("Body") or None
    input_uri = params.get("InputLocation")
    if (body is None) == (input_uri is None):
        given = "neither was" if body is None else "both were"
        raise ValidationError(f"Exactly one of Body and InputLocation must be given; {given}.")
    if body is not None and len(body) > BODY_LIMIT_BYTES:
        raise ValidationError(f"Body has {len(body)} bytes; at most {BODY_LIMIT_BYTES} are allowed.")
    if input_uri is not None:
        try:
            parse_location(input_uri)
        except ValueError as error:
            raise ValidationError(f"InputLocation is not valid: {error}") from error
    name = params.get("Filename")
    if name is not None and not _FILENAME.fullmatch(name):
        raise ValidationError(
            f"Filename {name!r} must begin with a letter or digit and hold only those, '-', '_' and one '.'."
        )
    identity = time_ordered_id(now)
    extension = params.get("S3OutputPathExtension")
    return Invocation(
        id=identity,
        inference_id=params.get("InferenceId") or identity,
        account=account,
        endpoint_id=endpoint.id,
        accepted_at=now,
        expires_at=now + (wanted.ttl_s or params.get("RequestTTLSeconds", TTL_S)),
        timeout_s=params.get("InvocationTimeoutSeconds", TIMEOUT_S),
        input_uri=input_uri,
        content_type=params.get("ContentType"),
        accept=params.get("Accept"),
        custom_attributes=params.get("CustomAttributes"),
        output_uri=_join(config.output_uri, extension, name or f"{identity}.out"),
        failure_uri=config.failure_uri and _join(config.failure_uri, f"{identity}-error.out"),
        body=body,
        priority=wanted.priority,
    )


def _join(base: str, *parts: str | None) -> str:
    """Append to a location with single slashes between. An extension's own inner slashes are kept."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts if part and part.strip("/"))])


def _wrong_type(endpoint: Endpoint) -> ValidationError:
    return ValidationError(
        f"Endpoint {endpoint.name} of account {endpoint.account} does not support this inference type."
    )


def _model_error(call: Call, endpoint: Endpoint, status: int, words: str) -> ServiceError:
    kind = "client" if 400 <= status < 500 else "server"
    group = f"/aws/sagemaker/Endpoints/{endpoint.name}"
    console = (
        f"https://{call.region}.console.aws.amazon.com/cloudwatch/home?region={call.region}"
        f"#logEventViewer:group={group}"
    )
    return ServiceError(
        f'Received {kind} error ({status}) from primary with message "{words}". '
        f"See {console} in account {call.account} for more information.",
        code="ModelError",
        http_status=424,
        members={
            "OriginalStatusCode": status,
            "OriginalMessage": words,
            "LogStreamArn": f"arn:aws:logs:{call.region}:{call.account}:log-group:{group}",
        },
    )


async def _measure(parts: Parts, endpoint: Endpoint, variant: str, status: int, model_s: float) -> None:
    """Count a real-time invocation. status 0: the model did not answer in time."""
    at = clock.now()
    dimensions = (("EndpointName", endpoint.name), ("VariantName", variant))
    instances = max(1, len(parts.fleet.in_service(endpoint.id)))
    values = {
        "Invocations": (1.0, "None"),
        "InvocationsPerInstance": (1.0 / instances, "None"),
        "ModelLatency": (model_s * 1e6, "Microseconds"),
        "Invocation4XXErrors": (float(400 <= status < 500), "None"),
        "Invocation5XXErrors": (float(status == 0 or status >= 500), "None"),
    }
    points = [
        Point(endpoint.account, "AWS/SageMaker", name, dimensions, value, unit, at)
        for name, (value, unit) in values.items()
    ]
    await parts.database.write(lambda connection: metrics.record(connection, points))
