"""Which scaling policies are accepted, and how they are named."""

import pytest

from ebbtide.errors import ServiceError
from ebbtide.metrics import definitions
from ebbtide.scaling.configurations import (
    CONCURRENT_REQUESTS,
    INVOCATIONS_PER_INSTANCE,
    Resource,
    alarm_definitions,
    check_step_scaling,
    check_target_tracking,
    follows_backlog,
    managed,
    parse_resource,
    policy_of_action,
    queries,
    target_tracking,
)

DIMENSION = "sagemaker:variant:DesiredInstanceCount"
BACKLOG = {
    "MetricName": "ApproximateBacklogSizePerInstance",
    "Namespace": "AWS/SageMaker",
    "Dimensions": [{"Name": "EndpointName", "Value": "summaries"}],
    "Statistic": "Average",
}
SUMMARIES = Resource("summaries", "main")


def tracking(metric=BACKLOG, **given):
    return {"TargetValue": 5.0, "CustomizedMetricSpecification": metric} | given


def stepping(*steps, **given):
    return {"AdjustmentType": "ChangeInCapacity", "StepAdjustments": list(steps)} | given


def step(lower, upper, adjustment=1):
    bounds = {"MetricIntervalLowerBound": lower, "MetricIntervalUpperBound": upper}
    return {"ScalingAdjustment": adjustment} | {
        name: bound for name, bound in bounds.items() if bound is not None
    }


def metric_stat(name, **given):
    metric = {"Namespace": "AWS/SageMaker", "MetricName": name, "Dimensions": BACKLOG["Dimensions"]}
    return {"MetricStat": {"Metric": metric, "Stat": "Average"}} | given


def test_a_resource_is_a_variant_of_an_endpoint():
    assert parse_resource("sagemaker", "endpoint/summaries/variant/main", DIMENSION) == SUMMARIES


@pytest.mark.parametrize(
    ("namespace", "resource_id", "dimension"),
    [
        pytest.param("ecs", "service/default/web", "ecs:service:DesiredCount", id="another service"),
        pytest.param("sagemaker", "endpoint/summaries", DIMENSION, id="an endpoint without a variant"),
        pytest.param(
            "sagemaker",
            "endpoint/summaries/variant/main",
            "sagemaker:variant:DesiredProvisionedConcurrency",
            id="another dimension",
        ),
    ],
)
def test_other_resources_are_refused(namespace, resource_id, dimension):
    with pytest.raises(ServiceError, match="Unsupported service namespace, resource type or scalable"):
        parse_resource(namespace, resource_id, dimension)


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        pytest.param(tracking(TargetValue=0.0), "TargetValue must be greater than 0", id="no target"),
        pytest.param(tracking(ScaleInCooldown=-1), "ScaleInCooldown must not be negative", id="cooldown"),
        pytest.param({"TargetValue": 5.0}, "Exactly one of", id="no metric"),
        pytest.param(
            {
                "TargetValue": 5.0,
                "PredefinedMetricSpecification": {
                    "PredefinedMetricType": "SageMakerVariantProvisionedConcurrencyUtilization"
                },
            },
            "is not supported for",
            id="a predefined metric of another dimension",
        ),
        pytest.param(
            tracking({"MetricName": "m", "Namespace": "n"}), "or Metrics", id="a metric without statistic"
        ),
        pytest.param(
            tracking({"Metrics": [metric_stat("a", Id="a"), metric_stat("b", Id="b")]}),
            "Exactly one of the Metrics must return data",
            id="two metrics that return data",
        ),
        pytest.param(
            tracking({"Metrics": [{"Id": "e1", "Expression": "m1 + m2"}]}),
            "m1",
            id="an expression of what is not there",
        ),
    ],
)
def test_target_tracking_that_means_nothing_is_refused(configuration, message):
    with pytest.raises(ServiceError, match=message) as refused:
        check_target_tracking(configuration)

    assert refused.value.code == "ValidationException"


@pytest.mark.parametrize(
    "configuration",
    [
        pytest.param(tracking(), id="the backlog per instance"),
        pytest.param(
            {
                "TargetValue": 70.0,
                "PredefinedMetricSpecification": {
                    "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
                },
            },
            id="invocations per instance",
        ),
        pytest.param(
            tracking(
                {
                    "Metrics": [
                        metric_stat("ApproximateBacklogSize", Id="m1", ReturnData=False),
                        {"Id": "e1", "Expression": "m1 / 2"},
                    ]
                }
            ),
            id="metric math",
        ),
    ],
)
def test_target_tracking_is_accepted(configuration):
    check_target_tracking(configuration)


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        pytest.param({"StepAdjustments": [step(0, None)]}, "lacks AdjustmentType", id="no type"),
        pytest.param(stepping(), "1 to 20 StepAdjustments", id="no steps"),
        pytest.param(stepping(step(0, 10), step(20, None)), "leave no gap", id="a gap"),
        pytest.param(stepping(step(0, 10), step(5, None)), "must not overlap", id="an overlap"),
        pytest.param(stepping(step(10, 0)), "lower bound must be below", id="bounds the wrong way round"),
        pytest.param(
            stepping(step(None, 0), step(None, 5)), "no MetricIntervalLowerBound", id="two open lower ends"
        ),
        pytest.param(
            stepping(step(0, None), MinAdjustmentMagnitude=2),
            "needs the AdjustmentType PercentChangeInCapacity",
            id="a magnitude without percent",
        ),
    ],
)
def test_step_scaling_that_means_nothing_is_refused(configuration, message):
    with pytest.raises(ServiceError, match=message):
        check_step_scaling(configuration)


