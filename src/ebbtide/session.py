"""`ebbtide.connect()`: a boto3 session that leads to a server, and may say what AWS's parameters cannot.

Its sagemaker-runtime clients take Priority, Tags and Deduplicate beside InvokeEndpointAsync's own parameters,
and a RequestTTLSeconds over AWS's six hours; botocore's event hooks turn them into the header
X-Ebbtide-Submission before the request is signed.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3

from ebbtide.api.submission import HEADER
from ebbtide.cli.running import RunningServer, choose
from ebbtide.client import Client
from ebbtide.settings import Credentials

_FIELDS = {"Priority": "priority", "Tags": "tags", "Deduplicate": "deduplicate"}
TTL_S = 21_600
"""The longest RequestTTLSeconds of AWS's service model."""

_OPERATION = "sagemaker-runtime.InvokeEndpointAsync"


class Session(boto3.Session):  # type: ignore[misc]  # boto3 has no types
    """A boto3 session whose clients talk to one ebbtide server unless they are given another endpoint_url.

    invoke_endpoint_async also takes Priority (-100 to 100, higher first), Tags (a dictionary, or AWS's list
    of Key and Value) and Deduplicate (False: shares no other request's outcome), and RequestTTLSeconds up to
    30 days.
    """

    def __init__(self, server: RunningServer) -> None:
        super().__init__(
            aws_access_key_id=server.credentials.access_key_id,
            aws_secret_access_key=server.credentials.secret_access_key,
            region_name=server.region,
        )
        self.url = server.url
        self._server = server
        self.events.register(f"provide-client-params.{_OPERATION}", _take_fields)
        self.events.register(f"before-call.{_OPERATION}", _add_header)

    def client(self, service_name: str, *arguments: Any, **named: Any) -> Any:
        """A boto3 client of this server."""
        return super().client(service_name, *arguments, **{"endpoint_url": self.url} | named)

    def resource(self, service_name: str, *arguments: Any, **named: Any) -> Any:
        """A boto3 resource of this server."""
        return super().resource(service_name, *arguments, **{"endpoint_url": self.url} | named)

    @property
    def ebbtide(self) -> Client:
        """The client of what AWS's APIs lack."""
        return self._server.own()


def connect(
    url: str | None = None,
    *,
    data: str | Path | None = None,
    aws_access_key_id: str | None = None,
    aws_secret_access_key: str | None = None,
    region_name: str | None = None,
) -> Session:
    """A session with a running server: that at `url`, or of the data directory; else that of AWS_ENDPOINT_URL
    if it is set, else that of this machine's default data directory.

    What is not given of key and region is taken from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION
    beside a URL, and from the server's data directory otherwise.
    Raises ValueError for a URL without a key, ebbtide.cli.errors.NotRunningError when no server is found.
    """
    given = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": aws_access_key_id,
        "AWS_SECRET_ACCESS_KEY": aws_secret_access_key,
        "AWS_REGION": region_name,
    }
    environment = {**os.environ, **{name: value for name, value in given.items() if value is not None}}
    if url is not None:
        if data is not None:
            raise ValueError("url and data name a server each: give one of them")
        if not (environment.get("AWS_ACCESS_KEY_ID") and environment.get("AWS_SECRET_ACCESS_KEY")):
            raise ValueError("A URL needs aws_access_key_id and aws_secret_access_key, or their variables")
    server = choose(None if data is None else Path(data), environment)
    if aws_access_key_id and aws_secret_access_key:
        server = replace(server, credentials=Credentials(aws_access_key_id, aws_secret_access_key))
    return Session(server)


def _take_fields(params: dict[str, Any], context: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Take our fields out of the parameters, which botocore checks against AWS's model."""
    fields = {ours: params[name] for name, ours in _FIELDS.items() if name in params}
    taken = {*_FIELDS}
    ttl_s = params.get("RequestTTLSeconds")
    if isinstance(ttl_s, int) and ttl_s > TTL_S:
        fields["ttl_s"] = ttl_s
        taken.add("RequestTTLSeconds")
    context[HEADER] = fields
    return {name: value for name, value in params.items() if name not in taken}


def _add_header(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    """Put them into the request's header."""
    if fields := context.get(HEADER):
        if isinstance(fields.get("tags"), list):
            fields["tags"] = {tag["Key"]: tag["Value"] for tag in fields["tags"]}
        params["headers"][HEADER] = json.dumps(fields)
