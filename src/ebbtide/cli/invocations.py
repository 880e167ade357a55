"""Asynchronous invocations from this machine: upload an input, invoke, fetch what came of it."""

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ebbtide.cli.articles import Article
from ebbtide.cli.deployment import POLL_INTERVAL_S, ensure_bucket
from ebbtide.cli.running import RunningServer
from ebbtide.identifiers import Location, parse_location


@dataclass(frozen=True, slots=True)
class Accepted:
    """An invocation that the server has taken, and where its outcome will lie."""

    articles: tuple[Article, ...]
    inference_id: str
    output: Location
    failure: Location | None


@dataclass(frozen=True, slots=True)
class Finished:
    """An invocation's outcome: a summary for each of its articles, or the reason of its failure."""

    accepted: Accepted
    summaries: tuple[str, ...]
    failure: str | None = None


def upload(
    server: RunningServer, endpoint: str, requests: Iterable[Sequence[Article]], parameters: dict[str, Any]
) -> Iterator[str]:
    """Store each request's articles as its body; yields its s3:// location. `parameters` are the model's."""
    ensure_bucket(server)
    batch = uuid.uuid4()
    for number, articles in enumerate(requests):
        key = f"{endpoint}/inputs/{batch}/{number}.json"
        body = {"inputs": [article.text for article in articles], "parameters": parameters}
        server.client("s3").put_object(
            Bucket=server.default_bucket, Key=key, Body=json.dumps(body), ContentType="application/json"
        )
        yield f"s3://{server.default_bucket}/{key}"


def invoke(
    server: RunningServer, endpoint: str, articles: Sequence[Article], input_location: str
) -> Accepted:
    """Hand the stored body of a request for these articles to the endpoint."""
    answer = server.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint, InputLocation=input_location, ContentType="application/json"
    )
    failure = answer.get("FailureLocation")
    return Accepted(
        tuple(articles),
        answer["InferenceId"],
        parse_location(answer["OutputLocation"]),
        parse_location(failure) if failure else None,
    )


def outcomes(server: RunningServer, accepted: Iterable[Accepted]) -> Iterator[Finished]:
    """Each invocation's outcome once it is there, in the order they finish; ends when all have."""
    pending = list(accepted)
    while pending:
        waiting = []
        for invocation in pending:
            finished = _outcome(server, invocation)
            if finished:
                yield finished
            else:
                waiting.append(invocation)
        pending = waiting
        if pending:
            time.sleep(POLL_INTERVAL_S)


def _outcome(server: RunningServer, invocation: Accepted) -> Finished | None:
    if (answer := read_object(server, invocation.output)) is not None:
        return Finished(invocation, summaries_in(answer))
    if invocation.failure and (reason := read_object(server, invocation.failure)) is not None:
        return Finished(invocation, (), reason_in(reason))
    return None


def summaries_in(answer: bytes) -> tuple[str, ...]:
    """The texts of a summarization answer; an answer of another form as it is."""
    return tuple(item["summary_text"] for item in answers_in(answer))


def answers_in(answer: bytes) -> tuple[dict[str, Any], ...]:
    """What a summarization answer says of each text: `summary_text` and what more was asked for.

    An answer of another form is one summary_text as it is.
    """
    try:
        answers = tuple(json.loads(answer))
        if all(isinstance(item["summary_text"], str) for item in answers):
            return answers
    except (ValueError, TypeError, KeyError):
        pass
    return ({"summary_text": answer.decode("utf-8", "replace")},)


def reason_in(failure: bytes) -> str:
    """The message of a failure object; one of another form as it is."""
    try:
        return str(json.loads(failure)["message"])
    except (ValueError, TypeError, KeyError):
        return failure.decode("utf-8", "replace")


def read_object(server: RunningServer, location: Location) -> bytes | None:
    """The object there; None while there is none."""
    s3 = server.client("s3")
    try:
        return bytes(s3.get_object(Bucket=location.bucket, Key=location.key)["Body"].read())
    except s3.exceptions.NoSuchKey:
        return None
