"""Summarising what is longer than a model's window: its parts, then the parts' summaries, until one is left.

Each pass cuts the text at its own borders into parts that fit (splitting.py), summarises them, and takes
their summaries as the next text. A part's summary is at most a quarter of the window, so that every pass
shortens the text. When the summaries together are no longer than the answer may be, they are the answer as
they stand: summarising them once more would only lose something.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from ebbtide.runtime.errors import BadRequest
from ebbtide.runtime.splitting import Part, split

logger = logging.getLogger(__name__)

PARTS_AT_ONCE = 32
"""Parts given to the engine together, and kept when they are finished: what a crash can cost at most."""

PART_SHARE = 4
"""A window holds at least this many summaries of parts, so each pass has half as many parts or fewer."""


HASHED_AT_ONCE = 1 << 20
"""Characters."""


@dataclass(frozen=True, slots=True)
class Written:
    """`text` and how many tokens it was generated in."""

    text: str
    tokens: int


class Model(Protocol):
    """What merging asks of a model. `window`: the tokens of text that it reads at once, special ones aside.

    `longest`: the tokens that the answer may have; `one_answer`: whether a single sequence is asked for.
    """

    window: int
    longest: int
    one_answer: bool

    def count(self, texts: Sequence[str]) -> list[int]: ...

    def summarise_parts(self, texts: Sequence[str], *, longest: int) -> list[Written]: ...

    def summarise(self, text: str) -> list[Written]: ...


class Finished(Protocol):
    """Summaries of parts that outlive the process, so that redone work resumes from them."""

    def get(self, key: str) -> Written | None: ...

    def put(self, key: str, written: Written) -> None: ...


@dataclass(frozen=True, slots=True)
class SummarisedPart:
    part: Part
    summary: Written


@dataclass(frozen=True, slots=True)
class Merged:
    """`answers`: one for each sequence asked for. `passes`: each one's parts; the first are of the text."""

    answers: list[Written]
    passes: list[list[SummarisedPart]]
    seconds: float


Progress = Callable[[int, int, int], None]
"""Told the pass, of which the first is 1, how many of its parts are finished, and how many it has."""


def merge(text: str, model: Model, finished: Finished | None, progress: Progress) -> Merged:
    """Summarise a text of any length. How many passes there will be shows only as they go.

    Raises BadRequest for a text that its parts' summaries do not shorten: the model repeats what it reads.
    """
    started_at = time.monotonic()
    passes: list[list[SummarisedPart]] = []
    while True:
        parts = _parts(text, model)
        if len(parts) <= 1:
            return Merged(model.summarise(text), passes, time.monotonic() - started_at)
        if passes and len(parts) >= len(passes[-1]):
            raise BadRequest("The text cannot be merged: the model's summaries of its parts are no shorter")
        progress(len(passes) + 1, 0, len(parts))
        done = list(_summarised(text, parts, model, finished, partial(progress, len(passes) + 1)))
        passes.append(done)
        text = "\n\n".join(one.summary.text for one in done)
        tokens = sum(one.summary.tokens for one in done)
        if tokens <= model.longest and model.one_answer:
            joined = Written(" ".join(one.summary.text for one in done), tokens)
            return Merged([joined], passes, time.monotonic() - started_at)


def _parts(text: str, model: Model) -> list[Part]:
    """Parts that fit as a whole too: a tokenizer may find more tokens there than in the pieces."""
    window = model.window
    while True:
        parts = split(text, window, model.count)
        counted = list(_counted(text, parts, model))
        over = max(counted, default=0) - model.window
        if over <= 0 or window == 1:
            return [replace(part, tokens=tokens) for part, tokens in zip(parts, counted, strict=True)]
        window = max(1, window - over)


def _counted(text: str, parts: Sequence[Part], model: Model) -> Iterator[int]:
    for first in range(0, len(parts), PARTS_AT_ONCE):
        group = parts[first : first + PARTS_AT_ONCE]
        yield from model.count([text[part.start : part.end] for part in group])


def _summarised(
    text: str,
    parts: Sequence[Part],
    model: Model,
    finished: Finished | None,
    progress: Callable[[int, int], None],
) -> Iterator[SummarisedPart]:
    longest = max(1, model.window // PART_SHARE)
    for first in range(0, len(parts), PARTS_AT_ONCE):
        group = parts[first : first + PARTS_AT_ONCE]
        texts = [text[part.start : part.end] for part in group]
        keys = [hashlib.sha256(one.encode()).hexdigest() for one in texts]
        known = [finished.get(key) if finished else None for key in keys]
        missing = [index for index, written in enumerate(known) if written is None]
        made = model.summarise_parts([texts[index] for index in missing], longest=longest) if missing else []
        for index, written in zip(missing, made, strict=True):
            known[index] = written
            if finished:
                finished.put(keys[index], written)
        progress(first + len(group), len(parts))
        for part, summary in zip(group, known, strict=True):
            assert summary is not None
            yield SummarisedPart(part, summary)


class FinishedParts:
    """`Finished` in a folder of files, for one article of one invocation by one model with one set of
    parameters. A part that cannot be kept is only made again should the work be.
    """

    def __init__(self, folder: Path, *identity: str) -> None:
        """folder: the invocation's. identity: what the summaries depend on; it names the folder within."""
        digest = hashlib.sha256()
        for one in identity:
            for start in range(0, len(one), HASHED_AT_ONCE):
                digest.update(one[start : start + HASHED_AT_ONCE].encode())
            digest.update(b"\0")
        self._folder = folder / digest.hexdigest()

    def get(self, key: str) -> Written | None:
        try:
            kept = json.loads((self._folder / key).read_text())
        except (OSError, ValueError):  # none, or what a power failure left of one
            return None
        return Written(kept["text"], kept["tokens"])

    def put(self, key: str, written: Written) -> None:
        # The invocation's former model server may still be at it: each writes a file of its own.
        unfinished = self._folder / f"{key}.{os.getpid()}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(json.dumps({"text": written.text, "tokens": written.tokens}))
            unfinished.rename(self._folder / key)
        except OSError as error:
            logger.warning("A finished part is not kept: %s", error)
