"""SageMaker's container contract over HTTP on a Unix socket: GET /ping and POST /invocations.

A model computes in threads, `concurrency` at once, so that pings are answered meanwhile. A request whose
client has gone is dropped if it still waits for a thread; one that runs is told, and counted until it has
stopped: what holds the processor counts, whether or not anybody wants its result.
"""

import asyncio
import json
import logging
import math
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ebbtide.http_server import HTTPServer
from ebbtide.http_server.exchange import INTERIM, Receive, Scope, Send
from ebbtide.runtime import content
from ebbtide.runtime.errors import exit_status
from ebbtide.runtime.handlers import Headers
from ebbtide.runtime.status import StatusFile
from ebbtide.runtime.toolkit import Answer, Service, failure

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 30
"""The most that asynchronous inference accepts, AWS's figure; echo alone is not bound by it."""

KEPT_BYTES = 8 << 20
"""Of freed memory, for the next bodies: the system takes longer to give some back than to copy a body."""

RUNNING_HEADER = b"x-ebbtide-running"
PROGRESS_HEADER = b"x-ebbtide-progress"

METHODS = {"/ping": ("GET", "HEAD"), "/invocations": ("POST",)}
FRAMING = frozenset((b"connection", b"content-length", b"transfer-encoding"))
"""Headers that say how an answer is sent, which is not for those to say who only know what it is."""

STOP_TIMEOUT_S = 3600.0
"""The longest that requests under way go on after SIGTERM: whoever sent it is expected to kill us sooner."""

Loader = Callable[[], "Service | Echo"]


class Echo:
    """`HF_MODEL_ID=ebbtide/echo`: answers the body it gets, streamed, in flat memory. For benches, tests."""

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind, answered = b"", []
        for line in scope["headers"]:
            if line[0] == b"content-type":
                kind = line[1].partition(b";")[0].strip().lower()
            elif line[0] == b"content-length":
                # With its length known an answer need not be chunked, which SageMaker refuses of models.
                answered.append(line)
        answered.append((b"content-type", kind or b"application/octet-stream"))
        await send({"type": "http.response.start", "status": 200, "headers": answered})
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})


