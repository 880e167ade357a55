"""What the fleet does in one step, from what the endpoints want and what there is."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.endpoints import Deployment, Endpoint, Variant
from ebbtide.endpoints.states import CREATING, DELETING, FAILED, IN_SERVICE, UPDATING
from ebbtide.instances.admission import GIB, Machine
from ebbtide.instances.decision import Failures, Moves, Observation, decide, model_digest
from ebbtide.instances.records import LEGAL_MOVES, Instance, State
from ebbtide.instances.types import InstanceTypes

TYPES = InstanceTypes()
MODEL = {"PrimaryContainer": {"Image": "huggingface-pytorch-inference"}}
NOW = 1000.0


def variant(desired: int, *, name: str = "main", instance_type: str = "ml.m5.xlarge") -> Variant:
    config = {"VariantName": name, "InstanceType": instance_type}
    return Variant(name, MODEL, config, instance_type, desired, 1.0, 1.0)


def deployment(desired: int, generation: int = 1, **given: Any) -> Deployment:
    return Deployment(generation, {"EndpointConfigName": "c"}, (variant(desired, **given),), started_at=0.0)


def endpoint(status: str, live: Deployment, target: Deployment | None = None) -> Endpoint:
    return Endpoint("e", "123456789012", "summaries", "arn", status, None, live, target, None, 0.0, 0.0)


def instance(state: State, *, name: str = "i", generation: int = 1, **given: Any) -> Instance:
    return Instance(
        **{
            "id": name,
            "endpoint_id": "e",
            "generation": generation,
            "variant": "main",
            "state": state,
            "cause": "",
            "instance_type": "ml.m5.xlarge",
            "model_digest": model_digest(variant(1)),
            "peak_memory_bytes": None,
            "pid": None,
            "created_at": 0.0,
        }
        | given
    )


def seen(endpoints: list[Endpoint], instances: Sequence[Instance] = (), **given: Any) -> Observation:
    return Observation(
        **{
            "at": NOW,
            "endpoints": endpoints,
            "instances": instances,
            "busy": (),
            "prepared": {("e", 1), ("e", 2)},
            "broken": {},
            "failures": {},
            "needs": {model_digest(variant(1)): GIB},
            "machine": Machine(capacity_bytes=4 * GIB, free_bytes=2 * GIB, gpus=0, free_gpus=()),
            "drain_timeout_s": 60.0,
        }
        | given
    )


def moves(observation: Observation) -> Moves:
    names = count()
    return decide(observation, TYPES, lambda: f"new-{next(names)}")


def drained(made: Moves) -> dict[str, str]:
    return {instance.id: cause for instance, cause in made.drain}


def started(made: Moves) -> list[str]:
    return [instance.id for instance, _ in made.start]


def test_a_new_deployment_is_prepared_before_any_of_its_instances_exist():
    new = endpoint(CREATING, deployment(2))

    assert moves(seen([new], prepared=())) == Moves(prepare=[(new, new.live)])


def test_a_prepared_deployment_gets_its_instances():
    made = moves(seen([endpoint(CREATING, deployment(2))]))

    assert [i.id for i in made.add] == started(made) == ["new-0", "new-1"]
    assert made.settle == []


def test_a_new_deployment_without_instances_is_settled_once_it_is_prepared():
    assert moves(seen([endpoint(CREATING, deployment(0))])) == Moves(settle=[("e", 1)])


def test_what_cannot_be_prepared_or_started_fails_with_its_reason():
    made = moves(seen([endpoint(CREATING, deployment(2))], broken={("e", 1): "no such model"}))

    assert made == Moves(fail={("e", 1): "no such model"})


def test_an_endpoint_that_has_served_is_not_failed_by_an_instance_that_does_not_come_up():
    made = moves(seen([endpoint(UPDATING, deployment(1))], broken={("e", 1): "out of memory"}))

    assert made.fail == {}
    assert started(made) == ["new-0"]


def test_an_endpoint_is_settled_when_its_instances_are_in_service():
    starting = seen([endpoint(UPDATING, deployment(1))], [instance(State.STARTING)])
    there = seen([endpoint(UPDATING, deployment(1))], [instance(State.IN_SERVICE)])

    assert moves(starting) == Moves()
    assert moves(there) == Moves(settle=[("e", 1)])


def test_what_the_machine_cannot_hold_waits_with_a_cause_and_the_endpoint_serves_meanwhile():
    made = moves(seen([endpoint(UPDATING, deployment(3))]))
    then = moves(
        seen(
            [endpoint(UPDATING, deployment(3))],
            [instance(State.IN_SERVICE, name=name) for name in "ab"] + [instance(State.PENDING, name="c")],
            machine=Machine(capacity_bytes=4 * GIB, free_bytes=0, gpus=0, free_gpus=()),
        )
    )

    assert started(made) == ["new-0", "new-1"]
    assert made.hold == {"new-2": "waits for 1.0 GiB of memory: 0.00 GiB are free"}
    assert made.settle == []
    assert then.hold == {"c": "waits for 1.0 GiB of memory: 0.00 GiB are free"}
    assert then.settle == [("e", 1)]


def test_a_new_endpoint_waits_for_its_first_instance():
    full = Machine(capacity_bytes=4 * GIB, free_bytes=0, gpus=0, free_gpus=())

    made = moves(seen([endpoint(CREATING, deployment(1))], machine=full))

    assert list(made.hold) == ["new-0"]
    assert (made.settle, made.fail) == ([], {})


def test_a_new_endpoint_whose_type_the_machine_can_never_hold_fails():
    new = endpoint(CREATING, deployment(1, instance_type="ml.g4dn.xlarge"))

    assert moves(seen([new])).fail == {
        ("e", 1): "CapacityError: an instance of type ml.g4dn.xlarge needs 1 GPU, and this machine has none."
    }


def test_an_update_comes_up_beside_what_serves():
    old = instance(State.IN_SERVICE, name="old")
    updating = endpoint(UPDATING, deployment(1), deployment(1, generation=2))

    made = moves(seen([updating], [old]))

    assert [(i.id, i.generation) for i in made.add] == [("new-0", 2)]
    assert (made.drain, made.settle) == ([], [])


def test_an_update_is_settled_when_its_own_instances_serve_and_the_old_ones_are_drained_then():
    old = instance(State.IN_SERVICE, name="old")
    new = instance(State.IN_SERVICE, name="new", generation=2)
    before = endpoint(UPDATING, deployment(1), deployment(1, generation=2))
    after = endpoint(IN_SERVICE, deployment(1, generation=2))

    assert moves(seen([before], [old, new])) == Moves(settle=[("e", 2)])
    assert drained(moves(seen([after], [old, new]))) == {"old": "generation 2 serves instead"}


def test_an_update_that_cannot_come_up_fails_and_leaves_what_serves():
    old = instance(State.IN_SERVICE, name="old")
    updating = endpoint(UPDATING, deployment(1), deployment(1, generation=2))

    made = moves(seen([updating], [old], broken={("e", 2): "no such model"}))

    assert made == Moves(fail={("e", 2): "no such model"})


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        pytest.param(DELETING, "the endpoint is being deleted", id="deleted"),
        pytest.param(FAILED, "the endpoint failed", id="failed"),
    ],
)
def test_an_endpoint_that_is_no_more_has_its_instances_drained(status, cause):
    made = moves(seen([endpoint(status, deployment(1))], [instance(State.IN_SERVICE)]))

    assert drained(made) == {"i": cause}
    assert made.remove == []


def test_instances_of_an_unknown_endpoint_are_drained():
    assert drained(moves(seen([], [instance(State.STARTING)]))) == {"i": "the endpoint is being deleted"}


def test_a_deleted_endpoint_is_removed_when_its_last_instance_has_ended():
    assert moves(seen([endpoint(DELETING, deployment(1))])) == Moves(remove=["e"])


@pytest.mark.parametrize(
    ("status", "draining_at", "aborted"),
    [
        pytest.param(DELETING, NOW - 59, [], id="work in flight has its time"),
        pytest.param(DELETING, NOW - 61, ["i"], id="and no more"),
        pytest.param(IN_SERVICE, NOW - 3600, [], id="scaled in, it has all the time it needs"),
    ],
)
def test_a_drain_is_bounded_only_when_the_endpoint_goes(status, draining_at, aborted):
    draining = instance(State.DRAINING, draining_at=draining_at)

    assert moves(seen([endpoint(status, deployment(0))], [draining])).abort == aborted


def test_what_failed_twice_waits_before_it_starts_again():
    failures = {("e", 1, "main"): Failures((NOW - 2.5, NOW - 0.5), "exited with status 1")}

    made = moves(seen([endpoint(IN_SERVICE, deployment(1))], failures=failures))

    assert made.start == []
    assert made.hold == {"new-0": "waits after a failed start: exited with status 1"}


@given(
    status=st.sampled_from([CREATING, IN_SERVICE, UPDATING, FAILED, DELETING]),
    desired=st.integers(0, 3),
    target=st.none() | st.integers(0, 3),
    there=st.lists(
        st.tuples(
            st.sampled_from([State.PENDING, State.STARTING, State.IN_SERVICE, State.DRAINING]),
            st.integers(1, 3),
        ),
        max_size=6,
    ),
)
def test_every_move_is_legal_from_where_the_instance_is(status, desired, target, there):
    wanted = endpoint(
        status,
        deployment(desired),
        deployment(target, generation=2) if target is not None and status == UPDATING else None,
    )
    instances = [
        instance(state, name=str(n), generation=generation, draining_at=NOW)
        for n, (state, generation) in enumerate(there)
    ]

    made = moves(seen([wanted], instances))

    added = {i.id: replace(i) for i in made.add}
    state_of = {i.id: i.state for i in instances} | {name: i.state for name, i in added.items()}
    for name in started(made):
        assert State.STARTING in LEGAL_MOVES[state_of[name]]
    for name in drained(made):
        assert LEGAL_MOVES[state_of[name]] & {State.DRAINING, State.STOPPED}
        assert name not in started(made)
    assert not (set(made.hold) & set(started(made)))
