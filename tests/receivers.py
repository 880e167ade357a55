"""Receivers of notifications, as subscribers run them: they record what comes and answer as told."""

import json
import queue
import socketserver
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TIMEOUT_S = 120


@dataclass(frozen=True)
class Received:
    """One request: header names in lower case."""

    headers: dict[str, str]
    body: str

    @property
    def json(self):
        return json.loads(self.body)


class Server(ThreadingHTTPServer):
    """Takes many connections at once: one more than wait is tried again by the kernel after a second."""

    request_queue_size = 128


class HttpReceiver:
    """An HTTP server on a free port. `statuses` are the answers to come, 200 when there are no more.

    `hold` keeps requests unanswered until it is set again.
    """

    def __init__(self):
        self.statuses = []
        self.hold = threading.Event()
        self.hold.set()
        self._requests = queue.Queue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                receiver._requests.put(Received({k.lower(): v for k, v in self.headers.items()}, body))
                receiver.hold.wait(TIMEOUT_S)
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def next(self) -> Received:
        """The next request, waited for."""
        return self._requests.get(timeout=TIMEOUT_S)

    @property
    def idle(self) -> bool:
        """Whether no request has come that was not taken."""
        return self._requests.empty()


def next_message(sqs, queue_url: str) -> str:
    """The body of a queue's next message, waited for and taken out of it."""
    for _ in range(TIMEOUT_S // 20):
        for message in sqs.receive_message(QueueUrl=queue_url, WaitTimeSeconds=20).get("Messages", ()):
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
            return message["Body"]
    raise AssertionError(f"no message came into {queue_url}")


class MailReceiver:
    """A server that speaks enough of SMTP to take mail. commands: the first four letters of each it got."""

    def __init__(self):
        self.refuse = False
        self.commands = []
        self._mails = queue.Queue()
        receiver = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                self._say("220 ready")
                for line in self.rfile:
                    command = line[:4].upper()
                    receiver.commands.append(command)
                    if command == b"DATA":
                        self._say("354 go on")
                        receiver._mails.put(self._mail())
                    elif command == b"QUIT":
                        self._say("221 bye")
                        return
                    elif command == b"RCPT" and receiver.refuse:
                        self._say("550 no such person")
                        continue
                    self._say("250 ok")

            def _mail(self):
                lines = []
                while (line := self.rfile.readline()) != b".\r\n":
                    lines.append(line)
                return b"".join(lines).decode().replace("\r\n", "\n")

            def _say(self, text):
                self.wfile.write(f"{text}\r\n".encode())

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self.url = f"smtp://127.0.0.1:{self._server.server_address[1]}?from=ebbtide@example.com"

    def next(self) -> str:
        """The next mail, waited for."""
        return self._mails.get(timeout=TIMEOUT_S)


@contextmanager
def running(receiver):
    """The receiver, answering until the end of the block."""
    server = receiver._server
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
