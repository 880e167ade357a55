"""Model servers as their agent runs them, for tests: own processes on Unix sockets."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HUGGING_FACE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:1.7.1-cpu-py36"
PYTORCH = "763104351884.dkr.ecr.us-east-1.amazonaws.com/pytorch-inference:2.3-cpu-py311"
PATIENCE_S = 120.0
"""Bounds waits for a process that ought to act at once."""


class UnixConnection(http.client.HTTPConnection):
    """HTTP over the Unix socket at `path`."""

    def __init__(self, path: Path) -> None:
        super().__init__("model", timeout=PATIENCE_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class ModelServerProcess:
    """A started `serve`; its standard input is held open, as its agent holds it."""

    process: subprocess.Popen[bytes]
    socket: Path
    status_file: Path
    log: Path

    def connection(self) -> UnixConnection:
        return UnixConnection(self.socket)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Reply:
        connection = self.connection()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        reply = Reply(answer.status, answer.headers, answer.read())
        connection.close()
        return reply

    def invoke(self, body: Any, content_type: str = "application/json", **headers: str) -> Reply:
        """POST /invocations; what is neither text nor bytes is sent as JSON."""
        if isinstance(body, str):
            body = body.encode()
        elif not isinstance(body, bytes):
            body = json.dumps(body).encode()
        return self.ask("POST", "/invocations", body, Content_Type=content_type, **headers)

    def running(self) -> int:
        return int(self.ask("GET", "/ping").headers["X-Ebbtide-Running"])

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = json.loads(self.status_file.read_text())
        return status

    def ready(self) -> "ModelServerProcess":
        self.wait_until(lambda: self._answers() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()
        return self

    def await_phase(self, phase: str) -> None:
        self.wait_until(lambda: self.status_file.exists() and self.status()["phase"] == phase)

    def exit_code(self) -> int:
        return self.process.wait(PATIENCE_S)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            return self.ask("GET", "/ping").status == 200
        except OSError:
            return False


Start = Callable[..., ModelServerProcess]


def command(name: str, place: Path, *, image: str, model_dir: Path | None, cache: Path) -> list[str]:
    """How the runtime is started, its status file in `place`."""
    shared = ["--model-dir", str(model_dir or ""), "--cache", str(cache), "--image", image]
    return [sys.executable, "-m", "ebbtide.runtime", name, *shared, "--status", str(place / "status")]


def surroundings(environment: Mapping[str, str]) -> dict[str, str]:
    """What a model's process sees: little, and its own environment."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "OMP_NUM_THREADS": "2", **environment}
