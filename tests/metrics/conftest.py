from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ebbtide.database import Database, metadata


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """An empty database with the tables of what the test module imports."""
    database = Database(tmp_path / "ebbtide.db")
    metadata.create_all(database.engine)
    yield database
    database.close()
