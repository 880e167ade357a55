"""SageMaker's container contract over HTTP on a Unix socket: GET /ping and POST /invocations.

A model computes in threads, `concurrency` at once, so that pings are answered meanwhile. A request whose
client has gone is dropped if it still waits for a thread; one that runs is told, and counted until it has
stopped: what holds the processor counts, whether or not anybody wants its result.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from aiohttp import web

from ebbtide.runtime.errors import exit_status
from ebbtide.runtime.status import StatusFile
from ebbtide.runtime.toolkit import Answer, Service, failure

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 30
"""The most that asynchronous inference accepts, AWS's figure; echo alone is not bound by it."""

CHUNK_BYTES = 1 << 18
RUNNING_HEADER = "X-Ebbtide-Running"
PROGRESS_HEADER = "X-Ebbtide-Progress"

Loader = Callable[[], "Service | Echo"]


class Echo:
    """`HF_MODEL_ID=ebbtide/echo`: answers the body it gets, streamed, in flat memory. For benches, tests."""

    async def respond(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": request.content_type})
        # With its length known an answer need not be chunked, which SageMaker refuses of models.
        response.content_length = request.content_length
        await response.prepare(request)
        async for chunk in request.content.iter_chunked(CHUNK_BYTES):
            await response.write(chunk)
        await response.write_eof()
        return response


class ModelServer:
    """The contract's two routes around a model that may still be loading."""

    def __init__(self, concurrency: int, status: StatusFile) -> None:
        self._status = status
        self._answered = False
        self._model: Service | Echo | None = None
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="model")
        self._running = 0

    def application(self) -> web.Application:
        application = web.Application(client_max_size=MAX_BODY_BYTES)
        application.add_routes([web.get("/ping", self._ping), web.post("/invocations", self._invoke)])
        return application

    def serve(self, model: Service | Echo) -> None:
        """Take requests from now on."""
        self._model = model

    async def _ping(self, _request: web.Request) -> web.Response:
        status = 200 if self._model else 503
        return web.Response(status=status, headers={RUNNING_HEADER: str(self._running)})

    async def _invoke(self, request: web.Request) -> web.StreamResponse:
        if self._model is None:
            return _response(failure(503, "The model is still loading"))
        if isinstance(self._model, Echo):
            self._running += 1
            try:
                return await self._model.respond(request)
            finally:
                self._running -= 1
        try:
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            return _response(failure(413, f"The body is over {MAX_BODY_BYTES} bytes"))
        return _response(await self._compute(self._model, body, request))

    async def _compute(self, model: Service, body: bytes, request: web.Request) -> Answer:
        loop = asyncio.get_running_loop()
        cancelled = threading.Event()
        transport = request.transport

        def report(progress: Mapping[str, int]) -> None:
            # The loop takes what it is given in order: no report comes behind the answer.
            loop.call_soon_threadsafe(_send_progress, transport, json.dumps(progress))

        computation = self._threads.submit(_answer_or_exit, model, body, request, cancelled, report)
        self._running += 1
        began_at = loop.time()
        computation.add_done_callback(lambda _: loop.call_soon_threadsafe(self._finished))
        try:
            answer = await asyncio.wrap_future(computation)
            if not self._answered:
                self._answered = True
                self._status.answered_first(loop.time() - began_at)
            return answer
        finally:
            cancelled.set()  # the client has gone, or has its answer

    def _finished(self) -> None:
        self._running -= 1


async def run(
    socket: Path, load: Loader, status: StatusFile, *, concurrency: int, stop_timeout_s: float = 3600.0
) -> int:
    """Serve on the socket from now, a model once it is loaded, until SIGTERM; the process's exit code.

    SIGTERM while loading ends it at once; later, requests under way are finished first, within stop_timeout_s
    (whoever stops us is expected to kill us sooner). A model that cannot be loaded gives `exit_status`,
    its cause in status.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = ModelServer(concurrency, status)
    runner = web.AppRunner(
        server.application(), access_log=None, handler_cancellation=True, shutdown_timeout=stop_timeout_s
    )
    await runner.setup()
    await web.UnixSite(runner, str(socket)).start()

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
    await runner.cleanup()
    return 0


def exit_now(code: int) -> None:
    """End the process without waiting for its threads: what they still compute, nobody waits for."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _send_progress(transport: asyncio.Transport | None, progress: str) -> None:
    """Write an interim response. 100 is the one that every client reads past: RFC 9110, 15.2."""
    if transport is not None and not transport.is_closing():
        transport.write(f"HTTP/1.1 100 Continue\r\n{PROGRESS_HEADER}: {progress}\r\n\r\n".encode())


def _answer_or_exit(
    model: Service,
    body: bytes,
    request: web.Request,
    cancelled: threading.Event,
    report: Callable[[Mapping[str, int]], None],
) -> Answer:
    try:
        return model.answer(body, request.headers, cancelled, report)
    except SystemExit as ending:  # user code that calls sys.exit() means the process, not this thread
        logger.error("The model ended the process: exit(%s)", ending.code)
        exit_now(1)
        raise


def _response(answer: Answer) -> web.Response:
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body)
