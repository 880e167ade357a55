"""`ebbtide costs`: what instances cost, as a table for people, JSON or CSV for programs."""

import json
import re
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any

import typer

from ebbtide.cli.errors import CommandError
from ebbtide.cli.options import Account, Endpoint, Json, OfServer

app = typer.Typer()

Since = Annotated[str, typer.Option(help="The first day (UTC): 7d, today being the last, or 2026-01-31.")]
Until = Annotated[str | None, typer.Option(help="The last day: 2026-01-31. [default: today]")]


@app.command()
def costs(
    since: Since = "7d",
    until: Until = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="day, endpoint, account, invocation or tag:KEY. Repeatable. [default: endpoint]"),
    ] = None,
    endpoint: Endpoint = None,
    account: Account = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line a row.")] = False,
    data: OfServer = None,
    as_json: Json = False,
) -> None:
    """Show what instances cost, and beside it what the same work would have cost otherwise."""
    from ebbtide.cli.running import choose

    own = choose(data).own()
    last = _day(until) if until else datetime.now(UTC).date()
    asked: dict[str, Any] = {
        "since": first_day(since, last).isoformat(),
        "until": last.isoformat(),
        "by": by or ["endpoint"],
        "endpoint": endpoint,
        "account": account,
    }
    if as_csv:
        sys.stdout.write(own.costs_csv(**asked))
        return
    found = own.costs(**asked)
    if as_json:
        json.dump(found, sys.stdout, indent=2)
        print()
    else:
        _print(found, asked["by"])


def first_day(text: str, last: date) -> date:
    """So many days up to the last one, or the day as it stands. Raises CommandError."""
    if days := re.fullmatch(r"([1-9][0-9]{0,4})d", text):
        return last - timedelta(days=int(days[1]) - 1)
    return _day(text)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise CommandError(f"{text} is not a day such as 2026-01-31") from error


def _print(found: dict[str, Any], by: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="bold")
    for each in by:
        table.add_column(each, overflow="fold")
    for heading in ("done", "instance-s", "USD", "start", "idle", "always on", "minimum"):
        table.add_column(heading, justify="right")
    for row in found["rows"]:
        table.add_row(*("-" if value is None else value for value in row["of"].values()), *_figures(row))
    if len(found["rows"]) > 1:
        table.add_section()
        table.add_row("all", *[""] * (len(by) - 1), *_figures(found["total"]), style="bold")
    Console().print(table)


def _figures(cost: dict[str, Any]) -> list[str]:
    return [
        f"{cost['invocations']:,}",
        f"{cost['instance_s']:,.1f}",
        "-" if cost["cost"] is None else f"{cost['cost']:,.4f}",
        f"{cost['cold_start_share']:.0%}",
        f"{cost['idle_share']:.0%}",
        f"{cost['always_on_s']:,.0f} s",
        f"{cost['minimum_s']:,.1f} s",
    ]
