"""The process that writes what every invocation pays for: `python -m ebbtide.database SOCKET`.

SOCKET: the descriptor of a connection to its server (writer_process.py), with which it ends. What the server
had asked for and saw no answer to is then left undone, unless it was just being committed.
"""

import gc
import logging
import logging.handlers
import pickle
import queue
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from ebbtide import __version__
from ebbtide.database.writer import MAX_GROUP, Outcome, Writer
from ebbtide.database.writer_process import READ_BYTES, Answer, Frames, Opening, framed


def main(descriptor: int) -> None:
    """Work until the server has no more."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its server, which may have much to finish
    told: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logging.getLogger().addHandler(logging.handlers.QueueHandler(told))
    logging.getLogger("ebbtide").setLevel(logging.INFO)
    # A server that is gone breaks the connection: nobody is left to be told of it.
    with socket.socket(fileno=descriptor) as server, suppress(ConnectionError):
        received = _received(server)
        opening: Opening | None = next(received, [None])[0]
        if opening is None:
            return
        if opening.version != __version__:
            sys.exit(f"this is ebbtide {__version__}, and its server {opening.version}")
        kind = opening.kind()
        writer = Writer(kind, partial(_see, server))
        gc.freeze()
        gc.set_threshold(*opening.collect_after)
        server.sendall(framed(Answer([], [])))
        for works in received:
            for begin in range(0, len(works), MAX_GROUP):
                outcomes = writer.carry_out(works[begin : begin + MAX_GROUP], time.monotonic())
                records = [told.get() for _ in range(told.qsize())]
                server.sendall(framed(Answer([_portable(outcome) for outcome in outcomes], records)))
        writer.close()
        kind.close()


def _received(server: socket.socket) -> Iterator[list[Any]]:
    """What has come whole by each time that it is asked for, until the server has no more."""
    frames = Frames()
    while data := server.recv(READ_BYTES):
        if values := frames.feed(data):
            yield values


def _see(server: socket.socket) -> None:
    """Raises SystemExit when the server is gone: another may be about to take over what was its."""
    poll = select.poll()
    poll.register(server, 0)
    if poll.poll(0):
        raise SystemExit


def _portable(outcome: Outcome) -> Outcome:
    """The outcome, with an error that can be told of there."""
    result, error = outcome
    if error is None:
        return outcome
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    except Exception:  # noqa: BLE001 - whatever it lacks: its words are what matters
        return result, RuntimeError("".join(traceback.format_exception(error)))
    return outcome


if __name__ == "__main__":
    main(int(sys.argv[1]))
