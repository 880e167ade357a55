"""Step policies, alarms and recorded metrics in virtual time."""

import asyncio
import itertools
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebbtide import metrics
from ebbtide.identifiers import ACCOUNT
from ebbtide.metrics import Point
from ebbtide.metrics.alarm_states import Alarm
from ebbtide.metrics.evaluation import INSUFFICIENT_DATA
from ebbtide.metrics.query import Metric, statistics
from ebbtide.queue import Backlog
from ebbtide.scaling.configurations import Resource
from ebbtide.scaling.policies import Limits, TargetTracking
from ebbtide.scaling.targets import Policy
from ebbtide.simulation.engine import simulate
from ebbtide.simulation.load import Arrival, load, storm
from ebbtide.simulation.setting import Fleet, Scaling
from ebbtide.simulation.watch import NotSimulated, Watch, check

RESOURCE = Resource("summaries", "v")
POLICY_ARN = "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:1:resource/sagemaker/e:policyName/"
BY_ENDPOINT = [{"Name": "EndpointName", "Value": "summaries"}]


def stepping(name: str, adjustment: int, **configuration: object) -> Policy:
    bound = "MetricIntervalLowerBound" if adjustment > 0 else "MetricIntervalUpperBound"
    steps = [{bound: 0.0, "ScalingAdjustment": adjustment}]
    given = {"AdjustmentType": "ChangeInCapacity", "StepAdjustments": steps, "Cooldown": 60} | configuration
    return Policy(POLICY_ARN + name, "", name, "StepScaling", given, 0.0, 0.0)


def alarm(policy: Policy, **definition: object) -> Alarm:
    given = {
        "AlarmName": f"of {policy.name}",
        "Namespace": "AWS/SageMaker",
        "MetricName": "ApproximateBacklogSize",
        "Dimensions": BY_ENDPOINT,
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 1,
        "Threshold": 10.0,
        "ComparisonOperator": "GreaterThanThreshold",
        "AlarmActions": [policy.arn],
    } | definition
    return Alarm(
        account="",
        name=given["AlarmName"],
        arn="",
        region="",
        definition=given,
        actions_enabled=True,
        configured_at=0.0,
        state=INSUFFICIENT_DATA,
        previous_state=INSUFFICIENT_DATA,
        reason="",
        reason_data=None,
        state_updated_at=0.0,
        transitioned_at=0.0,
        actions_due_at=None,
    )


NUMBERS = itertools.count()

OUT = stepping("out", 2)
OUT_ALARM = alarm(OUT)
IN = stepping("in", -1)
IN_ALARM = alarm(IN, ComparisonOperator="LessThanOrEqualToThreshold", Threshold=0.0, EvaluationPeriods=2)
STEPS = Scaling(
    "steps",
    Limits(0, 5),
    stepping=(OUT, IN),
    alarms=(OUT_ALARM, IN_ALARM),
    resource=RESOURCE,
)


def test_step_policies_scale_out_while_their_alarm_lasts_and_in_when_another_does():
    """One instance wakes with the first request; then two more a minute, and one less a minute."""
    run = simulate(load(storm(3_000, over_s=60), service_s=0.5), Fleet(), STEPS)

    counts = [decision.desired for _, decision in run.decisions]
    assert counts == [1, 3, 5, 4, 3, 2, 1, 0]
    causes = [decision.cause for _, decision in run.decisions]
    assert causes[0] == "a request arrived while there was no instance"
    assert causes[1] == "monitor alarm of out in state ALARM triggered policy out"
    assert causes[-1] == "monitor alarm of in in state ALARM triggered policy in"
    assert all(at is not None for at in run.finished_at)
    # A minute's backlog is known two seconds after it; the alarm's action comes again each minute.
    (_, _), (first, _), (second, _), *_ = run.decisions
    assert first % 60 == 2.0
    assert second - first == 60.0


