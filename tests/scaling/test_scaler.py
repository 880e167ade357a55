"""The scaler's step over a real database: what it reads, writes and records, with time as an argument."""

import json
import os
from dataclasses import dataclass, field

import pytest

from ebbtide import endpoints, metrics, queue
from ebbtide.database import Database
from ebbtide.endpoints import catalogue
from ebbtide.errors import ServiceError
from ebbtide.instances import records as instances
from ebbtide.metrics.alarms import Alarm
from ebbtide.metrics.query import Metric, statistics
from ebbtide.queue import invocations
from ebbtide.queue.wakeups import Wakeups
from ebbtide.scaling import targets
from ebbtide.scaling.scaler import Scaler

ACCOUNT, REGION = "123456789012", "us-east-1"
NOW = 1_800_000_000.0
POLICY_ARN = "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:1:policyName/scaling"
TRACKING = {
    "TargetValue": 5.0,
    "CustomizedMetricSpecification": {
        "MetricName": "ApproximateBacklogSizePerInstance",
        "Namespace": "AWS/SageMaker",
        "Dimensions": [{"Name": "EndpointName", "Value": "summaries"}],
        "Statistic": "Average",
    },
    "ScaleInCooldown": 120,
}
STEPS = {
    "AdjustmentType": "ChangeInCapacity",
    "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 2}],
}


@dataclass
class World:
    """A database with one endpoint, its scalable target and its scaler."""

    database: Database
    scaler: Scaler
    endpoint_id: str
    fleet_wakes: list[None] = field(default_factory=list)

    async def endpoint(self) -> endpoints.Endpoint:
        found = await self.database.read(lambda c: endpoints.find_endpoint(c, self.endpoint_id))
        assert found is not None
        return found

    async def desired(self) -> int:
        return (await self.endpoint()).variants[0].desired_instance_count

    async def settle(self, at: float) -> None:
        await self.database.write(lambda c: endpoints.settle(c, self.endpoint_id, 1, at))

    async def arrive(self, count: int, at: float) -> None:
        arrived = [invocation(f"{at}-{number}", self.endpoint_id, at) for number in range(count)]
        await self.database.write(lambda c: invocations.accept(c, arrived))

    async def work_off(self, at: float) -> None:
        await self.database.write(lambda c: queue.drop_endpoint(c, self.endpoint_id))

    async def serve(self, count: int, at: float) -> None:
        def add(connection):
            for number in range(count):
                instances.add(connection, in_service(f"i-{at}-{number}", self.endpoint_id, at))

        await self.database.write(add)

    async def put_policy(self, type_: str, configuration: dict) -> None:
        def put(connection):
            target = targets.get_target(connection, ACCOUNT, "endpoint/summaries/variant/main")
            targets.put_policy(
                connection,
                targets.Policy(POLICY_ARN, target.id, "scaling", type_, configuration, NOW - 900, NOW - 900),
            )

        await self.database.write(put)

    async def activities(self) -> list[targets.Activity]:
        """Newest first."""
        return await self.database.read(
            lambda c: targets.activities_of(c, ACCOUNT, None, limit=50, before_id=None)
        )

    async def gauge(self, name: str, at: float) -> float | None:
        metric = Metric("AWS/SageMaker", name, (("EndpointName", "summaries"),))
        values = await self.database.read(
            lambda c: statistics(c, metric, "Average", period_s=1, start=int(at), end=int(at) + 1)
        )
        return values.get(int(at))


def invocation(id_: str, endpoint_id: str, at: float) -> invocations.Invocation:
    return invocations.Invocation(
        id=id_,
        inference_id=id_,
        account=ACCOUNT,
        endpoint_id=endpoint_id,
        accepted_at=at,
        expires_at=at + 21_600,
        timeout_s=900,
        input_uri=None,
        content_type=None,
        accept=None,
        custom_attributes=None,
        output_uri=f"s3://out/{id_}.out",
        failure_uri=None,
        body=b"text",
    )


def in_service(id_: str, endpoint_id: str, at: float) -> instances.Instance:
    return instances.Instance(
        id=id_,
        endpoint_id=endpoint_id,
        generation=1,
        variant="main",
        state=instances.State.IN_SERVICE,
        cause="",
        instance_type="ml.m5.xlarge",
        model_digest="digest",
        peak_memory_bytes=None,
        pid=os.getpid(),
        created_at=at,
        in_service_at=at,
    )


