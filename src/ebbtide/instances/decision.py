"""What the fleet does next: from what the endpoints want and what there is to the moves of one step. Pure."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ebbtide.endpoints import Deployment, Endpoint, Variant
from ebbtide.endpoints.states import CREATING, DELETING, SERVING, UPDATING
from ebbtide.instances.admission import Admitted, Demand, Machine, admit
from ebbtide.instances.plan import Drain, plan, retry_at
from ebbtide.instances.records import WANTED, Instance, State
from ebbtide.instances.types import InstanceTypes

Generation = tuple[str, int]
"""A deployment: endpoint id, generation."""

Key = tuple[str, int, str]
"""What instances are counted by: a deployment and the name of its variant."""


@dataclass(frozen=True, slots=True)
class Failures:
    """A variant's instances that failed: when (ascending, epoch seconds), and why the last one did."""

    at: tuple[float, ...]
    last_cause: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What a step sees.

    instances: all that have not ended, oldest first. busy: ids of those with work in flight.
    prepared, broken: deployments that may start instances, and those that cannot be brought up, with the
    reason. needs: bytes of memory that an instance takes, by model digest.
    """

    at: float
    endpoints: Sequence[Endpoint]
    instances: Sequence[Instance]
    busy: Collection[str]
    prepared: Collection[Generation]
    broken: Mapping[Generation, str]
    failures: Mapping[Key, Failures]
    needs: Mapping[str, int]
    machine: Machine
    drain_timeout_s: float


@dataclass(frozen=True, slots=True)
class Moves:
    """What is to be done: deployments to prepare; instances to add as Pending, to start, to hold or to drain
    with a cause, to abort; endpoints to settle, to fail with a reason, to remove.
    """

    prepare: list[tuple[Endpoint, Deployment]] = field(default_factory=list)
    add: list[Instance] = field(default_factory=list)
    start: list[tuple[Instance, Admitted]] = field(default_factory=list)
    hold: dict[str, str] = field(default_factory=dict)
    drain: list[tuple[Instance, str]] = field(default_factory=list)
    abort: list[str] = field(default_factory=list)
    settle: list[Generation] = field(default_factory=list)
    fail: dict[Generation, str] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)


def deployments_of(endpoint: Endpoint) -> list[Deployment]:
    """The deployments whose instances the endpoint wants now."""
    if endpoint.status != CREATING and endpoint.status not in SERVING:
        return []
    return [endpoint.live] if endpoint.target is None else [endpoint.live, endpoint.target]


def building(endpoint: Endpoint) -> Deployment | None:
    """The deployment that is being brought up for the first time."""
    if endpoint.target is not None:
        return endpoint.target
    return endpoint.live if endpoint.status == CREATING else None


def model_digest(variant: Variant) -> str:
    """What instances that run the same model in the same way have in common."""
    return hashlib.sha256(json.dumps(variant.container, sort_keys=True).encode()).hexdigest()


def decide(seen: Observation, types: InstanceTypes, new_id: Callable[[], str]) -> Moves:
    """The moves of one step. Each is legal from what is seen; what follows from them is the next step's."""
    moves = Moves()
    groups: defaultdict[Key, list[Instance]] = defaultdict(list)
    for instance in seen.instances:
        groups[instance.endpoint_id, instance.generation, instance.variant].append(instance)
    for endpoint in seen.endpoints:
        new = building(endpoint)
        for deployment in deployments_of(endpoint):
            generation = (endpoint.id, deployment.generation)
            if deployment is new and generation in seen.broken:
                moves.fail[generation] = seen.broken[generation]
            elif deployment is new and generation not in seen.prepared:
                moves.prepare.append((endpoint, deployment))
            else:
                for variant in deployment.variants:
                    _count(endpoint, generation, variant, groups, seen, moves, new_id)
    _clear(seen, moves)
    _admit(seen, groups, types, moves)
    _conclude(seen, groups, moves)
    return moves


def _count(
    endpoint: Endpoint,
    generation: Generation,
    variant: Variant,
    groups: Mapping[Key, list[Instance]],
    seen: Observation,
    moves: Moves,
    new_id: Callable[[], str],
) -> None:
    """Add what a variant lacks, drain what it has too many of."""
    group = groups[(*generation, variant.name)]
    for step in plan(variant.desired_instance_count, group, seen.busy):
        if isinstance(step, Drain):
            surplus = next(instance for instance in group if instance.id == step.id)
            moves.drain.append((surplus, f"scaled in to {variant.desired_instance_count}"))
        else:
            added = Instance(
                id=new_id(),
                endpoint_id=endpoint.id,
                generation=generation[1],
                variant=variant.name,
                state=State.PENDING,
                cause=WANTED,
                instance_type=variant.instance_type,
                model_digest=model_digest(variant),
                peak_memory_bytes=None,
                pid=None,
                created_at=seen.at,
                account=endpoint.account,
                endpoint_name=endpoint.name,
            )
            moves.add.append(added)
            group.append(added)


