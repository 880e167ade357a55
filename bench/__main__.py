"""`python -m bench [--runs N] [NAME ...]`: run the benches, all or those named, and print a table of figures.

Those whose figures are medians take N runs for them: wake, simulation, storm_scaling.

Apart are `python -m bench peers`, which installs other task queues to measure them beside ebbtide, and
`python -m bench engines`, which needs the extra `transformers`, 6 GB of disk and 15 minutes; `bases`,
`roofline`, `coldstart`, `articles`, `quality` and `quality_merging` run when they are named; the last two
fetch packages by apt-get, and the last trains a model for half an hour at its first run.
"""

import argparse
import importlib
import inspect
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

BENCHES = (
    "accept",
    "pipeline",
    "backlog",
    "memory",
    "wake",
    "estimates",
    "extractive",
    "documents",
    "simulation",
    "storm_scaling",
    "flapping",
)
PACKAGES = ("httptools", "sqlalchemy", "aiohttp", "botocore", "ctranslate2")


def main(arguments: list[str]) -> None:
    asked = argparse.ArgumentParser(prog="python -m bench")
    asked.add_argument("--runs", type=int, metavar="N")
    asked.add_argument("names", nargs="*", metavar="NAME")
    given = asked.parse_args(arguments)
    print(machine(), end="\n\n| what | figure |\n|---|---|\n")
    for name in given.names or BENCHES:
        measure = importlib.import_module(f"bench.{name}").measure
        runs = {"runs": given.runs} if given.runs and "runs" in inspect.signature(measure).parameters else {}
        for what, figure in measure(**runs):
            print(f"| {what} | {figure} |", flush=True)


def machine(packages: Sequence[str] = PACKAGES) -> str:
    processor = next(
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    cores = Path("/proc/cpuinfo").read_text().count("processor\t:")
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    system = f"Linux {platform.release()}; Python {platform.python_version()}"
    return f"{cores} cores of {processor}; {system}; {versions}"


if __name__ == "__main__":
    if sys.argv[1:2] in (["peers"], ["engines"]):
        importlib.import_module(f"bench.{sys.argv[1]}").main(sys.argv[2:])
    else:
        main(sys.argv[1:])
