"""`ebbtide tune`: how many invocations at a time an instance of a model is best at, found by a real load.

It measures on an endpoint of its own beside the one that is tuned, made from its configuration with one
instance: each concurrency from a fresh start, and what runs meanwhile is left alone. All requests of a step
wait before the instance starts, so that nothing but the model takes the machine's time; the throughput is
that of the time in which there was work waiting for every slot.
"""

import json
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbtide.cli.errors import CommandError
from ebbtide.cli.options import Json, OfServer

if TYPE_CHECKING:
    from ebbtide.cli.running import RunningServer

app = typer.Typer()

LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Concurrencies that are tried, until more of it brings no more."""

WORTH = 0.05
"""Throughput that is worth more invocations at a time; the fewest within this of the peak are chosen."""

PATIENCE = 2
"""So many steps without a new peak end the rise."""

PROBE = 8
"""Requests that tell how long the next step's have to be."""

SAID_BYTES = 500
"""Of a failure that are shown."""

ROUNDS = 4
"""At least so many requests for each slot."""


@dataclass(frozen=True, slots=True)
class Step:
    """What was measured: documents a second at so many invocations at a time, of so many documents each.
    service_s: how long an invocation held its slot, in the mean. batch_size: most documents that the engine
    decoded together, as the requests asked; None for as many as it chose.
    """

    concurrency: int
    batch: int
    documents_per_s: float
    service_s: float
    requests: int
    batch_size: int | None = None


@app.command()
def tune(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="UTF-8 texts to summarise. [default: the descriptions of installed Python packages]",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    body: Annotated[
        Path | None,
        typer.Option(help="A whole request instead, sent as it is, as application/json.", exists=True),
    ] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Documents in a request. Repeatable. [default: 1]")
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Most documents decoded together. Repeatable. [default: as the engine chooses]",
        ),
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=1000, help="Most invocations at a time to try.")] = 32,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long each step works.")] = 5.0,
    apply: Annotated[bool, typer.Option("--apply", help="Give the endpoint what was found.")] = False,
    data: OfServer = None,
    as_json: Json = False,
) -> None:
    """Find the concurrency at which an instance finishes most, and print the whole curve."""
    from rich.console import Console

    from ebbtide.cli.articles import from_files, from_packages
    from ebbtide.cli.running import choose

    if body is not None and (files or batch or batch_size):
        raise CommandError("Give a request with --body, or texts, --batch and --batch-size")
    server = choose(data)
    out = Console(stderr=True)
    texts = [] if body else [article.text for article in (from_files(files) if files else from_packages())]
    curve: list[Step] = []
    with _bench(server, endpoint) as bench:
        limits: Sequence[int | None] = batch_size or (None,)
        for size, together in product(batch or [1], limits):
            requests = [body.read_bytes()] if body else list(_requests(texts, size, together))
            locations = [bench.store(request) for request in requests]
            for measured in _rise(bench, locations, size, most, seconds):
                step = replace(measured, batch_size=together)
                out.print(_in_words(step), highlight=False)
                curve.append(step)
    chosen = knee(curve)
    if apply:
        _apply(server, endpoint, chosen.concurrency)
    if as_json:
        json.dump(
            {"curve": [asdict(step) for step in curve], "chosen": asdict(chosen), "applied": apply},
            sys.stdout,
            indent=2,
        )
        print()
    else:
        _print(curve, chosen, endpoint, applied=apply)


def knee(curve: Sequence[Step]) -> Step:
    """The setting to use: the fewest invocations at a time, then the fewest documents in each, then no limit
    of documents decoded together or the lowest, that come within `WORTH` of the peak.
    """
    peak = max(step.documents_per_s for step in curve)
    enough = [step for step in curve if step.documents_per_s >= (1 - WORTH) * peak]
    return min(enough, key=lambda step: (step.concurrency, step.batch, step.batch_size or 0))


def rises(curve: Sequence[Step]) -> bool:
    """Whether the last `PATIENCE` steps brought a peak that is worth going on."""
    former, latest = curve[:-PATIENCE], curve[-PATIENCE:]
    if not former:
        return True
    peak = max(step.documents_per_s for step in former)
    return any(step.documents_per_s > (1 + WORTH) * peak for step in latest)


def saturated_rate_per_s(held: Sequence[tuple[float, float]]) -> float:
    """Ends a second while work was waiting: from the first claim to the last one. held: (claimed, finished).

    Where all were claimed at once: all of them over the time until the last end.
    """
    first, last = min(begin for begin, _ in held), max(begin for begin, _ in held)
    ended = sum(end <= last for _, end in held)
    if ended:
        return ended / (last - first)
    return len(held) / max(1e-3, max(end for _, end in held) - first)


