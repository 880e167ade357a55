"""The command line: `serve` runs a server; every other command is a client of its API like any other.

What a command needs is imported when it runs, so that `ebbtide serve` is ready within a second.
"""

import shlex
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from ebbtide import __version__
from ebbtide.cli import costs, evaluate, finetune, keys, simulate, steering, tune
from ebbtide.cli.errors import CommandError
from ebbtide.cli.options import Json, OfServer, json_object
from ebbtide.settings import DEFAULT_PORT

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

_UNKNOWN_KEY = ("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId")
"""How the services say it."""

BURST, BATCH = 600, 8
"""Requests of a demonstration that was given no files, and articles in each: enough for a tide to be seen."""

Data = Annotated[
    Path | None,
    typer.Option(help="The server's data directory. [default: $EBBTIDE_DATA or ~/.local/share/ebbtide]"),
]


class LogLevel(StrEnum):
    """How much the server says: its own lines of that level and above."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def main() -> None:
    """Run the command that sys.argv names. What a user can mend ends in one line and status 1."""
    # Commands take away what they made for a while, as they do at Ctrl-C; `serve` has its own way to end.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        app(prog_name="ebbtide")
    except SystemExit:
        raise
    except _reported_errors() as error:
        sys.exit(f"ebbtide: {_in_words(error)}")


def _reported_errors() -> tuple[type[Exception], ...]:
    # Evaluated only once something was raised: a run that uses no client need not spend the import's time.
    from botocore.exceptions import BotoCoreError, ClientError

    return CommandError, OSError, BotoCoreError, ClientError


def _in_words(error: Exception) -> str:
    """What the server said is its message alone: which operation it answers means nothing to the user."""
    from botocore.exceptions import EndpointConnectionError

    if isinstance(error, EndpointConnectionError):
        asked = urlsplit(error.kwargs["endpoint_url"])
        return f"No server answers at {asked.scheme}://{asked.netloc}; start one with: ebbtide serve"
    told: dict[str, str] = getattr(error, "response", {}).get("Error", {})
    if told.get("Code") in _UNKNOWN_KEY:
        return "The server knows no such access key as that in AWS_ACCESS_KEY_ID"
    return told.get("Message") or str(error)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Asynchronous model inference that costs nothing while nobody asks, over SageMaker's own protocols."""


@app.command()
def serve(
    data: Data = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = DEFAULT_PORT,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="postgresql://USER:PASSWORD@HOST/NAME, which several servers may share; "
            "else $EBBTIDE_DATABASE. [default: SQLite in the data directory]",
        ),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            help="The directory of larger objects; servers that share a database share it. "
            "[default: $EBBTIDE_OBJECTS, or objects in the data directory]"
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where servers that share the database reach this one. "
            "[default: $EBBTIDE_ADDRESS, or the address listened on]",
        ),
    ] = None,
    log_level: Annotated[LogLevel, typer.Option(help="What is logged to stderr.")] = LogLevel.INFO,
) -> None:
    """Run the server until Ctrl-C, which lets running work finish."""
    from ebbtide.cli.serve import serve

    serve(data, host, port, log_level, database=database, objects=objects, address=address)


@app.command()
def env(data: Data = None) -> None:
    """Print the variables that lead AWS clients to the server: eval "$(ebbtide env)"."""
    from ebbtide.cli.running import environment, find
    from ebbtide.settings import default_data_directory

    data = data or default_data_directory()
    for name, value in environment(find(data), data).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


