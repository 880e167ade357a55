"""Making a model ready once per version: fetched from the Hub, converted for an engine, kept in the cache.

Prepared models are addressed by the content of what they were made of, appear whole or not at all, and are
made by one process while others that need the same one wait for it. Whoever uses one, or what was fetched of
a repository, holds a lock on it; what nobody has used for long, or the bound on the cache's size leaves no
room for, is removed.
"""

import fcntl
import hashlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from ebbtide.runtime.checkpoint import Checkpoint, refuse_pointer
from ebbtide.runtime.deployment import Deployment
from ebbtide.runtime.engines.selection import choose
from ebbtide.runtime.errors import LoadFailure, NoRoom, one_line
from ebbtide.runtime.parameters import Generation

logger = logging.getLogger(__name__)

FORMAT = 5
"""Raised when what `convert` writes changes, so that models converted before are made anew."""

UNUSED_S = 30 * 86_400.0
"""A prepared model that nobody has used for so long is removed."""

DESCRIBING_FILES = ("*.json", "*.model", "*.spm", "*.txt")
"""What a model has beside its weights."""

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A revision that never moves."""

_held = ExitStack()
"""Locks on the models in use, for as long as this process lives."""


def local_directory(deployment: Deployment) -> Path | None:
    """The directory that HF_MODEL_ID names, when it is one and not a Hub id."""
    named = deployment.model_id
    return Path(named) if named and Path(named).is_dir() else None


def fetched(deployment: Deployment, *, refresh: bool = False) -> Path:
    """The folder with HF_MODEL_ID's files: the directory it names, or its snapshot from the Hub.

    refresh: ask the Hub whether the revision has moved, unless it is a commit; else what was fetched last
    serves. Raises LoadFailure when it cannot be had.
    """
    if directory := local_directory(deployment):
        return directory
    assert deployment.model_id is not None
    if deployment.model_id.startswith(("/", ".")):
        raise LoadFailure(f"HF_MODEL_ID names the directory {deployment.model_id}, which does not exist")
    revision = deployment.environment.get("HF_MODEL_REVISION") or "main"
    name = f"{deployment.model_id}@{revision}".replace("/", "--")
    # Asking the Hub's client even for what is cached costs half a second of imports at every start.
    noted = deployment.cache / "snapshots" / name
    _held.enter_context(_using(_repository(deployment)))
    if (
        (not refresh or COMMIT.fullmatch(revision))
        and noted.is_file()
        and (folder := Path(noted.read_text())).is_dir()
    ):
        return folder
    folder = _download(deployment, deployment.model_id, revision)
    _write_whole(noted, str(folder))
    prune(deployment.cache, deployment.cache_bytes, now=time.time())
    return folder


def converted(deployment: Deployment, folder: Path, task: str = "summarization") -> Path:
    """The folder's model prepared for its engine: from the cache, or made now in a process of its own.

    It stays in the cache as long as this process lives. task: whose settings of the checkpoint the engine is
    to honour. Raises LoadFailure when there is no model in the
    folder, no engine serves it, or it cannot be converted.
    """
    checkpoint = Checkpoint(folder)
    _check(checkpoint)

    def own_generation(engine: str) -> Generation:
        from ebbtide.runtime import convert

        return convert.own_generation(engine, checkpoint, task)

    chosen = choose(deployment.environment, checkpoint.model_type, own_generation)
    digest = _content_digest(checkpoint, deployment.cache)
    name = "-".join(filter(None, (digest, chosen.engine, chosen.compute_type, chosen.processor, str(FORMAT))))
    ready = deployment.cache / "prepared" / name
    _held.enter_context(_using(ready))
    if not ready.is_dir():
        with _exclusive(_beside(ready, "making")):
            if not ready.is_dir():
                _convert(folder, ready, chosen.engine, chosen.compute_type)
        prune(deployment.cache, deployment.cache_bytes, now=time.time())
    return ready


def prune(cache: Path, cache_bytes: int, *, now: float) -> None:
    """Remove prepared models and fetched repositories that nobody uses: those unused for UNUSED_S, then, the
    longest unused first, as many as it takes for the rest to fit into cache_bytes. What is left of
    interrupted conversions goes too.
    """
    kept = (cache / "prepared", cache / "hub")
    for unfinished in (path for folder in kept for path in folder.glob("*.unfinished")):
        _remove(unfinished.with_suffix(""))
    found = [path for path in kept[0].glob("*") if path.is_dir() and not path.suffix]
    found += (path for path in kept[1].glob("models--*") if path.is_dir())
    # A snapshot's files are links to what the Hub's client keeps beside it.
    sizes = {path: sum(file.lstat().st_size for file in path.rglob("*") if file.is_file()) for path in found}
    total = sum(sizes.values())
    for path in sorted(found, key=_used_at):
        unused_s = now - _used_at(path)
        if (unused_s > UNUSED_S or total > cache_bytes) and _remove(path):
            logger.info("Removed %s from the cache, unused for %.1f hours", path.name, unused_s / 3600)
            total -= sizes[path]


def _repository(deployment: Deployment) -> Path:
    """Where the Hub's client keeps what it fetches of HF_MODEL_ID into our cache."""
    return deployment.cache / "hub" / f"models--{deployment.model_id}".replace("/", "--")


