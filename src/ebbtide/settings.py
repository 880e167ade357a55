"""Every knob of the server: one frozen record, read once at start."""

import ipaddress
import json
import math
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ebbtide.identifiers import ACCOUNT

CREDENTIALS_FILE = "credentials.json"

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8377


@dataclass(frozen=True, slots=True)
class Credentials:
    """An access key and the account it belongs to."""

    access_key_id: str
    secret_access_key: str
    account: str = ACCOUNT


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator decides. `from_environment` documents the variables."""

    data: Path
    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT
    database: str | None = None
    objects: Path | None = None
    address: str | None = None
    region: str = "us-east-1"
    lease_s: float = 30.0
    max_claim_count: int = 3
    retention_s: float = 14 * 86_400.0
    drain_timeout_s: float = 60.0
    delivery_retention_s: float = 7 * 86_400.0
    memory_limit_bytes: int | None = None
    model_cache_bytes: int = 64 << 30
    instance_types_file: Path | None = None
    outside_stores_file: Path | None = None
    smtp_url: str | None = None
    private_delivery: bool = True

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] = os.environ, *, data: Path | None = None, **given: object
    ) -> "Settings":
        """Read EBBTIDE_DATABASE, EBBTIDE_OBJECTS, EBBTIDE_ADDRESS, EBBTIDE_REGION, EBBTIDE_LEASE_S,
        EBBTIDE_MAX_CLAIM_COUNT, EBBTIDE_RETENTION_S, EBBTIDE_DRAIN_TIMEOUT_S, EBBTIDE_DELIVERY_RETENTION_S,
        EBBTIDE_MEMORY_LIMIT_BYTES, EBBTIDE_MODEL_CACHE_BYTES, EBBTIDE_INSTANCE_TYPES_FILE,
        EBBTIDE_OUTSIDE_STORES_FILE, EBBTIDE_SMTP_URL and EBBTIDE_PRIVATE_DELIVERY; arguments win.

        Notifications go to loopback and private addresses when EBBTIDE_PRIVATE_DELIVERY says so, and without
        it when the server itself listens on loopback alone: whoever reaches it is on this machine already.

        Raises ValueError naming the variable whose value does not parse, or is a number not above 0.
        """
        readers: dict[str, type | Callable[[str], bool]] = {
            "database": str,
            "objects": Path,
            "address": str,
            "region": str,
            "lease_s": float,
            "max_claim_count": int,
            "retention_s": float,
            "drain_timeout_s": float,
            "delivery_retention_s": float,
            "memory_limit_bytes": int,
            "model_cache_bytes": int,
            "instance_types_file": Path,
            "outside_stores_file": Path,
            "smtp_url": str,
            "private_delivery": boolean,
        }
        read: dict[str, object] = {}
        for name, parse in readers.items():
            variable = f"EBBTIDE_{name.upper()}"
            if text := environment.get(variable):
                try:
                    read[name] = parse(text)
                except ValueError as error:
                    raise ValueError(f"{variable}={text} is not a valid {parse.__name__}") from error
                if parse in (float, int) and not 0 < read[name] < math.inf:  # type: ignore[operator]
                    raise ValueError(f"{variable}={text} must be above 0")
        read |= {name: value for name, value in given.items() if value is not None}
        read.setdefault("private_delivery", _is_loopback(str(read.get("host", DEFAULT_HOST))))
        return cls(data=data or default_data_directory(environment), **read)  # type: ignore[arg-type]


def boolean(text: str) -> bool:
    """true or false, in any case. Raises ValueError for anything else."""
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError as error:
        raise ValueError(text) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def default_data_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """$EBBTIDE_DATA, else $XDG_DATA_HOME/ebbtide, else ~/.local/share/ebbtide."""
    if given := environment.get("EBBTIDE_DATA"):
        return Path(given)
    home = environment.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(home) / "ebbtide"


def credentials(data: Path, environment: Mapping[str, str] = os.environ) -> Credentials:
    """The key from EBBTIDE_ACCESS_KEY_ID and EBBTIDE_SECRET_ACCESS_KEY, else the one kept in
    DATA/credentials.json, which is generated readable by its owner only when it does not exist.

    Raises ValueError for half a key in the environment, and for a file without one.
    """
    key_id, secret = (
        environment.get("EBBTIDE_ACCESS_KEY_ID"),
        environment.get("EBBTIDE_SECRET_ACCESS_KEY"),
    )
    if key_id and secret:
        return Credentials(key_id, secret)
    if key_id or secret:
        raise ValueError(
            "EBBTIDE_ACCESS_KEY_ID and EBBTIDE_SECRET_ACCESS_KEY must be given together or not at all"
        )
    path = data / CREDENTIALS_FILE
    if not path.exists():
        keep_credentials(data, Credentials(f"AKIA{secrets.token_hex(8).upper()}", secrets.token_urlsafe(30)))
    try:
        return Credentials(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no key: {error}") from error


def keep_credentials(data: Path, key: Credentials) -> None:
    """Make this the key of the data directory."""
    write_private(data / CREDENTIALS_FILE, json.dumps(asdict(key)).encode())


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, in a directory that exists."""
    # Written whole under another name first: a crash here must not leave half a file that fails for ever.
    unfinished = path.with_suffix(".new")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)
