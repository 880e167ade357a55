"""The finished parts of long articles, which model servers keep so that a second attempt need not redo them.

They lie in the cache that model servers share, a folder an invocation. Source: runtime/loading.py.
"""

import asyncio
import shutil
from pathlib import Path

from ebbtide.database import Database
from ebbtide.queue import invocations

PARTS = "parts"


async def forget_ended(cache: Path, database: Database) -> None:
    """Remove the folders of those invocations that have ended: nobody works on them again."""
    kept = await asyncio.to_thread(_names_in, cache / PARTS)
    if kept:
        ended = await database.read(lambda connection: invocations.ended(connection, kept))
        for id_ in ended:
            await asyncio.to_thread(shutil.rmtree, cache / PARTS / id_, ignore_errors=True)


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*")]
