"""`deploy`, `summarize`, `status`, `logs` and `delete`: API calls with progress bars and plain tables."""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
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
)
from rich.table import Table

from ebbtide.cli import deployment, invocations
from ebbtide.cli.articles import Article, from_files
from ebbtide.cli.errors import InvocationsError
from ebbtide.cli.observation import observe
from ebbtide.cli.running import RunningServer

out = Console()
progress_out = Console(stderr=True)
LOG_POLL_INTERVAL_S = 1.0


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
    server: RunningServer, files: list[Path], endpoint: str, parameters: dict[str, Any], as_json: bool
) -> None:
    """Summarise files through the endpoint and print the summaries in the files' order.

    Raises InvocationsError, after printing those there are, when some could not be made.
    """
    articles = from_files(files)
    finished = _invoke_all(server, endpoint, articles, parameters)
    if as_json:
        _print_json([_described(outcome) for outcome in finished])
    else:
        for outcome in finished:
            if len(finished) > 1:
                out.rule(_title(outcome), align="left")
            out.print(*outcome.summaries, sep="\n", markup=False, highlight=False, soft_wrap=True)
    failed = [outcome for outcome in finished if outcome.failure is not None]
    if failed:
        lines = (f"{_title(outcome)}: {outcome.failure}" for outcome in failed)
        raise InvocationsError(f"{len(failed)} of {len(finished)} failed:\n" + "\n".join(lines))


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
    """Print what an endpoint's model servers wrote, oldest first; with `follow`, until interrupted."""
    group = f"/aws/sagemaker/Endpoints/{endpoint}"
    pages = server.client("logs").get_paginator("filter_log_events")
    printed: set[str] = set()
    since_ms = 0
    while True:
        for page in pages.paginate(logGroupName=group, startTime=since_ms):
            for event in page["events"]:
                if event["eventId"] not in printed:
                    _print_event(event, as_json)
                    printed.add(event["eventId"])
                    since_ms = max(since_ms, event["timestamp"])
        if not follow:
            return
        time.sleep(LOG_POLL_INTERVAL_S)


def _invoke_all(
    server: RunningServer, endpoint: str, articles: list[Article], parameters: dict[str, Any]
) -> list[invocations.Finished]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=progress_out, disable=not progress_out.is_terminal, transient=True
    ) as progress:
        task = progress.add_task("Summarising", total=len(articles))
        requests = [(article,) for article in articles]
        locations = invocations.upload(server, endpoint, requests, parameters)
        accepted = [
            invocations.invoke(server, endpoint, request, location)
            for request, location in zip(requests, locations, strict=True)
        ]
        finished = {}
        for outcome in invocations.outcomes(server, accepted):
            finished[outcome.accepted.inference_id] = outcome
            progress.advance(task)
    return [finished[invocation.inference_id] for invocation in accepted]


def _title(outcome: invocations.Finished) -> str:
    return outcome.accepted.articles[0].title


def _described(outcome: invocations.Finished) -> dict[str, Any]:
    return {
        "file": _title(outcome),
        "inference_id": outcome.accepted.inference_id,
        "output_location": outcome.accepted.output.uri,
        "summary": "\n".join(outcome.summaries) if outcome.failure is None else None,
        "failure": outcome.failure,
    }


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
