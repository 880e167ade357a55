"""A running server as its clients see it: where it is, its key, and the environment that leads to it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebbtide.cli.errors import NotRunningError
from ebbtide.runtime.lifeline import die_with_parent
from ebbtide.settings import Credentials, credentials, default_data_directory

if TYPE_CHECKING:
    from ebbtide.client import Client

ADDRESS_FILE = "server.json"
SDK_CONFIG_FILE = "sagemaker-sdk.yaml"
LOG_FILE = "server.log"
STOP_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server's address, the region it answers for and a key to it."""

    url: str
    region: str
    credentials: Credentials

    def client(self, service: str) -> Any:
        """The boto3 client of a service, under boto3's name for it; made once."""
        return _client(self, service)

    def own(self) -> "Client":
        """The client of our own API; made once."""
        return _own(self)

    @property
    def role_arn(self) -> str:
        """An execution role for calls that must name one; the server accepts any."""
        return f"arn:aws:iam::{self.credentials.account}:role/ebbtide"

    @property
    def default_bucket(self) -> str:
        """The bucket that the sagemaker SDK chooses on AWS, by the same rule."""
        return f"sagemaker-{self.region}-{self.credentials.account}"


@cache
def _client(server: RunningServer, service: str) -> Any:
    import boto3

    return boto3.client(
        service,
        endpoint_url=server.url,
        region_name=server.region,
        aws_access_key_id=server.credentials.access_key_id,
        aws_secret_access_key=server.credentials.secret_access_key,
    )


@cache
def _own(server: RunningServer) -> "Client":
    from ebbtide.client import Client

    key = server.credentials
    return Client(server.url, key.access_key_id, key.secret_access_key, server.region)


def announce(server: RunningServer, data: Path) -> None:
    """Leave in the server's data directory what clients on this machine need to find it."""
    _replace(data / SDK_CONFIG_FILE, sdk_config(server))
    _replace(data / ADDRESS_FILE, json.dumps({"url": server.url, "region": server.region}))


def find(data: Path) -> RunningServer:
    """The server that last announced itself in this data directory. Raises NotRunningError when none has."""
    try:
        address = json.loads((data / ADDRESS_FILE).read_text())
        return RunningServer(address["url"], address["region"], credentials(data))
    except FileNotFoundError as error:
        raise NotRunningError(f"No server has run on {data}; start one with: ebbtide serve") from error
    except ValueError as error:
        raise NotRunningError(f"The data directory {data} is damaged: {error}") from error


def choose(data: Path | None, environment: Mapping[str, str] = os.environ) -> RunningServer:
    """The server that a command is for: of the directory given, else of AWS_ENDPOINT_URL and the AWS_* key in
    the environment, else of the default directory. Raises NotRunningError.
    """
    url = environment.get("AWS_ENDPOINT_URL")
    if data is not None or not url:
        return find(data or default_data_directory(environment))
    key_id, secret = map(environment.get, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    if not (key_id and secret):
        # Another server's data directory would be found, perhaps, and nobody would notice.
        raise NotRunningError(
            f"AWS_ENDPOINT_URL is {url}, but AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not both set: "
            "set them, or name the server's directory with --data"
        )
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    return RunningServer(url, region, Credentials(key_id, secret))


def environment(server: RunningServer, data: Path) -> dict[str, str]:
    """The variables by which boto3, the aws command and the sagemaker SDK use this server."""
    return {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ACCESS_KEY_ID": server.credentials.access_key_id,
        "AWS_SECRET_ACCESS_KEY": server.credentials.secret_access_key,
        "AWS_REGION": server.region,
        "AWS_DEFAULT_REGION": server.region,
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(data.absolute() / SDK_CONFIG_FILE),
    }


def sdk_config(server: RunningServer) -> str:
    """The sagemaker SDK's configuration file, in YAML.

    Without a bucket and a role configured the SDK asks STS for the account at a host written into its code,
    and it reports its use to a bucket on AWS: neither follows AWS_ENDPOINT_URL.
    """
    modules = {"Session": {"DefaultS3Bucket": server.default_bucket}, "TelemetryOptOut": True}
    sagemaker = {"PythonSDK": {"Modules": modules}, "Model": {"ExecutionRoleArn": server.role_arn}}
    return json.dumps({"SchemaVersion": "1.0", "SageMaker": sagemaker}, indent=2)  # JSON is YAML


@contextmanager
def started(
    data: Path, *, database: str | None = None, objects: Path | None = None
) -> Iterator[RunningServer]:
    """A server in a process of its own, on a free port, its log in DATA/server.log; stopped at the end.

    database: a postgresql:// URL, else SQLite in `data`. objects: where their bytes lie, else in `data` too.
    Raises NotRunningError with the log's text when it does not start.
    """
    command = [sys.executable, "-m", "ebbtide", "serve", "--data", str(data), "--port", "0"]
    if database is not None:
        command += ["--database", database]
    if objects is not None:
        command += ["--objects", str(objects)]
    with (data / LOG_FILE).open("w") as log:
        process = subprocess.Popen(  # noqa: S603 - our own program
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            # Ctrl-C at a terminal is for us: we stop the server when we have finished with it.
            start_new_session=True,
            # And when we are killed, nobody else would.
            preexec_fn=die_with_parent,
        )
    try:
        if process.stdout is None or not process.stdout.readline():
            raise NotRunningError(f"The server did not start:\n{(data / LOG_FILE).read_text()}")
        yield find(data)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(text)
    unfinished.replace(path)
