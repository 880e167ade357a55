"""The operator's file of buckets that lie in outside stores.

    [papers]                                  # the bucket's name in s3://papers/KEY here
    url = "s3://acme-papers/inbox"            # or gs://BUCKET, az://CONTAINER, file:///A/DIRECTORY
    endpoint = "https://minio.example:9000"   # where it is not the cloud's own
    region = "eu-central-1"                   # s3 only
    [papers.credentials]                      # obstore's name of a credential -> the variable that holds it
    access_key_id = "PAPERS_KEY_ID"
    secret_access_key = "PAPERS_SECRET"

Keys here are keys below the path of `url`. Without `credentials` the cloud's own chain finds them: boto3's
for s3, application default credentials for gs, the managed identity or AZURE_ variables for az; with
`anonymous = true` requests are not signed. No secret stands in the file, and none is logged.
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from obstore.store import ObjectStore

CREDENTIALS = {
    "s3": {"access_key_id", "secret_access_key", "session_token"},
    "gs": {"service_account", "service_account_key", "application_credentials"},
    "az": {
        "account_name",
        "account_key",
        "sas_key",
        "client_id",
        "client_secret",
        "tenant_id",
        "bearer_token",
    },
    "file": set[str](),
}
"""Scheme -> the credentials that its store takes, under obstore's names."""

CONNECT_S = 5.0
RETRIES = 3
RETRY_S = 10.0
"""What fails within these is tried again by obstore; for longer ones work waits in the queue."""

WHOLE_REQUEST_S = 24 * 3600.0
"""Bounds nothing that `silence_s` does not: a large object takes long to pass."""


@dataclass(frozen=True, slots=True)
class OutsideBucket:
    """Where a bucket really lies. credentials: obstore's name of each -> environment variable."""

    name: str
    scheme: str
    container: str
    path: str
    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False
    credentials: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """What errors and the log call it."""
        url = f"{self.scheme}://{self.container}{self.path and '/'}{self.path}"
        return f"{url} at {self.endpoint}" if self.endpoint else url

    def connect(self, environment: Mapping[str, str] = os.environ, *, silence_s: float) -> "ObjectStore":
        """obstore's client of it; nothing is sent yet. silence_s: how long it may answer nothing.

        Raises ValueError, in an operator's words, when obstore is not installed, a variable of a credential
        is not set, or there is no such directory.
        """
        try:
            from obstore import store
        except ImportError as error:
            raise ValueError(
                f"the bucket {self.name} lies in {self.place}, which is reached with obstore, and that is "
                "not installed: pip install 'ebbtide[outside]'"
            ) from error
        given = self._given(environment)
        prefix = self.path or None
        options: dict[str, Any] = {
            "client_options": {
                "allow_http": self.endpoint is not None and self.endpoint.startswith("http://"),
                "connect_timeout": timedelta(seconds=CONNECT_S),
                "read_timeout": timedelta(seconds=silence_s),
                "timeout": timedelta(seconds=WHOLE_REQUEST_S),
            },
            "retry_config": {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_S)},
        }
        config: Any = {**given, "skip_signature": self.anonymous}
        match self.scheme:
            case "file":
                if not Path("/", self.path).is_dir():
                    raise ValueError(f"the bucket {self.name} lies in {self.place}, which is no directory")
                return store.LocalStore(Path("/", self.path))
            case "gs":
                if self.endpoint:
                    config["base_url"] = self.endpoint
                return store.GCSStore(self.container, prefix=prefix, config=config, **options)
            case "az":
                if self.endpoint:
                    config["endpoint"] = self.endpoint
                return store.AzureStore(self.container, prefix=prefix, config=config, **options)
        region = self.region or "us-east-1"
        # Both are always given: the server's own AWS_ variables may well be meant for clients of ebbtide.
        config = {
            "skip_signature": self.anonymous,
            "region": region,
            "endpoint": self.endpoint or f"https://s3.{region}.amazonaws.com",
        }
        if not self.anonymous:
            options["credential_provider"] = _fixed(given) if given else _boto3_credentials(self.name)
        return store.S3Store(self.container, prefix=prefix, config=config, **options)

    def _given(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The credentials' values by obstore's names. Raises ValueError for a variable that is not set."""
        for credential, variable in self.credentials.items():
            if not environment.get(variable):
                raise ValueError(
                    f"{variable} is not set, which the bucket {self.name} needs for its {credential}"
                )
        return {credential: environment[variable] for credential, variable in self.credentials.items()}


def read_file(path: Path) -> dict[str, OutsideBucket]:
    """The buckets of the operator's file by name. Raises ValueError, in an operator's words."""
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"the file of outside stores {path} cannot be read: {error}") from error
    try:
        return {name: _bucket(name, table) for name, table in tables.items()}
    except ValueError as error:
        raise ValueError(f"the file of outside stores {path}: {error}") from error


def _bucket(name: str, table: Any) -> OutsideBucket:
    kinds = {"url": str, "endpoint": str, "region": str, "anonymous": bool, "credentials": dict}
    if not isinstance(table, dict):
        raise ValueError(f"{name} is no table")
    for key, value in table.items():
        if key not in kinds:
            raise ValueError(f"[{name}] has {key}, which is none of {', '.join(kinds)}")
        if not isinstance(value, kinds[key]):
            raise ValueError(f"{key} of [{name}] is no {kinds[key].__name__}")
    url = urlsplit(table.get("url", ""))
    if url.scheme not in CREDENTIALS or url.query or url.fragment or "@" in url.netloc:
        raise ValueError(f"[{name}] needs a url of the form s3://, gs://, az:// or file:///")
    if bool(url.netloc) == (url.scheme == "file"):
        raise ValueError(f"the url of [{name}] must name a bucket, or be file:/// and an absolute path")
    credentials = table.get("credentials", {})
    for credential, variable in credentials.items():
        if credential not in CREDENTIALS[url.scheme]:
            known = ", ".join(sorted(CREDENTIALS[url.scheme])) or "none"
            raise ValueError(f"{credential} is no credential of {url.scheme}:// (known: {known})")
        if not isinstance(variable, str):
            raise ValueError(f"{credential} of [{name}.credentials] is not the name of a variable")
    if (
        url.scheme == "s3"
        and credentials
        and not {"access_key_id", "secret_access_key"} <= credentials.keys()
    ):
        raise ValueError(f"[{name}.credentials] needs both access_key_id and secret_access_key")
    return OutsideBucket(
        name=name,
        scheme=url.scheme,
        container=url.netloc,
        path=url.path.strip("/"),
        endpoint=table.get("endpoint", "").rstrip("/") or None,
        region=table.get("region"),
        anonymous=table.get("anonymous", False),
        credentials=credentials,
    )


def _fixed(given: Mapping[str, str]) -> Callable[[], dict[str, object]]:
    credential = {
        "access_key_id": given["access_key_id"],
        "secret_access_key": given["secret_access_key"],
        "token": given.get("session_token"),
        "expires_at": None,
    }
    return lambda: dict(credential)


def _boto3_credentials(name: str) -> Any:
    from obstore.auth.boto3 import Boto3CredentialProvider

    try:
        return Boto3CredentialProvider()
    except ValueError as error:
        raise ValueError(
            f"no credentials were found for the bucket {name}: name them in [{name}.credentials], or set up "
            "the AWS SDK's own"
        ) from error
