"""What the machine can hold: memory that models really take, and the GPUs there are."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.instances.admission import (
    GIB,
    RUNTIME_BYTES,
    UNKNOWN_MODEL_BYTES,
    Admitted,
    Demand,
    Held,
    Machine,
    admit,
    expected_bytes,
    free_memory_bytes,
    reserve_bytes,
    threads,
)

MACHINE = Machine(capacity_bytes=16 * GIB, free_bytes=8 * GIB, gpus=0, free_gpus=())


def demand(name: str, gib: float = 1, gpus: int = 0, running: int = 0) -> Demand:
    return Demand(name, memory_bytes=int(gib * GIB), gpus=gpus, running=running)


def admitted(demands: list[Demand], machine: Machine = MACHINE) -> list[str]:
    return [name for name, verdict in admit(demands, machine).items() if isinstance(verdict, Admitted)]


def test_as_many_are_admitted_as_the_free_memory_holds():
    verdicts = admit([demand("a", 3), demand("b", 3), demand("c", 3)], MACHINE)

    assert verdicts == {
        "a": Admitted(()),
        "b": Admitted(()),
        "c": Held("waits for 3.0 GiB of memory: 2.0 GiB are free", hopeless=False),
    }


def test_what_does_not_fit_holds_up_none_behind_it():
    assert admitted([demand("large", 9), demand("small", 1)]) == ["small"]


def test_each_variant_gets_its_first_instance_before_another_its_fifth():
    assert admitted([demand("fifth", 5, running=4), demand("first", 5, running=0)]) == ["first"]


def test_a_model_that_is_expected_to_need_more_than_the_machine_has_may_try_alone():
    empty = replace(MACHINE, free_bytes=MACHINE.capacity_bytes)

    assert admitted([demand("huge", 40)], empty) == ["huge"]
    assert admitted([demand("huge", 40)], MACHINE) == []


def test_gpus_are_given_to_one_instance_each():
    machine = replace(MACHINE, gpus=2, free_gpus=(0, 1))

    verdicts = admit([demand("a", gpus=1), demand("b", gpus=1), demand("c", gpus=1)], machine)

    assert verdicts == {
        "a": Admitted((0,)),
        "b": Admitted((1,)),
        "c": Held("waits for 1 GPU: 0 of 2 are free", hopeless=False),
    }


def test_more_gpus_than_the_machine_has_are_hopeless():
    assert admit([demand("a", gpus=4)], MACHINE) == {
        "a": Held("needs 4 GPUs, and this machine has none", hopeless=True)
    }


@given(
    needs=st.lists(st.integers(0, 20 * GIB), max_size=8),
    free=st.integers(0, 16 * GIB),
)
def test_never_more_memory_is_given_than_is_free(needs, free):
    demands = [Demand(str(n), need, gpus=0, running=0) for n, need in enumerate(needs)]

    given_to = admitted(demands, replace(MACHINE, free_bytes=free))

    assert sum(min(needs[int(name)], MACHINE.capacity_bytes) for name in given_to) <= free


@pytest.mark.parametrize(
    ("capacity", "available", "promised", "free"),
    [
        pytest.param(10, 8, [], 8, id="what the machine has available"),
        pytest.param(10, 8, [(3, 1)], 6, id="less what a starting one will still take"),
        pytest.param(10, 8, [(3, 5)], 8, id="what a running one took is missing from it already"),
        pytest.param(10, 1, [(3, 0)], 0, id="never less than nothing"),
        pytest.param(10, None, [(3, 1), (2, 4)], 3, id="under an operator's limit only instances count"),
    ],
)
def test_the_memory_that_is_free(capacity, available, promised, free):
    assert free_memory_bytes(capacity_bytes=capacity, available_bytes=available, promised=promised) == free


@pytest.mark.parametrize(
    ("peak", "files", "expected"),
    [
        pytest.param(700, 10 * GIB, 700, id="what its former instances took, when it was measured"),
        pytest.param(None, 4 * GIB, RUNTIME_BYTES + 5 * GIB, id="else its files and a quarter"),
        pytest.param(None, 0, RUNTIME_BYTES, id="a built-in model is the runtime alone"),
        pytest.param(None, None, UNKNOWN_MODEL_BYTES, id="a model of unknown size"),
    ],
)
def test_the_memory_an_instance_is_expected_to_take(peak, files, expected):
    assert expected_bytes(peak_bytes=peak, model_bytes=files) == expected


@pytest.mark.parametrize(
    ("cores", "vcpus", "instances", "count"),
    [
        pytest.param(8, 16, 2, 4, id="the cores are shared by all instances"),
        pytest.param(2, 4, 5, 1, id="each has one at least"),
        pytest.param(8, 2, 1, 2, id="a small type has few, though nobody else wants them"),
        pytest.param(8, None, 0, 8, id="an unknown type may have all"),
    ],
)
def test_the_threads_of_a_model_server(cores, vcpus, instances, count):
    assert threads(cores=cores, vcpus=vcpus, expected_instances=instances) == count


def test_a_tenth_of_the_memory_and_at_most_a_gibibyte_is_left_to_the_machine():
    assert reserve_bytes(4 * GIB) == 4 * GIB // 10
    assert reserve_bytes(64 * GIB) == GIB
