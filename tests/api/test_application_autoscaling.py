"""Application Auto Scaling through boto3, against a running server and real instances."""

import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bench.server import hold_at_zero
from botocore.exceptions import ClientError
from tests.deployments import Deployed, deploy, outcome

from ebbtide.pytest_plugin import Ebbtide

DIMENSION = "sagemaker:variant:DesiredInstanceCount"
STEPS = {
    "AdjustmentType": "ChangeInCapacity",
    "MetricAggregationType": "Average",
    "Cooldown": 300,
    "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
}


@pytest.fixture(scope="module")
def autoscaling(ebbtide: Ebbtide) -> Any:
    return ebbtide.client("application-autoscaling")


@pytest.fixture
def endpoint(ebbtide: Ebbtide) -> Iterator[Deployed]:
    """An asynchronous endpoint at zero instances."""
    deployed = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, instances=0, held=False)
    yield deployed
    ebbtide.client("sagemaker").delete_endpoint(EndpointName=deployed.name)


def resource(endpoint: Deployed) -> dict[str, str]:
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{endpoint.name}/variant/v",
        "ScalableDimension": DIMENSION,
    }


def tracking(endpoint: Deployed, **given) -> dict[str, Any]:
    """The policy of the AWS post."""
    return {
        "TargetValue": 5.0,
        "CustomizedMetricSpecification": {
            "MetricName": "ApproximateBacklogSizePerInstance",
            "Namespace": "AWS/SageMaker",
            "Dimensions": [{"Name": "EndpointName", "Value": endpoint.name}],
            "Statistic": "Average",
        },
        "ScaleInCooldown": 120,
        "ScaleOutCooldown": 120,
    } | given


def put_tracking(autoscaling, endpoint: Deployed, name: str = "Invocations-ScalingPolicy", **given) -> Any:
    return autoscaling.put_scaling_policy(
        PolicyName=name,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration=tracking(endpoint, **given),
        **resource(endpoint),
    )


def refused(call, **params) -> dict[str, Any]:
    with pytest.raises(ClientError) as error:
        call(**params)
    return error.value.response["Error"]


def wait_for_counts(ebbtide: Ebbtide, endpoint: Deployed, desired: int, current: int) -> None:
    """Until the endpoint is InService with these counts."""
    sagemaker = ebbtide.client("sagemaker")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        described = sagemaker.describe_endpoint(EndpointName=endpoint.name)
        [v] = described["ProductionVariants"]
        seen = (described["EndpointStatus"], v["DesiredInstanceCount"], v["CurrentInstanceCount"])
        if seen == ("InService", desired, current):
            return
        time.sleep(0.02)
    raise AssertionError(f"{endpoint.name} is {seen}, not InService at {desired}, {current}")


def test_a_scalable_target_is_described_as_it_was_registered(autoscaling, endpoint):
    registered = autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))

    [target] = autoscaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[resource(endpoint)["ResourceId"]]
    )["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 5)
    assert target["ScalableTargetARN"] == registered["ScalableTargetARN"]
    assert target["RoleARN"].endswith("AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint")
    assert target["SuspendedState"] == {
        "DynamicScalingInSuspended": False,
        "DynamicScalingOutSuspended": False,
        "ScheduledScalingSuspended": False,
    }


def test_registering_again_changes_only_what_is_given(autoscaling, endpoint):
    first = autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))

    second = autoscaling.register_scalable_target(
        MaxCapacity=7, SuspendedState={"DynamicScalingInSuspended": True}, **resource(endpoint)
    )

    [target] = autoscaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[resource(endpoint)["ResourceId"]]
    )["ScalableTargets"]
    assert second["ScalableTargetARN"] == first["ScalableTargetARN"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (0, 7)
    assert target["SuspendedState"]["DynamicScalingInSuspended"] is True


def test_a_target_must_be_a_variant_that_is_there_within_limits_that_make_sense(autoscaling, endpoint):
    register = autoscaling.register_scalable_target
    missing = resource(endpoint) | {"ResourceId": "endpoint/missing/variant/v"}
    other = resource(endpoint) | {"ResourceId": f"endpoint/{endpoint.name}/variant/other"}

    assert "Could not find endpoint" in refused(register, MinCapacity=0, MaxCapacity=5, **missing)["Message"]
    assert 'has no variant "other"' in refused(register, MinCapacity=0, MaxCapacity=5, **other)["Message"]
    assert "must be given" in refused(register, MinCapacity=0, **resource(endpoint))["Message"]
    upside_down = refused(register, MinCapacity=5, MaxCapacity=2, **resource(endpoint))
    assert upside_down["Code"] == "ValidationException"


def test_a_policy_needs_a_target(autoscaling, endpoint):
    error = refused(put_tracking, autoscaling=autoscaling, endpoint=endpoint)

    assert error["Code"] == "ObjectNotFoundException"


def test_a_policy_shows_its_arn_and_the_alarms_aws_would_make(ebbtide, autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))

    put = put_tracking(autoscaling, endpoint)

    prefix = f"arn:aws:autoscaling:{ebbtide.region}:123456789012:scalingPolicy:"
    assert put["PolicyARN"].startswith(prefix)
    assert put["PolicyARN"].endswith(
        f":resource/sagemaker/endpoint/{endpoint.name}/variant/v:policyName/Invocations-ScalingPolicy"
    )
    [policy] = autoscaling.describe_scaling_policies(
        ServiceNamespace="sagemaker", ResourceId=resource(endpoint)["ResourceId"]
    )["ScalingPolicies"]
    assert policy["PolicyARN"] == put["PolicyARN"]
    assert policy["Alarms"] == put["Alarms"]
    assert policy["TargetTrackingScalingPolicyConfiguration"] == tracking(endpoint)
    assert [name.rsplit("-", 6)[1] for name in (alarm["AlarmName"] for alarm in put["Alarms"])] == [
        "AlarmHigh",
        "AlarmLow",
    ]


