"""What the commands for invocations print: tables and timelines for people, JSON for programs."""

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ebbtide.cli.errors import InvocationsError
from ebbtide.client import Answer, Client

out = Console()

WATCH_S = 1.0
UNFINISHED = ("queued", "claimed")

STYLES = {
    "queued": "yellow",
    "claimed": "cyan",
    "succeeded": "green",
    "failed": "red",
    "expired": "red",
    "cancelled": "magenta",
}


def invocation(found: Answer, as_json: bool) -> None:
    """Print one whole."""
    if as_json:
        print_json(found)
        return
    out.print(Text.assemble((found["id"], "bold"), "  ", _state(found["state"])))
    for name, value in _facts(found):
        # Not folded: locations are there to be copied.
        out.print(Text.assemble((f"  {name:<12}", "dim"), value), soft_wrap=True)
    out.print()
    out.print(_timeline(found))
    for attempt in found["attempts"]:
        took = duration(_seconds(attempt["claimed_at"], attempt["ended_at"]))
        out.print(f"  claim {attempt['claim_count']} ended after {took}: {attempt['reason']}", markup=False)
    if found["failure_reason"]:
        out.print(Text(f"  {found['failure_reason']}", style="red"), soft_wrap=True)


def invocations(own: Client, filters: dict[str, Any], limit: int, *, watch: bool, as_json: bool) -> None:
    """Print a table of the newest; with `watch` again and again."""
    if not watch:
        found = _newest(own, filters, limit)
        if as_json:
            print_json(found)
        else:
            out.print(_table(found))
        return
    with Live(console=out, auto_refresh=False) as live:
        while True:
            live.update(_table(_newest(own, filters, limit)), refresh=True)
            time.sleep(WATCH_S)


def wait_for(own: Client, ids: list[str], timeout_s: float | None, as_json: bool) -> None:
    """Print each one's outcome in the order given. Raises InvocationsError unless all succeeded."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    done = []
    for id_ in ids:
        try:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            found = own.wait(id_, timeout_s=left_s)
        except TimeoutError as error:
            raise InvocationsError(str(error)) from error
        done.append(found)
        if not as_json:
            out.print(_outcome(found), soft_wrap=True)
    if as_json:
        print_json(done)
    others = [found for found in done if found["state"] != "succeeded"]
    if others:
        raise InvocationsError(f"{len(others)} of {len(done)} did not succeed")


def wait_for_all(own: Client, endpoint: str | None, timeout_s: float | None, as_json: bool) -> None:
    """Return once nothing is queued or being worked on. Raises InvocationsError when the time is over."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while (newest := next(own.invocations(endpoint=endpoint, state=UNFINISHED, limit=1), None)) is not None:
        # The newest is among the last to be done: seldom are there many to wait for, one after the other.
        left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            own.wait(newest["id"], timeout_s=left_s)
        except TimeoutError as error:
            raise InvocationsError(f"There is still work after {timeout_s:g} s") from error
    if as_json:
        print_json({"unfinished": 0})
    else:
        out.print("Nothing is queued or being worked on")


def cancel(own: Client, ids: list[str], filters: dict[str, Any], as_json: bool) -> None:
    """Cancel and say how many were."""
    if ids:
        count = 0
        for id_ in ids:
            before = own.get(id_)["state"]
            count += own.cancel(id_)["state"] == "cancelled" and before in UNFINISHED
    else:
        count = own.cancel_all(**filters)
    _print_count("cancelled", count, as_json)


def purge(own: Client, endpoint: str, as_json: bool) -> None:
    """Purge and say how many were dropped."""
    _print_count("purged", own.purge(endpoint)["purged"], as_json)


def redrive(own: Client, ids: list[str], filters: dict[str, Any], to: str | None, as_json: bool) -> None:
    """Redrive and say what became of what."""
    if ids:
        redriven = {id_: own.redrive(id_, endpoint=to)["id"] for id_ in ids}
    else:
        redriven = own.redrive_all(to_endpoint=to, **filters)
    if as_json:
        print_json({"redriven": redriven})
        return
    for old, new in redriven.items() if ids else ():
        out.print(f"{old} → {new}", soft_wrap=True, highlight=False)
    if not ids:
        _print_count("redriven", len(redriven), as_json)


def priority(found: Answer, as_json: bool) -> None:
    """Say the new priority, and the place it gives."""
    if as_json:
        print_json(found)
        return
    place = f", position {_position(found['queue'])}" if found["queue"] else f", {found['state']}"
    out.print(f"{found['id']} has priority {found['priority']}{place}", soft_wrap=True, highlight=False)


def events(own: Client, endpoint: str | None, invocation: str | None, as_json: bool) -> None:
    """Print a line a change."""
    for event in own.events(endpoint=endpoint, invocation=invocation):
        if as_json:
            print(json.dumps(event), flush=True)
        else:
            line = Text.assemble(
                f"{clock_time(event['at'])} {event['id']} ",
                _state(event["state"], width=9),
                f" {event['endpoint']}",
                f" {_parts(event['progress'])}" if "progress" in event else "",
            )
            out.print(line, soft_wrap=True)


def print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    print()


def print_rows(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A plain table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading)
    for row in rows:
        table.add_row(*map(Text, row))
    out.print(table)


