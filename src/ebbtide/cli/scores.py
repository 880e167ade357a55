"""Tables of scores: made with a progress bar, and shown to people, as JSON, as CSV and in files."""

import csv
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ebbtide.cli.errors import CommandError
from ebbtide.evaluation import table
from ebbtide.evaluation.pairs import Pair
from ebbtide.evaluation.rouge import MEASURES
from ebbtide.evaluation.summarisers import Summarise
from ebbtide.evaluation.table import Row


def with_progress(
    pairs: Sequence[Pair], compared: Mapping[str, Summarise], *, untimed: Collection[str] = ()
) -> list[Row]:
    """`table.evaluate` with a bar on standard error, where that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        shown = progress.add_task("Summarising", total=len(compared) * len(pairs))
        return table.evaluate(pairs, compared, lambda count: progress.advance(shown, count), untimed=untimed)


def described(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows for programs, without the summaries themselves."""
    return [{name: value for name, value in asdict(row).items() if name != "summaries"} for row in rows]


def print_csv(rows: Iterable[Row]) -> None:
    """A line a summariser under a line of names; an interval's ends beside each mean."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    measured = [f"{measure}{end}" for measure in MEASURES.values() for end in ("", " low", " high")]
    out.writerow(["summariser", *measured, "words", "articles_per_s"])
    for row in rows:
        scores = [value for score in row.scores.values() for value in (score.mean, score.low, score.high)]
        out.writerow([row.summariser, *(f"{value:.2f}" for value in scores), row.words, row.articles_per_s])


def print_rows(rows: Iterable[Row], pairs: int) -> None:
    """A table of scores for people."""
    out = Console()
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("summariser", overflow="fold")
    for heading in (*MEASURES.values(), "words", "articles/s"):
        shown.add_column(heading, justify="right")
    for row in rows:
        # Half of the interval: both its ends, three times, are wider than a terminal.
        scores = [f"{one.mean:.2f} ± {(one.high - one.low) / 2:.2f}" for one in row.scores.values()]
        speed = "-" if row.articles_per_s is None else f"{row.articles_per_s:,.1f}"
        shown.add_row(row.summariser, *scores, f"{row.words:.0f}", speed)
    out.print(shown)
    legend = f"F1 with stemming over {pairs:,} pairs ± half its 95 % interval; words: median summary."
    out.print(legend, highlight=False)


def check_writable(path: Path) -> None:
    """Told before a model has summarised for an hour. Raises CommandError."""
    try:
        path.open("a").close()
    except OSError as error:
        raise CommandError(f"--predictions {path} cannot be written: {error.strerror}") from error


def write_predictions(path: Path, pairs: Sequence[Pair], rows: Sequence[Row]) -> None:
    """Each pair's reference and summaries: CSV where the file is called so, else JSON lines."""
    # Half a character that an article brought is written as JSON escapes it.
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        table = csv.writer(file) if path.suffix.lower() == ".csv" else None
        if table:
            table.writerow(["row", "reference", *(row.summariser for row in rows)])
        for number, pair in enumerate(pairs):
            summaries = {row.summariser: row.summaries[number] for row in rows}
            if table:
                table.writerow([number + 1, pair.reference, *summaries.values()])
            else:
                line = {"row": number + 1, "reference": pair.reference, "summaries": summaries}
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
