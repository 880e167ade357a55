"""From nothing to the first summary, weights in the page cache: an instance as the fleet starts it, and the
toolkit's way, a fresh process that imports transformers, loads the float32 model and answers once.

PEGASUS-large's shape, 128 tokens in, 8 out, one at a time; medians. `python -m bench.coldstart FOLDER` keeps
the models in FOLDER, as `python -m bench engines --scratch FOLDER` does.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.engines import ENGINES, FIRST_WORD, LARGE, THREADS, TOOLKIT, made
from ebbtide.instances.fork_server import ForkServer
from ebbtide.instances.model_server import Launch, ModelServer, prepare
from ebbtide.instances.processes import passed_on
from ebbtide.logs import AccountLogs, LogStore

RUNS = 5
TOKENS_IN, TOKENS_OUT = 128, 8
READY_WITHIN_S = 60.0
TEXT = " ".join(f"w{number}" for number in range(FIRST_WORD, FIRST_WORD + TOKENS_IN - 1))
FRESH = """
import sys, torch
from transformers import PegasusForConditionalGeneration
model = PegasusForConditionalGeneration.from_pretrained(sys.argv[1]).eval()
with torch.inference_mode():
    source = torch.randint(200, 4000, (1, int(sys.argv[2])))
    model.generate(source, num_beams=1, max_new_tokens=int(sys.argv[3]), min_new_tokens=int(sys.argv[3]))
"""


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds from the wish for an instance until it serves, and until its first answer; its own phases."""

    ready_s: float
    answered_s: float
    phases_s: dict[str, float]
    peak_bytes: int


def measure(scratch: Path = Path("build/bench")) -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    checkpoint = made(scratch.absolute(), TOOLKIT, LARGE)
    for engine in ENGINES:
        held_bytes, starts = asyncio.run(_starts(checkpoint, scratch.absolute() / "cache", engine))
        ready_s, answered_s = (
            statistics.median(getattr(start, name) for start in starts) for name in ("ready_s", "answered_s")
        )
        yield f"cold start, {engine}: to /ping; to the first result", f"{ready_s:.2f} s; {answered_s:.2f} s"
        phases = {
            name: statistics.median(start.phases_s[name] for start in starts) for name in starts[0].phases_s
        }
        told = ", ".join(f"{name} {taken_s * 1e3:.0f} ms" for name, taken_s in phases.items())
        yield f"cold start, {engine}: of that", told
        peak_bytes = max(start.peak_bytes for start in starts)
        yield (
            f"cold start, {engine}: memory held at zero instances; peak of the instance",
            f"{held_bytes / 2**20:.0f} MiB; {peak_bytes / 1e9:.2f} GB",
        )
    yield "cold start, toolkit: to the first result", f"{_fresh_s(checkpoint):.2f} s"


async def _starts(checkpoint: Path, cache: Path, engine: str) -> tuple[int, list[Start]]:
    """Memory that the fork server holds between instances (its proportional share), and the starts."""
    launch = Launch(
        image="huggingface-pytorch-inference",
        model_directory=None,
        cache=cache,
        environment={
            "HF_MODEL_ID": str(checkpoint),
            "HF_TASK": "summarization",
            "EBBTIDE_ENGINE": engine,
        },
        region="us-east-1",
        concurrency=2,
        threads=THREADS,
    )
    fork_server = ForkServer(passed_on(os.environ), cache)
    logs = LogStore(cache / "logs").of("123456789012")
    try:
        await prepare(launch, logs.stream("bench", "prepare"), fork_server)
        starts = [await _start(launch, logs, fork_server, run) for run in range(RUNS)]
        [process] = [
            child for child in psutil.Process().children() if "ebbtide.runtime.forkserver" in child.cmdline()
        ]
        return process.memory_full_info().pss, starts
    finally:
        await fork_server.close()


async def _start(launch: Launch, logs: AccountLogs, fork_server: ForkServer, run: int) -> Start:
    wanted_at = time.perf_counter()
    server = await ModelServer.start(launch, logs.stream("bench", f"start-{run}"), fork_server)
    try:
        await server.ready(READY_WITHIN_S)
        ready_s = time.perf_counter() - wanted_at
        parameters: dict[str, Any] = {
            "num_beams": 1,
            "max_new_tokens": TOKENS_OUT,
            "min_new_tokens": TOKENS_OUT,
        }
        body = json.dumps({"inputs": TEXT, "parameters": parameters}).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        async with server.exchanges.post("/invocations", headers, body) as answer:
            said = await answer.read()
            if answer.status != 200:
                raise SystemExit(said.decode())
        answered_s = time.perf_counter() - wanted_at
        _, peak_bytes = server.memory_bytes()
        return Start(ready_s, answered_s, server.start_report()["phases_s"], peak_bytes)
    finally:
        await server.stop(0)


def _fresh_s(checkpoint: Path) -> float:
    command = [sys.executable, "-c", FRESH, str(checkpoint), str(TOKENS_IN), str(TOKENS_OUT)]
    taken_s = []
    for _ in range(3):
        began_at = time.perf_counter()
        subprocess.run(command, check=True)
        taken_s.append(time.perf_counter() - began_at)
    return statistics.median(taken_s)


if __name__ == "__main__":
    for what, figure in measure(*map(Path, sys.argv[1:])):
        print(f"{what}: {figure}", flush=True)
