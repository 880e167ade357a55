"""Nothing accepted is lost or done twice, whatever is struck: the short form of `make chaos`."""

import pytest
from bench.chaos.plan import MB
from bench.chaos.storm import storm
from tests.conftest import KINDS


def pytest_generate_tests(metafunc):
    metafunc.parametrize("report", KINDS[metafunc.config.getoption("--database")], indirect=True)


@pytest.fixture
def report(request, tmp_path):
    """Of a storm with a few faults, each once, on the machine as it is."""
    return storm(
        # One that kills server, model server, the process that writes, the database or has the outside store
        # refuse, and fills the disk.
        seed=2341,
        seconds=6.0,
        rate_per_s=6.0,
        log=tmp_path / "server.log",
        database=request.param,
        parked=False,
        largest_bytes=2 * MB,
        # Seconds of waiting each; they have tests of their own in test_faults.py.
        without=frozenset(
            {
                "drain the server",
                "lock the database",
                "stop the process that writes",
                "stop the server",
                "have the outside store hang",
                "kill the second server",
                "stop the second server",
            }
        ),
    )


def test_every_accepted_request_has_one_outcome_and_its_notifications_whatever_is_struck(report):
    assert report["violations"] == []
    assert report["accepted"] == report["planned"]
    assert report["faults"]
