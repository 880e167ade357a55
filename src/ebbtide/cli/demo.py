"""`ebbtide demo`: the main job on real articles, from zero instances and back, on a server of its own."""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ebbtide.cli import deployment, invocations
from ebbtide.cli.articles import Article
from ebbtide.cli.errors import DemoError
from ebbtide.cli.observation import Observation, observe, series
from ebbtide.cli.picture import Graphs, draw
from ebbtide.cli.running import RunningServer, started

ENDPOINT = "demo-summaries"
MAX_INSTANCES = 5
TARGET = 5.0
# Users of AWS set 120 to 600 s; shortened here so that the whole tide fits into a minute.
COOLDOWN_S = 5
CONCURRENCY = 2
CLIENTS = 8
LOOK_EVERY_S = 0.5
PRINT_EVERY_S = 2.0
TIMEOUT_S = 300
SUMMARIES_SHOWN = 5
LENGTH = {"max_length": 60}


@dataclass(frozen=True, slots=True)
class Moment:
    """The endpoint and the burst's outcomes, seen together."""

    endpoint: Observation
    completed: int
    failed: int


def demo(
    console: Console, articles: Sequence[Article], model: str, *, batch: int, requests: int, picture: Path
) -> None:
    """Run the demonstration and write the picture.

    `requests` invocations go round the articles, each with a batch of so many of them. Raises DemoError or
    DeploymentError when anything fails.
    """
    with tempfile.TemporaryDirectory(prefix="ebbtide-demo-") as directory:
        with started(Path(directory)) as server:
            console.print(f"A server of its own answers at {server.url}, its data in {directory}")
            tide = Tide(console, server, requests)
            finished = tide.run(list(_batches(articles, batch)), model)
            _print_summaries(console, finished)
            draw(tide.graphs(), picture)
            console.print(f"The graphs of this run: [bold]{picture}[/]")
            _print_cost(console, tide.moments)
            for step in deployment.delete(server, ENDPOINT):
                console.print(f"Cleaning up: {step}", style="dim")
    console.print("The server is stopped and its data removed.", style="dim")
    last = tide.moments[-1]
    if last.failed:
        reasons = {outcome.failure for outcome in finished if outcome.failure}
        raise DemoError(f"{last.failed} of {requests} invocations failed: {'; '.join(sorted(reasons))}")


