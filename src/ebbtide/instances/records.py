"""An instance's life: its states and legal moves, its table, what it costs.

    Pending ──> Starting ──> InService ──> Draining ──> Stopped
       │            │            │             │
       └────────────┴────────────┴─────────────┴──────> Failed

Pending waits for the machine to hold it, and its cause says for what. A Pending instance that is no longer
wanted is Stopped at once, a Starting one passes through Draining. Every state has its time stamp.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    Row,
    String,
    Table,
    Text,
    bindparam,
    func,
    select,
    text,
    update,
)

from ebbtide.database import metadata


class State(StrEnum):
    """Where an instance is in its life; which state follows which: LEGAL_MOVES."""

    PENDING = "Pending"
    STARTING = "Starting"
    IN_SERVICE = "InService"
    DRAINING = "Draining"
    STOPPED = "Stopped"
    FAILED = "Failed"


WANTED = "wanted"
"""The cause of an instance that waits for nothing."""

LEGAL_MOVES: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.STARTING, State.STOPPED, State.FAILED}),
    State.STARTING: frozenset({State.IN_SERVICE, State.DRAINING, State.FAILED}),
    State.IN_SERVICE: frozenset({State.DRAINING, State.FAILED}),
    State.DRAINING: frozenset({State.STOPPED, State.FAILED}),
    State.STOPPED: frozenset(),
    State.FAILED: frozenset(),
}

_REACHED_AT = {
    State.STARTING: "starting_at",
    State.IN_SERVICE: "in_service_at",
    State.DRAINING: "draining_at",
    State.STOPPED: "ended_at",
    State.FAILED: "ended_at",
}

instances = Table(
    "instances",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("endpoint_id", String(64), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("variant", String(64), nullable=False),
    # The endpoint's, which its costs outlive.
    Column("account", String),
    Column("endpoint_name", String),
    Column("state", String(16), nullable=False),
    Column("cause", Text, nullable=False),
    Column("instance_type", String(64)),
    # Instances of one model digest take the same memory: their peaks decide what the machine can hold.
    Column("model_digest", String(64), nullable=False),
    Column("peak_memory_bytes", BigInteger().with_variant(Integer, "sqlite")),
    Column("pid", Integer),
    Column("created_at", Float, nullable=False),
    Column("starting_at", Float),
    Column("in_service_at", Float),
    Column("draining_at", Float),
    # When its model server was last known to live: where a killed server's instances are taken to end.
    Column("seen_at", Float),
    Column("ended_at", Float),
    # How many invocations its agent gives it at a time, and why so many; null until it is in service.
    Column("concurrency", Integer),
    Column("concurrency_cause", Text),
    # {"phases_s", "engine"} as its model server told; null until it is in service.
    Column("start", JSON(none_as_null=True)),
)
_ACTIVE = instances.c.ended_at.is_(None)
Index("instances_active", instances.c.endpoint_id, sqlite_where=_ACTIVE, postgresql_where=_ACTIVE)
Index("instances_of_endpoint", instances.c.endpoint_id, instances.c.created_at)
Index("instances_of_model", instances.c.model_digest, instances.c.created_at)


class IllegalMove(Exception):
    """The instance is in a state that the move does not leave: another move came first."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One row. `*_at` in epoch seconds, None where that state was not reached. `account` and `endpoint_name`
    are its endpoint's; None where an older ebbtide recorded it and the endpoint has gone.
    """

    id: str
    endpoint_id: str
    generation: int
    variant: str
    state: State
    cause: str
    instance_type: str | None
    model_digest: str
    peak_memory_bytes: int | None
    pid: int | None
    created_at: float
    starting_at: float | None = None
    in_service_at: float | None = None
    draining_at: float | None = None
    seen_at: float | None = None
    ended_at: float | None = None
    account: str | None = None
    endpoint_name: str | None = None
    concurrency: int | None = None
    concurrency_cause: str | None = None
    start: dict[str, Any] | None = None


def add(connection: Connection, instance: Instance) -> None:
    """Record a wanted instance."""
    connection.execute(instances.insert().values(asdict(instance)))


def move(connection: Connection, instance_id: str, state: State, *, cause: str, at: float) -> None:
    """Move the instance to `state`. Raises IllegalMove when it is in no state that may go there."""
    sources = [source for source, targets in LEGAL_MOVES.items() if state in targets]
    moved = connection.execute(
        update(instances)
        .where(instances.c.id == instance_id, instances.c.state.in_(sources))
        .values({"state": state, "cause": cause, _REACHED_AT[state]: at})
    )
    if not moved.rowcount:
        raise IllegalMove(f"{instance_id} cannot become {state}")


def hold(connection: Connection, causes: Mapping[str, str]) -> None:
    """Say for each Pending instance what it waits for."""
    if causes:
        connection.execute(
            update(instances)
            .where(
                instances.c.id == bindparam("instance"),
                instances.c.state == State.PENDING,
                instances.c.cause != bindparam("why"),
            )
            .values(cause=bindparam("why")),
            [{"instance": instance, "why": why} for instance, why in causes.items()],
        )


def delay(connection: Connection, instance_id: str, cause: str) -> None:
    """Say what a Starting instance waits for."""
    connection.execute(
        update(instances)
        .where(instances.c.id == instance_id, instances.c.state == State.STARTING)
        .values(cause=cause)
    )


def waiting_cause(connection: Connection, endpoint_id: str) -> str | None:
    """Why no instance of the endpoint is up yet, where one waits for something; None when one serves."""
    rows = connection.execute(
        select(instances.c.state, instances.c.cause)
        .where(instances.c.endpoint_id == endpoint_id, _ACTIVE)
        .order_by(instances.c.created_at)
    ).all()
    if any(row.state == State.IN_SERVICE for row in rows):
        return None
    waiting = [row.cause for row in rows if row.state in (State.PENDING, State.STARTING)]
    return next((cause for cause in waiting if cause != WANTED), None)


def set_pid(connection: Connection, instance_id: str, pid: int) -> None:
    connection.execute(update(instances).where(instances.c.id == instance_id).values(pid=pid))


def see(connection: Connection, peaks: dict[str, int], at: float) -> None:
    """Record that these instances live, and the most memory each has had so far."""
    if peaks:
        connection.execute(
            update(instances)
            .where(instances.c.id == bindparam("instance"))
            .values(seen_at=at, peak_memory_bytes=bindparam("peak")),
            [{"instance": instance, "peak": peak} for instance, peak in peaks.items()],
        )


def tell_starts(connection: Connection, starts: Mapping[str, dict[str, Any]]) -> None:
    """Record how instances started, by id: `{"phases_s", "engine"}`."""
    for instance, start in starts.items():
        connection.execute(update(instances).where(instances.c.id == instance).values(start=start))


def choose(connection: Connection, chosen: Mapping[str, tuple[int, str]]) -> None:
    """Record how many invocations instances work on at a time, and why so many."""
    if chosen:
        connection.execute(
            update(instances)
            .where(
                instances.c.id == bindparam("instance"),
                instances.c.concurrency_cause.is_distinct_from(bindparam("why")),
            )
            .values(concurrency=bindparam("count"), concurrency_cause=bindparam("why")),
            [{"instance": id_, "count": count, "why": why} for id_, (count, why) in chosen.items()],
        )


def active(connection: Connection) -> list[Instance]:
    """All that have not ended, oldest first."""
    rows = connection.execute(
        select(instances).where(_ACTIVE).order_by(instances.c.created_at, instances.c.id)
    )
    return [_instance(row) for row in rows]


def in_service_counts(connection: Connection, endpoint_id: str, generation: int) -> dict[str, int]:
    """How many instances of each variant of that generation are in service; a variant with none is absent."""
    rows = connection.execute(
        select(instances.c.variant, func.count())
        .where(
            instances.c.endpoint_id == endpoint_id,
            instances.c.generation == generation,
            instances.c.state == State.IN_SERVICE,
            _ACTIVE,
        )
        .group_by(instances.c.variant)
    )
    return {row[0]: row[1] for row in rows}


def latest(connection: Connection, endpoint_id: str, limit: int) -> list[Instance]:
    """The endpoint's latest, oldest of them first."""
    rows = connection.execute(
        select(instances)
        .where(instances.c.endpoint_id == endpoint_id)
        .order_by(instances.c.created_at.desc(), instances.c.id.desc())
        .limit(limit)
    )
    return [_instance(row) for row in rows][::-1]