def test_a_policy_of_the_same_name_is_replaced_under_its_arn(autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))
    first = put_tracking(autoscaling, endpoint)

    second = put_tracking(autoscaling, endpoint, TargetValue=9.0)
    put_tracking(autoscaling, endpoint, name="another")

    policies = autoscaling.describe_scaling_policies(
        ServiceNamespace="sagemaker", ResourceId=resource(endpoint)["ResourceId"]
    )["ScalingPolicies"]
    assert second["PolicyARN"] == first["PolicyARN"]
    assert {
        each["PolicyName"]: each["TargetTrackingScalingPolicyConfiguration"]["TargetValue"]
        for each in policies
    } == {"Invocations-ScalingPolicy": 9.0, "another": 5.0}


def test_a_policy_has_the_configuration_of_its_type(autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))

    error = refused(
        autoscaling.put_scaling_policy,
        PolicyName="confused",
        PolicyType="TargetTrackingScaling",
        StepScalingPolicyConfiguration=STEPS,
        **resource(endpoint),
    )

    assert error["Code"] == "ValidationException"
    assert "TargetTrackingScalingPolicyConfiguration" in error["Message"]


def test_deregistering_takes_the_policies_along(autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))
    put_tracking(autoscaling, endpoint)

    autoscaling.deregister_scalable_target(**resource(endpoint))

    assert refused(autoscaling.deregister_scalable_target, **resource(endpoint))["Code"] == (
        "ObjectNotFoundException"
    )
    assert (
        autoscaling.describe_scaling_policies(
            ServiceNamespace="sagemaker", ResourceId=resource(endpoint)["ResourceId"]
        )["ScalingPolicies"]
        == []
    )


def test_a_deleted_policy_is_gone(autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))
    put_tracking(autoscaling, endpoint, name="short-lived")

    autoscaling.delete_scaling_policy(PolicyName="short-lived", **resource(endpoint))

    error = refused(autoscaling.delete_scaling_policy, PolicyName="short-lived", **resource(endpoint))
    assert error["Code"] == "ObjectNotFoundException"


def test_targets_are_tagged(autoscaling, endpoint):
    arn = autoscaling.register_scalable_target(
        MinCapacity=0, MaxCapacity=5, Tags={"team": "a"}, **resource(endpoint)
    )["ScalableTargetARN"]

    autoscaling.tag_resource(ResourceARN=arn, Tags={"cost": "1"})
    autoscaling.untag_resource(ResourceARN=arn, TagKeys=["team"])

    assert autoscaling.list_tags_for_resource(ResourceARN=arn)["Tags"] == {"cost": "1"}
    missing = arn[:-8] + "missing0"
    assert refused(autoscaling.list_tags_for_resource, ResourceARN=missing)["Code"] == (
        "ResourceNotFoundException"
    )