class ModelServer:
    """The contract's two routes around a model that may still be loading: an ASGI application."""

    def __init__(self, concurrency: int, status: StatusFile) -> None:
        self._status = status
        self._answered = False
        self._model: Service | Echo | None = None
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="model")
        self._running = 0

    def serve(self, model: Service | Echo) -> None:
        """Take requests from now on."""
        self._model = model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = METHODS.get(scope["path"], ())
        if scope["method"] not in methods:
            allowed = [(b"allow", ", ".join(methods).encode())] if methods else []
            await _send(send, 405 if methods else 404, allowed)
        elif scope["path"] == "/ping":
            running = (RUNNING_HEADER, b"%d" % self._running)
            await _send(send, 503 if self._model is None else 200, [running])
        elif isinstance(self._model, Echo):
            self._running += 1
            try:
                await self._model.respond(scope, receive, send)
            finally:
                self._running -= 1
        else:
            await self._invoke(Headers.received(scope["headers"]), receive, send)

    async def _invoke(self, headers: Headers, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(headers, receive, send)
            if answer is None:
                return
            lines = [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        except Exception:  # a broken connection would count as the whole model server's end
            logger.exception("The request failed")
            answer, lines = failure(500, "Internal Server Error"), [(b"content-type", content.JSON.encode())]
        await _send(send, answer.status, [line for line in lines if line[0] not in FRAMING], answer.body)

    async def _answer(self, headers: Headers, receive: Receive, send: Send) -> Answer | None:
        """The answer to an invocation; None if its client has gone."""
        if self._model is None:
            return failure(503, "The model is still loading")
        assert isinstance(self._model, Service)
        try:
            body = await _read(headers, receive)
        except _TooLarge:
            return failure(413, f"The body is over {MAX_BODY_BYTES} bytes")
        return None if body is None else await self._compute(self._model, body, headers, receive, send)

    async def _compute(
        self, model: Service, body: bytes, headers: Headers, receive: Receive, send: Send
    ) -> Answer | None:
        loop = asyncio.get_running_loop()
        cancelled = threading.Event()

        async def tell(progress: Mapping[str, int]) -> None:
            header = (PROGRESS_HEADER, json.dumps(progress).encode())
            await send({"type": INTERIM, "headers": [header]})

        def report(progress: Mapping[str, int]) -> None:
            # The loop takes what it is given in order: no report comes behind the answer.
            asyncio.run_coroutine_threadsafe(tell(progress), loop)

        answer: asyncio.Future[Answer] = loop.create_future()
        began_at = loop.time()
        self._running += 1
        computation = self._threads.submit(_answer_or_exit, model, body, headers, cancelled, report)
        computation.add_done_callback(lambda it: loop.call_soon_threadsafe(self._finished, it, answer))
        # The body has been read: all that can come is that the client has gone.
        gone = asyncio.ensure_future(receive())
        gone.add_done_callback(lambda _: (computation.cancel(), answer.cancel()))
        try:
            await answer
        except asyncio.CancelledError:
            if not gone.done():
                raise
            return None
        finally:
            gone.cancel()
            cancelled.set()  # the client has gone, or has its answer
        if not self._answered:
            self._answered = True
            self._status.answered_first(loop.time() - began_at)
        return answer.result()

    def _finished(self, computation: Future[Answer], answer: asyncio.Future[Answer]) -> None:
        self._running -= 1
        if answer.done():
            return  # nobody waits for it
        if computation.cancelled():
            answer.cancel()
        elif (error := computation.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(computation.result())


async def run(path: Path, load: Loader, status: StatusFile, *, concurrency: int) -> int:
    """Serve on a socket at the path from now, a model once it is loaded, until SIGTERM; the exit code.

    SIGTERM while loading ends it at once; later, requests under way are finished first, within
    STOP_TIMEOUT_S. A model that cannot be loaded gives `exit_status`, its cause in status.
    """
    _keep_freed_memory()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = ModelServer(concurrency, status)
    # Its agent alone connects, keeps connections as long as it likes, and sends bodies as they come to it.
    http = HTTPServer(server, most_connections=sys.maxsize, idle_s=math.inf, silence_s=math.inf)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    await http.listen(listener)

    loading = loop.run_in_executor(None, load)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        return 0
    try:
        model = loading.result()
    except (Exception, SystemExit) as error:  # noqa: BLE001 a user's model_fn may raise anything
        status.fail(error)
        return exit_status(error)
    status.enter("ready")
    server.serve(model)
    logger.info("The model is ready")
    await stopping
    logger.info("Stopping once the requests under way are finished")
    with suppress(TimeoutError):
        await asyncio.wait_for(http.close(), STOP_TIMEOUT_S)
    return 0


def _keep_freed_memory() -> None:
    """Have the allocator keep KEPT_BYTES at the end of its heap: glibc keeps twice the largest block that was
    mapped by itself and has been freed. Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    bytes(KEPT_BYTES // 2)


def exit_now(code: int) -> None:
    """End the process without waiting for its threads: what they still compute, nobody waits for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _answer_or_exit(
    model: Service,
    body: bytes,
    headers: Headers,
    cancelled: threading.Event,
    report: Callable[[Mapping[str, int]], None],
) -> Answer:
    try:
        return model.answer(body, headers, cancelled, report)
    except SystemExit as ending:  # user code that calls sys.exit() means the process, not this thread
        logger.error("The model ended the process: exit(%s)", ending.code)
        exit_now(1)
        raise


class _TooLarge(Exception):
    pass


async def _read(headers: Headers, receive: Receive) -> bytes | None:
    """The body; None if its client went before the end. Raises _TooLarge, at once where its length tells."""
    if int(headers.get("content-length", "0")) > MAX_BODY_BYTES:
        raise _TooLarge
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message["body"])
        size += len(message["body"])
        if size > MAX_BODY_BYTES:
            raise _TooLarge
        if not message["more_body"]:
            return b"".join(parts)


async def _send(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