def _remove(ready: Path) -> bool:
    """Remove a prepared model, finished or not, or a repository, unless somebody uses it or makes it."""
    used = _beside(ready, "used")
    with used.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        unfinished = _beside(ready, "unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        if ready.is_dir():
            # No longer whole from here on, should this process end before it is gone.
            ready.rename(unfinished)
            shutil.rmtree(unfinished, ignore_errors=True)
        _beside(ready, "making").unlink(missing_ok=True)
        used.unlink(missing_ok=True)
    return True


def _used_at(ready: Path) -> float:
    stamp = _beside(ready, "used")
    return (stamp if stamp.exists() else ready).stat().st_mtime


@contextmanager
def _using(ready: Path) -> Iterator[None]:
    """Keep others from removing it."""
    path = _beside(ready, "used")
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            # Who removed the model while we waited has removed this file too: locking it is vain.
            if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                os.utime(path)
                yield
                return


def _beside(ready: Path, kind: str) -> Path:
    return ready.with_name(f"{ready.name}.{kind}")


def _check(checkpoint: Checkpoint) -> None:
    """Raises LoadFailure for what can be seen to be missing at once."""
    if not (checkpoint.folder / "config.json").is_file():
        raise LoadFailure("The model's files have neither config.json nor code/inference.py")
    for name in checkpoint.weight_files:
        refuse_pointer(checkpoint.folder / name)
    if method := (checkpoint.config.get("quantization_config") or {}).get("quant_method"):
        raise LoadFailure(
            f"The model's weights are quantised already ({method}): deploy the ones it was made of"
        )


def _content_digest(checkpoint: Checkpoint, cache: Path) -> str:
    """A digest of the model files' contents, read once and remembered as long as no file is touched."""
    folder = checkpoint.folder
    described = {path for pattern in DESCRIBING_FILES for path in folder.glob(pattern)}
    paths = sorted(described | {folder / name for name in checkpoint.weight_files})
    identity = hashlib.sha256()
    for path in paths:
        seen = path.stat()
        # The change time cannot be set back: a file edited or replaced in place always gets another identity.
        stamp = (path.name, seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)
        identity.update(repr(stamp).encode())
    noted = cache / "digests" / identity.hexdigest()
    if noted.is_file():
        return noted.read_text()
    whole = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            whole.update(f"{path.name}\0".encode() + hashlib.file_digest(file, "sha256").digest())
    digest = whole.hexdigest()[:32]
    _write_whole(noted, digest)
    return digest


def _convert(folder: Path, ready: Path, engine: str, compute_type: str) -> None:
    unfinished = _beside(ready, "unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    logger.info("Preparing %s for %s in %s", folder, engine, compute_type)
    # Apart, since what it imports and reads would stay in this process's memory as long as it serves.
    arguments = [str(folder), str(unfinished), engine, compute_type]
    process = subprocess.run(  # noqa: S603 our own module, by this interpreter
        [sys.executable, "-m", "ebbtide.runtime.convert", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if process.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise (NoRoom if process.returncode == os.EX_TEMPFAIL else LoadFailure)(_cause(process))
    for path in unfinished.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    unfinished.rename(ready)


def _cause(process: "subprocess.CompletedProcess[str]") -> str:
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        return f"The conversion was ended by {name}, perhaps for want of memory"
    reason = process.stdout.strip().splitlines()
    return reason[-1] if reason else f"The conversion ended with exit code {process.returncode}"


def _download(deployment: Deployment, model_id: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    environment = deployment.environment
    # A cache of the user's own is honoured; without one, models are kept with the server's data.
    own_cache = environment.get("HF_HOME") or environment.get("HF_HUB_CACHE")
    download = partial(
        snapshot_download,
        model_id,
        revision=revision,
        token=environment.get("HF_API_TOKEN") or environment.get("HF_TOKEN") or None,
        cache_dir=None if own_cache else deployment.cache / "hub",
    )
    described = [*DESCRIBING_FILES, "*.jinja", "code/*"]
    if deployment.trusts_remote_code:
        described.append("*.py")
    try:
        folder = Path(download(allow_patterns=[*described, "model*.safetensors"]))
        if not any(folder.glob("model*.safetensors")):
            download(allow_patterns=[*described, "pytorch_model*.bin"])
    except LocalEntryNotFoundError as error:
        reason = f"{model_id}@{revision} is not in the cache and the Hub cannot be reached"
        raise LoadFailure(reason) from error
    except HfHubHTTPError as error:
        raise LoadFailure(f"The Hub does not give {model_id}@{revision}: {one_line(error)}") from error
    except HFValidationError as error:
        raise LoadFailure(f"HF_MODEL_ID {model_id} is neither a directory nor a Hub id") from error
    return folder


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.rename(path)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file: one process at a time, freed by the kernel if its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