def _rise(bench: "_Bench", locations: Sequence[str], batch: int, most: int, seconds: float) -> Iterator[Step]:
    """Measure one concurrency after the other, until more brings no more or `most` is reached."""
    per_s = bench.measure(1, locations, PROBE, batch).documents_per_s / batch
    curve: list[Step] = []
    for concurrency in [each for each in LADDER if each < most] + [most]:
        # What the last step did in that time, and as much more as a slot more may bring.
        grown = 1.0 if not curve else concurrency / curve[-1].concurrency
        count = max(PROBE, ROUNDS * concurrency, round(per_s * grown * seconds))
        step = bench.measure(concurrency, locations, count, batch)
        curve.append(step)
        per_s = step.documents_per_s / batch
        yield step
        if not rises(curve):
            return


class _Bench:
    """The endpoint that is measured on: made for each step, and removed after it."""

    def __init__(self, server: "RunningServer", name: str, config: Mapping[str, Any]) -> None:
        self._server = server
        self._name = name
        self._config = config
        self._prefix = f"{name}/"

    def store(self, request: bytes) -> str:
        """Keep a request's body for the load; returns where."""
        key = f"{self._prefix}inputs/{secrets.token_hex(8)}.json"
        self._server.client("s3").put_object(
            Bucket=self._server.default_bucket, Key=key, Body=request, ContentType="application/json"
        )
        return f"s3://{self._server.default_bucket}/{key}"

    def measure(self, concurrency: int, locations: Sequence[str], count: int, batch: int) -> Step:
        """Have so many requests done by one instance. Raises CommandError when one of them fails."""
        variant = self._deploy(concurrency)
        last = self._queue(locations, count)
        self._server.client("sagemaker").update_endpoint_weights_and_capacities(
            EndpointName=self._name,
            DesiredWeightsAndCapacities=[{"VariantName": variant, "DesiredInstanceCount": 1}],
        )
        done = self._done(last)
        self.remove()
        failed = [one for one in done if one["state"] != "succeeded"]
        if failed:
            raise CommandError(
                f"At {concurrency} at a time {len(failed)} of {count} requests did not succeed: "
                f"{failed[0]['failure_reason']} {self._said(failed[0]['failure_location'])}"
            )
        held = [(_seconds(one["claimed_at"]), _seconds(one["finished_at"])) for one in done]
        return Step(
            concurrency,
            batch,
            batch * saturated_rate_per_s(held),
            sum(end - begin for begin, end in held) / len(held),
            count,
        )

    def _deploy(self, concurrency: int) -> str:
        """Make the endpoint, with no instance and none to come by itself; the name of its variant."""
        from ebbtide.cli.deployment import await_status

        sagemaker = self._server.client("sagemaker")
        variant = {
            name: value
            for name, value in self._config["ProductionVariants"][0].items()
            # Without a count it begins at zero.
            if name not in ("InitialInstanceCount", "ManagedInstanceScaling")
        }
        sagemaker.create_endpoint_config(
            EndpointConfigName=self._name,
            ProductionVariants=[variant],
            AsyncInferenceConfig={
                "OutputConfig": {
                    "S3OutputPath": f"s3://{self._server.default_bucket}/{self._prefix}outputs",
                    "S3FailurePath": f"s3://{self._server.default_bucket}/{self._prefix}failures",
                },
                "ClientConfig": {"MaxConcurrentInvocationsPerInstance": concurrency},
            },
        )
        sagemaker.create_endpoint(EndpointName=self._name, EndpointConfigName=self._name)
        self._server.client("application-autoscaling").register_scalable_target(
            **self._target(),
            MinCapacity=0,
            MaxCapacity=1,
            # All requests wait before the instance comes: what is measured is how fast it takes them.
            SuspendedState={"DynamicScalingInSuspended": True, "DynamicScalingOutSuspended": True},
        )
        await_status(self._server, self._name, "InService")
        return str(variant["VariantName"])

    def _queue(self, locations: Sequence[str], count: int) -> str:
        """Send so many requests, the inputs in turn; the last one's InferenceId."""
        runtime = self._server.client("sagemaker-runtime")
        for number in range(count):
            answer = runtime.invoke_endpoint_async(
                EndpointName=self._name,
                InputLocation=locations[number % len(locations)],
                ContentType="application/json",
            )
        return str(answer["InferenceId"])

    def _done(self, last: str) -> "list[Mapping[str, Any]]":
        """The invocations, once all have their outcome."""
        own = self._server.own()
        own.wait(last)
        while (now := own.endpoint(self._name))["queued"] + now["claimed"]:
            time.sleep(0.05)
        return list(own.invocations(endpoint=self._name, limit=1000))

    def _said(self, location: str) -> str:
        """What the model answered, as far as a line holds it."""
        bucket, _, key = location.removeprefix("s3://").partition("/")
        body = self._server.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read(SAID_BYTES)
        return " ".join(body.decode(errors="replace").split())

    def _target(self) -> dict[str, str]:
        from ebbtide.cli.deployment import DIMENSION

        variant = self._config["ProductionVariants"][0]["VariantName"]
        return {"ResourceId": f"endpoint/{self._name}/variant/{variant}", **DIMENSION}

    def remove(self) -> None:
        """Delete the endpoint and its configuration, as far as they are there."""
        from botocore.exceptions import ClientError

        from ebbtide.cli.deployment import await_gone

        sagemaker = self._server.client("sagemaker")
        autoscaling = self._server.client("application-autoscaling")
        with suppress(autoscaling.exceptions.ObjectNotFoundException):
            autoscaling.deregister_scalable_target(**self._target())
        try:
            sagemaker.delete_endpoint(EndpointName=self._name)
            await_gone(self._server, self._name)
            sagemaker.delete_endpoint_config(EndpointConfigName=self._name)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ValidationException":  # AWS's code for "not found"
                raise

    def forget(self) -> None:
        """Delete what was stored for the load, and what came of it."""
        s3, bucket = self._server.client("s3"), self._server.default_bucket
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=self._prefix)
        for page in pages:
            keys = [{"Key": found["Key"]} for found in page.get("Contents", [])]
            if keys:
                s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})


