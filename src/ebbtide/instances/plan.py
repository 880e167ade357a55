"""From what is wanted and what there is to what is done: pure rules, carried out by fleet.py."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ebbtide.instances.records import Instance, State

RETRY_WINDOW_S = 600.0
"""Failures older than this are forgiven."""

MAX_RETRY_DELAY_S = 60.0


@dataclass(frozen=True, slots=True)
class Start:
    """One more instance is wanted."""


@dataclass(frozen=True, slots=True)
class Drain:
    """This instance finishes what it runs, and ends."""

    id: str


def plan(desired: int, instances: Iterable[Instance], busy: Collection[str] = ()) -> list[Start | Drain]:
    """The steps from one variant's instances to the desired count; `busy` have work in flight.

    A surplus goes in the order of what is lost by it: instances that do not serve yet, then idle ones,
    then busy ones, the youngest first.
    """
    counted = [i for i in instances if i.state in (State.PENDING, State.STARTING, State.IN_SERVICE)]
    if len(counted) <= desired:
        return [Start()] * (desired - len(counted))
    stages = (State.PENDING, State.STARTING, State.IN_SERVICE)

    def loss(instance: Instance) -> tuple[int, bool, float]:
        return stages.index(instance.state), instance.id in busy, -instance.created_at

    return [Drain(i.id) for i in sorted(counted, key=loss)[: len(counted) - desired]]


def retry_at(failures: Sequence[float], now: float) -> float:
    """When the next instance of a variant may start, whose instances failed at these times (ascending).

    The first failure is replaced at once; each further one within the window doubles the wait, from 1 s.
    """
    recent = [at for at in failures if now - at < RETRY_WINDOW_S]
    if len(recent) < 2:
        return now
    return recent[-1] + min(2.0 ** min(len(recent) - 2, 10), MAX_RETRY_DELAY_S)
