"""The databases that tests run on, and the server that speaks to users on each.

EBBTIDE_TEST_DATABASE (or --database) says on which: sqlite, postgresql, or both, the default. With both,
tests of what goes into the database run once on each, and tests through the server where `ON_BOTH` says so:
the rest of those would only repeat what these have shown.

The `ebbtide` fixture is the package's own (ebbtide.pytest_plugin), given its database here.
"""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ebbtide.cli.running import announce, started
from ebbtide.database import Database
from ebbtide.migrations import migrate
from ebbtide.pytest_plugin import Ebbtide
from tests.balancer import balanced
from tests.checkpoints import trained  # noqa: F401 a fixture
from tests.postgresql import NotInstalledError, PostgreSQL

CHOSEN = os.environ.get("EBBTIDE_TEST_DATABASE", "both")

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 4 << 30
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
    # Every commit and every object is flushed to disk, which thousands of tests would wait for: what they
    # write lies in memory, and goes as soon as its test has passed.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

for name in [name for name in os.environ if name.startswith(("AWS_", "EBBTIDE_"))]:
    del os.environ[name]  # a developer's own account and server are not for tests

# Nothing here depends on how fast the machine is.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

KINDS = {"sqlite": ["sqlite"], "postgresql": ["postgresql"], "both": ["sqlite", "postgresql"]}

ON_BOTH = ("tests/api/", "tests/acceptance/test_boto3.py", "tests/acceptance/test_post.py")
"""Tests through the server that run on each database when both are chosen."""

ON_EITHER = (
    "tests/api/test_application.py",
    "tests/api/test_logs_over_the_wire.py",
    "tests/api/test_sagemaker_runtime.py",
    "tests/api/test_sts_iam.py",
    "tests/api/own/test_mount.py",
)
"""Of these, the ones about what never meets the database: signatures, bodies, log files, model servers."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database", choices=list(KINDS), default=CHOSEN, help="which database tests run on (default: both)"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    kinds = KINDS[metafunc.config.getoption("--database")]
    own = any("database_place" in mark.args for mark in metafunc.definition.iter_markers("parametrize"))
    if "database_place" in metafunc.fixturenames and not own:
        metafunc.parametrize("database_place", kinds, indirect=True)
    if "server_database" in metafunc.fixturenames:
        path = metafunc.definition.nodeid
        if not path.startswith(ON_BOTH) or path.startswith(ON_EITHER):
            kinds = kinds[:1]
        metafunc.parametrize("server_database", kinds, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where SQLite was chosen, PostgreSQL need not be installed: what is about it alone is not run."""
    if config.getoption("--database") != "sqlite":
        return
    about = [item for item in items if _is_about_postgresql(item)]
    config.hook.pytest_deselected(items=about)
    items[:] = [item for item in items if item not in set(about)]


def _is_about_postgresql(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return "postgresql" in fixtures or "own_postgresql" in fixtures or "postgresql" in parameters.values()


@pytest.fixture
def own_postgresql() -> Iterator[PostgreSQL]:
    """A server that the test may kill."""
    server = PostgreSQL()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A private PostgreSQL server; each test that needs it has databases of its own in it."""
    try:
        server = PostgreSQL()
    except NotInstalledError as error:
        pytest.fail(str(error), pytrace=False)
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgresql_template(postgresql: PostgreSQL) -> str:
    """The name of a database with our schema and nothing in it."""
    return postgresql.make_template(_fill)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "ebbtide.db"
    _fill(path)
    return path


@pytest.fixture
def database_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | str]:
    """An empty database with our schema, as `Database` opens it; its kind is the test's parameter."""
    if request.param == "sqlite":
        yield shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "ebbtide.db")
        return
    template = request.getfixturevalue("postgresql_template")
    with request.getfixturevalue("postgresql").database(template) as url:
        yield url


@pytest.fixture
async def database(database_place: Path | str) -> AsyncIterator[Database]:
    database = Database(database_place)
    yield database
    database.close()


@pytest.fixture(scope="session")
def ebbtide_on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ebbtide]:
    data = tmp_path_factory.mktemp("ebbtide")
    with started(data) as server:
        yield Ebbtide(server, data)


@pytest.fixture(scope="session")
def ebbtide_on_postgresql(
    postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ebbtide]:
    """Two servers behind a balancer: whichever is asked, the answer is the same."""
    data, second = (tmp_path_factory.mktemp(name) for name in ("ebbtide", "second"))
    objects = data / "objects"  # where a lone server has them, and tests look for an object's file
    with (
        postgresql.database() as url,
        started(data, database=url, objects=objects) as leader,
        started(second, database=url, objects=objects) as follower,
        balanced([follower.url, leader.url]) as balancer,
    ):
        server = replace(leader, url=balancer)
        announce(server, data)
        yield Ebbtide(server, data)


@pytest.fixture(scope="session")
def ebbtide(server_database: str, request: pytest.FixtureRequest) -> Ebbtide:
    # Not a server of this fixture's own: it would be stopped, and the other started, twice a file.
    running: Ebbtide = request.getfixturevalue(f"ebbtide_on_{server_database}")
    return running


def _fill(place: Path | str) -> None:
    database = Database(place)
    migrate(database.engine)
    database.close()
