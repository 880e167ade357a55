"""A pytest plugin: a running ebbtide for the tests of whatever calls SageMaker endpoints.

    def test_a_model_is_described_as_created(ebbtide):
        sagemaker = ebbtide.client("sagemaker")
        ...

The server runs in a process of its own, on a free port of the loopback interface and in a temporary
directory, for the whole test session. Tests share it, so they choose names of their own.
"""

# Loaded into every pytest run where ebbtide is installed: what is slow to import waits for the fixture.

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import boto3

    from ebbtide.cli.running import RunningServer
    from ebbtide.settings import Credentials

LOG_LINES_SHOWN = 40


class Ebbtide:
    """A running server, and the ways to talk to it."""

    def __init__(self, server: "RunningServer", data: Path) -> None:
        self._server = server
        self.data = data

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def region(self) -> str:
        return self._server.region

    @property
    def credentials(self) -> "Credentials":
        return self._server.credentials

    @property
    def role_arn(self) -> str:
        """An execution role to create models with."""
        return self._server.role_arn

    def client(self, service: str) -> Any:
        """The boto3 client of a service, under boto3's name for it; made once."""
        return self._server.client(service)

    def session(self) -> "boto3.Session":
        """A boto3 session with the server's key; its clients must be given `endpoint_url=ebbtide.url`."""
        import boto3

        return boto3.Session(
            aws_access_key_id=self.credentials.access_key_id,
            aws_secret_access_key=self.credentials.secret_access_key,
            region_name=self.region,
        )

    def environment(self) -> dict[str, str]:
        """This process's environment, made to lead AWS clients in subprocesses to the server."""
        from ebbtide.cli.running import environment

        others = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return others | environment(self._server, self.data)


@pytest.fixture(scope="session")
def ebbtide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ebbtide]:
    """A running ebbtide server that begins empty; stopped at the end of the test session."""
    from ebbtide.cli.running import started

    data = tmp_path_factory.mktemp("ebbtide")
    with started(data) as server:
        yield Ebbtide(server, data)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the server's log with a failed test that used the server."""
    report = yield
    server = getattr(item, "funcargs", {}).get("ebbtide")
    if report.failed and isinstance(server, Ebbtide):
        from ebbtide.cli.running import LOG_FILE

        lines = (server.data / LOG_FILE).read_text().splitlines()
        report.sections.append(("ebbtide server log, its end", "\n".join(lines[-LOG_LINES_SHOWN:])))
    return report