class Tide:
    """The run, from zero instances and back: drives it, and keeps what was seen of it for all who show it."""

    def __init__(self, console: Console, server: RunningServer, requests: int) -> None:
        self._console = console
        self._server = server
        self._requests = requests
        self._printed_at = 0.0
        self.phase = "starting"
        self.began_at = 0.0
        self.moments: list[Moment] = []

    def run(self, batches: Sequence[Sequence[Article]], model: str) -> list[invocations.Finished]:
        """Deploy, sink to zero, burst, wait for every outcome and for zero again.

        Returns an outcome of each batch. The endpoint is left standing.
        """
        with Live(self, console=self._console, refresh_per_second=8, transient=True):
            self._deploy(model)
            words = sum(article.words for batch in batches for article in batch)
            self._enter(f"storing articles of {words:,} words")
            locations = list(invocations.upload(self._server, ENDPOINT, batches, LENGTH))
            self._enter(f"invoking {self._requests:,} times in a burst, {len(batches[0])} articles each")
            self.began_at = time.time()
            self._look()
            accepted = self._burst(list(zip(batches, locations, strict=True)))
            self._enter("summarising")
            self._wait_until(lambda seen: seen.completed + seen.failed >= self._requests)
            self._enter("waiting for zero instances")
            self._wait_until(lambda seen: seen.endpoint.instances == 0)
        return list(invocations.outcomes(self._server, accepted[: len(batches)]))

    def graphs(self) -> Graphs:
        """What the picture shows, in seconds since the burst began."""
        ended_at = self.moments[-1].endpoint.at
        instances = [(m.endpoint.at - self.began_at, float(m.endpoint.instances)) for m in self.moments]
        return Graphs(
            f"{self._requests:,} requests, from zero instances and back to zero",
            backlog=[(0.0, 0.0), *self._metric("ApproximateBacklogSize", ended_at)],
            backlog_per_instance=self._metric("ApproximateBacklogSizePerInstance", ended_at),
            instances=instances,
            target=TARGET,
        )

    def _metric(self, name: str, ended_at: float) -> list[tuple[float, float]]:
        points = series(self._server, ENDPOINT, name, self.began_at, ended_at)
        # A second's point stands at its beginning, for the first one before the burst.
        return [(at - self.began_at, value) for at, value in points if at > self.began_at]

    def _deploy(self, model: str) -> None:
        wanted = deployment.Deployment(
            name=ENDPOINT,
            model=model,
            max_capacity=MAX_INSTANCES,
            target=TARGET,
            scale_in_cooldown_s=COOLDOWN_S,
            scale_out_cooldown_s=COOLDOWN_S,
            concurrency=CONCURRENCY,
        )
        for step in deployment.deploy(self._server, wanted):
            self._enter(step)
        self._enter("letting the first instance go")
        deployment.set_instance_count(self._server, ENDPOINT, 0)
        self._wait_until(lambda seen: seen.endpoint.instances == 0 and seen.endpoint.status == "InService")
        self.moments.clear()

    def _burst(self, inputs: Sequence[tuple[Sequence[Article], str]]) -> list[invocations.Accepted]:
        """Invoke round and round the inputs, from several threads so that it is a burst and no trickle."""
        with ThreadPoolExecutor(CLIENTS) as clients:
            rounds = itertools.islice(itertools.cycle(inputs), self._requests)
            calls = [
                clients.submit(invocations.invoke, self._server, ENDPOINT, batch, location)
                for batch, location in rounds
            ]
            while not all(call.done() for call in calls):
                self._look()
                time.sleep(LOOK_EVERY_S)
            return [call.result() for call in calls]

    def _wait_until(self, true_of: Callable[[Moment], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not true_of(self._look()):
            if time.monotonic() > deadline:
                raise DemoError(f"Not done after {TIMEOUT_S} s, while {self.phase}")
            time.sleep(LOOK_EVERY_S)

    def _look(self) -> Moment:
        moment = Moment(
            observe(self._server, ENDPOINT, time.time()), self._stored("outputs"), self._stored("failures")
        )
        self.moments.append(moment)
        if not self._console.is_terminal and moment.endpoint.at - self._printed_at > PRINT_EVERY_S:
            self._printed_at = moment.endpoint.at
            self._console.print(f"{self.phase}: {_in_words(moment)}")
        return moment

    def _stored(self, folder: str) -> int:
        place = {"Bucket": self._server.default_bucket, "Prefix": f"{ENDPOINT}/{folder}/"}
        pages = self._server.client("s3").get_paginator("list_objects_v2").paginate(**place)
        return sum(page["KeyCount"] for page in pages)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        if not self._console.is_terminal:
            self._console.print(phase)

    def __rich__(self) -> RenderableType:
        title = Text.assemble(("ebbtide ", "bold cyan"), self.phase)
        if not self.began_at or not self.moments:
            return Panel(Text("…"), title=title, title_align="left", border_style="cyan")
        return Panel(
            _board(self.moments, self._requests), title=title, title_align="left", border_style="cyan"
        )


def _batches(articles: Sequence[Article], size: int) -> Iterator[tuple[Article, ...]]:
    """Every article in batches of that size; the last is filled up from the beginning."""
    rounds = itertools.cycle(articles)
    for _ in range(0, len(articles), size):
        yield tuple(itertools.islice(rounds, size))


def _board(moments: Sequence[Moment], requests: int) -> RenderableType:
    now = moments[-1]
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(requests, now.completed + now.failed, width=48, complete_style="cyan"),
        Text(f"{now.completed:,} completed", "green"),
        Text(f"{now.failed:,} failed", "red" if now.failed else "dim"),
        Text(f"{now.endpoint.at - moments[0].endpoint.at:.0f} s", "dim"),
    )
    gauges = Table.grid(padding=(0, 2))
    gauges.add_column(style="dim")
    gauges.add_column(justify="right", style="bold", min_width=6)
    gauges.add_column(style="cyan")
    endpoint = now.endpoint
    per_instance = "-" if endpoint.backlog_per_instance is None else f"{endpoint.backlog_per_instance:,.1f}"
    for name, value, history in [
        ("backlog", f"{endpoint.backlog:,}", [float(m.endpoint.backlog) for m in moments]),
        ("backlog per instance", per_instance, [m.endpoint.backlog_per_instance or 0.0 for m in moments]),
        ("instances", str(endpoint.instances), [float(m.endpoint.instances) for m in moments]),
        ("age of the oldest", f"{endpoint.oldest_age_s:.0f} s", [m.endpoint.oldest_age_s for m in moments]),
    ]:
        gauges.add_row(name, value, _sparkline(history[-60:]))
    return Group(bar, Text(), gauges)


def _sparkline(values: Sequence[float]) -> str:
    highest = max(values) or 1.0
    return "".join(" ▁▂▃▄▅▆▇█"[round(8 * value / highest)] for value in values)


def _in_words(moment: Moment) -> str:
    seen = moment.endpoint
    per_instance = "-" if seen.backlog_per_instance is None else f"{seen.backlog_per_instance:.1f}"
    return (
        f"backlog {seen.backlog}, per instance {per_instance}, instances {seen.instances}, "
        f"completed {moment.completed}, failed {moment.failed}, oldest {seen.oldest_age_s:.0f} s"
    )


def _print_summaries(console: Console, finished: Sequence[invocations.Finished]) -> None:
    summaries = [
        (article, summary)
        for outcome in finished
        if outcome.failure is None
        for article, summary in zip(outcome.accepted.articles, outcome.summaries, strict=True)
    ]
    comparable = [(article, summary) for article, summary in summaries if article.summary]
    for article, summary in (comparable or summaries)[:SUMMARIES_SHOWN]:
        body = Table.grid(padding=(0, 1))
        body.add_column(style="dim", no_wrap=True)
        body.add_column()
        if article.summary:
            body.add_row("author", Text(article.summary, "italic"))
        body.add_row("ebbtide", Text(summary))
        console.print(Panel(body, title=f"{article.title}, {article.words:,} words", title_align="left"))


def _print_cost(console: Console, moments: Sequence[Moment]) -> None:
    elapsed_s = moments[-1].endpoint.at - moments[0].endpoint.at
    used_s = instance_seconds([(m.endpoint.at, m.endpoint.instances) for m in moments])
    always_s = MAX_INSTANCES * elapsed_s
    hourly_s, always_a_day_s = 24 * used_s, MAX_INSTANCES * 86_400
    console.print(
        f"Cost: [bold]{used_s:,.0f} instance-seconds[/] in {elapsed_s:.0f} s; "
        f"{MAX_INSTANCES} instances always on: {always_s:,.0f}. With such a burst every hour, "
        f"{hourly_s:,.0f} a day against {always_a_day_s:,}: {hourly_s / always_a_day_s:.1%}."
    )


def instance_seconds(counts: Sequence[tuple[float, int]]) -> float:
    """The time that instances ran, from (epoch seconds, count) in order: a count holds until the next."""
    return sum(count * (later - at) for (at, count), (later, _) in itertools.pairwise(counts))
