"""The storm of AWS's post on this machine, with real processes: 10,000 requests of a model of 20 ms at an
endpoint of 0 to 5 instances that keeps to a backlog of 5 for each. How soon all instances are there and gone
again, what was lost (nothing may be), and what it cost beside the least that was possible.

Its graphs go to build/bench/storm.png.
"""

import asyncio
import io
import sqlite3
import tarfile
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from bench.server import Measured, send_all, server, signed_invocations
from ebbtide.cli import deployment
from ebbtide.cli.deployment import Deployment
from ebbtide.cli.picture import Course, draw_courses
from ebbtide.costs.minimum import minimum_s

RUNS = 3
REQUESTS, CONNECTIONS = 10_000, 64
MAX_INSTANCES, TARGET, COOLDOWN_S = 5, 5.0, 30
MODEL_S = 0.02
BODY = b'{"inputs": "' + b"A sentence of some words. " * 20 + b'"}'
PICTURE = Path("build/bench/storm.png")

INFERENCE = f"""
import threading, time

def model_fn(model_dir):
    return threading.Lock()

def transform_fn(model, body, content_type, accept):
    with model:
        time.sleep({MODEL_S})
    return body
"""
"""One request after the other, as a processor computes them; the instance is given two, so that the next is
there when the first is done."""


@dataclass(frozen=True, slots=True)
class Storm:
    """What the server recorded: of each request and of each instance its moments, in epoch seconds."""

    states: dict[str, int]
    accepted: Sequence[float]
    expires: Sequence[float]
    claimed: Sequence[float]
    finished: Sequence[float]
    wanted: Sequence[float]
    starting: Sequence[float]
    in_service: Sequence[float]
    ended: Sequence[float]

    @property
    def at_most_at(self) -> float:
        """When the last of the instances that there may be came into service."""
        return sorted(self.in_service)[MAX_INSTANCES - 1]

    @property
    def instance_s(self) -> float:
        return sum(self.ended) - sum(self.starting)

    @property
    def starting_s(self) -> float:
        return sum(self.in_service) - sum(self.starting)

    @property
    def minimum_s(self) -> float:
        """The least that any schedule could have used for the same arrivals, 20 ms of a model for each."""
        return minimum_s(
            np.array(self.accepted),
            np.array(self.expires),
            np.full(len(self.accepted), MODEL_S),
            slots=1,
            starting_s=min(np.array(self.in_service) - np.array(self.starting)),
        )