def create_endpoint(connection) -> str:
    """An asynchronous endpoint at zero instances, InService, that may scale up to 5."""
    catalogue.create_model(connection, endpoints.Model(ACCOUNT, "model", "arn:model", {"Image": "i"}, NOW))
    given = {
        "EndpointConfigName": "config",
        "ProductionVariants": [{"VariantName": "main", "ModelName": "model", "InstanceType": "ml.m5.xlarge"}],
        "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://out/results"}},
    }
    config = endpoints.EndpointConfig(ACCOUNT, "config", "arn:config", given, NOW)
    catalogue.create_endpoint_config(connection, config)
    endpoint = endpoints.create_endpoint(connection, config, "summaries", region=REGION, at=NOW - 1000)
    endpoints.settle(connection, endpoint.id, 1, at=NOW - 1000)
    targets.add_target(
        connection,
        targets.ScalableTarget(
            id="target",
            account=ACCOUNT,
            resource_id="endpoint/summaries/variant/main",
            arn="arn:target",
            endpoint_name="summaries",
            variant="main",
            min_capacity=0,
            max_capacity=5,
            role_arn="arn:role",
            suspended={},
            tags={},
            created_at=NOW - 1000,
        ),
    )
    return endpoint.id


@pytest.fixture
async def world(database):
    endpoint_id = await database.write(create_endpoint)
    wakes: list[None] = []
    scaler = Scaler(database, Wakeups(), lambda: wakes.append(None), lambda _: None)
    return World(database, scaler, endpoint_id, wakes)


async def test_a_burst_at_zero_instances_is_answered_at_once_with_the_cause(world):
    await world.put_policy("TargetTrackingScaling", TRACKING)
    await world.arrive(12, NOW)

    await world.scaler.step(NOW)

    assert await world.desired() == 3
    assert len(world.fleet_wakes) == 1
    [activity] = await world.activities()
    assert activity.cause == (
        "a request arrived while there was no instance; "
        "policy scaling: backlog of 12 at target 5 per instance"
    )
    assert activity.status == "InProgress"


async def test_a_scaling_activity_succeeds_once_its_instances_are_in_service(world):
    await world.arrive(1, NOW)
    await world.scaler.step(NOW)
    await world.settle(NOW + 1)
    await world.scaler.step(NOW + 1)
    assert [activity.status for activity in await world.activities()] == ["InProgress"]
    await world.serve(1, NOW + 2)

    await world.scaler.step(NOW + 2)

    [activity] = await world.activities()
    assert (activity.status, activity.ended_at) == ("Successful", NOW + 2)
    assert activity.message == (
        "Successfully set desired instance count to 1. Change successfully fulfilled by sagemaker."
    )


async def test_a_later_scaling_act_overrides_one_under_way(world):
    await world.put_policy("TargetTrackingScaling", TRACKING)
    await world.arrive(1, NOW)
    await world.scaler.step(NOW)
    await world.arrive(20, NOW + 1)

    await world.scaler.step(NOW + 1)

    newer, older = await world.activities()
    assert (newer.desired, newer.status) == (5, "InProgress")
    assert (older.desired, older.status) == (1, "Overridden")


async def test_scale_in_to_zero_waits_for_an_empty_backlog_and_the_cooldown(world):
    await world.put_policy("TargetTrackingScaling", TRACKING)
    await world.arrive(25, NOW)
    await world.scaler.step(NOW)
    await world.settle(NOW + 1)

    await world.work_off(NOW + 100)
    await world.scaler.step(NOW + 119)
    assert await world.desired() == 5

    await world.scaler.step(NOW + 120)
    assert await world.desired() == 0


async def test_an_endpoint_that_is_gone_ends_its_activities(world):
    await world.arrive(1, NOW)
    await world.scaler.step(NOW)
    endpoint = await world.endpoint()
    await world.database.write(lambda c: endpoints.begin_delete(c, endpoint, NOW + 1))

    await world.scaler.step(NOW + 2)

    [activity] = await world.activities()
    assert (activity.status, activity.message) == ("Failed", "The endpoint was deleted.")


async def test_an_endpoint_that_is_deploying_is_left_alone(world):
    config = await world.database.read(
        lambda c: catalogue.get_endpoint_config(c, ACCOUNT, "config", arn="arn:config")
    )
    endpoint = await world.endpoint()
    await world.database.write(
        lambda c: endpoints.update_endpoint(
            c,
            endpoint,
            config,
            region=REGION,
            retain_variant_properties=False,
            excluded_properties=(),
            at=NOW,
        )
    )
    await world.arrive(3, NOW)

    await world.scaler.step(NOW)

    assert await world.activities() == []


async def test_gauges_tell_of_a_backlog_without_capacity(world):
    await world.arrive(4, NOW)

    delay_s = await world.scaler.step(NOW + 3)

    assert await world.gauge("ApproximateBacklogSize", NOW + 3) == 4
    assert await world.gauge("ApproximateAgeOfOldestRequest", NOW + 3) == 3
    assert await world.gauge("HasBacklogWithoutCapacity", NOW + 3) == 1
    assert await world.gauge("ApproximateBacklogSizePerInstance", NOW + 3) is None
    assert delay_s == 1.0


