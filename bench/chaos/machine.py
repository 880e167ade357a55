"""On what a storm ran."""

import os
import platform
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = ("ebbtide", "httptools", "sqlalchemy", "aiohttp", "botocore", "psycopg")


def machine() -> dict[str, str | int]:
    """Processor, cores, memory and system."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count() or 0,
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Of Python and of the packages that a storm's figures hang on, those installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
