"""Commands that show and steer invocations: what they are called and take. `shown` has what they print."""

import inspect
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Annotated, Any

import typer

from ebbtide.cli.errors import CommandError
from ebbtide.cli.options import Account, Endpoint, Json, OfServer, Since, States, Tags, Until

app = typer.Typer()

Ids = Annotated[
    list[str] | None, typer.Argument(help="Invocations, by id or InferenceId.", show_default=False)
]
Id = Annotated[str, typer.Argument(help="The invocation's id, or its InferenceId.")]

Filters = dict[str, Any]
"""Which invocations are meant, as the API takes it."""


def _filters(
    endpoint: Endpoint = None,
    state: States = None,
    tag: Tags = None,
    account: Account = None,
    since: Since = None,
    until: Until = None,
) -> Filters:
    given = {
        "endpoint": endpoint,
        "state": state or None,
        "tag": tag or None,
        "account": account,
        "accepted_after": moment(since, now=datetime.now(UTC)) if since else None,
        "accepted_before": moment(until, now=datetime.now(UTC)) if until else None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command that takes `filters` the options of `_filters` in their place."""
    options, own = inspect.signature(_filters).parameters, inspect.signature(command).parameters

    @wraps(command)
    def with_options(**given: Any) -> None:
        filters = _filters(**{name: given.pop(name) for name in options})
        command(filters=filters, **given)

    taken = {**options, **{name: each for name, each in own.items() if name != "filters"}}
    with_options.__signature__ = inspect.Signature(list(taken.values()))  # type: ignore[attr-defined]
    with_options.__annotations__ = {name: each.annotation for name, each in taken.items()}
    return with_options


@app.command()
def wait(
    ids: Ids = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Wait until nothing is queued or being worked on.")
    ] = False,
    endpoint: Annotated[str | None, typer.Option(help="With --all: at this endpoint only.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Give up after so many seconds.")] = None,
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Wait for invocations' outcomes; status 1 unless all of them succeeded."""
    from ebbtide.cli import shown
    from ebbtide.cli.running import choose

    if bool(ids) == everything:
        raise CommandError("Say which invocations: their ids, or --all")
    own = choose(data).own()
    if everything:
        shown.wait_for_all(own, endpoint, timeout, json)
    else:
        shown.wait_for(own, ids or [], timeout, json)


@app.command()
@_choosing
def invocations(
    filters: Filters,
    limit: Annotated[int, typer.Option(min=1, help="Most to list.")] = 20,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    data: OfServer = None,
    json: Json = False,
) -> None:
    """List invocations, newest first."""
    from ebbtide.cli import shown
    from ebbtide.cli.running import choose

    shown.invocations(choose(data).own(), filters, limit, watch=watch, as_json=json)


@app.command()
def show(invocation: Id, data: OfServer = None, json: Json = False) -> None:
    """Show an invocation: where it is, what it waits for, and how long each step took."""
    from ebbtide.cli import shown
    from ebbtide.cli.running import choose

    shown.invocation(choose(data).own().get(invocation), json)


@app.command()
@_choosing
def cancel(
    filters: Filters,
    ids: Ids = None,
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Cancel invocations, by id or all that the options name: queued and running ones."""
    from ebbtide.cli import shown
    from ebbtide.cli.running import choose

    shown.cancel(choose(data).own(), ids or [], _meant(ids, filters), json)


@app.command()
def purge(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.")],
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Drop all that an endpoint has queued, without outcomes."""
    from ebbtide.cli import shown
    from ebbtide.cli.running import choose

    shown.purge(choose(data).own(), endpoint, json)


@app.command()
@_choosing
def redrive(
    filters: Filters,
    ids: Ids = None,
    to: Annotated[str | None, typer.Option(help="Another endpoint. [default: each one's own]")] = None,
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Submit invocations again that failed, expired or were cancelled, by id or all that the options name."""
    from ebbtide.cli import shown
    from ebbtide.cli.running import choose

    shown.redrive(choose(data).own(), ids or [], _meant(ids, filters), to, json)


@app.command(context_settings={"ignore_unknown_options": True})
def priority(
    invocation: Id,
    value: Annotated[int, typer.Argument(min=-100, max=100, help="-100 to 100; higher is served first.")],
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Change the priority of a queued invocation."""
    from ebbtide.cli import shown
    from ebbtide.cli.running import choose

    shown.priority(choose(data).own().set_priority(invocation, value), json)


@app.command()
def events(
    endpoint: Endpoint = None,
    invocation: Annotated[str | None, typer.Option(help="Only this one's: first its state now.")] = None,
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Print changes of invocations' states as they come, until Ctrl-C."""
    from ebbtide.cli import shown
    from ebbtide.cli.running import choose

    shown.events(choose(data).own(), endpoint, invocation, json)


def _meant(ids: list[str] | None, filters: dict[str, Any]) -> dict[str, Any]:
    """The filters of a command that changes things: ids or filters, and never nothing for everything."""
    if bool(ids) == bool(filters):
        raise CommandError("Say which invocations: their ids, or options such as --endpoint")
    return filters


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment(text: str, *, now: datetime) -> str:
    """A time as the API takes it: so long ago, or as it stands, of local time where it names no offset.

    Raises CommandError.
    """
    if ago := re.fullmatch(r"([0-9.]+)([smhd])", text):
        try:
            return (now - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])).isoformat()
        except (ValueError, OverflowError) as error:
            raise CommandError(f"{text} is not a time such as 10m") from error
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError) as error:
        raise CommandError(f"{text} is not a time such as 10m or 2026-01-31T12:00:00Z") from error
