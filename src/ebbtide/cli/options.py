"""Options that many commands share."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ebbtide.cli.errors import CommandError

OfServer = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory of the server to use. [default: AWS_ENDPOINT_URL if set]"),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

Endpoint = Annotated[str | None, typer.Option(help="Only this endpoint's.")]
States = Annotated[
    list[str] | None,
    typer.Option("--state", help="queued, claimed, succeeded, failed, expired or cancelled. Repeatable."),
]
Tags = Annotated[list[str] | None, typer.Option("--tag", help="KEY:VALUE. Repeatable: all must fit.")]
Account = Annotated[str | None, typer.Option(help="Only what this account's keys submitted.")]
Since = Annotated[
    str | None, typer.Option(help="Accepted since then: 90s, 10m, 2h, 7d or 2026-01-31T12:00:00Z.")
]
Until = Annotated[str | None, typer.Option(help="Accepted before then.")]


def json_object(text: str | None, option: str) -> dict[str, Any]:
    """The JSON object that an option was given, empty where it was not. Raises CommandError."""
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise CommandError(f"{option} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise CommandError(f"{option} must be a JSON object of names and values")
    return value