def duration(seconds: float | None) -> str:
    """A length of time as people say it: 3 ms, 1.24 s, 2 min 05 s, 3 h 10 min."""
    if seconds is None:
        return ""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.995:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def clock_time(text: str) -> str:
    """A time of the API in local time: of today without its date."""
    at = _time(text).astimezone()
    today = at.date() == datetime.now(UTC).astimezone().date()
    shown = at.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S")
    return f"{shown}.{at.microsecond // 1000:03}"


def _newest(own: Client, filters: dict[str, Any], limit: int) -> list[Answer]:
    found: list[Answer] = []
    for one in own.invocations(limit=min(limit, 1000), **filters):
        found.append(one)
        if len(found) == limit:
            break
    return found


def _table(found: Iterable[Answer]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Invocation", no_wrap=True, min_width=36)
    table.add_column("State", no_wrap=True)
    table.add_column("Endpoint", no_wrap=True, overflow="ellipsis")
    for heading in ("Age", "Took"):
        table.add_column(heading, justify="right", no_wrap=True)
    now = datetime.now(UTC)
    for one in found:
        age = _age(max(0.0, (now - _time(one["accepted_at"])).total_seconds()))
        took = duration(_seconds(one["accepted_at"], one["finished_at"]))
        table.add_row(one["id"], Text(*_state(one["state"])), Text(one["endpoint"]), age, took)
    return table


def _age(seconds: float) -> str:
    """How long ago, in one unit: ages are for orientation."""
    for unit, length_s in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds // length_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _facts(found: Answer) -> Iterator[tuple[str, str]]:
    if found["inference_id"] != found["id"]:
        yield "InferenceId", found["inference_id"]
    yield "endpoint", found["endpoint"]
    yield "account", found["account"]
    if found["priority"]:
        yield "priority", str(found["priority"])
    if found["tags"]:
        yield "tags", ", ".join(f"{key}:{value}" for key, value in found["tags"].items())
    yield "input", found["input_location"] or "came with the request"
    if found["state"] in ("failed", "expired", "cancelled"):
        if found["failure_location"]:
            yield "failure", found["failure_location"]
    else:
        yield "output", found["output_location"]
    if found["redriven_from"]:
        yield "repeats", found["redriven_from"]
    if found["waiting_reason"]:
        yield "waits", found["waiting_reason"]
    if found["queue"]:
        yield "position", _position(found["queue"])
    if found["estimate"]:
        yield "expected", _expected(found)


def _position(queue: Answer) -> str:
    return str(queue["position"]) if queue["exact"] else f"{queue['position']} or later"


def _expected(found: Answer) -> str:
    estimate, now = found["estimate"], datetime.now(UTC)

    def away(text: str) -> str:
        return duration(max(0.0, (_time(text) - now).total_seconds()))

    told = []
    if found["queue"] and estimate["start_at"]:
        told.append(f"start in {away(estimate['start_at'])}")
    if estimate["end_at"]:
        told.append(f"end in {away(estimate['end_at'])}")
    if not told:
        return "not known: nothing has finished here yet"
    basis = estimate["basis"]
    slots = basis["slots"] or f"{basis['coming_slots']} coming"
    pace = f"{duration(basis['service_s'])} each" if basis["service_s"] is not None else "no pace known yet"
    if basis["outcomes_per_s"] is not None:
        pace += f", {basis['outcomes_per_s']:.3g} a second"
    return f"{', '.join(told)} ({slots} slots, {pace})"


def _timeline(found: Answer) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column()
    table.add_column(justify="right")
    before = None
    for step in found["timeline"]:
        took = "" if before is None else f"+{duration(max(0.0, _seconds(before, step['at']) or 0.0))}"
        style = STYLES.get(step["event"], "green" if step["event"] == "stored" else "")
        what = _parts(step["progress"]) if step["progress"] else step["event"].replace("_", " ")
        table.add_row(f"  {what}", clock_time(step["at"]), took, style=style)
        before = step["at"]
    if found["finished_at"]:
        took = duration(_seconds(found["accepted_at"], found["finished_at"]))
        table.add_row("  in all", "", took, style="bold")
    return table


def _parts(progress: Answer) -> str:
    """32 of 512 parts; of what pass and article, where there may be others."""
    told = f"{progress['parts_done']} of {progress['parts']} parts"
    if progress["level"] > 1:
        told = f"pass {progress['level']}: {told}"
    if progress["articles"] > 1:
        told = f"article {progress['article']} of {progress['articles']}, {told}"
    return told


def _outcome(found: Answer) -> Text:
    took = duration(_seconds(found["accepted_at"], found["finished_at"]))
    where = found["output_location"] if found["state"] == "succeeded" else found["failure_reason"]
    return Text.assemble(f"{found['id']} ", _state(found["state"]), f" in {took}: {where}")


def _print_count(what: str, count: int, as_json: bool) -> None:
    if as_json:
        print_json({what: count})
    else:
        out.print(f"{count} {what}", highlight=False)


def _state(state: str, width: int = 0) -> tuple[str, str]:
    return f"{state:{width}}" if width else state, STYLES[state]


def _seconds(start: str | None, end: str | None) -> float | None:
    if start is None or end is None:
        return None
    return (_time(end) - _time(start)) / timedelta(seconds=1)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
