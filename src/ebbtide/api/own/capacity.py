"""What an endpoint can do at a time, and how fast it has been: what estimates rest on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from ebbtide.endpoints import Endpoint
from ebbtide.instances import records
from ebbtide.instances.records import Instance, State
from ebbtide.queue import estimates, invocations, listing
from ebbtide.queue.estimates import Service, Slots

SAMPLE = 100
"""Latest successes that tell the service time and rate."""


LATEST = 20
"""Latest instances that tell how long one takes to start, and when their number changed."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """An endpoint's slots, those of starting instances included, its work in flight, and its pace.

    starting_s: how long the latest instances took to come into service; None when none has.
    """

    instances: Sequence[Instance]
    starting_s: float | None
    slots: Sequence[Slots]
    in_flight: int
    service: Service


def capacity(connection: Connection, endpoint: Endpoint, now: float) -> Capacity:
    """Read them. An endpoint without instances that has work is about to get one: it counts as starting."""
    known = records.latest(connection, endpoint.id, LATEST)
    active = [
        one
        for one in records.active(connection)
        if one.endpoint_id == endpoint.id and one.state is not State.DRAINING
    ]
    starting_s = _starting_s(known)
    count = _concurrency(endpoint)
    slots = [Slots(one.concurrency or count, now) for one in active if one.state is State.IN_SERVICE]
    if starting_s is not None:
        begun = [one.created_at for one in active if one.state is not State.IN_SERVICE]
        if not active:
            begun = [now]
        # One that takes longer than the others did may be there any moment.
        slots += [Slots(count, max(now + 0.001, at + starting_s)) for at in begun]
    finished = listing.latest_finished(connection, endpoint.id, limit=SAMPLE)
    return Capacity(
        active,
        starting_s,
        slots,
        invocations.backlog(connection, endpoint.id).claimed,
        estimates.measured(finished, since=_changed_at(known)),
    )


def _concurrency(endpoint: Endpoint) -> int:
    """Invocations that an instance takes at a time: as asked, else as many as the fleet gives it at most."""
    config = endpoint.async_config
    asked = config.max_concurrent_invocations_per_instance if config else None
    return asked or max(2, os.cpu_count() or 1)


def _starting_s(known: Sequence[Instance]) -> float | None:
    """How long the latest instances took to come into service; None when none has."""
    took = [one.in_service_at - one.created_at for one in known if one.in_service_at is not None][-5:]
    return sum(took) / len(took) if took else None


def _changed_at(known: Sequence[Instance]) -> float:
    """When the number of instances in service was last another one."""
    times = [
        at
        for one in known
        if one.in_service_at is not None
        for at in (one.in_service_at, one.draining_at, one.ended_at)
        if at is not None
    ]
    return max(times, default=0.0)
