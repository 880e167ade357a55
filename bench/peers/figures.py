"""What is measured of everyone, so that it can be compared."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

from bench.server import percentile

TASKS = 10_000
LONE, LONE_WARM_UP = 300, 20


@dataclass(frozen=True, slots=True)
class Figures:
    """One run's figures.

    enqueue_per_s: submissions answered a second while nobody works on them; the latencies are theirs.
    pipeline_per_s: TASKS over the time from the first submission to the last stored result, two workers.
    lone_*: one request at a time, from before its submission until its result has been read.
    """

    enqueue_per_s: float
    enqueue_p50_ms: float
    enqueue_p99_ms: float
    pipeline_per_s: float
    lone_p50_ms: float
    lone_p99_ms: float

    @classmethod
    def of(
        cls,
        enqueue_per_s: float,
        enqueue_latencies_s: Sequence[float],
        pipeline_per_s: float,
        lone_latencies_s: Sequence[float],
    ) -> "Figures":
        return cls(
            enqueue_per_s=enqueue_per_s,
            enqueue_p50_ms=percentile(enqueue_latencies_s, 50) * 1e3,
            enqueue_p99_ms=percentile(enqueue_latencies_s, 99) * 1e3,
            pipeline_per_s=pipeline_per_s,
            lone_p50_ms=percentile(lone_latencies_s, 50) * 1e3,
            lone_p99_ms=percentile(lone_latencies_s, 99) * 1e3,
        )


def median(runs: Sequence[Figures]) -> Figures:
    """Each figure's median over the runs."""
    return Figures(
        **{f.name: statistics.median(getattr(run, f.name) for run in runs) for f in fields(Figures)}
    )
