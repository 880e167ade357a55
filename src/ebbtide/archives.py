"""tarfile that can refuse what leads out of the folder: Python's own has filters only from 3.11.4 on, and
Debian 12 has 3.11.2.
"""

import sys
from pathlib import Path

if sys.version_info >= (3, 12):
    import tarfile
else:
    from backports import tarfile

__all__ = ["tarfile", "unpack"]


def unpack(archive: Path, folder: Path) -> None:
    """A user's own archive into a folder of this process. Raises tarfile.TarError and OSError."""
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