def test_predictive_scaling_is_refused_as_it_is_for_other_services_alone(autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=1, **resource(endpoint))
    pair = {"PredefinedMetricType": "ECSServiceCPUUtilization"}
    specification = {"TargetValue": 40.0, "PredefinedMetricPairSpecification": pair}

    put = refused(
        autoscaling.put_scaling_policy,
        PolicyName="p",
        PolicyType="PredictiveScaling",
        PredictiveScalingPolicyConfiguration={"MetricSpecifications": [specification]},
        **resource(endpoint),
    )
    forecast = refused(
        autoscaling.get_predictive_scaling_forecast,
        PolicyName="p",
        StartTime=datetime.now(UTC),
        EndTime=datetime.now(UTC) + timedelta(days=1),
        **resource(endpoint),
    )

    assert put["Code"] == forecast["Code"] == "ValidationException"
    assert "supported for the service namespace ecs only" in put["Message"]


def test_other_namespaces_are_refused(autoscaling):
    error = refused(
        autoscaling.register_scalable_target,
        ServiceNamespace="ecs",
        ResourceId="service/default/web",
        ScalableDimension="ecs:service:DesiredCount",
        MinCapacity=1,
        MaxCapacity=2,
    )

    assert error["Code"] == "ValidationException"
    assert "Unsupported service namespace" in error["Message"]


def test_registering_brings_the_count_within_the_limits(ebbtide, autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=1, MaxCapacity=5, **resource(endpoint))

    wait_for_counts(ebbtide, endpoint, desired=1, current=1)
    [activity] = autoscaling.describe_scaling_activities(
        ServiceNamespace="sagemaker", ResourceId=resource(endpoint)["ResourceId"]
    )["ScalingActivities"]
    assert activity["Cause"] == "minimum capacity was set to 1"


def test_a_request_wakes_an_endpoint_that_then_falls_back_to_zero(ebbtide, autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))
    put_tracking(autoscaling, endpoint, ScaleInCooldown=1)

    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint.name, Body=b"hello", ContentType="text/plain"
    )

    kind, body, _ = outcome(ebbtide, answer)
    assert (kind, body) == ("output", b"hello")
    wait_for_counts(ebbtide, endpoint, desired=0, current=0)
    fall, rise = autoscaling.describe_scaling_activities(
        ServiceNamespace="sagemaker", ResourceId=resource(endpoint)["ResourceId"]
    )["ScalingActivities"]
    assert rise["Description"] == "Setting desired instance count to 1."
    assert rise["Cause"].startswith("a request arrived while there was no instance")
    assert rise["StatusCode"] == "Successful"
    assert fall["Description"] == "Setting desired instance count to 0."
    assert "backlog of 0" in fall["Cause"]


def test_activities_are_paged_newest_first(ebbtide, autoscaling, endpoint):
    for minimum in (1, 0):
        autoscaling.register_scalable_target(MinCapacity=minimum, MaxCapacity=minimum, **resource(endpoint))
        wait_for_counts(ebbtide, endpoint, desired=minimum, current=minimum)

    pages = autoscaling.get_paginator("describe_scaling_activities").paginate(
        ServiceNamespace="sagemaker",
        ResourceId=resource(endpoint)["ResourceId"],
        PaginationConfig={"PageSize": 1},
    )

    causes = [activity["Cause"] for found in pages for activity in found["ScalingActivities"]]
    assert causes == ["maximum capacity was set to 0", "minimum capacity was set to 1"]
    lost = refused(
        autoscaling.describe_scaling_activities, ServiceNamespace="sagemaker", NextToken="elsewhere"
    )
    assert lost["Code"] == "InvalidNextTokenException"


def test_an_alarm_set_by_hand_carries_out_a_step_policy(ebbtide, autoscaling, endpoint):
    """The recipe of AWS's documentation for waking from zero, on a metric that clients could put."""
    cloudwatch = ebbtide.client("cloudwatch")
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))
    policy = autoscaling.put_scaling_policy(
        PolicyName="HasBacklogWithoutCapacity-ScalingPolicy",
        PolicyType="StepScaling",
        StepScalingPolicyConfiguration=STEPS,
        **resource(endpoint),
    )
    name = f"waiting-{uuid.uuid4().hex[:8]}"
    cloudwatch.put_metric_alarm(
        AlarmName=name,
        MetricName="HasBacklogWithoutCapacity",
        Namespace="AWS/SageMaker",
        Statistic="Average",
        Dimensions=[{"Name": "EndpointName", "Value": endpoint.name}],
        Period=60,
        EvaluationPeriods=2,
        DatapointsToAlarm=2,
        Threshold=1,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="missing",
        AlarmActions=[policy["PolicyARN"]],
    )

    cloudwatch.set_alarm_state(
        AlarmName=name,
        StateValue="ALARM",
        StateReason="by hand",
        StateReasonData='{"recentDatapoints": [1.0]}',
    )

    wait_for_counts(ebbtide, endpoint, desired=1, current=1)
    [activity] = autoscaling.describe_scaling_activities(
        ServiceNamespace="sagemaker", ResourceId=resource(endpoint)["ResourceId"]
    )["ScalingActivities"]
    assert activity["Cause"] == (
        f"monitor alarm {name} in state ALARM triggered policy HasBacklogWithoutCapacity-ScalingPolicy"
    )


