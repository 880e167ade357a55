"""The scaler's step over a real database: what it reads, writes and records, with time as an argument."""

import json
import os
from dataclasses import dataclass, field, replace

import pytest
from sqlalchemy import text
from tests.queue.accepted import invocation

from ebbtide import endpoints, metrics, queue
from ebbtide.database import Database
from ebbtide.endpoints import catalogue
from ebbtide.endpoints.records import encode_deployment
from ebbtide.errors import ServiceError
from ebbtide.identifiers import time_ordered_id
from ebbtide.instances import records as instances
from ebbtide.metrics.alarm_states import Alarm
from ebbtide.metrics.query import Metric, statistics
from ebbtide.queue import invocations
from ebbtide.queue.wakeups import Wakeups
from ebbtide.scaling import activities, endpoint_goals, goals, targets
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
        arrived = [invocation(time_ordered_id(at), self.endpoint_id, at) for _ in range(count)]
        await self.database.write(lambda c: invocations.accept(c, arrived))

    async def work_off(self, at: float) -> None:
        await self.database.write(lambda c: queue.drop_endpoint(c, self.endpoint_id))

    async def finish(self) -> None:
        """All that was accepted succeeds, each a second after its acceptance."""
        done = "state = 'succeeded', claimed_at = accepted_at, finished_at = accepted_at + 1"
        await self.database.write(lambda c: c.execute(text(f"UPDATE invocations SET {done}")))

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

    async def activities(self) -> list[activities.Activity]:
        """Newest first."""
        return await self.database.read(
            lambda c: activities.listed(c, ACCOUNT, None, limit=50, before_id=None)
        )

    async def gauge(self, name: str, at: float) -> float | None:
        metric = Metric("AWS/SageMaker", name, (("EndpointName", "summaries"),))
        values = await self.database.read(
            lambda c: statistics(c, ACCOUNT, metric, "Average", period_s=1, start=int(at), end=int(at) + 1)
        )
        return values.get(int(at))


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

    await world.scaler.step(NOW + 99)
    await world.work_off(NOW + 100)
    await world.scaler.step(NOW + 218)
    assert await world.desired() == 5

    await world.scaler.step(NOW + 219)
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
        lambda c: statistics(c, ACCOUNT, metric, "SampleCount", period_s=1, start=NOW, end=NOW + 1)
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
    points = [
        metrics.Point(ACCOUNT, "Ours", "Load", (), 30.0, "None", NOW - 60 * minute) for minute in range(1, 4)
    ]
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
        lambda c: statistics(c, ACCOUNT, metric, "SampleCount", period_s=60, start=NOW, end=NOW + 60)
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


def nightly(**given) -> targets.ScheduledAction:
    """An action that was due at NOW and is due again a day later."""
    action = targets.ScheduledAction(
        arn="arn:action",
        target_id="target",
        name="night",
        schedule="rate(1 day)",
        timezone=None,
        start_at=None,
        end_at=None,
        min_capacity=2,
        max_capacity=3,
        created_at=NOW - 86_400,
        next_at=NOW,
    )
    return replace(action, **given)


async def target_of(world) -> targets.ScalableTarget:
    return await world.database.read(
        lambda c: targets.get_target(c, ACCOUNT, "endpoint/summaries/variant/main")
    )


async def put_action(world, action) -> None:
    await world.database.write(lambda c: targets.put_scheduled_action(c, action))


async def test_a_scheduled_action_sets_the_limits_and_moves_the_count_within_them(world):
    await put_action(world, nightly())

    await world.scaler.step(NOW - 1)
    before = await world.desired()
    await world.scaler.step(NOW)

    assert (before, await world.desired()) == (0, 2)
    target = await target_of(world)
    assert (target.min_capacity, target.max_capacity) == (2, 3)
    scaled, limited = await world.activities()
    assert limited.cause == "scheduled action name night was triggered"
    assert limited.description == "Setting min capacity to 2 and max capacity to 3"
    assert scaled.cause == "minimum capacity was set to 2"


async def test_the_scaler_looks_when_a_scheduled_action_is_due(world):
    await put_action(world, nightly(next_at=NOW + 12.5))

    assert await world.scaler.step(NOW) == 12.5


async def test_a_scheduled_action_that_was_missed_is_made_up_for_once(world):
    await put_action(world, nightly())

    await world.scaler.step(NOW + 3 * 86_400 + 5)

    [action] = await world.database.read(targets.all_scheduled_actions)
    assert action.next_at == NOW + 4 * 86_400
    assert await world.desired() == 2


async def test_suspended_scheduled_scaling_passes_an_action_over(world):
    suspended = replace(await target_of(world), suspended={"ScheduledScalingSuspended": True})
    await world.database.write(lambda c: targets.change_target(c, suspended))
    await put_action(world, nightly())

    await world.scaler.step(NOW)

    assert await world.activities() == []
    [action] = await world.database.read(targets.all_scheduled_actions)
    assert action.next_at == NOW + 86_400


