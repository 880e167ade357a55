"""Goals beyond AWS's policies, and what instances found out, over our own API."""

from collections.abc import Iterator

import pytest
from botocore.exceptions import ClientError
from tests.deployments import Deployed, deploy

from ebbtide.pytest_plugin import Ebbtide


@pytest.fixture(scope="module")
def endpoint(ebbtide: Ebbtide) -> Iterator[Deployed]:
    deployed = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"})
    yield deployed
    ebbtide.client("sagemaker").delete_endpoint(EndpointName=deployed.name)


def test_goals_are_kept_as_they_were_put(own, endpoint):
    wanted = {
        "deadline": {"within_s": None, "by": "cron(0 6 * * ? *)", "timezone": "Europe/Paris"},
        "budget": {"instance_s_per_day": 3600.0, "usd_per_day": None},
        "forecast": {"weeks": 4},
    }

    own.put_goals(endpoint.name, wanted)

    assert own.goals(endpoint.name) == wanted
    own.put_goals(endpoint.name, {})
    assert own.goals(endpoint.name) == {"deadline": None, "budget": None, "forecast": None}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param({"deadline": {}}, "exactly one of within_s and by", id="no deadline"),
        pytest.param({"deadline": {"by": "at dawn"}}, "neither at", id="no schedule"),
        pytest.param({"deadline": {"within_s": -5}}, "deadline.within_s", id="before it comes"),
        pytest.param({"budget": {}}, "exactly one of instance_s_per_day and usd_per_day", id="no budget"),
        pytest.param({"forecast": {"weeks": 0}}, "forecast.weeks", id="no weeks"),
    ],
)
def test_goals_that_mean_nothing_are_refused(own, endpoint, given, words):
    with pytest.raises(ClientError) as caught:
        own.put_goals(endpoint.name, given)

    assert words in caught.value.response["Error"]["Message"]


def test_an_instance_tells_how_many_invocations_it_takes_and_why(own, endpoint):
    [instance] = own.concurrency(endpoint.name)

    assert instance.keys() == {"instance", "since", "limit", "cause"}


def test_an_instance_tells_what_each_phase_of_its_start_took(own, endpoint):
    [instance] = own.starts(endpoint.name)

    assert instance["phases_s"].keys() >= {"spawning", "importing", "preparing"}


@pytest.fixture
def tagged(ebbtide, endpoint):
    """Tags the endpoint; its tags are gone afterwards."""
    sagemaker = ebbtide.client("sagemaker")
    arn = sagemaker.describe_endpoint(EndpointName=endpoint.name)["EndpointArn"]

    def tag(**tags: str):
        given = [{"Key": f"ebbtide:{key.replace('_', '-')}", "Value": value} for key, value in tags.items()]
        return sagemaker.add_tags(ResourceArn=arn, Tags=given)

    yield tag
    keys = [each["Key"] for each in sagemaker.list_tags(ResourceArn=arn)["Tags"]]
    sagemaker.delete_tags(ResourceArn=arn, TagKeys=keys or ["none"])


def test_a_tag_of_the_endpoint_chooses_a_goal_until_it_is_removed(ebbtide, own, endpoint, tagged):
    arn = ebbtide.client("sagemaker").describe_endpoint(EndpointName=endpoint.name)["EndpointArn"]
    tagged(deadline_within_s="3600", forecast_weeks="2")

    assert own.goals(endpoint.name)["deadline"]["within_s"] == 3600
    ebbtide.client("sagemaker").delete_tags(ResourceArn=arn, TagKeys=["ebbtide:deadline-within-s"])
    assert own.goals(endpoint.name) == {"deadline": None, "budget": None, "forecast": {"weeks": 2}}


def test_a_goal_that_was_put_holds_before_the_tag_of_the_same(own, endpoint, tagged):
    tagged(deadline_by="06:00", budget_usd_per_day="5")

    own.put_goals(endpoint.name, {"deadline": {"within_s": 60}})

    chosen = own.goals(endpoint.name)
    assert (chosen["deadline"]["within_s"], chosen["budget"]["usd_per_day"]) == (60, 5)
    own.put_goals(endpoint.name, {})
    assert own.goals(endpoint.name)["deadline"]["by"] == "cron(0 6 * * ? *)"


def test_a_tag_that_can_choose_no_goal_is_refused_and_not_kept(own, endpoint, tagged):
    for given, words in (
        ({"deadline_within_s": "soon"}, "ebbtide:deadline-within-s must be a number"),
        ({"dead_line": "60"}, "ebbtide:dead-line of an endpoint is none of ebbtide:deadline-within-s"),
    ):
        with pytest.raises(ClientError) as caught:
            tagged(**given)
        assert caught.value.response["Error"]["Code"] == "ValidationException"
        assert words in caught.value.response["Error"]["Message"]
    assert own.goals(endpoint.name) == {"deadline": None, "budget": None, "forecast": None}


def test_an_endpoint_that_cannot_have_the_goals_of_its_tags_is_not_made(ebbtide, endpoint):
    """It is asked for with tags that are refused; the name stays free."""
    sagemaker = ebbtide.client("sagemaker")
    config = sagemaker.describe_endpoint(EndpointName=endpoint.name)["EndpointConfigName"]
    tags = [{"Key": "ebbtide:forecast-weeks", "Value": "99"}]

    with pytest.raises(ClientError, match="from 1 to 8"):
        sagemaker.create_endpoint(EndpointName="never-made", EndpointConfigName=config, Tags=tags)

    with pytest.raises(ClientError, match="Could not find"):
        sagemaker.describe_endpoint(EndpointName="never-made")