def test_the_backlogs_metrics_reach_cloudwatch(ebbtide, endpoint):
    hold_at_zero(ebbtide.client, endpoint.name)
    ebbtide.client("sagemaker-runtime").invoke_endpoint_async(EndpointName=endpoint.name, Body=b"waits")
    cloudwatch = ebbtide.client("cloudwatch")

    deadline = time.monotonic() + 120
    values: list[float] = []
    while time.monotonic() < deadline and 1.0 not in values:
        now = time.time()
        values = cloudwatch.get_metric_data(
            MetricDataQueries=[
                {
                    "Id": "waiting",
                    "MetricStat": {
                        "Metric": {
                            "Namespace": "AWS/SageMaker",
                            "MetricName": "HasBacklogWithoutCapacity",
                            "Dimensions": [{"Name": "EndpointName", "Value": endpoint.name}],
                        },
                        "Period": 1,
                        "Stat": "Maximum",
                    },
                }
            ],
            StartTime=now - 60,
            EndTime=now + 1,
        )["MetricDataResults"][0]["Values"]

    assert 1.0 in values


def put_action(autoscaling, endpoint: Deployed, **given) -> None:
    action = {
        "ScheduledActionName": "night",
        "Schedule": "cron(0 22 * * ? *)",
        "Timezone": "Europe/Paris",
        "ScalableTargetAction": {"MinCapacity": 1, "MaxCapacity": 2},
    }
    autoscaling.put_scheduled_action(**resource(endpoint) | action | given)


def actions_of(autoscaling, endpoint: Deployed) -> list[dict[str, Any]]:
    described = autoscaling.describe_scheduled_actions(
        ServiceNamespace="sagemaker", ResourceId=resource(endpoint)["ResourceId"]
    )
    found: list[dict[str, Any]] = described["ScheduledActions"]
    return found


def test_a_scheduled_action_is_described_changed_and_deleted(ebbtide, autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))
    put_action(autoscaling, endpoint)

    [made] = actions_of(autoscaling, endpoint)
    put_action(autoscaling, endpoint, Schedule="rate(1 day)", ScalableTargetAction={"MaxCapacity": 3})
    [changed] = actions_of(autoscaling, endpoint)
    autoscaling.delete_scheduled_action(ScheduledActionName="night", **resource(endpoint))

    assert made["ScheduledActionARN"].startswith(
        f"arn:aws:autoscaling:{ebbtide.region}:123456789012:scheduledAction:"
    )
    assert (made["Schedule"], made["Timezone"]) == ("cron(0 22 * * ? *)", "Europe/Paris")
    assert made["ScalableTargetAction"] == {"MinCapacity": 1, "MaxCapacity": 2}
    assert changed["ScheduledActionARN"] == made["ScheduledActionARN"]
    assert (changed["Schedule"], changed["ScalableTargetAction"]) == ("rate(1 day)", {"MaxCapacity": 3})
    assert actions_of(autoscaling, endpoint) == []
    again = refused(autoscaling.delete_scheduled_action, ScheduledActionName="night", **resource(endpoint))
    assert again["Code"] == "ObjectNotFoundException"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"Schedule": "at(2020-01-01T00:00:00)"}, "no time that is to come", id="over"),
        pytest.param({"Schedule": "cron(0 22 * *)"}, "six fields", id="no cron"),
        pytest.param({"Timezone": "Mars/Base"}, "time zone", id="no time zone"),
        pytest.param(
            {"ScalableTargetAction": {"MinCapacity": 3, "MaxCapacity": 2}}, "must not be above", id="crossed"
        ),
        pytest.param({"ScalableTargetAction": {}}, "ScalableTargetAction", id="no limits"),
        pytest.param(
            {"StartTime": 1_900_000_000, "EndTime": 1_800_000_000},
            "before EndTime",
            id="ends before it begins",
        ),
    ],
)
def test_a_scheduled_action_that_means_nothing_is_refused(autoscaling, endpoint, given, words):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))

    error = refused(put_action, autoscaling=autoscaling, endpoint=endpoint, **given)

    assert error["Code"] == "ValidationException"
    assert words in error["Message"]


