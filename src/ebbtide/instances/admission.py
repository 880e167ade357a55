"""What the machine can hold: pure rules, on what models really take.

The price of an instance follows from its type; its room on this machine does not. Cores are shared by all
instances, memory and GPUs are not: an instance starts when what it is known or expected to need is free.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

GIB = 2**30

RUNTIME_BYTES = 256 * 2**20
"""A model server before it has a model: interpreter, engine, tokenizer, a request's working memory."""

UNKNOWN_MODEL_BYTES = 2 * GIB
"""A model of unknown size, which only its first instance will measure."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is for instances. `capacity_bytes` is all they may ever take together, `free_bytes` what is
    left of it now; `gpus` are all there are, `free_gpus` the indices of those nobody has.
    """

    capacity_bytes: int
    free_bytes: int
    gpus: int
    free_gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Demand:
    """A Pending instance's needs. `running` counts its variant's instances that have been admitted before."""

    instance_id: str
    memory_bytes: int
    gpus: int
    running: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """It may start, on these GPUs."""

    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """It waits; `hopeless` when this machine could not hold it even if it were empty."""

    cause: str
    hopeless: bool


def admit(demands: Sequence[Demand], machine: Machine) -> dict[str, Admitted | Held]:
    """Say for each Pending instance, given oldest first, whether it starts now or what it waits for.

    Variants with the fewest instances running come first, so that each gets its first before another its
    fifth. One that does not fit holds up none behind it.
    """
    free_bytes, free_gpus = machine.free_bytes, machine.free_gpus
    verdicts: dict[str, Admitted | Held] = {}
    for demand in sorted(demands, key=lambda demand: demand.running):
        # One that is expected to need more than there is gets the whole machine: the guess may be wrong.
        memory_bytes = min(demand.memory_bytes, machine.capacity_bytes)
        if demand.gpus > machine.gpus:
            cause = f"needs {_gpus(demand.gpus)}, and this machine has {machine.gpus or 'none'}"
            verdicts[demand.instance_id] = Held(cause, hopeless=True)
        elif demand.gpus > len(free_gpus):
            cause = f"waits for {_gpus(demand.gpus)}: {len(free_gpus)} of {machine.gpus} are free"
            verdicts[demand.instance_id] = Held(cause, hopeless=False)
        elif memory_bytes > free_bytes:
            cause = f"waits for {_size(memory_bytes)} of memory: {_size(free_bytes)} are free"
            verdicts[demand.instance_id] = Held(cause, hopeless=False)
        else:
            verdicts[demand.instance_id] = Admitted(free_gpus[: demand.gpus])
            free_gpus = free_gpus[demand.gpus :]
            free_bytes -= memory_bytes
    return verdicts


def free_memory_bytes(
    *, capacity_bytes: int, available_bytes: int | None, promised: Collection[tuple[int, int]]
) -> int:
    """What new instances may take.

    promised: needs and present memory of each running instance. available_bytes: what the machine could give
    now, reserve taken off; None when the operator has set the limit, which then alone counts.
    """
    if available_bytes is None:
        return max(0, capacity_bytes - sum(max(needed, present) for needed, present in promised))
    # What runs is missing from the available memory already; only what it will still grow by is not.
    return max(0, available_bytes - sum(max(0, needed - present) for needed, present in promised))


def expected_bytes(*, peak_bytes: int | None, model_bytes: int | None) -> int:
    """What an instance will take: what its model's former instances took, else a guess from its files.

    model_bytes: size of the model's files; None when they are not here yet.
    """
    if peak_bytes is not None:
        return peak_bytes
    if model_bytes is None:
        return UNKNOWN_MODEL_BYTES
    return RUNTIME_BYTES + model_bytes + model_bytes // 4


def capacity_bytes(*, total_bytes: int, limit_bytes: int | None) -> int:
    """What all instances may take together: the operator's limit, else the machine's less the reserve."""
    return total_bytes - reserve_bytes(total_bytes) if limit_bytes is None else limit_bytes


def reserve_bytes(total_bytes: int) -> int:
    """Memory that instances leave to the server and the machine."""
    return min(GIB, total_bytes // 10)


def threads(*, cores: int, vcpus: int | None, expected_instances: int) -> int:
    """Computing threads of one model server: its share of the cores, at most its type's, at least 1."""
    share = max(1, cores // max(1, expected_instances))
    return share if vcpus is None else min(share, max(1, vcpus))


def _size(size_bytes: int) -> str:
    # In words coarse enough not to be another cause each second.
    return f"{size_bytes / GIB:.1f} GiB" if size_bytes >= GIB else f"{size_bytes / GIB:.2f} GiB"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"
