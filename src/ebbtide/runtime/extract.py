"""`HF_MODEL_ID=ebbtide/extractive`: the extractive summariser as a pipeline."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from ebbtide.runtime.errors import BadRequest
from ebbtide.runtime.extractive import summarise
from ebbtide.runtime.pipeline import Pipeline, Summaries

MODEL_ID = "ebbtide/extractive"


class ExtractivePipeline(Pipeline):
    """Takes `max_length` and `min_length` in words, where a language model's are in tokens.

    `truncation` and a false `do_sample` are accepted since they hold anyhow: every text is read whole, and
    nothing is drawn at random. Any other parameter is refused.
    """

    def __init__(self, answer_member: str) -> None:
        self._answer_member = answer_member

    def run(
        self,
        texts: Sequence[str],
        parameters: Mapping[str, Any],
        cancelled: threading.Event,  # noqa: ARG002 it is done in no time
    ) -> Summaries:
        max_words, min_words = _lengths(parameters)
        items = [
            {self._answer_member: summarise(text, max_words=max_words, min_words=min_words)} for text in texts
        ]
        return Summaries(items, cut_tokens=(0,) * len(items))


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
