"""`ebbtide summarize`: any number of articles through an endpoint, each summary as it comes, resumable.

Everything is submitted at once, so that the endpoint scales with all that waits; nothing but the articles on
their way is held in memory. With an output file each request's InferenceId follows from the article and the
question, so that the same command, after an interruption, fetches what was finished meanwhile and submits
only what never was.
"""

import hashlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from ebbtide.cli.deployment import ensure_bucket
from ebbtide.cli.documents import Document
from ebbtide.cli.errors import ArticleError, CommandError
from ebbtide.cli.invocations import answers_in, read_object, reason_in
from ebbtide.cli.running import RunningServer
from ebbtide.client import AWAY, RESTART_S, RETRY_S
from ebbtide.identifiers import parse_location
from ebbtide.session import Session

SUBMITTERS = 8
"""Threads that upload and submit: more are no faster on one connection's round trip each."""

WAITERS = 8
"""Threads that wait for an outcome each, the oldest first: the order in which a queue finishes."""

TTL_S = 7 * 86_400
"""How long a request may wait. AWS's six hours would expire the end of a long queue."""

ATTRIBUTES_LIMIT = 1024
"""Characters of InvokeEndpointAsync's CustomAttributes."""

UNFINISHED = ("queued", "claimed")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of each article: by which endpoint, with which of the model's parameters, queued how.

    priority: -100 to 100. tags: to find the requests by. version: of the endpoint, where summaries by
    another are no answer.
    """

    endpoint: str
    parameters: Mapping[str, Any]
    priority: int = 0
    tags: Mapping[str, str] | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a document: the model's answer for each text that was in it, or why there is none."""

    document: Document
    inference_id: str | None
    output_location: str | None
    answers: tuple[Mapping[str, Any], ...] = ()
    failure: str | None = None

    @property
    def summary(self) -> str | None:
        """The summaries, a paragraph each; None of a failed one."""
        return None if self.failure else "\n".join(str(answer["summary_text"]) for answer in self.answers)

    def described(self) -> dict[str, Any]:
        """For programs: a row of the output file."""
        told: dict[str, Any] = {"file": str(self.document.path)}
        if self.document.row is not None:
            told |= {"row": self.document.row, "article": dict(self.document.fields)}
        told |= {
            "inference_id": self.inference_id,
            "output_location": self.output_location,
            "summary": self.summary,
            "failure": self.failure,
        }
        extras = [{key: answer[key] for key in answer if key != "summary_text"} for answer in self.answers]
        return told | (extras[0] if len(extras) == 1 else {"answers": extras} if any(extras) else {})


class _Mark(Enum):
    """What a thread tells beside outcomes."""

    KNOWN = "a document needs no second answer"
    SUBMITTED = "this thread has no more documents"


_Results = SimpleQueue["Outcome | BaseException | _Mark"]
_Submitted = SimpleQueue[tuple[Document, str]]


class Summarizing:
    """A run over many documents.

    finished: InferenceIds of an earlier run's rows, whose documents are left out (`known` counts them); None:
    every run asks anew.
    """

    def __init__(self, server: RunningServer, question: Question, finished: Container[str] | None) -> None:
        self._server = server
        self._question = question
        self._finished = finished
        self.known = 0
        self._runtime = Session(server).client("sagemaker-runtime")
        self._own = server.own()

    def outcomes(self, documents: Iterable[Document]) -> Iterator[Outcome]:
        """Each document's outcome, in the order they come. Raises what iterating or submitting raised."""
        ensure_bucket(self._server)
        self._own.endpoint(self._question.endpoint)  # an unknown one is refused here, once
        remaining = _Shared(documents)
        submitted: _Submitted = SimpleQueue()
        results: _Results = SimpleQueue()
        for _ in range(SUBMITTERS):
            _in_background(results, lambda: self._submit_all(remaining, submitted, results))
        for _ in range(WAITERS):
            _in_background(results, lambda: self._await_all(submitted, results))
        submitting, ended = SUBMITTERS, 0
        while submitting or ended < remaining.taken:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            submitting -= result is _Mark.SUBMITTED
            ended += result is not _Mark.SUBMITTED
            self.known += result is _Mark.KNOWN
            if isinstance(result, Outcome):
                yield result

    def _submit_all(self, remaining: "_Shared", submitted: _Submitted, results: _Results) -> None:
        while (document := remaining.take()) is not None:
            try:
                content_type, body = document.request(self._question.parameters)
                inference_id = self._inference_id(document, content_type, body)
                if self._finished is not None and inference_id in self._finished:
                    results.put(_Mark.KNOWN)
                    continue
                _patiently(partial(self._submit, inference_id, content_type, body))
                submitted.put((document, inference_id))
            except (OSError, ArticleError) as error:
                results.put(Outcome(document, None, None, failure=str(error)))
        results.put(_Mark.SUBMITTED)

    def _await_all(self, submitted: _Submitted, results: _Results) -> None:
        while True:
            document, inference_id = submitted.get()
            found = self._own.wait(inference_id)
            results.put(_patiently(partial(self._outcome, document, inference_id, found)))

    def _inference_id(self, document: Document, content_type: str, body: bytes) -> str:
        """What its request is called: in runs that go on from one another always the same."""
        if self._finished is None:
            return f"summarize-{uuid.uuid4().hex}"
        question = self._question
        asked = [document.name, question.endpoint, dict(question.parameters), content_type]
        asked += [question.version] if question.version else []
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode() + b"\0" + body)
        return f"summarize-{digest.hexdigest()[:40]}"

    def _submit(self, inference_id: str, content_type: str, body: bytes) -> None:
        """Upload and submit it, unless that was done before."""
        if self._finished is not None and self._is_under_way(inference_id):
            return
        bucket, key = self._server.default_bucket, f"{self._question.endpoint}/inputs/{inference_id}"
        self._server.client("s3").put_object(Bucket=bucket, Key=key, Body=body, ContentType=content_type)
        given: dict[str, Any] = {"Tags": dict(self._question.tags)} if self._question.tags else {}
        if content_type != "application/json" and self._question.parameters:
            given["CustomAttributes"] = _attributes(self._question.parameters)
        self._runtime.invoke_endpoint_async(
            EndpointName=self._question.endpoint,
            InputLocation=f"s3://{bucket}/{key}",
            ContentType=content_type,
            InferenceId=inference_id,
            RequestTTLSeconds=TTL_S,
            Priority=self._question.priority,
            **given,
        )

    def _is_under_way(self, inference_id: str) -> bool:
        """Whether it was submitted and has not ended in a failure, which is worth another try."""
        try:
            found = self._own.get(inference_id)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        return found["state"] in (*UNFINISHED, "succeeded")

    def _outcome(self, document: Document, inference_id: str, found: Mapping[str, Any]) -> Outcome:
        if found["state"] != "succeeded":
            # The failure object has the model's own words.
            told = found["failure_location"] and read_object(
                self._server, parse_location(found["failure_location"])
            )
            reason = reason_in(told) if told else found["failure_reason"]
            return Outcome(document, inference_id, None, failure=reason or f"it was {found['state']}")
        uri = found["output_location"]
        answer = read_object(self._server, parse_location(uri))
        if answer is None:
            return Outcome(document, inference_id, uri, failure=f"its summary at {uri} was removed")
        return Outcome(document, inference_id, uri, answers_in(answer))


