"""Model servers in processes of their own, and what they serve."""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests import checkpoints, corpus
from tests.model_servers import HUGGING_FACE, ModelServerProcess, Start, command, surroundings


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Start]:
    """Start a model server with an environment of its own; it is ended with the test."""
    with _starting(tmp_path_factory, cache) as start_one:
        yield start_one


@pytest.fixture(scope="module")
def start_module(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Start]:
    """The same, ended with the module's last test."""
    with _starting(tmp_path_factory, cache) as start_one:
        yield start_one


@contextmanager
def _starting(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Start]:
    with ExitStack() as started:

        def start_one(
            environment: Mapping[str, str] | None = None,
            *,
            model_dir: Path | None = None,
            image: str = HUGGING_FACE,
            concurrency: int = 2,
        ) -> ModelServerProcess:
            place = tmp_path_factory.mktemp("s")
            server = ModelServerProcess(
                subprocess.Popen(
                    [
                        *command("serve", place, image=image, model_dir=model_dir, cache=cache),
                        *("--socket", str(place / "socket"), "--concurrency", str(concurrency)),
                    ],
                    stdin=subprocess.PIPE,
                    stderr=(place / "log").open("wb"),
                    env=surroundings(environment or {}),
                ),
                place / "socket",
                place / "status",
                place / "log",
            )
            started.enter_context(server.process)
            started.callback(server.process.kill)
            return server

        yield start_one


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the session: a model version is converted once in it."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Beginnings of sentences, from real documents, that the trained checkpoints answer well."""
    return corpus.texts()[:24]


@pytest.fixture(scope="session")
def pegasus(trained: checkpoints.Trained) -> Path:
    """A small PEGASUS checkpoint as the Hub has them."""
    return trained("pegasus")


@pytest.fixture
def archive(tmp_path: Path) -> Callable[[str], Path]:
    """An unpacked model archive that holds nothing but the given code/inference.py."""

    def write(code: str) -> Path:
        (tmp_path / "model" / "code").mkdir(parents=True)
        (tmp_path / "model" / "code" / "inference.py").write_text(code)
        return tmp_path / "model"

    return write