async def test_an_action_is_not_due_after_its_end(world):
    await put_action(world, nightly(end_at=NOW + 3_600))

    await world.scaler.step(NOW)

    [action] = await world.database.read(targets.all_scheduled_actions)
    assert action.next_at is None


async def test_what_cannot_be_scaled_is_told_once_and_only_to_who_asks(world):
    await world.put_policy("TargetTrackingScaling", TRACKING)
    await world.arrive(100, NOW)
    for second in range(100):
        await world.scaler.step(NOW + second)

    everything = await world.database.read(
        lambda c: activities.listed(c, ACCOUNT, None, limit=50, before_id=None, with_not_scaled=True)
    )
    [refused] = [activity for activity in everything if activity.not_scaled]
    assert (refused.status, refused.not_scaled) == (
        "Unfulfilled",
        [{"Code": "AlreadyAtMaxCapacity", "MaxCapacity": 5}],
    )
    assert [activity.desired for activity in await world.activities()] == [5]


async def test_requests_that_come_and_go_between_two_looks_keep_their_instance(world):
    await world.put_policy("TargetTrackingScaling", TRACKING)
    await world.arrive(1, NOW)
    await world.scaler.step(NOW)
    await world.settle(NOW)
    await world.finish()
    for second in range(1, 300, 10):
        await world.scaler.step(NOW + second)
        if second < 200:
            await world.arrive(1, NOW + second + 1)
            await world.finish()
        if second < 240:
            assert await world.desired() == 1

    await world.scaler.step(NOW + 330)
    assert await world.desired() == 0


async def test_a_policy_on_invocations_scales_in_when_none_come(world):
    """Where nothing is accepted that is said too: missing data would hold the instances for ever."""
    predefined = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
    await world.put_policy(
        "TargetTrackingScaling", {"TargetValue": 5.0, "PredefinedMetricSpecification": predefined}
    )
    await world.arrive(1, NOW)
    await world.scaler.step(NOW)
    await world.settle(NOW)
    await world.serve(1, NOW)
    await world.finish()

    for second in range(30, 17 * 60, 30):
        await world.scaler.step(NOW + second)
        if second < 14 * 60:
            assert await world.desired() == 1
    assert await world.desired() == 0


async def test_a_deadline_lets_the_endpoint_sleep_while_there_is_time(world):
    await world.put_policy("TargetTrackingScaling", TRACKING)
    deadline = goals.Goals(deadline=goals.Deadline(by="at(2040-01-01T00:00:00)"))
    await world.database.write(lambda c: endpoint_goals.put(c, world.endpoint_id, deadline))
    await world.arrive(3, NOW - 5)
    await world.finish()
    await world.arrive(100, NOW)

    await world.scaler.step(NOW)

    assert await world.desired() == 0


async def test_a_tag_of_the_endpoint_chooses_its_deadline_and_takes_it_along(world):
    await world.put_policy("TargetTrackingScaling", TRACKING)
    arn = (await world.endpoint()).arn
    tags = [{"Key": "ebbtide:deadline-within-s", "Value": "3600"}]
    await world.database.write(lambda c: catalogue.add_tags(c, arn, tags))
    await world.arrive(3, NOW - 5)
    await world.finish()
    await world.arrive(100, NOW)

    await world.scaler.step(NOW)
    assert await world.desired() == 0

    await world.database.write(lambda c: catalogue.delete_tags(c, arn, ["ebbtide:deadline-within-s"]))
    await world.scaler.step(NOW + 1)
    assert await world.desired() > 0


async def test_a_budget_that_is_used_up_wakes_nothing(world):
    spent = goals.Goals(budget=goals.Budget(instance_s_per_day=1_000))
    await world.database.write(lambda c: endpoint_goals.put(c, world.endpoint_id, spent))
    midnight = NOW // 86_400 * 86_400
    ran = replace(
        in_service("i-1", world.endpoint_id, midnight - 100),
        state=instances.State.STOPPED,
        starting_at=midnight - 100,
        ended_at=midnight + 1_000,
    )
    await world.database.write(lambda c: instances.add(c, ran))
    await world.arrive(1, midnight + 2_000)

    await world.scaler.step(midnight + 2_000)

    assert await world.desired() == 0


async def test_managed_instance_scaling_scales_a_variant_without_a_target(world):
    def manage(connection):
        targets.remove_target(connection, targets.all_targets(connection)[0])
        endpoint = endpoints.find_endpoint(connection, world.endpoint_id)
        scaling = {"Status": "ENABLED", "MaxInstanceCount": 4}
        connection.execute(
            text("UPDATE endpoints SET live = :live"),
            {
                "live": encode_deployment(
                    replace(
                        endpoint.live,
                        variants=tuple(
                            replace(each, config=each.config | {"ManagedInstanceScaling": scaling})
                            for each in endpoint.variants
                        ),
                    )
                )
            },
        )

    await world.database.write(manage)
    await world.arrive(99, NOW)

    await world.scaler.step(NOW)

    assert await world.desired() == 4
    [activity] = await world.activities()
    assert "policy ManagedInstanceScaling" in activity.cause