def test_an_alarm_whose_actions_are_disabled_scales_nothing():
    disabled = replace(STEPS, alarms=(replace(OUT_ALARM, actions_enabled=False),))

    run = simulate(load(storm(300, over_s=30), service_s=0.5), Fleet(), disabled)

    assert [decision.desired for _, decision in run.decisions] == [1]


def test_a_policy_on_a_recorded_metric_follows_its_minutes():
    """Eight requests a minute and instance: 3 minutes above it are needed, 15 below."""
    tracking = TargetTracking("invocations", 8.0, 60, 60, False, since=0.0)
    dimensions = [*BY_ENDPOINT, {"Name": "VariantName", "Value": "v"}]
    metric = {"Namespace": "AWS/SageMaker", "MetricName": "InvocationsPerInstance", "Dimensions": dimensions}
    queries = [{"Id": "m1", "MetricStat": {"Metric": metric, "Stat": "Sum", "Period": 60}}]
    scaling = Scaling("invocations", Limits(0, 5), stored=((tracking, queries),), resource=RESOURCE)
    made = load([Arrival(number * 2.5, 0.1) for number in range(200)])

    run = simulate(made, Fleet(), scaling)

    # The fourth comes since a part of the minute's requests still counted for one instance alone.
    assert [(at, decision.desired) for at, decision in run.decisions] == [
        (0.0, 1),
        (180.0, 3),
        (240.0, 4),
        (240.0 + 15 * 60, 0),
    ]
    assert run.decisions[1][1].cause == "policy invocations: metric at 24, target 8"


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        pytest.param({"MetricName": "CPUUtilization"}, "AWS/SageMaker CPUUtilization", id="of instances"),
        pytest.param({"Namespace": "Mine", "MetricName": "Level"}, "Mine Level", id="a client's own"),
        pytest.param(
            {"Dimensions": [{"Name": "EndpointName", "Value": "others"}]},
            "EndpointName=others",
            id="another's",
        ),
    ],
)
def test_a_metric_that_only_others_could_tell_is_named(metric, words):
    with pytest.raises(NotSimulated) as caught:
        check("The alarm high", alarm(OUT, **metric).queries, RESOURCE)

    assert words in str(caught.value)
    assert str(caught.value).startswith("The alarm high follows")


def test_what_the_queue_itself_tells_is_simulated():
    check("The alarm", OUT_ALARM.queries, RESOURCE)


@given(
    st.lists(st.tuples(st.integers(1, 400), st.integers(0, 50), st.integers(0, 3)), min_size=1, max_size=30),
    st.sampled_from([1, 10, 60, 300]),
    st.sampled_from(["Average", "Sum", "Maximum", "SampleCount", "p90", "tm50"]),
)
@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    deadline=None,
)
def test_statistics_are_those_of_the_database(database, gauges, period_s, statistic):
    """database: the server's own, with an endpoint of another name for each example."""
    name = f"e{next(NUMBERS)}"
    metric = Metric("AWS/SageMaker", "ApproximateBacklogSize", (("EndpointName", name),))
    query = {
        "Id": "m1",
        "MetricStat": {
            "Metric": {
                "Namespace": metric.namespace,
                "MetricName": metric.name,
                "Dimensions": [{"Name": "EndpointName", "Value": name}],
            },
            "Stat": statistic,
            "Period": period_s,
        },
    }
    watch = Watch(Resource(name, "v"), (), [[query]])
    gauges = sorted(gauges)
    points = []
    for at, queued, claimed in gauges:
        watch.gauge(Backlog(queued, claimed, 0.0), 1, at=at)
        points.append(
            Point(ACCOUNT, metric.namespace, metric.name, metric.dimensions, queued + claimed, "Count", at)
        )

    asyncio.run(database.write(lambda c: metrics.record(c, points)))
    read = partial(
        statistics, account=ACCOUNT, metric=metric, statistic=statistic, period_s=period_s, start=0, end=390
    )
    kept = asyncio.run(database.read(lambda c: read(c)))

    found = watch.statistics(metric, statistic, period_s=period_s, start=0, end=390)
    assert found == pytest.approx(kept)