async def test_gauges_divide_the_backlog_by_the_instances_in_service(world):
    await world.arrive(6, NOW)
    await world.serve(2, NOW)

    await world.scaler.step(NOW)

    assert await world.gauge("ApproximateBacklogSizePerInstance", NOW) == 3
    assert await world.gauge("HasBacklogWithoutCapacity", NOW) == 0


async def test_an_idle_endpoint_is_gauged_each_minute(world):
    delay_s = await world.scaler.step(NOW)
    await world.scaler.step(NOW + 30)

    assert delay_s == 60.0
    assert await world.gauge("ApproximateBacklogSize", NOW) == 0
    assert await world.gauge("ApproximateBacklogSize", NOW + 30) is None
    assert await world.gauge("HasBacklogWithoutCapacity", NOW) == 0


async def test_several_looks_in_one_second_give_one_point(world):
    await world.arrive(1, NOW)
    for offset in (0.0, 0.2, 0.9):
        await world.scaler.step(NOW + offset)

    metric = Metric("AWS/SageMaker", "ApproximateBacklogSize", (("EndpointName", "summaries"),))
    counts = await world.database.read(
        lambda c: statistics(c, metric, "SampleCount", period_s=1, start=NOW, end=NOW + 1)
    )
    assert list(counts.values()) == [1]


async def test_a_policy_may_follow_a_metric_that_clients_put(world):
    specification = {"MetricName": "Load", "Namespace": "Ours", "Statistic": "Average"}
    await world.put_policy(
        "TargetTrackingScaling", {"TargetValue": 10.0, "CustomizedMetricSpecification": specification}
    )
    await world.database.write(
        lambda c: endpoints.set_desired_instance_counts(c, world.endpoint_id, {"main": 1}, NOW)
    )
    await world.settle(NOW)
    points = [metrics.Point("Ours", "Load", (), 30.0, "None", NOW - 60 * minute) for minute in range(1, 4)]
    await world.database.write(lambda c: metrics.record(c, points))

    await world.scaler.step(NOW)

    assert await world.desired() == 3
    [activity] = await world.activities()
    assert activity.cause == "policy scaling: metric at 30, target 10"


async def test_the_samples_of_processor_use_in_a_minute_count_the_instances(world):
    await world.serve(2, NOW)
    for second in range(60):
        await world.scaler.step(NOW + second)

    dimensions = (("EndpointName", "summaries"), ("VariantName", "main"))
    metric = Metric("/aws/sagemaker/Endpoints", "CPUUtilization", dimensions)
    counts = await world.database.read(
        lambda c: statistics(c, metric, "SampleCount", period_s=60, start=NOW, end=NOW + 60)
    )
    assert list(counts.values()) == [2]


def alarm(value: float | None, threshold: float = 1.0) -> Alarm:
    data = {} if value is None else {"recentDatapoints": [value]}
    return Alarm(
        account=ACCOUNT,
        name="waiting",
        arn="arn:alarm",
        region=REGION,
        definition={"AlarmName": "waiting", "Threshold": threshold, "AlarmActions": [POLICY_ARN]},
        actions_enabled=True,
        configured_at=NOW,
        state="ALARM",
        previous_state="OK",
        reason="",
        reason_data=json.dumps(data),
        state_updated_at=NOW,
        transitioned_at=NOW,
        actions_due_at=NOW,
    )


async def test_an_alarm_carries_out_its_step_policy(world):
    await world.put_policy("StepScaling", STEPS)

    await world.scaler.execute_policy(POLICY_ARN, alarm(1.0))

    assert await world.desired() == 2
    [activity] = await world.activities()
    assert activity.cause == "monitor alarm waiting in state ALARM triggered policy scaling"


async def test_an_alarm_whose_value_no_step_covers_changes_nothing(world):
    await world.put_policy("StepScaling", STEPS)

    await world.scaler.execute_policy(POLICY_ARN, alarm(0.5))

    assert await world.activities() == []


@pytest.mark.parametrize(
    ("policy_arn", "value", "message"),
    [
        pytest.param("arn:aws:autoscaling:gone", 1.0, "No scaling policy found", id="no such policy"),
        pytest.param(POLICY_ARN, None, "gives no metric value", id="no value"),
    ],
)
async def test_an_alarm_that_cannot_be_acted_on_says_why(world, policy_arn, value, message):
    await world.put_policy("StepScaling", STEPS)

    with pytest.raises(ServiceError, match=message):
        await world.scaler.execute_policy(policy_arn, alarm(value))
