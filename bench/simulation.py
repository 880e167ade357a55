"""How long `ebbtide simulate` takes: the post's storm under three policies, a day of a million requests."""

import time
from collections.abc import Iterator, Sequence
from statistics import median

from ebbtide.cli.simulate import POLICIES, SERVICE_S, STORM, STORM_S, parse
from ebbtide.simulation.engine import simulate
from ebbtide.simulation.load import load, storm
from ebbtide.simulation.outcome import outcome
from ebbtide.simulation.setting import Fleet

RUNS = 3
DAY_S, MILLION, DAYS_SERVICE_S = 86_400.0, 1_000_000, 0.3


def measure(runs: int = RUNS) -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs: medians of so many runs."""
    storms_s = [_took_s(STORM, STORM_S, SERVICE_S, POLICIES) for _ in range(runs)]
    yield f"simulate: the post's storm of {STORM:,}, {len(POLICIES)} policies", f"{median(storms_s):.2f} s"
    days_s = [_took_s(MILLION, DAY_S, DAYS_SERVICE_S, POLICIES[:1]) for _ in range(runs)]
    yield f"simulate: {MILLION:,} arrivals in a day, the post's policy", f"{median(days_s):.1f} s"


def _took_s(count: int, over_s: float, service_s: float, policies: Sequence[str]) -> float:
    began_at = time.perf_counter()
    for policy in policies:
        _simulate(count, over_s, service_s, policy)
    return time.perf_counter() - began_at


def _simulate(count: int, over_s: float, service_s: float, policy: str) -> None:
    made = load(storm(count, over_s=over_s), service_s=service_s)
    fleet = Fleet()
    run = simulate(made, fleet, parse(policy))
    found = outcome(made, fleet, run, until=run.ended_at)
    assert found.done == count


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
