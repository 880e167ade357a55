"""How fast the built-in extractive summariser is: documents of 1,000 words a second, on one core."""

import os
import statistics
import time
from collections.abc import Iterator
from importlib import metadata

from ebbtide.runtime.extractive import summarise

WORDS = 1_000
DOCUMENTS = 200
RUNS = 5


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        documents = _documents()
        rates = []
        for _ in range(RUNS):
            started_at = time.perf_counter()
            for document in documents:
                summarise(document)
            rates.append(len(documents) / (time.perf_counter() - started_at))
    finally:
        os.sched_setaffinity(0, cores)
    yield (
        f"extractive summariser, real texts of {WORDS:,} words, 1 core",
        f"{statistics.median(rates):,.0f} documents/s",
    )


def _documents() -> list[str]:
    """Real English: the long descriptions of installed packages, in pieces of 1,000 words."""
    words: list[str] = []
    for distribution in sorted(metadata.distributions(), key=lambda found: str(found.metadata["Name"])):
        words += str(distribution.metadata.get_payload()).split(" ")
    pieces = [" ".join(words[at : at + WORDS]) for at in range(0, len(words) - WORDS, WORDS)]
    return [pieces[n % len(pieces)] for n in range(DOCUMENTS)]


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
