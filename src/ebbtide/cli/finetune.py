"""`ebbtide finetune`: a checkpoint trained on one's own pairs, as an archive that `ebbtide deploy` takes."""

import json
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbtide.archives import unpack
from ebbtide.cli.errors import CommandError
from ebbtide.cli.options import Json

if TYPE_CHECKING:
    from ebbtide.evaluation.pairs import Pair
    from ebbtide.evaluation.table import Row
    from ebbtide.finetuning import Progress, Settings, Trained

app = typer.Typer()


@app.command()
def finetune(
    model: Annotated[str, typer.Argument(help="A Hub id, a directory or a model.tar.gz.")],
    data: Annotated[
        Path,
        typer.Option(
            help="JSON lines, a JSON array, CSV or Parquet with an article and its reference in each row."
        ),
    ],
    output: Annotated[Path, typer.Option(help="The archive to write.")] = Path("model.tar.gz"),
    evaluation_data: Annotated[
        Path | None, typer.Option(help="Pairs to evaluate on. [default: a share of the data, not trained on]")
    ] = None,
    held_out: Annotated[float, typer.Option(min=0.0, max=0.9, help="That share.")] = 0.05,
    article: Annotated[str | None, typer.Option(help="The article's member. [default: a usual name]")] = None,
    reference: Annotated[
        str | None, typer.Option(help="The reference's member. [default: a usual name]")
    ] = None,
    epochs: Annotated[float, typer.Option(min=0.01)] = 3.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs in memory at once.")] = 8,
    accumulation_steps: Annotated[int, typer.Option(min=1, help="Batches that make one step.")] = 1,
    learning_rate: Annotated[float, typer.Option(min=0.0)] = 5e-5,
    warmup_steps: Annotated[int, typer.Option(min=0)] = 0,
    label_smoothing: Annotated[float, typer.Option(min=0.0, max=1.0)] = 0.1,
    max_input_tokens: Annotated[int, typer.Option(min=0, help="0: the model's window.")] = 0,
    max_output_tokens: Annotated[int, typer.Option(min=0, help="0: 256.")] = 0,
    optimizer: Annotated[str, typer.Option(help="As transformers names them.")] = "adafactor",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    save_steps: Annotated[int, typer.Option(min=1, help="Steps between states to go on from.")] = 500,
    work: Annotated[
        Path | None, typer.Option(help="Where the training's state is kept. [default: OUTPUT.training]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train a model on your own articles and references, evaluate it beside what it was, and pack it.

    A run that was stopped goes on where it was when it is started again with the same arguments.
    """
    _check_installed()
    from ebbtide import finetuning
    from ebbtide.evaluation import pairs
    from ebbtide.runtime.errors import LoadFailure

    settings = finetuning.Settings(
        epochs=epochs,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        label_smoothing=label_smoothing,
        max_input_tokens=max_input_tokens,
        max_output_tokens=max_output_tokens,
        optimizer=optimizer,
        seed=seed,
        save_steps=save_steps,
    )
    work = work or output.with_name(output.name + ".training")
    try:
        training = pairs.read(data, article=article, reference=reference)
        if evaluation_data:
            evaluation = pairs.read(evaluation_data, article=article, reference=reference)
        else:
            training, evaluation = finetuning.divided(training, held_out, seed)
        with tempfile.TemporaryDirectory(prefix="ebbtide-finetune-") as temporary:
            folder = _folder(model, Path(temporary))
            trained = _trained(folder, training, settings, work)
            finetuning.write_archive(work / "model", output)
            checkpoints = {f"{model} (before)": folder, str(output): work / "model"}
            table = _compared(evaluation, checkpoints, Path(temporary))
    except (pairs.DataError, finetuning.TrainingError, LoadFailure) as error:
        raise CommandError(str(error)) from error
    _report(trained, table, len(training), len(evaluation), output, as_json)


def _check_installed() -> None:
    """Told before anything is fetched or read."""
    try:
        import accelerate  # noqa: F401
        import rouge_score  # noqa: F401 the table at the end
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise CommandError(f"Fine-tuning needs {error.name}: install ebbtide[finetune]") from error


def _trained(folder: Path, training: "Sequence[Pair]", settings: "Settings", work: Path) -> "Trained":
    """The training on all cores. ^C ends it after the step at hand, a second one at once."""
    import torch
    import transformers

    from ebbtide import finetuning

    transformers.logging.set_verbosity(logging.ERROR)  # its advice is for programmers
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    stop = threading.Event()

    def ask_to_stop(*_: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    former = signal.signal(signal.SIGINT, ask_to_stop)
    try:
        with _progress() as progress:
            return finetuning.train(folder, training, settings, work, progress=progress, stop=stop)
    except (finetuning.TrainingStopped, KeyboardInterrupt) as error:
        told = str(error) or "interrupted; the steps since its last state are lost"
        raise CommandError(f"{told}. The same command goes on from there") from None
    finally:
        signal.signal(signal.SIGINT, former)


@contextmanager
def _progress() -> "Iterator[Progress]":
    """What to tell of the training: a bar on a terminal, else a line at each loss that is known."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, disable=not console.is_terminal, transient=True) as bar:
        last_loss: float | None = None

        def tell(step: int, steps: int, loss: float | None) -> None:
            nonlocal last_loss
            shown = "Training" if loss is None else f"Training, loss {loss:.2f}"
            if not bar.tasks:  # at the step where a stopped run goes on
                bar.add_task(shown, total=steps, completed=step)
            bar.update(bar.tasks[0].id, completed=step, description=shown)
            if not console.is_terminal and loss not in (None, last_loss):
                print(f"step {step:,} of {steps:,}: loss {loss:.2f}", file=sys.stderr, flush=True)
            last_loss = loss

        yield tell


def _compared(evaluation: "Sequence[Pair]", checkpoints: Mapping[str, Path], temporary: Path) -> "list[Row]":
    """The table's rows: the checkpoints' on these pairs, below the articles' first sentences."""
    from ebbtide.cli.scores import with_progress
    from ebbtide.evaluation import summarisers

    compared = {"lead-3": summarisers.lead(3)}
    for name, each in checkpoints.items():
        compared[name] = summarisers.model(
            str(each),
            task="summarization",
            parameters={"truncation": True},
            environment={},
            cache=temporary,
            unpacked=temporary / "unpacked",
            threads=len(os.sched_getaffinity(0)),
        )
    return with_progress(evaluation, compared)


def _report(
    trained: "Trained", table: "list[Row]", training: int, evaluation: int, output: Path, as_json: bool
) -> None:
    """training, evaluation: how many pairs were trained and evaluated on."""
    from ebbtide.cli.scores import described, print_rows

    if as_json:
        told = {**asdict(trained), "evaluated": described(table), "archive": str(output)}
        json.dump(told, sys.stdout, indent=2)
        print()
        return
    for what, cut in (("articles", trained.cut_articles), ("references", trained.cut_references)):
        if cut:
            print(f"{cut} of {training} {what} are over the length and were read only in part.")
    print_rows(table, evaluation)
    print(f"{output} is ready after {trained.steps} steps: ebbtide deploy {output}")


def _folder(model: str, temporary: Path) -> Path:
    """The checkpoint's files: a directory's own, an archive's unpacked, or from the Hub."""
    from ebbtide.runtime import preparation
    from ebbtide.runtime.deployment import HUGGING_FACE, Deployment
    from ebbtide.settings import default_data_directory

    if model.endswith(".tar.gz"):
        unpack(Path(model), temporary / "model")
        return temporary / "model"
    deployment = Deployment(
        repository=HUGGING_FACE,
        model_dir=None,
        cache=default_data_directory() / "runtime",
        environment={**os.environ, "HF_MODEL_ID": model},
    )
    return preparation.fetched(deployment)
