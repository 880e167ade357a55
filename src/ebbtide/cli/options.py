"""Options that many commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
