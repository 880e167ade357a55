"""`ebbtide serve`: run the server until Ctrl-C or SIGTERM."""

import asyncio
import logging
import sys
from pathlib import Path

import typer

from ebbtide.cli.running import RunningServer, announce
from ebbtide.settings import Settings, credentials


def serve(data: Path | None, host: str, port: int, log_level: str) -> None:
    """Run the server; exits with 1 and one line on stderr when it cannot start."""
    from ebbtide.server import StartError
    from ebbtide.server import serve as run_server

    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings = Settings.from_environment(data=data, host=host, port=port)

        def on_ready(url: str) -> None:
            announce(
                RunningServer(url, settings.region, credentials(settings.data), settings.data.absolute())
            )
            # Programs that start us wait for this line.
            print(f"ebbtide is ready at {url}, data in {settings.data}", flush=True)

        asyncio.run(run_server(settings, on_ready))
    except (StartError, ValueError) as error:
        typer.echo(f"ebbtide: {error}", err=True)
        raise typer.Exit(1) from error
