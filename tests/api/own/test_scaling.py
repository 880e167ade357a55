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
