import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def run_ebbtide(ebbtide):
    """Run an `ebbtide` command as a user of the running server does, to its end."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "ebbtide", *map(str, arguments)],
            env=ebbtide.environment() | environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run