def _clear(seen: Observation, moves: Moves) -> None:
    """Drain what no endpoint wants any more, and end it when its endpoint does not wait for that for ever."""
    by_id = {endpoint.id: endpoint for endpoint in seen.endpoints}
    for instance in seen.instances:
        endpoint = by_id.get(instance.endpoint_id)
        wanted = [] if endpoint is None else [d.generation for d in deployments_of(endpoint)]
        if instance.generation in wanted:
            continue
        if instance.state != State.DRAINING:
            moves.drain.append((instance, _why_unwanted(endpoint)))
        # One that was replaced finishes its work; one whose endpoint is deleted has a bounded time to.
        elif not wanted and seen.at - (instance.draining_at or seen.at) > seen.drain_timeout_s:
            moves.abort.append(instance.id)


def _why_unwanted(endpoint: Endpoint | None) -> str:
    if endpoint is None or endpoint.status == DELETING:
        return "the endpoint is being deleted"
    if endpoint.status not in SERVING:
        return "the endpoint failed"
    return f"generation {endpoint.generation} serves instead"


def _admit(
    seen: Observation, groups: Mapping[Key, list[Instance]], types: InstanceTypes, moves: Moves
) -> None:
    """Start the Pending instances that the machine can hold; say of the others what they wait for."""
    drained = {instance.id for instance, _ in moves.drain}
    new = {(e.id, deployment.generation) for e in seen.endpoints if (deployment := building(e)) is not None}
    pending: list[Instance] = []
    for key, group in groups.items():
        waiting = [i for i in group if i.state == State.PENDING and i.id not in drained]
        failures = seen.failures.get(key)
        if failures is not None and retry_at(failures.at, seen.at) > seen.at:
            for instance in waiting:
                moves.hold[instance.id] = f"waits after a failed start: {failures.last_cause}"
        else:
            pending += waiting
    pending.sort(key=lambda instance: instance.created_at)
    verdicts = admit([_demand(i, groups, seen, types) for i in pending], seen.machine)
    for instance in pending:
        verdict = verdicts[instance.id]
        if isinstance(verdict, Admitted):
            moves.start.append((instance, verdict))
            continue
        generation = (instance.endpoint_id, instance.generation)
        moves.hold[instance.id] = verdict.cause
        if verdict.hopeless and generation in new:
            # Waiting would never end. Clients look for the word CapacityError.
            moves.fail[generation] = (
                f"CapacityError: an instance of type {instance.instance_type} {verdict.cause}."
            )


def _demand(
    instance: Instance, groups: Mapping[Key, list[Instance]], seen: Observation, types: InstanceTypes
) -> Demand:
    siblings = groups[instance.endpoint_id, instance.generation, instance.variant]
    return Demand(
        instance.id,
        memory_bytes=seen.needs[instance.model_digest],
        gpus=types.get(instance.instance_type or "").gpus,
        running=sum(i.state in (State.STARTING, State.IN_SERVICE) for i in siblings),
    )


def _conclude(seen: Observation, groups: Mapping[Key, list[Instance]], moves: Moves) -> None:
    """Settle the endpoints whose instances are as wanted, remove the deleted ones that have none left."""
    starting = {instance.id for instance, _ in moves.start}
    unprepared = {(endpoint.id, deployment.generation) for endpoint, deployment in moves.prepare}
    occupied = {instance.endpoint_id for instance in seen.instances}
    for endpoint in seen.endpoints:
        if endpoint.status == DELETING and endpoint.id not in occupied:
            moves.remove.append(endpoint.id)
        if endpoint.status not in (CREATING, UPDATING):
            continue
        deployment = endpoint.target or endpoint.live
        generation = (endpoint.id, deployment.generation)
        if generation in unprepared or generation in moves.fail:
            continue
        # An endpoint that serves already goes on doing so while some instances wait for the machine.
        serves = building(endpoint) is None
        if all(
            _settled(variant, groups[(*generation, variant.name)], starting, serves)
            for variant in deployment.variants
        ):
            moves.settle.append(generation)


def _settled(variant: Variant, group: Iterable[Instance], starting: Collection[str], serves: bool) -> bool:
    states = [State.STARTING if i.id in starting else i.state for i in group]
    if State.STARTING in states:
        return False
    in_service = states.count(State.IN_SERVICE)
    return in_service >= variant.desired_instance_count or in_service > 0 or serves