@pytest.mark.parametrize(
    "configuration",
    [
        pytest.param(stepping(step(0, None)), id="waking from zero, as AWS documents it"),
        pytest.param(stepping(step(10, None), step(None, 0), step(0, 10)), id="steps in any order"),
    ],
)
def test_step_scaling_is_accepted(configuration):
    check_step_scaling(configuration)


@pytest.mark.parametrize(
    ("metric", "follows"),
    [
        pytest.param(BACKLOG, True, id="its own backlog per instance"),
        pytest.param(BACKLOG | {"MetricName": "ApproximateBacklogSize"}, False, id="another metric"),
        pytest.param(
            BACKLOG | {"Dimensions": [{"Name": "EndpointName", "Value": "others"}]},
            False,
            id="another endpoint's",
        ),
    ],
)
def test_only_the_endpoints_own_backlog_is_read_from_the_queue(metric, follows):
    assert follows_backlog(tracking(metric), SUMMARIES, asynchronous=True) is follows


def predefined(type_):
    return {"TargetValue": 70.0, "PredefinedMetricSpecification": {"PredefinedMetricType": type_}}


def test_invocations_per_instance_are_those_of_the_variant():
    [query] = queries(predefined(INVOCATIONS_PER_INSTANCE), SUMMARIES, asynchronous=True)

    assert query["MetricStat"]["Metric"]["Dimensions"] == [
        {"Name": "EndpointName", "Value": "summaries"},
        {"Name": "VariantName", "Value": "main"},
    ]


def test_the_concurrent_requests_of_an_endpoint_with_a_queue_are_its_backlog():
    assert follows_backlog(predefined(CONCURRENT_REQUESTS), SUMMARIES, asynchronous=True)


def test_the_concurrent_requests_of_one_without_a_queue_follow_from_rate_and_latency():
    *measured, query = queries(predefined(CONCURRENT_REQUESTS), SUMMARIES, asynchronous=False)

    assert [each["MetricStat"]["Metric"]["MetricName"] for each in measured] == [
        "InvocationsPerInstance",
        "ModelLatency",
    ]
    assert query["Expression"] == "arrived / 60 * latency / 1000000"


@pytest.mark.parametrize(
    ("configuration", "sides"),
    [
        pytest.param(tracking(), [("AlarmHigh", 5.0, 3), ("AlarmLow", 4.5, 15)], id="two alarms"),
        pytest.param(tracking(DisableScaleIn=True), [("AlarmHigh", 5.0, 3)], id="no scale-in, no low one"),
    ],
)
def test_a_policy_has_the_alarms_that_aws_makes(configuration, sides):
    """Source: alarms of target-tracking policies, as users export them."""
    policy_arn = "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:1:policyName/p"

    made = alarm_definitions(policy_arn, configuration, SUMMARIES, asynchronous=True)

    assert [(each["Threshold"], each["EvaluationPeriods"]) for each in made] == [
        (threshold, periods) for _, threshold, periods in sides
    ]
    for each, (side, _, _) in zip(made, sides, strict=True):
        assert each["AlarmName"].startswith(f"TargetTracking-endpoint/summaries/variant/main-{side}-")
        assert each["AlarmDescription"].startswith(
            f"DO NOT EDIT OR DELETE. For TargetTrackingScaling policy {policy_arn}:createdBy/"
        )
        assert (each["MetricName"], each["Period"]) == ("ApproximateBacklogSizePerInstance", 60)
        assert [policy_of_action(action) for action in each["AlarmActions"]] == [policy_arn]
        definitions.check(each)


@pytest.mark.parametrize(
    ("variant", "asynchronous", "limits"),
    [
        pytest.param({}, True, (0, 1), id="what was given no count has one instance while there is work"),
        pytest.param({"InitialInstanceCount": 0}, True, (0, 1), id="a count of zero is none"),
        pytest.param({"InitialInstanceCount": 2}, True, None, id="a count that was given stays"),
        pytest.param({}, False, None, id="real-time endpoints have no queue to be woken by"),
        pytest.param(
            {"ManagedInstanceScaling": {"Status": "DISABLED", "MaxInstanceCount": 4}},
            True,
            (0, 1),
            id="what is disabled has no limits",
        ),
    ],
)
def test_a_variant_without_a_scalable_target_keeps_its_count_or_begins_at_zero(variant, asynchronous, limits):
    made = managed(variant, asynchronous=asynchronous, slots=4)

    assert (made and (made.min_capacity, made.max_capacity)) == limits


@pytest.mark.parametrize(
    ("given", "limits", "cooldown_s", "step"),
    [
        pytest.param({"Status": "ENABLED"}, (0, 1), 300, None, id="by itself it wakes one"),
        pytest.param(
            {"Status": "ENABLED", "MinInstanceCount": 1, "MaxInstanceCount": 4},
            (1, 4),
            300,
            None,
            id="its limits",
        ),
        pytest.param(
            {"Status": "ENABLED", "ScaleInPolicy": {"Strategy": "IDLE_RELEASE", "CooldownInMinutes": 3}},
            (0, 1),
            180,
            None,
            id="idle ones go after the cooldown",
        ),
        pytest.param(
            {"Status": "ENABLED", "ScaleInPolicy": {"Strategy": "CONSOLIDATION"}},
            (0, 1),
            1200,
            1,
            id="consolidation gives up one each 20 minutes",
        ),
    ],
)
def test_managed_instance_scaling_is_a_target_and_a_policy(given, limits, cooldown_s, step):
    """Source: ProductionVariantManagedInstanceScaling."""
    made = managed({"ManagedInstanceScaling": given}, asynchronous=True, slots=4)

    if limits is None:
        assert made is None
        return
    policy = target_tracking("managed", made.policy, since=0)
    assert (made.min_capacity, made.max_capacity) == limits
    assert (policy.target_value, policy.scale_in_cooldown_s, policy.most_at_once) == (4, cooldown_s, step)
