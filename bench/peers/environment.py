"""What the peers need: packages, in virtual environments of their own, and two servers of the system."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build"


def python_with(requirements: str) -> Path:
    """The Python of a virtual environment under build/ that has exactly these pinned requirements.

    requirements: the name of a file beside this one. Made when it is missing, or made of another file.
    """
    wanted = HERE / requirements
    folder = BUILD / wanted.stem.replace("requirements", "peers")
    stamp = folder / "made-of"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        print(f"installing {requirements} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        pip = [str(folder / "bin/python"), "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "-qq", "--requirement", str(wanted)], check=True)
        stamp.write_text(digest)
    return folder / "bin/python"


def packages(python: Path) -> list[str]:
    """Everything installed beside this Python, as `name==version`."""
    freeze = subprocess.run([python, "-m", "pip", "freeze"], check=True, capture_output=True, text=True)
    return freeze.stdout.split()


def redis_server() -> str:
    """The path of redis-server. Exits, naming the package, where there is none."""
    return _found(shutil.which("redis-server"), "redis-server")


def postgres_binaries() -> Path:
    """The folder of the newest initdb and postgres. Exits, naming the package, where there is none."""
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    newest = max(installed, key=lambda path: int(path.parent.name), default=None)
    on_path = shutil.which("postgres")
    return Path(_found(newest or (on_path and Path(on_path).parent), "postgresql"))


def postgres_user() -> str | None:
    """Whom PostgreSQL's processes belong to: it refuses to run as root. None: whoever runs this."""
    return "postgres" if os.geteuid() == 0 else None


def version_of(program: str | Path) -> str:
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()


def _found(place: str | Path | None, package: str) -> str:
    if place is None:
        raise SystemExit(
            f"`python -m bench peers` starts a private {package}, which is not installed: "
            f"apt-get install --no-install-recommends {package}"
        )
    return str(place)
