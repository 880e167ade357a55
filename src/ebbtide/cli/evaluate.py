"""`ebbtide evaluate`: the ROUGE of a model on articles with references, beside what needs no model."""

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbtide.cli.errors import CommandError
from ebbtide.cli.options import Json, json_object

if TYPE_CHECKING:
    from ebbtide.evaluation.pairs import Pair
    from ebbtide.evaluation.summarisers import Summarise
    from ebbtide.evaluation.table import Row

app = typer.Typer()


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="A Hub id, a directory, a model.tar.gz, or ebbtide/extractive."),
    ],
    data: Annotated[
        Path,
        typer.Option(help="JSON lines, a JSON array or CSV with an article and its reference in each row."),
    ],
    article: Annotated[str | None, typer.Option(help="The article's member. [default: a usual name]")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The reference's member. [default: a usual name]")
    ] = None,
    parameters: Annotated[
        str, typer.Option(help='Of generation, as a request has them: {"num_beams": 8, "max_length": 128}')
    ] = "{}",
    task: Annotated[str, typer.Option(help="HF_TASK.")] = "summarization",
    env: Annotated[
        list[str] | None, typer.Option("--env", help="NAME=VALUE of the model, repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many rows only.")] = None,
    lead: Annotated[int, typer.Option(min=1, help="Sentences of the beginning that is compared.")] = 3,
    predictions: Annotated[
        Path | None, typer.Option(help="Write each summary to this file, as JSON lines.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores to use. [default: all]")] = None,
    as_json: Json = False,
) -> None:
    """Score a model by ROUGE on articles with references, beside what needs no model."""
    from ebbtide.evaluation import pairs
    from ebbtide.evaluation.summarisers import RefusedArticle
    from ebbtide.runtime.errors import LoadFailure

    try:
        import rouge_score  # noqa: F401 told before a model is loaded for an hour
    except ImportError as error:
        raise CommandError("ROUGE needs rouge-score: install ebbtide[evaluate]") from error
    try:
        rows_in = pairs.read(data, article=article, reference=reference, limit=limit)
    except pairs.DataError as error:
        raise CommandError(str(error)) from error
    if predictions:
        _check_writable(predictions)
    with tempfile.TemporaryDirectory(prefix="ebbtide-evaluate-") as unpacked:
        try:
            compared = _summarisers(
                model,
                task=task,
                parameters=json_object(parameters, "--parameters"),
                environment=dict(_pair(one) for one in env or ()),
                unpacked=Path(unpacked),
                threads=threads or len(os.sched_getaffinity(0)),
                lead=lead,
            )
            rows = with_progress(rows_in, compared)
        except LoadFailure as error:
            raise CommandError(str(error)) from error
        except RefusedArticle as error:
            raise CommandError(f"The model refuses an article: {error}") from error
    if predictions:
        _write(predictions, rows_in, rows)
    if as_json:
        json.dump({"pairs": len(rows_in), "summarisers": shown_rows(rows)}, sys.stdout, indent=2)
        print()
    else:
        print_rows(rows, len(rows_in))


def _summarisers(
    model: str,
    *,
    task: str,
    parameters: dict[str, Any],
    environment: dict[str, str],
    unpacked: Path,
    threads: int,
    lead: int,
) -> "dict[str, Summarise]":
    from ebbtide.evaluation import summarisers
    from ebbtide.settings import default_data_directory

    cache = default_data_directory() / "runtime"
    cache.mkdir(parents=True, exist_ok=True)
    compared = {f"lead-{lead}": summarisers.lead(lead)}
    if model != "ebbtide/extractive":
        compared["ebbtide/extractive"] = summarisers.extractive()
    compared[model] = summarisers.model(
        model,
        task=task,
        parameters=parameters,
        environment=environment,
        cache=cache,
        unpacked=unpacked,
        threads=threads,
    )
    return compared


def with_progress(pairs: "Sequence[Pair]", compared: "dict[str, Summarise]") -> "list[Row]":
    """`table.evaluate` with a bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ebbtide.evaluation import table

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        shown = progress.add_task("Summarising", total=len(compared) * len(pairs))
        return table.evaluate(pairs, compared, lambda count: progress.advance(shown, count))


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise CommandError(f"--env {text} is not NAME=VALUE")
    return name, value


def _check_writable(path: Path) -> None:
    """Told before a model has summarised for an hour."""
    try:
        path.open("a").close()
    except OSError as error:
        raise CommandError(f"--predictions {path} cannot be written: {error.strerror}") from error


def _write(path: Path, pairs: "Sequence[Pair]", rows: "Sequence[Row]") -> None:
    with path.open("w") as file:
        for number, pair in enumerate(pairs):
            summaries = {row.summariser: row.summaries[number] for row in rows}
            line = {"row": number + 1, "reference": pair.reference, "summaries": summaries}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def shown_rows(rows: "Iterable[Row]") -> list[dict[str, Any]]:
    """The rows for programs, without the summaries themselves."""
    return [{name: value for name, value in asdict(row).items() if name != "summaries"} for row in rows]


def print_rows(rows: "Iterable[Row]", pairs: int) -> None:
    """A table of scores for people."""
    from rich.console import Console
    from rich.table import Table

    out = Console()
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("summariser", overflow="fold")
    for heading in ("ROUGE-1", "ROUGE-2", "ROUGE-L", "words", "articles/s"):
        shown.add_column(heading, justify="right")
    for row in rows:
        scores = [f"{score.mean:.2f} ({score.low:.2f}-{score.high:.2f})" for score in row.scores.values()]
        shown.add_row(row.summariser, *scores, f"{row.words:.0f}", f"{row.articles_per_s:,.1f}")
    out.print(shown)
    out.print(f"F1 with stemming over {pairs:,} pairs, with 95 % intervals; words: the median summary.")
