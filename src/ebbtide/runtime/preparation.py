"""Making a model ready once per version: fetched from the Hub, converted for the engine, kept in the cache.

Converted models are addressed by the content of what they were made of, appear whole or not at all, and are
made by one process while others that need the same one wait for it.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from ebbtide.runtime.deployment import Deployment
from ebbtide.runtime.errors import LoadFailure, one_line

logger = logging.getLogger(__name__)

FORMAT = 3
"""Raised when what `convert` writes changes, so that models converted before are made anew."""

DEFAULT_COMPUTE_TYPE = "int8"
"""Four times smaller and half again as fast as float32, at a small loss: CT2_COMPUTE_TYPE=float32 gives
transformers' own answers token for token."""
COMPUTE_TYPES = ("int8", "int8_float32", "float32", "float16", "int8_float16", "bfloat16")

ARCHITECTURES = ("PegasusForConditionalGeneration", "BartForConditionalGeneration")
"""What is converted, and compared with transformers by the tests."""

MODEL_FILES = ("*.json", "*.model", "*.txt", "*.safetensors", "*.bin")
TOKENIZER_FILES = ("tokenizer.json", "spiece.model")
WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin")


def local_directory(deployment: Deployment) -> Path | None:
    """The directory that HF_MODEL_ID names, when it is one and not a Hub id."""
    named = deployment.model_id
    return Path(named) if named and Path(named).is_dir() else None


def fetched(deployment: Deployment, *, refresh: bool = False) -> Path:
    """The folder with HF_MODEL_ID's files: the directory it names, or its snapshot from the Hub.

    refresh: ask the Hub whether the revision has moved; else what was fetched last serves.
    Raises LoadFailure when it cannot be had.
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
    if not refresh and noted.is_file() and (folder := Path(noted.read_text())).is_dir():
        return folder
    folder = _download(deployment, deployment.model_id, revision)
    _write_whole(noted, str(folder))
    return folder


def converted(deployment: Deployment, folder: Path) -> Path:
    """The folder's model converted for CTranslate2: from the cache, or made now in a process of its own.

    Raises LoadFailure when there is no model in the folder or it cannot be converted.
    """
    compute_type = deployment.environment.get("CT2_COMPUTE_TYPE") or DEFAULT_COMPUTE_TYPE
    if compute_type not in COMPUTE_TYPES:
        raise LoadFailure(f"CT2_COMPUTE_TYPE {compute_type} is none of {', '.join(COMPUTE_TYPES)}")
    _check(folder)
    digest = _content_digest(folder, deployment.cache)
    ready = deployment.cache / "ctranslate2" / f"{digest}-{compute_type}-{FORMAT}"
    if ready.is_dir():
        return ready
    with _exclusive(ready.with_name(ready.name + ".lock")):
        if not ready.is_dir():
            _convert(folder, ready, compute_type)
    return ready


def _check(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        raise LoadFailure("The model's files have neither config.json nor code/inference.py") from error
    except ValueError as error:
        raise LoadFailure(f"The model's config.json is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise LoadFailure("The model's config.json is no object of names and values")
    named = config.get("architectures")
    architecture = named[0] if isinstance(named, list) and named else "(none)"
    if architecture not in ARCHITECTURES:
        served = ", ".join(ARCHITECTURES)
        raise LoadFailure(f"The architecture {architecture} is not served; there are {served}")
    tokenizers = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if not tokenizers:
        raise LoadFailure("The model's files have no tokenizer: neither tokenizer.json nor spiece.model")
    weights = [path for pattern in WEIGHT_FILES for path in folder.glob(pattern)]
    if not weights:
        raise LoadFailure("The model's files have no weights: no model.safetensors and no pytorch_model.bin")
    for path in (*tokenizers, *weights):
        with path.open("rb") as file:
            if file.read(40).startswith(b"version https://git-lfs"):
                raise LoadFailure(f"{path.name} is a Git LFS pointer, not the file it stands for")


def _content_digest(folder: Path, cache: Path) -> str:
    """A digest of the model files' contents, read once and remembered as long as no file is touched."""
    paths = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})
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


def _convert(folder: Path, ready: Path, compute_type: str) -> None:
    unfinished = ready.with_name(ready.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    logger.info("Converting %s to CTranslate2 %s", folder, compute_type)
    # Apart, since transformers and torch would stay in this process's memory as long as it serves.
    command = [sys.executable, "-m", "ebbtide.runtime.convert", str(folder), str(unfinished), compute_type]
    process = subprocess.run(  # noqa: S603 our own module, by this interpreter
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if process.returncode:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise LoadFailure(_cause(process))
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
    described = ["*.json", "*.txt", "*.model", "code/*"]
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
