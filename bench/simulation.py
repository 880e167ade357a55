"""How long `ebbtide simulate` takes: the post's storm under three policies, a day of a million requests."""

import time
from collections.abc import Iterator

from ebbtide.cli.simulate import POLICIES, SERVICE_S, STORM, STORM_S, parse
from ebbtide.simulation.engine import simulate
from ebbtide.simulation.load import load, storm
from ebbtide.simulation.outcome import outcome
from ebbtide.simulation.setting import Fleet

DAY_S, MILLION, DAYS_SERVICE_S = 86_400.0, 1_000_000, 0.3


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    began_at = time.perf_counter()
    for policy in POLICIES:
        _simulate(STORM, STORM_S, SERVICE_S, policy)
    yield (
        f"simulate: the post's storm of {STORM:,}, {len(POLICIES)} policies",
        f"{time.perf_counter() - began_at:.2f} s",
    )
    began_at = time.perf_counter()
    _simulate(MILLION, DAY_S, DAYS_SERVICE_S, POLICIES[0])
    yield (
        f"simulate: {MILLION:,} arrivals in a day, the post's policy",
        f"{time.perf_counter() - began_at:.1f} s",
    )


def _simulate(count: int, over_s: float, service_s: float, policy: str) -> None:
    made = load(storm(count, over_s=over_s), service_s=service_s)
    fleet = Fleet()
    run = simulate(made, fleet, parse(policy))
    found = outcome(made, fleet, run, until=run.ended_at)
    assert found.done == count


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
