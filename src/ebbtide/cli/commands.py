"""`deploy`, `summarize`, `status`, `logs` and `delete`: API calls with progress bars and plain tables."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from ebbtide.cli import deployment
from ebbtide.cli.documents import Document, documents
from ebbtide.cli.errors import CommandError, InvocationsError
from ebbtide.cli.observation import observe
from ebbtide.cli.running import RunningServer
from ebbtide.cli.summarizing import Outcome, Output, Question, Summarizing

out = Console()
progress_out = Console(stderr=True)
LOG_POLL_INTERVAL_S = 1.0
FAILURES_SHOWN = 10


def deploy(server: RunningServer, wanted: deployment.Deployment, as_json: bool) -> None:
    """Create an endpoint with its scaling policy, and wait until it serves."""
    _show_steps(f"Deploying {wanted.name}", deployment.deploy(server, wanted))
    endpoint = server.client("sagemaker").describe_endpoint(EndpointName=wanted.name)
    if as_json:
        _print_json(
            {"name": wanted.name, "arn": endpoint["EndpointArn"], "status": endpoint["EndpointStatus"]}
        )
    else:
        out.print(f"{wanted.name} is {endpoint['EndpointStatus']}: {endpoint['EndpointArn']}", soft_wrap=True)


def delete(server: RunningServer, names: list[str], as_json: bool) -> None:
    """Delete endpoints with all that `deploy` made for them, except objects in storage."""
    for name in names:
        _show_steps(f"Deleting {name}", deployment.delete(server, name))
        if not as_json:
            out.print(f"{name} is deleted")
    if as_json:
        _print_json({"deleted": names})


def summarize(
    server: RunningServer,
    paths: Sequence[Path],
    column: str | None,
    question: Question,
    output: Path | None,
    as_json: bool,
) -> None:
    """Summarise what the paths stand for; print the summaries in that order, or write each as it comes.

    Raises InvocationsError, once all have come, when some could not be made; ArticleError for a directory
    without articles and for a data set that cannot be read; CommandError for an output of another kind.
    """
    order = {document.name: number for number, document in enumerate(documents(paths, column))}
    written = Output(output) if output else None
    run = Summarizing(server, question, written.finished if written else None)
    outcomes = _shown(run, documents(paths, column), len(order))
    if written:
        failed = _failed(outcomes, written.add)
        out.print(f"{len(order) - len(failed)} summaries in {output}", soft_wrap=True, highlight=False)
    elif as_json:
        all_of_them = sorted(outcomes, key=lambda outcome: order[outcome.document.name])
        _print_json([outcome.described() for outcome in all_of_them])
        failed = [outcome for outcome in all_of_them if outcome.failure is not None]
    else:
        show = partial(_print_summary, titled=len(order) > 1)
        failed = _failed(_in_order(outcomes, order), show)
    if failed:
        lines = [f"{outcome.document.name}: {outcome.failure}" for outcome in failed[:FAILURES_SHOWN]]
        if more := len(failed) - len(lines):
            lines.append(f"and {more} more")
        raise InvocationsError(f"{len(failed)} of {len(order)} failed:\n" + "\n".join(lines))


def _shown(run: Summarizing, asked: Iterable[Document], total: int) -> Iterator[Outcome]:
    """The run's outcomes, with a progress bar. Raises CommandError when interrupted."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=progress_out,
        disable=not progress_out.is_terminal,
        transient=True,
    ) as progress:
        task = progress.add_task("Summarising", total=total)
        done = 0
        try:
            for done, outcome in enumerate(run.outcomes(asked), start=1):
                progress.update(task, completed=run.known + done)
                yield outcome
        except KeyboardInterrupt:
            raise CommandError(
                f"interrupted with {run.known + done} of {total} done; what was submitted is worked on. "
                "With --output the same command goes on from here"
            ) from None


