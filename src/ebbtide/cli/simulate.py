"""`ebbtide simulate`: what other policies would have made of the same requests, in seconds, not days."""

import json
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.errors import CommandError
from ebbtide.cli.options import Json, OfServer, Since, Until

if TYPE_CHECKING:
    from ebbtide.cli.running import RunningServer
    from ebbtide.simulation.engine import Look, Run
    from ebbtide.simulation.load import Arrival, Load
    from ebbtide.simulation.outcome import Outcome
    from ebbtide.simulation.setting import Fleet, Scaling

app = typer.Typer()

STORM, STORM_S, SERVICE_S = 10_000, 10.0, 0.02
"""The storm of AWS's post, with an article in 20 ms."""

POLICIES = ("target=5,cooldown=120,max=5", "deadline=600,max=5", "always=5")
"""What is compared when nothing is said: the post's policy, a deadline, instances that are always on."""

POINTS = 800
"""Most points of a curve in the picture."""

NUMBERS = ("target", "cooldown", "out", "min", "max", "deadline", "budget", "forecast", "always")


@app.command()
def simulate(
    arrivals: Annotated[
        Path | None,
        typer.Argument(help="CSV or JSON lines: at, and if known service_s, priority, account, ttl_s."),
    ] = None,
    endpoint: Annotated[
        str | None, typer.Option(help="What this endpoint was sent, with its own policies.")
    ] = None,
    since: Since = None,
    until: Until = None,
    storm: Annotated[int, typer.Option(min=1, help="Made up: so many requests.")] = STORM,
    over: Annotated[float, typer.Option(min=0.001, help="Within so many seconds.")] = STORM_S,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            help="target=5,cooldown=120,min=0,max=5, or deadline=600 (seconds), budget=5000 "
            "(instance-seconds a day), forecast=4 (weeks), always=5 (instances). Repeatable."
        ),
    ] = None,
    service: Annotated[
        float | None, typer.Option(min=0, help="Seconds that a request takes. [default: as recorded]")
    ] = None,
    starting: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds that an instance takes to start. [default: as recorded]"),
    ] = None,
    slots: Annotated[
        int | None,
        typer.Option(min=1, help="Requests at a time on an instance. [default: the endpoint's, or 1]"),
    ] = None,
    instance_type: Annotated[
        str | None, typer.Option(help="Gives the price. [default: the endpoint's, or ml.m5.xlarge]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is made up or drawn.")] = 1,
    picture: Annotated[Path | None, typer.Option(help="Where to write the graphs, as PNG.")] = None,
    data: OfServer = None,
    as_json: Json = False,
) -> None:
    """Put requests through scaling policies in virtual time, and compare what comes of it.

    The requests are an endpoint's own, a file's, or a storm.
    """
    from ebbtide.cli.endpoint_scaling import instance_type_of, own_scaling, slots_of
    from ebbtide.cli.running import choose
    from ebbtide.simulation import load as loads

    if endpoint is not None and arrivals is not None:
        raise CommandError("Give a file or --endpoint, not both")
    if picture is not None:
        _need_matplotlib()
    scalings = [parse(each) for each in policy or ()]
    try:
        if endpoint is not None:
            server = choose(data)
            listed = _history(server, endpoint, since, until)
            scalings = [own_scaling(server, endpoint), *scalings]
            starting = server.own().endpoint(endpoint)["starting_s"] if starting is None else starting
            slots = slots_of(server, endpoint) if slots is None else slots
            instance_type = instance_type_of(server, endpoint) if instance_type is None else instance_type
        elif arrivals is not None:
            listed = loads.read(arrivals)
        else:
            listed = loads.storm(storm, over_s=over, seed=seed)
            service = SERVICE_S if service is None else service
        made = loads.load(listed, service_s=service, seed=seed)
    except loads.LoadError as error:
        raise CommandError(str(error)) from error
    fleet = _fleet(slots or 1, 1.0 if starting is None else starting, instance_type or "ml.m5.xlarge")
    compare(made, fleet, scalings or [parse(each) for each in POLICIES], picture, as_json)


def _fleet(slots: int, starting_s: float, instance_type: str) -> "Fleet":
    from ebbtide.instances.types import InstanceTypes
    from ebbtide.simulation.setting import Fleet

    own_types = os.environ.get("EBBTIDE_INSTANCE_TYPES_FILE")
    hourly = InstanceTypes(Path(own_types) if own_types else None).get(instance_type).price_per_hour
    return Fleet(slots, starting_s, None if hourly is None else hourly / 3600)


def compare(
    load: "Load", fleet: "Fleet", scalings: Sequence["Scaling"], picture: Path | None, as_json: bool
) -> None:
    """Run each, and show them beside one another over the same time."""
    from ebbtide.simulation.engine import simulate
    from ebbtide.simulation.outcome import outcome

    runs = {scaling.name: simulate(load, fleet, scaling) for scaling in scalings}
    until = max(run.ended_at for run in runs.values())
    found = {name: outcome(load, fleet, run, until=until) for name, run in runs.items()}
    if as_json:
        json.dump([{"policy": name} | asdict(one) for name, one in found.items()], sys.stdout, indent=2)
        print()
    else:
        _print(found)
    if picture is not None:
        _draw(load, runs, picture)


