"""One peer under measurement: its backend, its workers, its clients, and the three figures taken of it."""

import json
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers import environment, services
from bench.peers.figures import LONE, LONE_WARM_UP, TASKS, Figures

APPS = Path(__file__).parent / "apps"

WARM_UP = 200
TRIAL = 1_000
CHECKED = 100
ANSWER_S = 300.0
"""Longest that an order to a client may take: one that takes longer is stuck."""
LOOK_S = 1.0
"""How often a waiting order looks whether the workers still live."""


@dataclass(frozen=True, slots=True)
class Submitters:
    """So many client processes with so many threads, or coroutines, each."""

    processes: int
    each: int
    kind: str

    def __str__(self) -> str:
        return f"{self.processes} x {self.each} {self.kind}"


@dataclass(frozen=True, slots=True)
class Fastest:
    """Who submits fastest while nobody works, and whose tasks are soonest done by the workers beside them."""

    alone: Submitters
    beside_workers: Submitters


THREADS = tuple(Submitters(processes, each, "threads") for processes in (1, 2) for each in (1, 8))
COROUTINES = (Submitters(1, 64, "coroutines"), Submitters(2, 32, "coroutines"))


@dataclass(frozen=True, slots=True)
class Peer:
    """A task queue with its backend.

    app: its module in apps/. workers: the commands that start its two worker processes, of its environment.
    backend: starts the backend in a folder and yields its URL, which the app finds in the variable `url_in`.
    prepare: a command that readies an empty backend. submitters: those of whom the fastest are taken.
    """

    name: str
    durability: str
    app: str
    requirements: str
    workers: tuple[str, ...]
    concurrency: str
    submitters: tuple[Submitters, ...]
    backend: Callable[[Path], AbstractContextManager[str]]
    url_in: str
    prepare: str | None = None

    def try_submitters(self) -> Fastest:
        """Find the fastest of the submitters by a short trial of each."""
        with self._session() as session:
            clients = self._clients(session)
            alone = {tried: _rate(_submit(clients, tried, TRIAL)) for tried in self.submitters}
        with self._session() as session:
            clients = self._clients(session, workers=True)
            beside = {
                tried: _pipeline(clients, tried, WARM_UP + n * TRIAL, TRIAL)
                for n, tried in enumerate(self.submitters)
            }
        return Fastest(max(alone, key=alone.__getitem__), max(beside, key=beside.__getitem__))

    def measure(self, fastest: Fastest) -> Figures:
        """Take the three figures once, on fresh backends."""
        with self._session() as session:
            submitted = _submit(self._clients(session), fastest.alone, TASKS)
        with self._session() as session:
            clients = self._clients(session, workers=True)
            pipeline_per_s = _pipeline(clients, fastest.beside_workers, WARM_UP, TASKS)
            for client in clients:
                client.ask({"check": CHECKED})
            clients[0].ask({"lone": LONE_WARM_UP})
            lone_s = clients[0].ask({"lone": LONE})["latencies_s"]
        return Figures.of(_rate(submitted), submitted.latencies_s, pipeline_per_s, lone_s)

    def _clients(self, session: "_Session", *, workers: bool = False) -> "list[_Client]":
        """As many clients as any submitters need, warm; with workers, these have worked."""
        if workers:
            for worker in self.workers:
                session.start(worker)
        clients = [session.client() for _ in range(max(tried.processes for tried in self.submitters))]
        clients[0].ask({"submit": WARM_UP, "submitters": 1})
        if workers:
            clients[0].ask({"stored": WARM_UP})
        return clients

    @contextmanager
    def _session(self) -> Iterator["_Session"]:
        python = environment.python_with(self.requirements)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ebbtide-peer-")))
            folder.chmod(0o711)  # PostgreSQL's user passes through
            url = stack.enter_context(self.backend(folder))
            variables = {self.url_in: url, "PYTHONPATH": str(APPS)}
            session = _Session(self.app, python, variables, folder, stack, workers=[])
            if self.prepare:
                with services.running(session.command(self.prepare), **session.how) as process:
                    if process.wait(ANSWER_S):
                        raise SystemExit(f"{self.name}: {services.last_words(folder)}")
            yield session


@dataclass(frozen=True, slots=True)
class _Submitted:
    """When the first submission began and the last was answered, and how long each took, in s."""

    began: float
    ended: float
    latencies_s: list[float]


def _submit(clients: "list[_Client]", submitters: Submitters, count: int) -> _Submitted:
    """Submit from all the processes at once."""
    submitting = clients[: submitters.processes]
    for client in submitting:
        client.order({"submit": count // len(submitting), "submitters": submitters.each})
    answers = [client.answer() for client in submitting]
    return _Submitted(
        min(answer["began"] for answer in answers),
        max(answer["ended"] for answer in answers),
        [latency for answer in answers for latency in answer["latencies_s"]],
    )


def _rate(submitted: _Submitted) -> float:
    return len(submitted.latencies_s) / (submitted.ended - submitted.began)


def _pipeline(clients: "list[_Client]", submitters: Submitters, stored: int, count: int) -> float:
    """Tasks a second from the first submission to the last stored result; so many are stored before."""
    began = _submit(clients, submitters, count).began
    return count / float(clients[0].ask({"stored": stored + count})["at"] - began)


@dataclass(frozen=True, slots=True)
class _Session:
    app: str
    python: Path
    variables: dict[str, str]
    folder: Path
    stack: ExitStack
    workers: list[subprocess.Popen[str]]

    @property
    def how(self) -> dict[str, Any]:
        return {"folder": self.folder, "variables": self.variables, "work_in": APPS}

    def command(self, line: str) -> list[str | Path]:
        program, *arguments = line.split()
        return [self.python.parent / program, *arguments]

    def start(self, line: str) -> None:
        process = self.stack.enter_context(services.running(self.command(line), **self.how))
        self.workers.append(process)

    def client(self) -> "_Client":
        process = self.stack.enter_context(
            services.running(
                [self.python, "load.py", self.app],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                **self.how,
            )
        )
        client = _Client(process, self.workers, self.folder)
        client.answer()
        return client


@dataclass(frozen=True, slots=True)
class _Client:
    """apps/load.py in a process, and the workers that must not end before it."""

    process: subprocess.Popen[str]
    workers: list[subprocess.Popen[str]]
    folder: Path

    def ask(self, order: dict[str, int]) -> Any:
        self.order(order)
        return self.answer()

    def order(self, order: dict[str, int]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        """The answer to the oldest order. Exits with what the peer's processes said when none comes."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + ANSWER_S
        while not select.select([self.process.stdout], [], [], LOOK_S)[0]:
            if time.monotonic() > deadline or any(worker.poll() is not None for worker in self.workers):
                raise SystemExit(f"no answer, or a worker ended:\n{services.last_words(self.folder)}")
        if not (line := self.process.stdout.readline()):
            raise SystemExit(f"a client ended:\n{services.last_words(self.folder)}")
        return json.loads(line)