def _in_order(outcomes: Iterable[Outcome], order: Mapping[str, int]) -> Iterator[Outcome]:
    """Each outcome once all before it have come."""
    early: dict[int, Outcome] = {}
    following = 0
    for outcome in outcomes:
        early[order[outcome.document.name]] = outcome
        while following in early:
            yield early.pop(following)
            following += 1


def _failed(outcomes: Iterator[Outcome], take: Callable[[Outcome], None]) -> list[Outcome]:
    """The failed ones, once each was taken."""
    failed = []
    for outcome in outcomes:
        take(outcome)
        if outcome.failure is not None:
            failed.append(outcome)
    return failed


def _print_summary(outcome: Outcome, *, titled: bool) -> None:
    if titled:
        out.rule(outcome.document.name, align="left")
    if outcome.summary is not None:
        out.print(outcome.summary, markup=False, highlight=False, soft_wrap=True)


def status(server: RunningServer, as_json: bool) -> None:
    """List the endpoints with their instances and backlogs, and how each instance started."""
    pages = (
        server.client("sagemaker")
        .get_paginator("list_endpoints")
        .paginate(SortBy="Name", SortOrder="Ascending")
    )
    names = [endpoint["EndpointName"] for page in pages for endpoint in page["Endpoints"]]
    observations = {name: observe(server, name, time.time()) for name in names}
    own = server.own()
    starts = {name: own.starts(name) for name in names}
    if as_json:
        _print_json(
            [
                {"endpoint": name} | asdict(seen) | {"starts": starts[name]}
                for name, seen in observations.items()
            ]
        )
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("Endpoint", "Status"):
        table.add_column(heading)
    for heading in ("Instances", "Backlog", "Oldest"):
        table.add_column(heading, justify="right")
    table.add_column("Note", overflow="fold")
    for name, seen in observations.items():
        instances = f"{seen.instances}/{seen.desired_instances}"
        oldest = f"{seen.oldest_age_s:.0f} s" if seen.backlog else ""
        table.add_row(name, seen.status, instances, str(seen.backlog), oldest, seen.reason or "")
    out.print(table)
    for name, instances_of_one in starts.items():
        for start in instances_of_one:
            out.print(f"{name} {start['instance']}: {_start_in_words(start)}", highlight=False)


def _start_in_words(start: dict[str, Any]) -> str:
    """The phases of an instance's start, and what it computes with."""
    phases = ", ".join(f"{name} {taken_s:.2f} s" for name, taken_s in start["phases_s"].items())
    engine = ", ".join(f"{name} {value}" for name, value in (start["engine"] or {}).items())
    return f"{phases}; {engine}" if engine else phases


def logs(server: RunningServer, endpoint: str, follow: bool, as_json: bool) -> None:
    """Print what an endpoint's model servers wrote, oldest first; with `follow`, until interrupted.

    Raises CommandError when there is nothing of an endpoint of that name.
    """
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    client = server.client("logs")
    pages = client.get_paginator("filter_log_events")
    printed: set[str] = set()
    since_ms = 0
    while True:
        try:
            for page in pages.paginate(logGroupName=group, startTime=since_ms):
                for event in page["events"]:
                    if event["eventId"] not in printed:
                        _print_event(event, as_json)
                        printed.add(event["eventId"])
                        since_ms = max(since_ms, event["timestamp"])
        except client.exceptions.ResourceNotFoundException as error:
            raise CommandError(
                f"There is no endpoint {endpoint}, or its models have not been started yet"
            ) from error
        if not follow:
            return
        time.sleep(LOG_POLL_INTERVAL_S)


def _show_steps(description: str, steps: Iterable[str]) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, console=progress_out, disable=not progress_out.is_terminal, transient=True
    ) as progress:
        task = progress.add_task(description)
        for step in steps:
            progress.update(task, description=f"{description}: {step}")


def _print_event(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(event))
        return
    at = time.strftime("%H:%M:%S", time.localtime(event["timestamp"] / 1000))
    print(f"{at} {event['logStreamName']} {event['message']}")


def _print_json(value: object) -> None:
    json.dump(value, sys.stdout, indent=2)
    print()
