"""Which server a command talks to."""

import pytest

from ebbtide.cli.errors import NotRunningError
from ebbtide.cli.running import RunningServer, announce, choose
from ebbtide.settings import Credentials, keep_credentials

URL, KEY = "http://there:8377", Credentials("AKIATHERE", "secret")
THERE = {"AWS_ENDPOINT_URL": URL, "AWS_ACCESS_KEY_ID": "AKIATHERE", "AWS_SECRET_ACCESS_KEY": "secret"}


@pytest.fixture
def here(tmp_path) -> RunningServer:
    """A server that announced itself in a data directory."""
    server = RunningServer("http://127.0.0.1:1", "eu-west-1", Credentials("AKIAHERE", "secret"))
    keep_credentials(tmp_path, server.credentials)
    announce(server, tmp_path)
    return server


@pytest.mark.parametrize(
    ("environment", "region"),
    [
        pytest.param({}, "us-east-1", id="none"),
        pytest.param({"AWS_DEFAULT_REGION": "eu-north-1"}, "eu-north-1", id="boto3's variable"),
        pytest.param({"AWS_DEFAULT_REGION": "x", "AWS_REGION": "eu-west-3"}, "eu-west-3", id="the SDKs' own"),
    ],
)
def test_the_environments_server_is_used_in_the_environments_region(environment, region):
    assert choose(None, THERE | environment) == RunningServer(URL, region, KEY)


def test_a_directory_that_is_named_wins_over_the_environment(here, tmp_path):
    assert choose(tmp_path, THERE) == here


def test_without_either_the_default_directorys_server_is_used(here, tmp_path):
    assert choose(None, {"EBBTIDE_DATA": str(tmp_path)}) == here


@pytest.mark.parametrize("lacking", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_an_address_without_a_key_is_refused_and_no_other_server_taken(here, tmp_path, lacking):
    environment = {name: value for name, value in THERE.items() if name != lacking}

    with pytest.raises(NotRunningError, match=f"AWS_ENDPOINT_URL is {URL}, but AWS_ACCESS_KEY_ID"):
        choose(None, environment | {"EBBTIDE_DATA": str(tmp_path)})
