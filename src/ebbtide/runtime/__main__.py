"""`python -m ebbtide.runtime serve|prepare`: one instance's model server, and what it needs done first."""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ebbtide.runtime import ENTERED_AT, contract, lifeline, loading
from ebbtide.runtime.deployment import DEFAULT_CACHE_BYTES, Deployment, repository_of
from ebbtide.runtime.errors import exit_status
from ebbtide.runtime.status import StatusFile


def main(arguments: Sequence[str] | None = None, *, entered_at: float = ENTERED_AT) -> int:
    """arguments: of the command line, unless given here. entered_at: when this process began to run Python,
    or was forked, by the monotonic clock. Returns the exit status.
    """
    lifeline.die_with_parent()
    lifeline.die_at_end_of_input()
    given = _arguments(arguments)
    level = os.environ.get("SAGEMAKER_CONTAINER_LOG_LEVEL", "20")
    logging.basicConfig(
        level=int(level) if level.isdecimal() else logging.INFO,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TQDM_DISABLE"):
        os.environ.setdefault(name, "1")  # a progress bar is no line of a log
    status = StatusFile(given.status, concurrency=given.concurrency, spawned_at=given.spawned_at)
    status.enter("importing", at=entered_at)
    try:
        deployment = Deployment(
            repository=repository_of(given.image),
            model_dir=Path(given.model_dir) if given.model_dir else None,
            cache=given.cache,
            cache_bytes=given.cache_bytes,
            environment=os.environ,
            concurrency=given.concurrency,
        )
        if given.command == "prepare":
            status.enter("preparing")
            loading.prepare(deployment)
            status.enter("ready")
            return 0
    except (Exception, SystemExit) as error:  # noqa: BLE001 a user's module may raise anything
        status.fail(error)
        return exit_status(error)
    asyncio.run(_serve(deployment, given.socket, status))
    return 0


async def _serve(deployment: Deployment, socket: Path, status: StatusFile) -> None:
    code = await contract.run(
        socket, lambda: loading.load(deployment, status), status, concurrency=deployment.concurrency
    )
    contract.exit_now(code)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ebbtide.runtime", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model-dir", required=True, help="the unpacked model.tar.gz, or empty")
    common.add_argument("--cache", type=Path, required=True, help="where prepared models are kept, shared")
    common.add_argument(
        "--cache-bytes", type=int, default=DEFAULT_CACHE_BYTES, help="what those may take that nobody uses"
    )
    common.add_argument("--image", required=True, help="the image URI, whose repository selects the runtime")
    common.add_argument(
        "--status", type=Path, required=True, help="the JSON file to say how far it has come in"
    )
    common.add_argument(
        "--spawned-at", type=float, help="when it was asked for, by the machine's monotonic clock"
    )
    serve = commands.add_parser("serve", parents=[common])
    serve.add_argument("--socket", type=Path, required=True)
    serve.add_argument("--concurrency", type=int, default=1, help="requests computed at once")
    prepare = commands.add_parser("prepare", parents=[common])
    prepare.set_defaults(concurrency=1)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