def measure(runs: int = RUNS) -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs: medians of so many storms, one after the other on one server."""
    with server() as measured, tempfile.TemporaryDirectory() as directory:
        _deploy(measured, Path(directory) / "model.tar.gz")
        storms = [_storm(measured) for _ in range(runs)]
    cooling_s = MAX_INSTANCES * COOLDOWN_S

    def middle(of: Callable[[Storm], float], written: str) -> str:
        values = [of(storm) for storm in storms]
        spread = f" ({written % min(values)} to {written % max(values)})" if runs > 1 else ""
        return f"{written % median(values)}{spread}"

    yield (
        f"storm: 10,000 requests of a 20 ms model, {runs} times, accepted in",
        middle(lambda storm: storm.accepted[-1] - storm.accepted[0], "%.1f s"),
    )
    done = sum(storm.states.get("succeeded", 0) for storm in storms)
    lost = sum(sum(storm.states.values()) for storm in storms) - done
    yield "storm: done; expired, failed or cancelled", f"{done:,}; {lost}"
    yield (
        "storm: from the first 202 to the first instance asked for",
        middle(lambda storm: (storm.wanted[0] - storm.accepted[0]) * 1e3, "%.0f ms"),
    )
    yield (
        f"storm: {MAX_INSTANCES} instances in service, after the first 202",
        middle(lambda storm: storm.at_most_at - storm.accepted[0], "%.1f s"),
    )
    yield (
        "storm: from the first 202 to the last result",
        middle(lambda storm: max(storm.finished) - storm.accepted[0], "%.1f s"),
    )
    yield (
        f"storm: from the last result to no instance, cooldown {COOLDOWN_S} s",
        middle(lambda storm: max(storm.ended) - max(storm.finished), "%.1f s"),
    )
    took = median(storm.instance_s for storm in storms)
    starting = median(storm.starting_s for storm in storms)
    least = median(storm.minimum_s for storm in storms)
    yield (
        "storm: cost; clairvoyant minimum + the cooldown that the policy demands",
        f"{took:.1f} instance-s, {starting:.1f} of them starting; {least:.1f} + {cooling_s}",
    )
    beside = middle(lambda storm: storm.instance_s / (storm.minimum_s + cooling_s), "%.3f")
    alone = middle(lambda storm: (storm.instance_s - cooling_s) / storm.minimum_s, "%.3f")
    yield "storm: cost beside these", f"x {beside}; x {alone} of the minimum alone, less the cooldown"
    _draw(storms[-1])


def _storm(measured: Measured) -> Storm:
    """One from zero instances to zero instances."""
    since = time.time()
    requests = signed_invocations(measured.running, "storm", BODY, REQUESTS)
    asyncio.run(send_all(measured.running, requests, CONNECTIONS))
    _await_zero(measured)
    return _recorded(measured, since)


def _deploy(measured: Measured, archive: Path) -> None:
    """The endpoint as the post has it, at zero instances."""
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("code/inference.py")
        info.size = len(INFERENCE)
        tar.addfile(info, io.BytesIO(INFERENCE.encode()))
    wanted = Deployment(
        name="storm",
        model=str(archive),
        max_capacity=MAX_INSTANCES,
        target=TARGET,
        scale_in_cooldown_s=COOLDOWN_S,
        scale_out_cooldown_s=COOLDOWN_S,
        concurrency=2,
    )
    for _ in deployment.deploy(measured.running, wanted):
        pass
    deployment.set_instance_count(measured.running, "storm", 0)
    _await_zero(measured)


def _await_zero(measured: Measured) -> None:
    """Nothing queued or being worked on, and no instance left."""
    while True:
        now = measured.running.own().endpoint("storm")
        if not now["queued"] + now["claimed"] + sum(now["instances"].values()):
            with _database(measured) as database:
                [running] = database.execute(
                    "SELECT count(*) FROM instances WHERE ended_at IS NULL"
                ).fetchone()
            if not running:
                return
        time.sleep(0.2)


def _database(measured: Measured) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{measured.data / 'ebbtide.db'}?mode=ro", uri=True)


def _recorded(measured: Measured, since: float) -> Storm:
    with _database(measured) as database:
        states = dict(
            database.execute(
                "SELECT state, count(*) FROM invocations WHERE accepted_at > ? GROUP BY state", [since]
            )
        )
        requests = database.execute(
            "SELECT accepted_at, expires_at, claimed_at, finished_at FROM invocations "
            "WHERE state = 'succeeded' AND accepted_at > ? ORDER BY accepted_at",
            [since],
        ).fetchall()
        instances = database.execute(
            "SELECT created_at, starting_at, in_service_at, ended_at FROM instances "
            "WHERE created_at > ? AND in_service_at IS NOT NULL ORDER BY created_at",
            [since],
        ).fetchall()
    return Storm(states, *zip(*requests, strict=True), *zip(*instances, strict=True))


def _draw(storm: Storm) -> None:
    begin, end = storm.accepted[0], max(storm.ended) + 2
    moments = np.arange(begin - 1, end, 0.25)
    finished, in_service, ended = sorted(storm.finished), sorted(storm.in_service), sorted(storm.ended)

    def series(value):  # type: ignore[no-untyped-def]
        return [(at - begin, float(value(at))) for at in moments]

    def oldest_s(at: float) -> float:
        # Requests are served in their order: as many of the oldest have gone as are done.
        done, come = bisect_right(finished, at), bisect_right(storm.accepted, at)
        return at - storm.accepted[done] if done < come else 0.0

    arrivals = [
        (
            second,
            bisect_left(storm.accepted, begin + second + 1) - bisect_left(storm.accepted, begin + second),
        )
        for second in range(-1, int(end - begin))
    ]
    course = Course(
        "storm",
        backlog=series(lambda at: bisect_right(storm.accepted, at) - bisect_right(finished, at)),
        oldest_age_s=series(oldest_s),
        instances=series(lambda at: bisect_right(in_service, at) - bisect_right(ended, at)),
    )
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    draw_courses(f"{REQUESTS:,} requests of a 20 ms model, 0 to 5 instances", arrivals, [course], PICTURE)


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}", flush=True)
