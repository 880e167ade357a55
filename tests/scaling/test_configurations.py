"""Which scaling policies are accepted, and how they are named."""

import pytest

from ebbtide.errors import ServiceError
from ebbtide.scaling.configurations import (
    Resource,
    alarms,
    check_step_scaling,
    check_target_tracking,
    follows_backlog,
    parse_resource,
    queries,
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
    assert follows_backlog(tracking(metric), SUMMARIES) is follows


def test_the_predefined_metric_is_that_of_the_variant():
    configuration = {"PredefinedMetricSpecification": {}, "TargetValue": 70.0}

    [query] = queries(configuration, SUMMARIES)

    assert query["MetricStat"]["Metric"]["Dimensions"] == [
        {"Name": "EndpointName", "Value": "summaries"},
        {"Name": "VariantName", "Value": "main"},
    ]


@pytest.mark.parametrize(
    ("policy_type", "configuration", "ends"),
    [
        pytest.param("TargetTrackingScaling", tracking(), ["AlarmHigh", "AlarmLow"], id="two alarms"),
        pytest.param(
            "TargetTrackingScaling",
            tracking(DisableScaleIn=True),
            ["AlarmHigh"],
            id="no scale-in, no low one",
        ),
        pytest.param("StepScaling", stepping(step(0, None)), [], id="step policies have their clients'"),
    ],
)
def test_alarms_are_named_as_aws_names_them(policy_type, configuration, ends):
    resource_id = "endpoint/summaries/variant/main"
    policy_arn = (
        f"arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:1:resource/sagemaker/{resource_id}"
    )

    named = alarms(policy_arn, policy_type, configuration, resource_id=resource_id)

    prefixes = [f"TargetTracking-endpoint/summaries/variant/main-{end}-" for end in ends]
    assert [alarm["AlarmName"].startswith(prefix) for alarm, prefix in zip(named, prefixes, strict=True)] == [
        True
    ] * len(ends)
    assert all(
        alarm["AlarmARN"] == f"arn:aws:cloudwatch:us-east-1:123456789012:alarm:{alarm['AlarmName']}"
        for alarm in named
    )
