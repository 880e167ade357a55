"""`ebbtide simulate` as a user runs it."""

import json

import pytest
from tests.deployments import deploy, outcome

from ebbtide.cli.errors import CommandError
from ebbtide.cli.simulate import arrivals_a_second, parse
from ebbtide.scaling.goals import Deadline
from ebbtide.scaling.policies import Limits


def test_the_posts_storm_needs_no_server(run_ebbtide, tmp_path):
    done = run_ebbtide("simulate", "--json", "--picture", tmp_path / "storm.png", AWS_ENDPOINT_URL="")

    assert done.returncode == 0, done.stderr
    post, *others = json.loads(done.stdout)
    assert (post["done"], post["expired"], post["most_instances"]) == (10_000, 0, 5)
    assert all(one["instance_s"] >= one["minimum_s"] for one in (post, *others))
    assert (tmp_path / "storm.png").read_bytes().startswith(b"\x89PNG")


def test_a_files_arrivals_are_compared_in_a_table(run_ebbtide, tmp_path):
    (tmp_path / "arrivals.csv").write_text("at,service_s\n" + "".join(f"{n},0.5\n" for n in range(40)))

    done = run_ebbtide(
        "simulate", tmp_path / "arrivals.csv", "--policy", "always=2", "--policy", "target=2,cooldown=30"
    )

    assert done.returncode == 0, done.stderr
    assert "always=2" in done.stdout
    assert "target=2 cooldown=30" in done.stdout


def test_an_endpoints_own_requests_meet_its_own_policy(ebbtide, run_ebbtide, tmp_path):
    """Deployed by our own command, so that it scales by its backlog."""
    (tmp_path / "article.txt").write_text("A sentence of some words. " * 20)
    run_ebbtide("deploy", "ebbtide/extractive", "--name", "simulated")
    ebbtide.client("application-autoscaling").put_scheduled_action(
        ServiceNamespace="sagemaker",
        ResourceId="endpoint/simulated/variant/AllTraffic",
        ScalableDimension="sagemaker:variant:DesiredInstanceCount",
        ScheduledActionName="some-day",
        Schedule="cron(0 6 1 1 ? 2150)",
        ScalableTargetAction={"MinCapacity": 4},
    )
    run_ebbtide("summarize", tmp_path / "article.txt", "--endpoint", "simulated")

    done = run_ebbtide("simulate", "--endpoint", "simulated", "--policy", "always=1", "--json")

    run_ebbtide("delete", "simulated")
    assert done.returncode == 0, done.stderr
    own, always = json.loads(done.stdout)
    assert (own["policy"], own["done"], own["most_instances"]) == ("simulated as it is", 1, 1)
    assert always["policy"] == "always=1"


def test_an_endpoint_that_keeps_its_count_is_simulated_with_it(ebbtide, run_ebbtide):
    deployed = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, instances=1)
    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(EndpointName=deployed.name, Body=b"x")
    outcome(ebbtide, answer)

    done = run_ebbtide("simulate", "--endpoint", deployed.name, "--policy", "always=2", "--json")

    ebbtide.client("sagemaker").delete_endpoint(EndpointName=deployed.name)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["policy"] == f"{deployed.name}: 1 always on"


SCALED = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/stepping/variant/AllTraffic",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}


def test_an_endpoints_step_policy_is_set_off_by_its_own_alarm(ebbtide, run_ebbtide, tmp_path):
    """As in AWS's recipe; once its alarm watches what no arrivals tell, the metric is named."""
    (tmp_path / "article.txt").write_text("A sentence of some words. " * 20)
    run_ebbtide("deploy", "ebbtide/extractive", "--name", "stepping")
    policy_arn = ebbtide.client("application-autoscaling").put_scaling_policy(
        PolicyName="wake",
        PolicyType="StepScaling",
        StepScalingPolicyConfiguration={
            "AdjustmentType": "ChangeInCapacity",
            "StepAdjustments": [{"MetricIntervalLowerBound": 0.0, "ScalingAdjustment": 1}],
        },
        **SCALED,
    )["PolicyARN"]
    cloudwatch = ebbtide.client("cloudwatch")
    watched = {
        "AlarmName": "of-stepping",
        "Namespace": "AWS/SageMaker",
        "Dimensions": [{"Name": "EndpointName", "Value": "stepping"}],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "Threshold": 1.0,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "AlarmActions": [policy_arn],
    }
    cloudwatch.put_metric_alarm(**watched, MetricName="HasBacklogWithoutCapacity")
    run_ebbtide("summarize", tmp_path / "article.txt", "--endpoint", "stepping")

    done = run_ebbtide("simulate", "--endpoint", "stepping", "--json")
    cloudwatch.put_metric_alarm(**watched, MetricName="CPUUtilization")
    refused = run_ebbtide("simulate", "--endpoint", "stepping")

    run_ebbtide("delete", "stepping")
    cloudwatch.delete_alarms(AlarmNames=["of-stepping"])
    assert done.returncode == 0, done.stderr
    assert [one["done"] for one in json.loads(done.stdout)] == [1]
    assert refused.returncode == 1
    assert "The alarm of-stepping follows the metric AWS/SageMaker CPUUtilization" in refused.stderr


def test_what_cannot_be_simulated_is_said_in_a_line(run_ebbtide, tmp_path):
    (tmp_path / "arrivals.csv").write_text("at\nsoon\n")

    done = run_ebbtide("simulate", tmp_path / "arrivals.csv")

    assert done.returncode == 1
    assert "line 2" in done.stderr


def test_a_policy_in_short_has_the_bounds_of_a_target():
    scaling = parse("target=2.5,cooldown=60,out=10,min=1,max=3")

    assert scaling.limits == Limits(1, 3)
    [policy] = scaling.tracking
    assert (policy.target_value, policy.scale_in_cooldown_s, policy.scale_out_cooldown_s) == (2.5, 60, 10)
    assert parse("deadline=600").goals.deadline == Deadline(within_s=600)
    assert parse("always=4").limits == Limits(4, 4)


@pytest.mark.parametrize(
    "text", ["", "target", "target=five", "speed=5", "min=3,max=2", "max=0", "target=0", "target=-1"]
)
def test_another_text_is_refused(text):
    with pytest.raises(CommandError, match="--policy"):
        parse(text)


def test_arrivals_are_counted_by_the_second():
    assert arrivals_a_second([10.0, 10.5, 11.5], 13.0) == [(0.0, 2.0), (1.0, 1.0), (2.0, 0.0), (3.0, 0.0)]
