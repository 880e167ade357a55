"""A prepared sequence-to-sequence model as a pipeline: texts to token ids, an engine, token ids to texts.

Imports neither torch nor transformers.
"""

import json
import logging
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ebbtide.runtime.engine import Engine
from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.merging import Written
from ebbtide.runtime.parameters import Generation, generation, task_settings
from ebbtide.runtime.pipeline import Pipeline, Summaries, answer_member
from ebbtide.runtime.tokenizer import TextTokenizer, pieces

logger = logging.getLogger(__name__)

HEAD_START_S = 0.01
"""What an engine's libraries take at most to be in their own code and give the interpreter to others."""

ENCODED_AT_ONCE = 100_000
"""Characters whose tokens are counted together: encoded, a text takes a hundred times its size."""

LONGEST_TOKEN = 64
"""A text of more characters than this times the window is known to be over it without counting its tokens."""

# transformers' clean_up_tokenization, in its order.
_CLEAN_UPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """How to generate, and the language of the texts, for a model that knows several."""

    generation: Generation
    source_language: str | None


@dataclass(frozen=True, slots=True)
class Source:
    """An encoded text, the task's prefix before it. `ids`: all of them, or of a huge text, of which the model
    reads the beginning, those and some more. `length`: how many the whole has.
    """

    ids: list[int]
    length: int


