"""A foreign S3 (moto's server, a process's own thread) and, before it, a gateway with faults on demand."""

import http.client
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "foreign"
KEY_ID, SECRET = "AKIAFOREIGN", "foreign-secret"
VARIABLES = {"FOREIGN_KEY_ID": KEY_ID, "FOREIGN_SECRET": SECRET}
"""Where the server's file of outside stores has the credentials from."""

SILENT_S = 300.0


class ForeignS3:
    """One bucket of an S3 that is not ours, as its owner's boto3 client sees it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            region_name="us-east-1",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET,
        )

    def empty(self) -> None:
        for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
            for listed in page.get("Contents", ()):
                self.client.delete_object(Bucket=BUCKET, Key=listed["Key"])
        for upload in self.unfinished_uploads():
            self.client.abort_multipart_upload(Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])

    def put(self, key: str, body: bytes, content_type: str = "text/plain") -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=body, ContentType=content_type)

    def get(self, key: str) -> bytes:
        return bytes(self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def keys(self) -> list[str]:
        return [each["Key"] for each in self.client.list_objects_v2(Bucket=BUCKET).get("Contents", ())]

    def unfinished_uploads(self) -> list[Any]:
        return list(self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ()))


@contextmanager
def foreign_s3() -> Iterator[ForeignS3]:
    """moto's server on a free port of the loopback interface, with the bucket BUCKET."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    foreign = ForeignS3(port)
    foreign.client.create_bucket(Bucket=BUCKET)
    yield foreign
    server.stop()


class Gateway:
    """An HTTP gateway to a foreign S3.

    status: what every request is answered with, None to pass it on. silent: requests are taken in and not
    answered while it is set; `late`: they are carried out all the same, once it is not set any more.
    cuts_bodies: the connection ends in the middle of every answer's body.
    """

    def __init__(self, upstream: int) -> None:
        self.status: int | None = None
        self.code = "InternalError"
        self.late = False
        self.cuts_bodies = False
        self.requests: list[tuple[str, str]] = []
        self._speaks = threading.Event()
        self._speaks.set()
        self._taken = threading.Semaphore(0)
        self._carried_out = threading.Semaphore(0)
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", 0), _handler(self, upstream), bind_and_activate=False
        )
        # Bound and not listening: connections are refused, and nobody else gets the port.
        self._server.server_bind()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def open(self) -> None:
        """Take connections, which were refused until now."""
        self._server.server_activate()
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def fall_silent(self, *, late: bool = False) -> None:
        self.late = late
        self._speaks.clear()

    def speak(self) -> None:
        self._speaks.set()

    def wait_for_silenced_request(self) -> None:
        """Return once a request was taken in that is not answered."""
        assert self._taken.acquire(timeout=SILENT_S)

    def wait_for_late_request(self) -> None:
        """Return once a request that nobody waits for any more was carried out."""
        assert self._carried_out.acquire(timeout=SILENT_S)

    def close(self) -> None:
        self._speaks.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def answer(self, handler: BaseHTTPRequestHandler, upstream: int) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        self.requests.append((handler.command, handler.path))
        silenced = not self._speaks.is_set()
        if silenced:
            self._taken.release()
            self._speaks.wait(SILENT_S)
            if not self.late:
                handler.close_connection = True
                return
        if self.status is not None:
            error = f"<Error><Code>{self.code}</Code><Message>m</Message></Error>".encode()
            _reply(handler, self.status, {"Content-Type": "application/xml"}, error)
            return
        connection = http.client.HTTPConnection("127.0.0.1", upstream)
        connection.request(handler.command, handler.path, body, dict(handler.headers.items()))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if silenced:
            self._carried_out.release()
            handler.close_connection = True
            return
        if self.cuts_bodies:
            headers = {"Content-Length": str(len(content))} | dict(answer.getheaders())
            handler.close_connection = True
            _reply(handler, answer.status, headers, content[: len(content) // 2], cut=True)
            return
        _reply(handler, answer.status, dict(answer.getheaders()), content)


def _handler(gateway: Gateway, upstream: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            gateway.answer(self, upstream)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler


def _reply(
    handler: BaseHTTPRequestHandler, status: int, headers: dict[str, str], body: bytes, *, cut: bool = False
) -> None:
    try:
        handler.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                handler.send_header(name, value)
        is_head = handler.command == "HEAD"
        length = next((v for n, v in headers.items() if n.lower() == "content-length"), str(len(body)))
        if status != 204:
            handler.send_header("Content-Length", length if is_head or cut else str(len(body)))
        handler.end_headers()
        if not is_head:
            handler.wfile.write(body)
    except (TimeoutError, ConnectionError):
        handler.close_connection = True  # the client gave up


@contextmanager
def gateway_to(foreign: ForeignS3, *, refusing: bool = False) -> Iterator[Gateway]:
    gateway = Gateway(foreign.port)
    if not refusing:
        gateway.open()
    yield gateway
    gateway.close()


def outside_file(path: Path, url: str, *, name: str = "papers", below: str = "") -> Path:
    """Write the operator's file: the bucket `name` lies in the foreign one, below a path of it."""
    path.write_text(
        f'[{name}]\nurl = "s3://{BUCKET}{below}"\nendpoint = "{url}"\nregion = "us-east-1"\n'
        f'[{name}.credentials]\naccess_key_id = "FOREIGN_KEY_ID"\nsecret_access_key = "FOREIGN_SECRET"\n'
    )
    return path
