"""A summarisation pipeline: what `model` is to the toolkit and to user handlers, as transformers' own is."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ebbtide.runtime.errors import BadRequest

ANSWER_MEMBERS = {
    "summarization": "summary_text",
    "text2text-generation": "generated_text",
    "translation": "translation_text",
}
"""The tasks of texts from texts -> the member of the answer that holds the text."""


@dataclass(frozen=True, slots=True)
class Summaries:
    """`items`: an answer for each input, in order. `cut_tokens`: the tokens of each that were not read."""

    items: list[Any]
    cut_tokens: tuple[int, ...]


class Pipeline(ABC):
    """Called as transformers calls its own: `pipeline(text_or_texts, **parameters)` -> a list of answers."""

    @abstractmethod
    def run(
        self, texts: Sequence[str], parameters: Mapping[str, Any], cancelled: threading.Event
    ) -> Summaries:
        """Summarise each text. Raises BadRequest for a parameter that cannot be honoured, and Cancelled, as
        soon as the model can, once `cancelled` is set.
        """

    def __call__(self, inputs: Any, **parameters: Any) -> list[Any]:
        return self.run(as_texts(inputs), parameters, threading.Event()).items


def makes_texts(task: str) -> bool:
    """Whether the task makes texts from texts, as translation_en_to_fr does."""
    return _family(task) in ANSWER_MEMBERS


def answer_member(task: str) -> str:
    """The member of the answer that holds the text, for a task that makes texts."""
    return ANSWER_MEMBERS[_family(task)]


def _family(task: str) -> str:
    return "translation" if task.startswith("translation_") else task


def as_texts(inputs: Any) -> list[str]:
    """One text or several as a list. Raises BadRequest for anything else, for a text without a word, and
    for one that no encoding can write.
    """
    texts = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRequest("inputs must be a string or a list of strings")
    if not texts:
        raise BadRequest("inputs is an empty list: there is nothing to summarise")
    for position, text in enumerate(texts):
        name = "inputs" if isinstance(inputs, str) else f"inputs[{position}]"
        if not text.strip():
            raise BadRequest(f"{name} is empty: there is nothing to summarise")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise BadRequest(
                f"{name} is no text: character {error.start} is half a surrogate pair"
            ) from error
    return texts