def instance_seconds(connection: Connection, endpoint_id: str, now: float) -> float:
    """Seconds of machine the endpoint's instances have taken, from the start of each to its end, in s."""
    end = func.coalesce(instances.c.ended_at, now)
    total = connection.scalar(
        select(func.sum(end - instances.c.starting_at)).where(instances.c.endpoint_id == endpoint_id)
    )
    return float(total or 0.0)


PEAK = text(
    """
SELECT max(peak_memory_bytes) FROM
 (SELECT peak_memory_bytes FROM instances
   WHERE model_digest = :model_digest AND peak_memory_bytes IS NOT NULL
   ORDER BY created_at DESC LIMIT 20) AS latest
"""
)


def peak_memory_bytes(connection: Connection, model_digest: str) -> int | None:
    """The most memory one of the model's latest instances has had; None when none was measured."""
    peak = connection.scalar(PEAK, {"model_digest": model_digest})
    return None if peak is None else int(peak)


def end_left_over(connection: Connection, cause: str) -> int:
    """Mark Failed what a server that is gone left unended; its time ran until it was last seen."""
    ended = connection.execute(
        update(instances)
        .where(_ACTIVE)
        .values(
            state=State.FAILED,
            cause=cause,
            ended_at=func.coalesce(
                instances.c.seen_at,
                instances.c.in_service_at,
                instances.c.starting_at,
                instances.c.created_at,
            ),
        )
    )
    return ended.rowcount


def _instance(row: Row[Any]) -> Instance:
    values = dict(row._mapping)
    return Instance(**values | {"state": State(values["state"])})