class Summariser(Pipeline):
    """Requests may come from several threads: the engine batches them.

    A translation's languages are those of its task (translation_en_to_de) or of a request's `src_lang` and
    `tgt_lang`, codes as the model's own tokenizer has them.
    """

    @classmethod
    def load(cls, folder: Path, load_engine: Callable[[], Engine], *, task: str) -> "Summariser":
        """With the engine and the tokenizer loaded side by side. Raises LoadFailure as both do."""
        with ThreadPoolExecutor(1, thread_name_prefix="loading") as loading:
            engine = loading.submit(load_engine)
            # A large tokenizer keeps the interpreter to itself for 0.1 s; begun first, it would come first.
            wait([engine], HEAD_START_S)
            tokenizer = TextTokenizer.load(folder)
            return cls(folder, engine.result(), task=task, tokenizer=tokenizer)

    def __init__(
        self, folder: Path, engine: Engine, *, task: str, tokenizer: TextTokenizer | None = None
    ) -> None:
        """folder: what `convert` wrote, with the tokenizer, unless that is given, and `summariser.json`.

        Raises LoadFailure for settings of the checkpoint that cannot be honoured.
        """
        described = json.loads((folder / "summariser.json").read_text())
        self.engine = engine
        self._positions: int | None = described["positions"]
        self._max_input_tokens: int = described["max_input_tokens"]
        self._defaults = described["generation"] | task_settings(described, task)
        self._prefix = task_prefix(described, task)
        self._answer_member = answer_member(task)
        self._tokenizer = tokenizer or TextTokenizer.load(folder)
        self._bare = len(self._tokenizer.encode([""])[0])
        self._around = len(self._tokenizer.encode([self._prefix])[0])
        self._refuse_own()
        self._languages = {
            name: code for name, code in task_languages(task).items() if code in self._tokenizer.languages
        }

    def _refuse_own(self) -> None:
        """Raises LoadFailure where the engine serves no request that keeps to the checkpoint's settings."""
        try:
            wanted = generation({}, self._defaults, positions=self._positions)
        except BadRequest:
            return  # it is for requests to say more
        try:
            self.engine.check(wanted)
        except BadRequest as error:
            raise LoadFailure(
                f"The checkpoint's own generation settings cannot be served: {error}"
            ) from error

    @property
    def task_member(self) -> str:
        """The member of an answer that holds the text."""
        return self._answer_member

    @property
    def window(self) -> int:
        """Tokens of text that the model reads at once, without those around it and the task's prefix."""
        limit = (
            self._max_input_tokens
            if self._positions is None
            else min(self._positions, self._max_input_tokens)
        )
        return limit - self._around

    def run(
        self, texts: Sequence[str], parameters: Mapping[str, Any], cancelled: threading.Event
    ) -> Summaries:
        asked = self.asked(parameters)
        return self.read(self.encode(texts, asked), asked, cancelled)

    def read(self, sources: Sequence[Source], asked: Asked, cancelled: threading.Event) -> Summaries:
        """As `run`, of texts as `encode` gives them."""
        fitting, cut_tokens = self._fitted(sources, asked)
        return Summaries(self.answers(self._generate(fitting, asked, cancelled)), cut_tokens)

    def asked(self, parameters: Mapping[str, Any]) -> Asked:
        """What a request's parameters ask for. Raises BadRequest for one that cannot be honoured."""
        languages = self._languages | {
            name: parameters[name] for name in ("src_lang", "tgt_lang") if parameters.get(name) is not None
        }
        others = {name: value for name, value in parameters.items() if name not in ("src_lang", "tgt_lang")}
        wanted = generation(others, self._defaults, positions=self._positions)
        if "tgt_lang" in languages:
            first = self._tokenizer.language_id(languages["tgt_lang"])
            wanted = replace(wanted, forced_bos_token_id=first)
        return Asked(wanted, languages.get("src_lang"))

    def count(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, without those around it."""
        tokens = [0] * len(texts)
        for group in _groups(texts):
            encoded = self._tokenizer.encode([piece for _, piece in group])
            for (place, _), ids in zip(group, encoded, strict=True):
                tokens[place] += len(ids) - self._bare
        return tokens

    def encode(self, texts: Sequence[str], asked: Asked) -> list[Source]:
        """Each text's ids, however many they are, but of a huge text no more than the model needs.

        Raises BadRequest for a huge text that is to be read whole.
        """
        limit = self._limit(asked)
        longest = LONGEST_TOKEN * limit if limit else math.inf
        short = [self._prefix + text for text in texts if len(text) <= longest]
        encoded = iter(self._tokenizer.encode(short, source_language=asked.source_language))
        sources = []
        for position, text in enumerate(texts):
            if limit is None or len(text) <= longest:
                ids = next(encoded)
                sources.append(Source(ids, len(ids)))
            else:
                sources.append(self._beginning(position, self._prefix + text, limit, asked))
        return sources

    def tokens(self, source: Source) -> int:
        """Of the text that was encoded so; the prefix and what stands around a text are not counted."""
        return source.length - self._around

    def _beginning(self, position: int, text: str, limit: int, asked: Asked) -> Source:
        """A huge text's tokens as far as the model reads, and the number of all."""
        opening = self._tokenizer.opening(text, limit)
        (ids,) = self._tokenizer.encode([opening], source_language=asked.source_language)
        if not asked.generation.truncate and len(ids) > limit:
            about = round(len(ids) * len(text) / len(opening), -3)
            raise _too_long(position, f"about {about:,.0f} tokens", limit)
        (others,) = self.count([text[len(opening) :]])
        return Source(ids, len(ids) + others)

    def _limit(self, asked: Asked) -> int | None:
        """The tokens that the model reads of a text, with those around it; None for any number."""
        return self._max_input_tokens if asked.generation.truncate else self._positions

    def write(self, texts: Sequence[str], asked: Asked, cancelled: threading.Event) -> list[list[Written]]:
        """The answers to texts that fit the window, the best first."""
        sources, _ = self._fitted(self.encode(texts, asked), asked)
        return self._generate(sources, asked, cancelled)

    def answers(self, several: Sequence[Sequence[Written]]) -> list[Any]:
        """As pipelines give them: one sequence asked for as itself, several as a list."""
        items = [[{self._answer_member: written.text} for written in each] for each in several]
        return [each[0] if len(each) == 1 else each for each in items]

    def _generate(
        self, sources: Sequence[Sequence[int]], asked: Asked, cancelled: threading.Event
    ) -> list[list[Written]]:
        several = self.engine.generate(sources, asked.generation, cancelled)
        return [
            [Written(self._text(one.tokens, asked.generation), len(one.tokens)) for one in each]
            for each in several
        ]

    def _fitted(self, sources: Sequence[Source], asked: Asked) -> tuple[list[list[int]], tuple[int, ...]]:
        """What the model reads of each, and how many tokens are left out, which happens only when asked for.

        Raises BadRequest for a text over the model's window: a part of it must not pass for the whole.
        """
        limit = self._limit(asked)
        cut_tokens = tuple(0 if limit is None else max(0, source.length - limit) for source in sources)
        fitting = [source.ids for source in sources]
        for position, (source, cut) in enumerate(zip(sources, cut_tokens, strict=True)):
            if cut and not asked.generation.truncate:
                raise _too_long(position, f"{source.length} tokens", limit)
            if cut:
                logger.warning("Truncated as asked: %d tokens of inputs[%d] were not read", cut, position)
                fitting[position] = self._tokenizer.beginning(source.ids, self._max_input_tokens)
        return fitting, cut_tokens

    def _text(self, tokens: Sequence[int], wanted: Generation) -> str:
        text = self._tokenizer.decode(tokens)
        if wanted.clean_up:
            for loose, tight in _CLEAN_UPS:
                text = text.replace(loose, tight)
        return text


def _too_long(position: int, tokens: str, limit: int | None) -> BadRequest:
    return BadRequest(
        f"inputs[{position}] has {tokens} and the model reads {limit}: "
        'send less, or {"parameters": {"truncation": true}} to summarise only what it can read'
    )


def _groups(texts: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Some at a time, long texts in pieces: each with the place of its text."""
    group: list[tuple[int, str]] = []
    characters = 0
    for place, text in enumerate(texts):
        for piece in pieces(text, ENCODED_AT_ONCE):
            group.append((place, piece))
            characters += len(piece)
            if characters > ENCODED_AT_ONCE:
                yield group
                group, characters = [], 0
    if group:
        yield group


def task_prefix(described: Mapping[str, Any], task: str) -> str:
    """What the model was trained to see before a text of this task, T5's `summarize: ` for one."""
    own = (described.get("task_specific_params") or {}).get(task) or {}
    return own.get("prefix") or described.get("prefix") or ""


def task_languages(task: str) -> dict[str, str]:
    """The languages in a task's name, called as a request's parameters: translation_en_to_de has two."""
    parts = task.split("_")
    if len(parts) == 4 and (parts[0], parts[2]) == ("translation", "to"):
        return {"src_lang": parts[1], "tgt_lang": parts[3]}
    return {}
