"""`ebbtide evaluate`: the ROUGE of a model on articles with references, beside what needs no model."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ebbtide.cli.errors import CommandError, NotRunningError
from ebbtide.cli.options import Json, json_object

if TYPE_CHECKING:
    from ebbtide.cli.running import RunningServer
    from ebbtide.evaluation.pairs import Pair
    from ebbtide.evaluation.summarisers import Summarise
    from ebbtide.evaluation.table import Row

app = typer.Typer()

EXTRACTIVE = "ebbtide/extractive"


@app.command()
def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            help="An endpoint of the server, a Hub id, a directory, a model.tar.gz, or ebbtide/extractive."
        ),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="JSON lines, a JSON array, CSV or Parquet with an article and its reference in each row."
        ),
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
        Path | None,
        typer.Option(help="Write each summary to this file, as JSON lines, or CSV by its suffix."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Cores to use. [default: all]")] = None,
    server: Annotated[
        Path | None,
        typer.Option(help="Data directory of the endpoint's server. [default: AWS_ENDPOINT_URL if set]"),
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line a summariser.")] = False,
    as_json: Json = False,
) -> None:
    """Score a model by ROUGE on articles with references, beside what needs no model.

    Of an endpoint every article is queued at once; after an interruption the same command fetches what
    was summarised meanwhile.
    """
    from ebbtide.cli import scores
    from ebbtide.evaluation import pairs

    _check_rouge()
    try:
        rows_in = pairs.read(data, article=article, reference=reference, limit=limit)
    except pairs.DataError as error:
        raise CommandError(str(error)) from error
    if predictions:
        scores.check_writable(predictions)
    asked = Asked(
        model,
        task=task,
        parameters=json_object(parameters, "--parameters"),
        environment=dict(_pair(one) for one in env or ()),
        threads=threads or len(os.sched_getaffinity(0)),
    )
    endpoint = _endpoint(model, data, asked.parameters, server)
    if endpoint and (env or threads):
        raise CommandError(f"{model} is an endpoint, whose deployment says what --env and --threads would")
    rows = _scored(rows_in, asked, endpoint, lead)
    if predictions:
        scores.write_predictions(predictions, rows_in, rows)
    if as_csv:
        scores.print_csv(rows)
    elif as_json:
        json.dump({"pairs": len(rows_in), "summarisers": scores.described(rows)}, sys.stdout, indent=2)
        print()
    else:
        scores.print_rows(rows, len(rows_in))


@dataclass(frozen=True, slots=True)
class Asked:
    """The model, how it is loaded here, and what each request of it asks."""

    model: str
    task: str
    parameters: Mapping[str, Any]
    environment: Mapping[str, str]
    threads: int


def _check_rouge() -> None:
    try:
        import rouge_score  # noqa: F401 told before a model is loaded for an hour
    except ImportError as error:
        raise CommandError("ROUGE needs rouge-score: install ebbtide[evaluate]") from error


def _scored(pairs: "Sequence[Pair]", asked: Asked, endpoint: "_Endpoint | None", lead: int) -> "list[Row]":
    """The table's rows. Raises CommandError for a model that cannot be loaded or refuses an article."""
    from ebbtide.cli.scores import with_progress
    from ebbtide.evaluation import summarisers
    from ebbtide.evaluation.summarisers import RefusedArticle
    from ebbtide.runtime.errors import LoadFailure

    compared = {f"lead-{lead}": summarisers.lead(lead)}
    if asked.model != EXTRACTIVE:
        compared[EXTRACTIVE] = summarisers.extractive
    with tempfile.TemporaryDirectory(prefix="ebbtide-evaluate-") as unpacked:
        try:
            compared[asked.model] = endpoint or _loaded(asked, Path(unpacked))
            # An endpoint's time is that of its queue and of its start, too, and of what it had done before.
            return with_progress(pairs, compared, untimed=(asked.model,) if endpoint else ())
        except LoadFailure as error:
            raise CommandError(str(error)) from error
        except RefusedArticle as error:
            raise CommandError(f"The model refuses an article: {error}") from error


def _loaded(asked: Asked, unpacked: Path) -> "Summarise":
    from ebbtide.evaluation import summarisers
    from ebbtide.settings import default_data_directory

    cache = default_data_directory() / "runtime"
    cache.mkdir(parents=True, exist_ok=True)
    return summarisers.model(
        asked.model,
        task=asked.task,
        parameters=asked.parameters,
        environment=asked.environment,
        cache=cache,
        unpacked=unpacked,
        threads=asked.threads,
    )


def _endpoint(
    model: str, data: Path, parameters: Mapping[str, Any], server: Path | None
) -> "_Endpoint | None":
    """The endpoint of this name; None where MODEL is something to load: no such name, or no endpoint's.

    Some old Hub ids are names without an owner, as endpoints' are. Raises CommandError for no endpoint of a
    server that was named.
    """
    from botocore.exceptions import ClientError, EndpointConnectionError

    from ebbtide.cli.running import choose

    if "/" in model or model.endswith(".tar.gz") or Path(model).exists():
        return None
    try:
        chosen = choose(server)
        found = chosen.client("sagemaker").describe_endpoint(EndpointName=model)
    except (NotRunningError, EndpointConnectionError, ClientError) as error:
        if server is None:
            return None
        raise CommandError(f"{model} is no endpoint of {server}: {error}") from error
    # An update makes another model of it, whose summaries are not those that an earlier run had asked for.
    return _Endpoint(chosen, model, found["LastModifiedTime"].isoformat(), data, parameters)


@dataclass(frozen=True, slots=True)
class _Endpoint:
    """A deployed model as a summariser: what `ebbtide summarize` does with each article.

    version: of the endpoint. data: the file that the articles are of.
    """

    server: "RunningServer"
    name: str
    version: str
    data: Path
    parameters: Mapping[str, Any]

    def __call__(self, articles: Sequence[str]) -> Iterator[str]:
        from ebbtide.cli.documents import Document
        from ebbtide.cli.summarizing import Question, Summarizing
        from ebbtide.evaluation.summarisers import RefusedArticle

        documents = [Document(self.data, number, text) for number, text in enumerate(articles, start=1)]
        question = Question(self.name, self.parameters, version=self.version)
        early: dict[int, str] = {}
        following = 1
        # With ids that follow from what is asked: none is known as finished, but nothing is asked twice.
        for outcome in Summarizing(self.server, question, finished=()).outcomes(documents):
            if outcome.summary is None:
                raise RefusedArticle(f"row {outcome.document.row}: {outcome.failure}")
            assert outcome.document.row is not None
            early[outcome.document.row] = outcome.summary
            while following in early:
                yield early.pop(following)
                following += 1


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise CommandError(f"--env {text} is not NAME=VALUE")
    return name, value