def _in_background(results: _Results, work: Callable[[], None]) -> None:
    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again where the outcomes are read
            results.put(error)

    # A daemon: the command may end while a request waits for an outcome.
    threading.Thread(target=run, daemon=True).start()


class _Shared:
    """An iterable that threads take from. taken: how many there were so far."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = iter(documents)
        self._lock = threading.Lock()
        self.taken = 0

    def take(self) -> Document | None:
        with self._lock:
            document = next(self._documents, None)
            self.taken += document is not None
            return document


def _patiently(call: Callable[[], T]) -> T:
    """What the call returns; repeated while the server is away for a restart or has no room in its queue."""
    asked_at = time.monotonic()
    while True:
        try:
            return call()
        except AWAY:
            if time.monotonic() - asked_at > RESTART_S:
                raise
        except ClientError as error:
            if error.response["Error"]["Code"] != "ThrottlingException":
                raise
        time.sleep(RETRY_S)


def _attributes(parameters: Mapping[str, Any]) -> str:
    """Parameters beside a body that has no room for them. Raises ArticleError when they are too long."""
    text = json.dumps({"parameters": dict(parameters)})
    if len(text) > ATTRIBUTES_LIMIT:
        raise ArticleError(
            f"{len(text)} characters of parameters: beside a file {ATTRIBUTES_LIMIT} are possible"
        )
    return text


_BEGINNING = '{"file": "'
"""Of each line of an output."""


class Output:
    """A file of JSON lines, a row an outcome, that grows while the run goes on and survives its end."""

    def __init__(self, path: Path) -> None:
        """Raises CommandError when the file has other lines than these, or cannot be written."""
        self._path = path
        self.finished: set[str] = set()
        kept = []
        for number, line in enumerate(self._lines(), start=1):
            try:
                row = json.loads(line)
                if row["failure"] is None:
                    self.finished.add(row["inference_id"])
                    kept.append(line)
            except (ValueError, TypeError, KeyError) as error:
                raise CommandError(
                    f"{path} has a line {number} that is no summary; name another --output"
                ) from error
        # What failed is tried again, and has a row again at its end.
        temporary = path.with_name(f".{path.name}.new")
        try:
            temporary.write_text("".join(kept), "utf-8", newline="\n")
            temporary.replace(path)
            # Half a character that an article brought is written as JSON escapes it.
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise CommandError(f"{path} cannot be written: {error.strerror}") from error

    def _lines(self) -> list[str]:
        if not self._path.exists():
            return []
        # Not splitlines(), which also ends a line at characters that stand in summaries as they are (U+2028).
        with self._path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            lines = list(file)
        # An interrupted write leaves half a line at the end, whose outcome is fetched anew.
        if lines and not lines[-1].endswith("\n") and _BEGINNING.startswith(lines[-1][: len(_BEGINNING)]):
            lines.pop()
        return lines

    def add(self, outcome: Outcome) -> None:
        self._file.write(json.dumps(outcome.described(), ensure_ascii=False) + "\n")
        self._file.flush()
