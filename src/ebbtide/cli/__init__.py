"""The command line: `serve` runs a server; every other command is a client of its API like any other.

Each command is a module, imported when it is asked for, so that `ebbtide serve` is ready within a second.
"""

from pathlib import Path
from typing import Annotated

import typer

from ebbtide import __version__
from ebbtide.settings import DEFAULT_PORT

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Data = Annotated[
    Path | None,
    typer.Option(help="The server's data directory [default: $EBBTIDE_DATA or ~/.local/share/ebbtide]"),
]


def main() -> None:
    """Run the command that sys.argv names; exits with its status."""
    app(prog_name="ebbtide")


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
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the server until Ctrl-C, which lets running work finish."""
    from ebbtide.cli.serve import serve

    serve(data, host, port, log_level)