@app.command()
def deploy(
    model: Annotated[
        str,
        typer.Argument(
            help="A Hugging Face Hub id, a model's directory, a model.tar.gz or its s3:// URI; "
            "ebbtide/extractive is built in."
        ),
    ],
    name: Annotated[str, typer.Option(help="The endpoint's name.")] = "summaries",
    task: Annotated[str, typer.Option(help="HF_TASK of the model.")] = "summarization",
    instance_type: Annotated[
        str, typer.Option(help="Gives the price and whether a GPU is needed.")
    ] = "ml.m5.xlarge",
    min_instances: Annotated[int, typer.Option("--min", min=0, help="Fewest instances.")] = 0,
    max_instances: Annotated[int, typer.Option("--max", min=1, help="Most instances.")] = 5,
    target: Annotated[float, typer.Option(help="Backlog per instance to keep to.")] = 5.0,
    cooldown: Annotated[int, typer.Option(min=0, help="Seconds without work before instances go.")] = 300,
    concurrency: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Invocations at a time on an instance.")
    ] = None,
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Create an endpoint that scales with its backlog, and wait until it serves."""
    from ebbtide.cli import commands
    from ebbtide.cli.deployment import Deployment
    from ebbtide.cli.running import choose

    wanted = Deployment(
        name=name,
        model=model,
        task=task,
        instance_type=instance_type,
        min_capacity=min_instances,
        max_capacity=max_instances,
        target=target,
        scale_in_cooldown_s=cooldown,
        concurrency=concurrency,
    )
    commands.deploy(choose(data), wanted, json)


@app.command()
def summarize(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Texts, Markdown, HTML, PDF and DOCX files; directories of them; .jsonl, .csv, .tsv "
            "and .parquet files with an article in each row.",
            exists=True,
        ),
    ],
    endpoint: Annotated[str, typer.Option(help="The endpoint's name.")] = "summaries",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write JSON lines there, each as it comes. The same command goes on where it was "
            "interrupted.",
            dir_okay=False,
        ),
    ] = None,
    max_length: Annotated[int | None, typer.Option(min=1, help="The model's max_length.")] = None,
    min_length: Annotated[int | None, typer.Option(min=0, help="The model's min_length.")] = None,
    parameters: Annotated[
        str | None, typer.Option(metavar="JSON", help="More of the model's parameters, such as num_beams.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Where a row has its article.")] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher goes first.")] = 0,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="KEY:VALUE to find the requests by. Repeatable.")
    ] = None,
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Summarise files, all in one burst, and print the summaries."""
    from ebbtide.cli import commands
    from ebbtide.cli.running import choose
    from ebbtide.cli.summarizing import Question

    if output and json:
        raise CommandError("--output writes JSON already: leave --json out")
    asked = json_object(parameters, "--parameters")
    asked |= {
        name: value
        for name, value in {"max_length": max_length, "min_length": min_length}.items()
        if value is not None
    }
    question = Question(endpoint, asked, priority, dict(_pair(each) for each in tag or []))
    commands.summarize(choose(data), files, column, question, output, json)


def _pair(text: str) -> tuple[str, str]:
    key, colon, value = text.partition(":")
    if not (key and colon):
        raise CommandError(f"--tag {text}: give KEY:VALUE")
    return key, value


@app.command()
def status(data: OfServer = None, json: Json = False) -> None:
    """List the endpoints with their instances and backlogs."""
    from ebbtide.cli import commands
    from ebbtide.cli.running import choose

    commands.status(choose(data), json)


@app.command()
def logs(
    endpoint: Annotated[str, typer.Argument(help="The endpoint's name.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Print what an endpoint's models wrote."""
    from ebbtide.cli import commands
    from ebbtide.cli.running import choose

    commands.logs(choose(data), endpoint, follow, json)


@app.command()
def delete(
    endpoints: Annotated[list[str], typer.Argument(help="The endpoints' names.")],
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Delete endpoints with their models, configurations and policies; stored objects stay."""
    from ebbtide.cli import commands
    from ebbtide.cli.running import choose

    commands.delete(choose(data), endpoints, json)


@app.command()
def demo(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="UTF-8 texts. [default: the descriptions of installed Python packages]"),
    ] = None,
    model: Annotated[str, typer.Option(help="As for deploy.")] = "ebbtide/extractive",
    requests: Annotated[
        int | None, typer.Option(min=1, help="Size of the burst. [default: 600, or one a file]")
    ] = None,
    picture: Annotated[Path, typer.Option(help="Where to write the graphs.")] = Path("ebbtide-demo.png"),
) -> None:
    """Summarise real articles on a server of its own, from zero instances and back, and draw it."""
    from rich.console import Console

    from ebbtide.cli.articles import from_files, from_packages

    try:
        from ebbtide.cli.demo import demo
    except ModuleNotFoundError as error:
        raise CommandError(f"The picture needs {error.name}: pip install 'ebbtide[plot]'") from error

    articles = from_files(files) if files else from_packages()
    demo(
        Console(),
        articles,
        model,
        batch=1 if files else BATCH,
        requests=requests or (len(files) if files else BURST),
        picture=picture,
    )


app.add_typer(steering.app)
app.add_typer(costs.app)
app.add_typer(simulate.app)
app.add_typer(tune.app)
app.add_typer(evaluate.app)
app.add_typer(finetune.app)
app.add_typer(keys.keys, name="keys")
app.add_typer(keys.accounts, name="accounts")