def parse(text: str) -> "Scaling":
    """A policy in short: NAME=NUMBER, separated by commas. Raises CommandError."""
    from ebbtide.scaling.goals import Budget, Deadline, Forecast, Goals
    from ebbtide.scaling.policies import Limits, TargetTracking
    from ebbtide.simulation.setting import Scaling

    given: dict[str, float] = {}
    for part in text.split(","):
        if (
            not (found := re.fullmatch(r"\s*([a-z]+)=([0-9]+(?:\.[0-9]+)?)\s*", part))
            or found[1] not in NUMBERS
        ):
            raise CommandError(f"--policy {text}: {part!r} is none of {', '.join(NUMBERS)}, as in target=5")
        given[found[1]] = float(found[2])
    if "always" in given:
        always = int(given["always"])
        return Scaling(text, Limits(always, always))
    limits = Limits(int(given.get("min", 0)), int(given.get("max", 5)))
    if not 0 < limits.max_capacity >= limits.min_capacity:
        raise CommandError(f"--policy {text}: max must be above 0, and min not above max")
    goals = Goals(
        deadline=Deadline(within_s=given["deadline"]) if "deadline" in given else None,
        budget=Budget(instance_s_per_day=given["budget"]) if "budget" in given else None,
        forecast=Forecast(weeks=int(given["forecast"])) if "forecast" in given else None,
    )
    if given.get("target", 1.0) <= 0:
        raise CommandError(f"--policy {text}: target must be above 0")
    cooldown_s = given.get("cooldown", 300.0)
    tracking = TargetTracking(
        "backlog", given.get("target", 5.0), given.get("out", cooldown_s), cooldown_s, False, since=0.0
    )
    return Scaling(text, limits, (tracking,), goals)


def _history(server: "RunningServer", endpoint: str, since: str | None, until: str | None) -> "list[Arrival]":
    from ebbtide.cli.steering import moment
    from ebbtide.simulation.load import of_history

    now = datetime.now(UTC)
    return of_history(
        server.own().invocations(
            endpoint=endpoint,
            accepted_after=moment(since, now=now) if since else None,
            accepted_before=moment(until, now=now) if until else None,
            limit=1000,
        )
    )


def _print(found: "Mapping[str, Outcome]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", style="dim")
    for name in found:
        table.add_column(name.replace(",", " "), justify="right", overflow="fold")
    for what, figure in FIGURES.items():
        table.add_row(what, *map(figure, found.values()))
    Console().print(table)


FIGURES: dict[str, "Callable[[Outcome], str]"] = {
    "done": lambda one: f"{one.done:,}",
    "expired": lambda one: f"{one.expired:,}",
    "wait, p50": lambda one: _seconds(one.wait_p50_s),
    "wait, p99": lambda one: _seconds(one.wait_p99_s),
    "until the last is done": lambda one: _seconds(one.done_s),
    "oldest request": lambda one: _seconds(one.oldest_age_s),
    "instances at most": lambda one: str(one.most_instances),
    "scaling acts": lambda one: str(one.acts),
    "instance-seconds": lambda one: f"{one.instance_s:,.1f}",
    "of them starting": lambda one: _share(one.starting_s, one.instance_s),
    "of them idle": lambda one: _share(one.idle_s, one.instance_s),
    "always on": lambda one: f"{one.always_on_s:,.1f}",
    "clairvoyant minimum": lambda one: f"{one.minimum_s:,.1f}",
    "cost in USD": lambda one: "-" if one.cost is None else f"{one.cost:,.4f}",
}


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} s"


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def _need_matplotlib() -> None:
    """Raises CommandError before anything is computed, rather than after."""
    if find_spec("matplotlib") is None:
        raise CommandError("The picture needs matplotlib: pip install 'ebbtide[plot]'")


def _draw(load: "Load", runs: "Mapping[str, Run]", path: Path) -> None:
    from ebbtide.cli.picture import Course, draw_courses

    begin = load.at[0]
    until = max(run.ended_at for run in runs.values())
    courses = [
        Course(
            name,
            backlog=_thinned(_course(run, begin, until, lambda look: look.backlog)),
            oldest_age_s=_thinned(_course(run, begin, until, lambda look: look.oldest_age_s)),
            instances=_thinned(_course(run, begin, until, lambda look: look.in_service)),
        )
        for name, run in runs.items()
    ]
    title = f"{len(load):,} requests"
    draw_courses(title, arrivals_a_second(load.at, until), courses, path)


def _course(
    run: "Run", begin: float, until: float, value: "Callable[[Look], float]"
) -> list[tuple[float, float]]:
    """What the scaler saw, which stays as it was last while others go on."""
    looks = [(look.at - begin, float(value(look))) for look in run.looks]
    return [*looks, (until - begin, looks[-1][1])]


def arrivals_a_second(at: Sequence[float], until: float) -> list[tuple[float, float]]:
    """Arrivals a second over the time from the first one to `until`, in stretches of at least a second."""
    begin = at[0]
    stretch_s = max(1.0, (until - begin) / POINTS)
    counts = [0] * (int((until - begin) / stretch_s) + 1)
    for each in at:
        counts[int((each - begin) / stretch_s)] += 1
    return [(number * stretch_s, count / stretch_s) for number, count in enumerate(counts)]


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """No more than twice `POINTS`: of each stretch the first and the highest."""
    step = max(1, len(points) // POINTS)
    if step == 1:
        return points
    thinned = []
    for begin in range(0, len(points), step):
        stretch = points[begin : begin + step]
        highest = max(stretch, key=lambda point: point[1])
        thinned += [stretch[0], highest] if highest is not stretch[0] else [highest]
    return thinned
