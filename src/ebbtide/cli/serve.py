"""`ebbtide serve`: run the server until Ctrl-C or SIGTERM."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from ebbtide.cli.errors import NotRunningError
from ebbtide.cli.running import RunningServer, announce
from ebbtide.server import StartError
from ebbtide.server import serve as run_server
from ebbtide.settings import Settings, credentials


def serve(
    data: Path | None,
    host: str,
    port: int,
    log_level: str,
    *,
    database: str | None,
    objects: Path | None,
    address: str | None,
) -> None:
    """Run the server. Raises NotRunningError when it cannot start."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("ebbtide").setLevel(log_level.upper())
    # OpenBLAS, numpy's, would start threads that nothing needs; where it can start none it sends us SIGINT.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        settings = Settings.from_environment(
            data=data, host=host, port=port, database=database, objects=objects, address=address
        )
    except ValueError as error:
        raise NotRunningError(str(error)) from error

    def on_ready(url: str) -> None:
        announce(RunningServer(url, settings.region, credentials(settings.data)), settings.data)
        # Programs that start a server wait for this line.
        print(f"ebbtide is ready at {url}, its data in {settings.data}", flush=True)

    try:
        asyncio.run(_run(settings, on_ready))
    except StartError as error:
        raise NotRunningError(str(error)) from error


async def _run(settings: Settings, on_ready: Callable[[str], None]) -> None:
    try:
        await run_server(settings, on_ready)
    finally:
        # All is done but to exit: a further signal must not make a clean end look like a crash.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
