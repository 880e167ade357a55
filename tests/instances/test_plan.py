"""From desired and running to what is done: who starts, who goes first, who waits after failures."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.instances.plan import MAX_RETRY_DELAY_S, Drain, Start, plan, retry_at
from ebbtide.instances.records import Instance, State

PENDING, STARTING, IN_SERVICE, DRAINING = State.PENDING, State.STARTING, State.IN_SERVICE, State.DRAINING


def instance(name: str, state: State, created_at: float = 0.0) -> Instance:
    return Instance(
        id=name,
        endpoint_id="endpoint",
        generation=1,
        variant="main",
        state=state,
        cause="",
        instance_type="ml.m5.xlarge",
        model_digest="model",
        peak_memory_bytes=None,
        pid=None,
        created_at=created_at,
    )


@pytest.mark.parametrize(
    ("desired", "there", "busy", "steps"),
    [
        pytest.param(2, [], (), [Start(), Start()], id="what is missing starts"),
        pytest.param(1, [("a", PENDING, 1)], (), [], id="one that waits for room is there already"),
        pytest.param(1, [("a", DRAINING, 1)], (), [Start()], id="one that drains does not count"),
        pytest.param(0, [("a", DRAINING, 1)], (), [], id="one that drains is not drained again"),
        pytest.param(
            0,
            [("a", IN_SERVICE, 1), ("b", STARTING, 2), ("c", PENDING, 3)],
            (),
            [Drain("c"), Drain("b"), Drain("a")],
            id="what does not serve yet goes first",
        ),
        pytest.param(
            1,
            [("old", IN_SERVICE, 1), ("young", IN_SERVICE, 2)],
            (),
            [Drain("young")],
            id="of two idle ones the younger goes",
        ),
        pytest.param(
            1,
            [("idle", IN_SERVICE, 1), ("busy", IN_SERVICE, 2)],
            ("busy",),
            [Drain("idle")],
            id="an idle one goes before a busy one, though it is older",
        ),
        pytest.param(
            1,
            [("serving", IN_SERVICE, 2), ("starting", STARTING, 1)],
            (),
            [Drain("starting")],
            id="one that serves is kept before one that starts, though it is younger",
        ),
    ],
)
def test_the_plan(desired, there, busy, steps):
    assert plan(desired, [instance(*of) for of in there], busy) == steps


@given(
    desired=st.integers(0, 6),
    states=st.lists(st.sampled_from([PENDING, STARTING, IN_SERVICE, DRAINING]), max_size=6),
)
def test_after_the_plan_the_desired_count_is_there(desired, states):
    there = [instance(str(n), state, created_at=n) for n, state in enumerate(states)]

    steps = plan(desired, there)

    drained = {step.id for step in steps if isinstance(step, Drain)}
    kept = [i for i in there if i.state != DRAINING and i.id not in drained]
    assert len(kept) + sum(isinstance(step, Start) for step in steps) == desired
    assert drained <= {i.id for i in there if i.state != DRAINING}


@pytest.mark.parametrize(
    ("failures", "wait_s"),
    [
        pytest.param([], 0, id="nothing failed: now"),
        pytest.param([100], 0, id="the first failure is replaced at once"),
        pytest.param([99, 100], 1, id="the second waits a second"),
        pytest.param([98, 99, 100], 2, id="each further one twice as long"),
        pytest.param([100 - n for n in range(30, -1, -1)], MAX_RETRY_DELAY_S, id="at most a minute"),
        pytest.param([-900, -800, 100], 0, id="old failures are forgiven"),
    ],
)
def test_the_wait_after_failures(failures, wait_s):
    assert retry_at(failures, now=100.0) == 100.0 + wait_s
