"""A running server as its clients see it: where it is, its key, and the environment that leads to it."""

import json
from dataclasses import dataclass
from pathlib import Path

from ebbtide.settings import Credentials, credentials

ADDRESS_FILE = "server.json"
SDK_CONFIG_FILE = "sagemaker-sdk.yaml"


class NotRunningError(Exception):
    """No server has run on that data directory; the message names it."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server's address, its key and its data directory."""

    url: str
    region: str
    credentials: Credentials
    data: Path

    @property
    def role_arn(self) -> str:
        """An execution role for clients that must name one; the server accepts any."""
        return f"arn:aws:iam::{self.credentials.account}:role/ebbtide"

    @property
    def default_bucket(self) -> str:
        """The bucket that the sagemaker SDK chooses on AWS."""
        return f"sagemaker-{self.region}-{self.credentials.account}"

    def environment(self) -> dict[str, str]:
        """The variables by which boto3, the aws command and the sagemaker SDK use this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.credentials.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.credentials.secret_access_key,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
            "SAGEMAKER_USER_CONFIG_OVERRIDE": str(self.data / SDK_CONFIG_FILE),
        }

    def sdk_config(self) -> str:
        """The sagemaker SDK's configuration file, in YAML.

        Without a bucket and a role configured the SDK asks STS for the account at a host written into it,
        and it reports its use to a bucket on AWS: neither follows AWS_ENDPOINT_URL.
        """
        modules = {"Session": {"DefaultS3Bucket": self.default_bucket}, "TelemetryOptOut": True}
        sagemaker = {"PythonSDK": {"Modules": modules}, "Model": {"ExecutionRoleArn": self.role_arn}}
        return json.dumps({"SchemaVersion": "1.0", "SageMaker": sagemaker}, indent=2)  # JSON is YAML


def announce(server: RunningServer) -> None:
    """Leave in the data directory what clients on this machine need to find the server."""
    _replace(server.data / SDK_CONFIG_FILE, server.sdk_config())
    _replace(server.data / ADDRESS_FILE, json.dumps({"url": server.url, "region": server.region}))


def find(data: Path) -> RunningServer:
    """The server that last announced itself in this data directory. Raises NotRunningError when none has."""
    try:
        address = json.loads((data / ADDRESS_FILE).read_text())
    except FileNotFoundError as error:
        raise NotRunningError(
            f"No ebbtide server has run on {data}; start one with: ebbtide serve"
        ) from error
    return RunningServer(address["url"], address["region"], credentials(data), data)


def _replace(path: Path, text: str) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_text(text)
    unfinished.replace(path)
