"""A summariser that reads the whole article, however long, and can say what it read and what supports it.

What a request may ask for beside its generation is in reading.py.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ebbtide.runtime.grounding import Source
from ebbtide.runtime.merging import FinishedParts, Merged, Progress, Written, merge
from ebbtide.runtime.pipeline import Pipeline, Summaries
from ebbtide.runtime.reading import Reading
from ebbtide.runtime.summariser import LONGEST_TOKEN, Asked, Summariser

logger = logging.getLogger(__name__)

LEAST_PART = 8
"""A part's summary may have this share of the window even where a shorter answer is asked for: 1 / 8."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A text's tokens, how many of them were cut off, and how long the texts that fit took together."""

    tokens: int
    cut: int
    seconds: float


class Articles(Pipeline):
    """A summariser around which texts of any length pass."""

    def __init__(self, summariser: Summariser, *, merges: bool, identity: str, kept: Path | None) -> None:
        """merges: whether that is what happens to a long text unless a request says otherwise.

        identity: of the model and how it computes; kept: the folder for parts that were finished, None to
        keep none, each invocation's in a folder of its id, which whoever sees the invocation's end
        removes.
        """
        self._summariser = summariser
        self._merges = merges
        self._identity = identity
        self._kept = kept

    def run(
        self, texts: Sequence[str], parameters: Mapping[str, Any], cancelled: threading.Event
    ) -> Summaries:
        return self.read(texts, parameters, cancelled, invocation=None, report=lambda _: None)

    def read(
        self,
        texts: Sequence[str],
        parameters: Mapping[str, Any],
        cancelled: threading.Event,
        *,
        invocation: str | None,
        report: Callable[[Mapping[str, int]], None],
    ) -> Summaries:
        """As `run`. invocation: its id, under which finished parts are kept until it has its answer.

        report: told how many parts of how many are finished, in each pass over each long article.
        """
        reading, others = Reading.of(parameters, merges=self._merges)
        started_at = time.monotonic()
        asked = self._summariser.asked(others)
        merges = reading.long_document == "merge"
        # A book need not be encoded to be known as one.
        surely = self._summariser.window * LONGEST_TOKEN
        encoded = [n for n, text in enumerate(texts) if not merges or len(text) <= surely]
        sources = dict(zip(encoded, self._summariser.encode([texts[n] for n in encoded], asked), strict=True))
        tokens = {n: self._summariser.tokens(source) for n, source in sources.items()}
        fits = {n for n, count in tokens.items() if not merges or count <= self._summariser.window}
        long = [n for n in range(len(texts)) if n not in fits]
        short = sorted(fits)
        merged: dict[int, Merged] = {}
        summaries = Summaries([], ())
        if short:
            summaries = self._summariser.read([sources[n] for n in short], asked, cancelled)
        took_s = time.monotonic() - started_at
        for place, n in enumerate(long, start=1):
            progress = _Progress(report, article=place, articles=len(long))
            merged[n] = self._merged(texts[n], asked, cancelled, invocation, progress)
        items: list[Any] = [None] * len(texts)
        cut_tokens = [0] * len(texts)
        for n, item, cut in zip(short, summaries.items, summaries.cut_tokens, strict=True):
            items[n], cut_tokens[n] = item, cut
        for n, one in merged.items():
            (items[n],) = self._summariser.answers([one.answers])
        if reading.details or reading.grounding:
            for n, text in enumerate(texts):
                found = merged.get(n)
                if n not in tokens:
                    passes = found.passes if found else []
                    tokens[n] = (
                        sum(one.part.tokens for one in passes[0])
                        if passes
                        else self._summariser.count([text])[0]
                    )
                read = _Read(tokens[n], cut_tokens[n], took_s)
                self._describe(items[n], text, reading, found, read)
        return Summaries(items, tuple(cut_tokens))

    def _merged(
        self,
        text: str,
        asked: Asked,
        cancelled: threading.Event,
        invocation: str | None,
        progress: Progress,
    ) -> Merged:
        finished = None
        if self._kept is not None and invocation is not None:
            identity = json.dumps(asdict(asked), default=list, sort_keys=True)
            finished = FinishedParts(self._kept / invocation, self._identity, identity, text)
        return merge(text, _Whole(self._summariser, asked, cancelled), finished, progress)

    def _describe(self, item: Any, text: str, reading: Reading, merged: Merged | None, read: _Read) -> None:
        source = Source(text) if reading.grounding else None
        for answer in item if isinstance(item, list) else [item]:
            if source is not None:
                grounded = source.ground(answer[self._summariser.task_member])
                answer["grounding"] = [asdict(sentence) for sentence in grounded]
            if reading.details:
                answer["details"] = self._details(reading, merged, read)

    def _details(self, reading: Reading, merged: Merged | None, read: _Read) -> dict[str, Any]:
        first = merged.passes[0] if merged and merged.passes else []
        parts = [
            {
                "start": one.part.start,
                "end": one.part.end,
                "heading": one.part.heading,
                "tokens_in": one.part.tokens,
                "tokens_out": one.summary.tokens,
                "summary": one.summary.text,
            }
            for one in first
        ]
        return {
            "long_document": reading.long_document,
            "tokens_in": read.tokens,
            "coverage": round(1 - read.cut / read.tokens, 4) if read.tokens else 1.0,
            "passes": len(merged.passes) if merged else 0,
            "parts": parts,
            "seconds": round(merged.seconds if merged else read.seconds, 3),
        }


@dataclass(frozen=True, slots=True)
class _Progress:
    """Reports of one article in a request."""

    report: Callable[[Mapping[str, int]], None]
    article: int
    articles: int

    def __call__(self, level: int, done: int, parts: int) -> None:
        logger.info("Article %d, pass %d: %d of %d parts are summarised", self.article, level, done, parts)
        self.report(
            {
                "level": level,
                "parts_done": done,
                "parts": parts,
                "article": self.article,
                "articles": self.articles,
            }
        )


class _Whole:
    """A summariser as merging asks for it, for one request."""

    def __init__(self, summariser: Summariser, asked: Asked, cancelled: threading.Event) -> None:
        self._summariser, self._asked, self._cancelled = summariser, asked, cancelled
        self.window = summariser.window
        self.longest = asked.generation.max_new_tokens
        self.one_answer = asked.generation.num_return_sequences == 1

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._summariser.count(texts)

    def summarise_parts(self, texts: Sequence[str], *, longest: int) -> list[Written]:
        # A part says as much as it has to say: the lengths asked for are the whole answer's.
        bound = max(1, min(longest, max(self.longest, self.window // LEAST_PART)))
        wanted = replace(
            self._asked.generation, max_new_tokens=bound, min_new_tokens=0, num_return_sequences=1
        )
        asked = replace(self._asked, generation=wanted)
        return [each[0] for each in self._summariser.write(texts, asked, self._cancelled)]

    def summarise(self, text: str) -> list[Written]:
        return self._summariser.write([text], self._asked, self._cancelled)[0]
