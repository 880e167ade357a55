"""How far the expected times of `GET /_ebbtide/invocations/{id}` are from what comes: steady load, a burst.

One instance with four slots; each request takes a time of its own (lognormal, mean 50 ms, a coefficient of
variation of 0.5). The expectation is asked for right after a request's acceptance, of every tenth, and
compared with when it was claimed and when it had its outcome. The error of a start is relative to the time
from asking to the start, that of an end to the time from asking to the end; one that was claimed before it
was asked about has no start to expect.
"""

import asyncio
import io
import itertools
import math
import random
import statistics
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bench.server import IMAGE, Measured, percentile, send_all, server, signed_invocations

ENDPOINT = "sleeper"
SLOTS = 4
MEAN_S, VARIATION = 0.05, 0.5
STEADY_S, UTILISATION = 30.0, 0.8
BURST = 1000
EVERY = 10
WARM_UP = 100

SPREAD = math.sqrt(math.log(1 + VARIATION**2))
SLEEPER = f"""
import random, time

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    time.sleep(random.lognormvariate({math.log(MEAN_S) - SPREAD**2 / 2}, {SPREAD}))
    return "done"
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was expected of one invocation, when it was asked about. Times in epoch seconds."""

    id: str
    at: float
    start_at: float | None
    end_at: float | None
    queued: bool


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    with server() as measured:
        _deploy(measured, ENDPOINT)
        own = measured.running.own()
        with ThreadPoolExecutor(8) as pool:
            for id_ in list(pool.map(lambda _: _submit(measured), range(WARM_UP))):
                own.wait(id_)
            yield from _errors(measured, "steady load", _steady(pool, measured))
            yield from _errors(measured, f"burst of {BURST:,}", _burst(pool, measured))


def _steady(pool: ThreadPoolExecutor, measured: Measured) -> Sequence[Asked]:
    """Poisson arrivals, for a time."""
    draw = random.Random(1)
    asked = []
    next_at = begin = time.monotonic()
    for count in itertools.count():
        if next_at >= begin + STEADY_S:
            return [each.result() for each in asked]
        time.sleep(max(0.0, next_at - time.monotonic()))
        if count % EVERY == 0:
            asked.append(pool.submit(lambda: _ask(measured, _submit(measured))))
        else:
            pool.submit(_submit, measured)
        next_at += draw.expovariate(UTILISATION * SLOTS / MEAN_S)
    raise AssertionError("it counts for ever")


def _burst(pool: ThreadPoolExecutor, measured: Measured) -> Sequence[Asked]:
    """All at once: signed beforehand, so that making them takes the server no time."""
    requests = signed_invocations(measured.running, ENDPOINT, b"x", BURST)
    asyncio.run(send_all(measured.running, requests, connections=32))
    return list(pool.map(lambda n: _ask(measured, f"bench-{n}"), range(0, BURST, EVERY)))


def _ask(measured: Measured, id_: str) -> Asked:
    found = measured.running.own().get(id_)
    expected = found["estimate"] or {"start_at": None, "end_at": None}
    return Asked(
        found["id"],
        time.time(),
        _epoch_s(expected["start_at"]),
        _epoch_s(expected["end_at"]),
        found["state"] == "queued",
    )


def _errors(measured: Measured, load: str, asked: Sequence[Asked]) -> Iterator[tuple[str, str]]:
    own = measured.running.own()
    starts: list[tuple[float, float]] = []
    ends: list[tuple[float, float]] = []
    for each in asked:
        done = own.wait(each.id, timeout_s=300)
        claimed_at, finished_at = _epoch_s(done["claimed_at"]), _epoch_s(done["finished_at"])
        assert claimed_at is not None
        assert finished_at is not None
        if each.start_at is not None and each.queued and claimed_at > each.at:
            starts.append((abs(each.start_at - claimed_at), claimed_at - each.at))
        if each.end_at is not None and finished_at > each.at:
            ends.append((abs(each.end_at - finished_at), finished_at - each.at))
    for what, errors in (("start", starts), ("end", ends)):
        relative = [error / actual for error, actual in errors]
        absolute = [error for error, _ in errors]
        yield (
            f"expected {what}, {load}, {len(errors)} asked about",
            f"error {_figures(relative, '.0%')} of the time ahead, {_figures(absolute, '.3f')} s",
        )


def _figures(errors: Sequence[float], form: str) -> str:
    return f"median {statistics.median(errors):{form}}, p90 {percentile(errors, 90):{form}}"


def _submit(measured: Measured) -> str:
    answer = measured.running.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=ENDPOINT, Body=b"x"
    )
    inference_id: str = answer["InferenceId"]
    return inference_id


def _deploy(measured: Measured, name: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        info = tarfile.TarInfo("code/inference.py")
        info.size = len(SLEEPER)
        tar.addfile(info, io.BytesIO(SLEEPER.encode()))
    s3, sagemaker = measured.client("s3"), measured.client("sagemaker")
    s3.create_bucket(Bucket=name)
    s3.put_object(Bucket=name, Key="model.tar.gz", Body=archive.getvalue())
    container: dict[str, Any] = {"Image": IMAGE, "ModelDataUrl": f"s3://{name}/model.tar.gz"}
    sagemaker.create_model(
        ModelName=name, ExecutionRoleArn=measured.running.role_arn, PrimaryContainer=container
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {"VariantName": "v", "ModelName": name, "InstanceType": "ml.m5.xlarge", "InitialInstanceCount": 1}
        ],
        AsyncInferenceConfig={
            "OutputConfig": {"S3OutputPath": f"s3://{name}/results"},
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": SLOTS},
        },
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )


def _epoch_s(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