@contextmanager
def _bench(server: "RunningServer", endpoint: str) -> Iterator[_Bench]:
    """A bench beside the endpoint; nothing of it stays."""
    from ebbtide.cli.deployment import ensure_bucket

    config = _config(server, endpoint)
    if len(config["ProductionVariants"]) != 1 or "AsyncInferenceConfig" not in config:
        raise CommandError(f"{endpoint} is not an asynchronous endpoint of one variant")
    ensure_bucket(server)
    bench = _Bench(server, f"{endpoint[:44]}-tune-{secrets.token_hex(4)}", config)
    try:
        yield bench
    finally:
        bench.remove()
        bench.forget()


def _config(server: "RunningServer", endpoint: str) -> dict[str, Any]:
    sagemaker = server.client("sagemaker")
    name = sagemaker.describe_endpoint(EndpointName=endpoint)["EndpointConfigName"]
    config: dict[str, Any] = sagemaker.describe_endpoint_config(EndpointConfigName=name)
    return config


def _apply(server: "RunningServer", endpoint: str, concurrency: int) -> None:
    """Update the endpoint to a configuration like its own with that concurrency, and wait until it serves."""
    from ebbtide.cli.deployment import await_status

    config, sagemaker = _config(server, endpoint), server.client("sagemaker")
    name = f"{config['EndpointConfigName'][:50]}-{secrets.token_hex(4)}"
    asynchronous = config["AsyncInferenceConfig"]
    client = asynchronous.get("ClientConfig", {}) | {"MaxConcurrentInvocationsPerInstance": concurrency}
    given = {
        member: value
        for member, value in config.items()
        if member not in ("EndpointConfigArn", "CreationTime", "ResponseMetadata")
    }
    given |= {"EndpointConfigName": name, "AsyncInferenceConfig": asynchronous | {"ClientConfig": client}}
    sagemaker.create_endpoint_config(**given)
    sagemaker.update_endpoint(EndpointName=endpoint, EndpointConfigName=name, RetainAllVariantProperties=True)
    await_status(server, endpoint, "InService")


def _requests(texts: Sequence[str], batch: int, batch_size: int | None) -> Iterator[bytes]:
    """Bodies of so many documents each, round and round until each text was first once."""
    parameters = {} if batch_size is None else {"parameters": {"batch_size": batch_size}}
    for first in range(0, len(texts), batch):
        documents = [texts[(first + number) % len(texts)] for number in range(batch)]
        yield json.dumps({"inputs": documents} | parameters).encode()


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _in_words(step: Step) -> str:
    documents = "a document" if step.batch == 1 else f"{step.batch} documents"
    together = "" if step.batch_size is None else f", {step.batch_size} together"
    return (
        f"{step.concurrency} at a time, {documents} each{together}: {step.documents_per_s:,.2f} documents/s, "
        f"{step.service_s:.2f} s each of {step.requests} requests"
    )


def _print(curve: Iterable[Step], chosen: Step, endpoint: str, *, applied: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    steps = list(curve)
    peak = max(step.documents_per_s for step in steps)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("at a time", "documents each", "together", "documents/s", "s each"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for step in steps:
        bar = "█" * max(1, round(24 * step.documents_per_s / peak))
        table.add_row(
            str(step.concurrency),
            str(step.batch),
            "any" if step.batch_size is None else str(step.batch_size),
            f"{step.documents_per_s:,.2f}",
            f"{step.service_s:.2f}",
            f"{bar} chosen" if step == chosen else bar,
            style="bold" if step == chosen else "",
        )
    out = Console()
    out.print(table)
    setting = f"MaxConcurrentInvocationsPerInstance={chosen.concurrency}"
    said = (
        f"{endpoint} now has {setting}"
        if applied
        else f"The setting: {setting}; --apply gives it to {endpoint}"
    )
    documents = "" if chosen.batch == 1 else f", with {chosen.batch} documents in a request"
    if chosen.batch_size is not None:
        documents += f', with "parameters": {{"batch_size": {chosen.batch_size}}} in a request'
    out.print(f"{said}{documents}.", highlight=False, soft_wrap=True)