def test_a_scheduled_action_scales_when_its_time_comes(ebbtide, autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))

    for ahead_s in (2, 8, 32, 128):  # until it was put before its time
        soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=ahead_s)
        put_action(autoscaling, endpoint, Schedule=f"at({soon:%Y-%m-%dT%H:%M:%S})", Timezone="UTC")
        if datetime.now(UTC) < soon:
            break

    wait_for_counts(ebbtide, endpoint, desired=1, current=1)
    causes = [
        activity["Cause"]
        for activity in autoscaling.describe_scaling_activities(
            ServiceNamespace="sagemaker", ResourceId=resource(endpoint)["ResourceId"]
        )["ScalingActivities"]
    ]
    # One that was put in time and answered too late has been put once more.
    assert causes[-2:] == ["minimum capacity was set to 1", "scheduled action name night was triggered"]


def test_the_alarms_of_a_policy_are_listed_and_go_only_with_it(ebbtide, autoscaling, endpoint):
    cloudwatch = ebbtide.client("cloudwatch")
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **resource(endpoint))
    put = put_tracking(autoscaling, endpoint)
    names = [alarm["AlarmName"] for alarm in put["Alarms"]]

    high, low = cloudwatch.describe_alarms(AlarmNames=names)["MetricAlarms"]
    deletion = refused(cloudwatch.delete_alarms, AlarmNames=names)
    change = refused(
        cloudwatch.put_metric_alarm,
        **{
            name: high[name]
            for name in ("AlarmName", "MetricName", "Namespace", "Period", "EvaluationPeriods", "Statistic")
        },
        Threshold=1.0,
        ComparisonOperator="GreaterThanThreshold",
    )
    put_tracking(autoscaling, endpoint, DisableScaleIn=True)
    [kept] = cloudwatch.describe_alarms(AlarmNames=names)["MetricAlarms"]
    autoscaling.delete_scaling_policy(PolicyName="Invocations-ScalingPolicy", **resource(endpoint))

    assert (high["Threshold"], low["Threshold"]) == (5.0, 4.5)
    assert (high["EvaluationPeriods"], low["EvaluationPeriods"]) == (3, 15)
    assert put["PolicyARN"] in high["AlarmDescription"]
    assert (deletion["Code"], change["Code"]) == ("ValidationError", "ValidationError")
    assert put["PolicyARN"] in deletion["Message"]
    assert kept["AlarmName"] == high["AlarmName"]
    assert cloudwatch.describe_alarms(AlarmNames=names)["MetricAlarms"] == []


def test_what_could_not_be_scaled_is_told_when_asked_for(ebbtide, autoscaling, endpoint):
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=0, **resource(endpoint))
    put_tracking(autoscaling, endpoint)
    ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint.name, Body=b"waits", ContentType="text/plain"
    )
    asked = {"ServiceNamespace": "sagemaker", "ResourceId": resource(endpoint)["ResourceId"]}

    deadline = time.monotonic() + 120
    told: list[dict[str, Any]] = []
    while not told and time.monotonic() < deadline:
        told = autoscaling.describe_scaling_activities(IncludeNotScaledActivities=True, **asked)[
            "ScalingActivities"
        ]
        time.sleep(0.02)

    [activity] = told
    assert activity["NotScaledReasons"] == [{"Code": "AlreadyAtMaxCapacity", "MaxCapacity": 0}]
    assert activity["StatusCode"] == "Unfulfilled"
    assert autoscaling.describe_scaling_activities(**asked)["ScalingActivities"] == []


def test_an_endpoint_that_was_given_no_count_wakes_and_needs_no_scalable_target(ebbtide):
    deployed = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, instances=0, held=False)

    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=deployed.name, Body=b"hello", ContentType="text/plain"
    )

    assert outcome(ebbtide, answer)[:2] == ("output", b"hello")
    ebbtide.client("sagemaker").delete_endpoint(EndpointName=deployed.name)


def test_managed_instance_scaling_is_shown_with_the_variant(ebbtide):
    scaling = {"Status": "ENABLED", "MinInstanceCount": 0, "MaxInstanceCount": 2}
    deployed = deploy(
        ebbtide,
        environment={"HF_MODEL_ID": "ebbtide/echo"},
        instances=0,
        managed_scaling=scaling,
    )

    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=deployed.name, Body=b"hello", ContentType="text/plain"
    )

    assert outcome(ebbtide, answer)[0] == "output"
    sagemaker = ebbtide.client("sagemaker")
    [variant] = sagemaker.describe_endpoint(EndpointName=deployed.name)["ProductionVariants"]
    assert variant["ManagedInstanceScaling"] == scaling
    sagemaker.delete_endpoint(EndpointName=deployed.name)
