"""`HF_MODEL_ID=ebbtide/extractive`: the extractive summariser as a pipeline."""

import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ebbtide.runtime.errors import BadRequest
from ebbtide.runtime.extractive import WORD, split_sentences, summarise
from ebbtide.runtime.grounding import Source
from ebbtide.runtime.pipeline import Pipeline, Summaries
from ebbtide.runtime.reading import Reading

MODEL_ID = "ebbtide/extractive"


class ExtractivePipeline(Pipeline):
    """Takes `max_length` and `min_length` in words, where a language model's are in tokens.

    `truncation`, `long_document` and a false `do_sample` are accepted since they hold anyhow: every text is
    read whole, since there is no window, and nothing is drawn at random. Any other parameter is refused.
    """

    def __init__(self, answer_member: str) -> None:
        self._answer_member = answer_member

    def run(
        self,
        texts: Sequence[str],
        parameters: Mapping[str, Any],
        cancelled: threading.Event,  # noqa: ARG002 it is done in no time
    ) -> Summaries:
        reading, others = Reading.of(parameters, merges=True)
        max_words, min_words = _lengths(others)
        items = []
        for text in texts:
            began_at = time.monotonic()
            summary = summarise(text, max_words=max_words, min_words=min_words)
            item: dict[str, Any] = {self._answer_member: summary}
            if reading.grounding:
                item["grounding"] = [asdict(sentence) for sentence in Source(text).ground(summary)]
            if reading.details:
                item["details"] = _details(text, summary, reading, began_at)
            items.append(item)
        return Summaries(items, cut_tokens=(0,) * len(items))


def _details(text: str, summary: str, reading: Reading, began_at: float) -> dict[str, Any]:
    return {
        "long_document": reading.long_document,
        "words_in": len(WORD.findall(text)),
        "words_out": len(WORD.findall(summary)),
        "coverage": 1.0,
        "sentences": [{"start": start, "end": end} for start, end in _spans(text, summary)],
        "seconds": round(time.monotonic() - began_at, 3),
    }


def _spans(text: str, summary: str) -> Iterator[tuple[int, int]]:
    """Where the summary's sentences stand in the text, in whose order they are."""
    position = 0
    for sentence in split_sentences(summary):
        # White space is all that a sentence lost, and its end where not one was short enough.
        words = map(re.escape, sentence.removesuffix("…").split())
        found = re.compile(r"\s+".join(words)).search(text, position)
        if found:
            yield found.span()
            position = found.end()


def _lengths(parameters: Mapping[str, Any]) -> tuple[int | None, int]:
    refused = set(parameters) - {"max_length", "min_length", "truncation", "do_sample"}
    if refused:
        names = ", ".join(sorted(refused))
        raise BadRequest(f"{MODEL_ID} takes max_length and min_length, in words, not {names}")
    if parameters.get("do_sample"):
        raise BadRequest(f"{MODEL_ID} draws nothing at random: do_sample cannot be true")
    max_words, min_words = parameters.get("max_length"), parameters.get("min_length")
    for name, value in (("max_length", max_words), ("min_length", min_words)):
        if value is not None and (type(value) is not int or value < (name == "max_length")):
            raise BadRequest(f"{name} must be a positive number of words, not {value!r}")
    if max_words is not None and (min_words or 0) > max_words:
        raise BadRequest(f"min_length {min_words} is over max_length {max_words}")
    return max_words, min_words or 0
