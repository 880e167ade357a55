"""`python -m bench peers [--runs N] [--only NAME ...] [--ray]`: ebbtide beside other task queues, in one run.

Everyone echoes the same JSON of 1 KB, has two worker processes and stores each result in its backend. Who
submits fastest, how many client processes with how many threads, is tried first. Runs are interleaved, each
in another order, so that what disturbs the machine disturbs all; figures are medians over the runs.
Everything a peer needs is started here and ends here.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.peers import environment, services
from bench.peers.figures import LONE, TASKS, Figures, median
from bench.peers.ourselves import Ebbtide
from bench.peers.peer import Fastest, Peer
from bench.peers.queues import PEERS, PEERS_ON_RAY

Measured = Ebbtide | Peer
EBBTIDE = Ebbtide()
PACKAGES = ("httptools", "sqlalchemy", "aiohttp", "botocore")


def main(arguments: Sequence[str]) -> None:
    # Ends as an interrupt does, so that whatever was started ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    runs, measured_ones = _chosen(arguments)
    versions = _versions([one for one in measured_ones if isinstance(one, Peer)])
    began = datetime.now(UTC)
    with services.marked():
        how = {one.name: (one, one.try_submitters()) for one in measured_ones}
        measures = {name: partial(one.measure, fastest) for name, (one, fastest) in how.items()}
        measured = _measure(measures, runs)
    medians = {name: median([figures for figures, _ in of_one]) for name, of_one in measured.items()}
    print(_table(medians, how, runs))
    report = {
        "date": began.isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": versions,
        "tasks": TASKS,
        "lone_requests": LONE,
        "medians": {name: asdict(figures) for name, figures in medians.items()},
        "runs": {
            name: [{**asdict(figures), "load_average_before": load} for figures, load in of_one]
            for name, of_one in measured.items()
        },
        "how": {
            name: {
                "durability": one.durability,
                "workers": one.concurrency,
                "submitters": asdict(fastest),
            }
            for name, (one, fastest) in how.items()
        },
    }
    place = environment.BUILD / "bench" / f"peers-{began:%Y%m%dT%H%M%SZ}.json"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{place}", file=sys.stderr)


def _chosen(arguments: Sequence[str]) -> tuple[int, list[Measured]]:
    """How many runs of whom."""
    parser = argparse.ArgumentParser(prog="python -m bench peers", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="how often each is measured (3)")
    known = [EBBTIDE, *PEERS, *PEERS_ON_RAY]
    names = "; ".join(one.name for one in known)
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"only those whose names begin so, of: {names}"
    )
    parser.add_argument("--ray", action="store_true", help="Ray Serve too: installs half a gigabyte")
    chosen = parser.parse_args(arguments)
    if chosen.runs < 1:
        parser.error("--runs must be at least 1")
    if not chosen.only:
        return chosen.runs, [EBBTIDE, *PEERS, *(PEERS_ON_RAY if chosen.ray else ())]
    named = [one for one in known if one.name.startswith(tuple(chosen.only))]
    if not named:
        parser.error(f"--only knows: {names}")
    return chosen.runs, named


def _measure(
    measures: Mapping[str, Callable[[], Figures]], runs: int
) -> dict[str, list[tuple[Figures, float]]]:
    """Each one's figures of each run, with the machine's load average before."""
    measured: dict[str, list[tuple[Figures, float]]] = {name: [] for name in measures}
    names = deque(measures)
    for run in range(runs):
        for name in names:
            load = os.getloadavg()[0]
            figures = measures[name]()
            measured[name].append((figures, load))
            print(f"run {run + 1}: {name}: {_row(figures)}", file=sys.stderr, flush=True)
        names.rotate(-1)
    return measured


def _row(figures: Figures) -> str:
    return (
        f"{figures.enqueue_per_s:,.0f}/s, p99 {figures.enqueue_p99_ms:.1f} ms | "
        f"{figures.pipeline_per_s:,.0f}/s | "
        f"p50 {figures.lone_p50_ms:.1f} ms, p99 {figures.lone_p99_ms:.1f} ms"
    )


def _table(medians: Mapping[str, Figures], how: Mapping[str, tuple[Measured, Fastest]], runs: int) -> str:
    lines = [
        f"{_machine_line()}; medians of {runs} runs",
        "",
        f"| | submitted | {TASKS:,} until stored | a lone one until seen | workers; submitters |",
        "|---|---|---|---|---|",
    ]
    for name, figures in medians.items():
        one, fastest = how[name]
        means = f"{one.concurrency}; {fastest.alone}, {fastest.beside_workers}"
        lines.append(f"| {name} | {_row(figures)} | {means} |")
    durabilities: dict[str, list[str]] = {}
    for name in medians:
        durabilities.setdefault(how[name][0].durability, []).append(name)
    return "\n".join(
        [*lines, "", *(f"- {durability} ({'; '.join(names)})" for durability, names in durabilities.items())]
    )


def _machine() -> dict[str, Any]:
    processor = next(
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
    }


def _machine_line() -> str:
    machine = _machine()
    return f"{machine['cores']} cores of {machine['processor']}; {machine['system']}"


def _versions(peers: Sequence[Peer]) -> dict[str, Any]:
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=Path(__file__).parent, check=False, capture_output=True, text=True)
    versions: dict[str, Any] = {
        "ebbtide": metadata.version("ebbtide"),
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in PACKAGES},
    }
    urls = {peer.url_in for peer in peers}
    if "REDIS_URL" in urls:
        versions["redis-server"] = environment.version_of(environment.redis_server())
    if "POSTGRES_URL" in urls:
        versions["postgres"] = environment.version_of(environment.postgres_binaries() / "postgres")
    for requirements in sorted({peer.requirements for peer in peers}):
        versions[requirements] = environment.packages(environment.python_with(requirements))
    return versions
