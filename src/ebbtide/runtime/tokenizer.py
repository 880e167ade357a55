"""Texts to a model's token ids and back, as transformers' own tokenizer for it does; without transformers."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ebbtide.runtime.errors import BadRequest

SPACE = "▁"
"""SentencePiece's sign for a space."""

SPARE_TOKENS = 64
"""The last tokens of a text's beginning, which may be others than in the whole text: so many at most."""

CHARACTERS = 6
"""Of a token, about: as much of a text as may hold the tokens wanted is tried first."""

LONGEST_WORD = 10_000
"""After so many characters without white space a text is cut within a word."""

_WORD_END = re.compile(r"\S(?=[ \t\r\n]|\Z)")


@dataclass(frozen=True, slots=True)
class Layout:
    """What stands around a text's tokens, and how they are numbered.

    prefix, suffix: ids before and after; None stands for the source's language. languages: their codes and
    ids, none for a model of one language. source_language: what a text is in when nobody says.
    pieces: the model's ids of pieces, where the tokenizer numbers them otherwise (MarianMT, M2M100);
    unknown_id: of all others; special_ids: those that are no text. target_codes: a text may begin with
    `>>code<<`, the language to translate into, which is one token.
    """

    prefix: tuple[int | None, ...]
    suffix: tuple[int | None, ...]
    languages: Mapping[str, int] = field(default_factory=dict)
    source_language: str | None = None
    pieces: Mapping[str, int] | None = None
    unknown_id: int | None = None
    target_codes: bool = False
    special_ids: tuple[int, ...] = ()


class TextTokenizer:
    """Safe to call from several threads."""

    def __init__(self, tokenizer: Tokenizer, layout: Layout) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._layout = layout
        self._piece_of = {id_: piece for piece, id_ in (layout.pieces or {}).items()}

    @classmethod
    def load(cls, folder: Path) -> "TextTokenizer":
        """What `save` wrote into the folder."""
        members = json.loads((folder / "layout.json").read_text())
        members |= {name: tuple(members[name]) for name in ("prefix", "suffix", "special_ids")}
        return cls(Tokenizer.from_file(str(folder / "tokenizer.json")), Layout(**members))

    def save(self, folder: Path) -> None:
        self._tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "layout.json").write_text(json.dumps(asdict(self._layout), ensure_ascii=False))

    @property
    def languages(self) -> frozenset[str]:
        """The codes of the languages that a text's tokens can name; none for a model of one language."""
        return frozenset(self._layout.languages)

    @property
    def tokens(self) -> list[str]:
        """All tokens, in the order of their ids."""
        known = self._layout.pieces or self._tokenizer.get_vocab(with_added_tokens=True)
        tokens = sorted(known, key=known.__getitem__)
        if any(known[token] != id_ for id_, token in enumerate(tokens)):
            raise ValueError("The tokenizer's ids are not those from 0 on, each once")
        return tokens

    def encode(self, texts: Sequence[str], *, source_language: str | None = None) -> list[list[int]]:
        """Each text's ids, with those that the model wants around it.

        Raises BadRequest for a source language that the model does not have.
        """
        language = self.language_id(source_language) if self._layout.languages else None
        prefix = [language if id_ is None else id_ for id_ in self._layout.prefix]
        suffix = [language if id_ is None else id_ for id_ in self._layout.suffix]
        return [[*prefix, *ids, *suffix] for ids in self._text_ids(texts)]  # type: ignore[list-item]

    def beginning(self, ids: Sequence[int], limit: int) -> list[int]:
        """The first of a text's encoded ids, `limit` of them with those that stand around it."""
        after = len(self._layout.suffix)
        return [*ids[: limit - after], *ids[len(ids) - after :]]

    def opening(self, text: str, tokens: int) -> str:
        """The text, or a beginning of it whose first so many tokens are those of the whole text: what comes
        after a word does not change its tokens.
        """
        characters = CHARACTERS * (tokens + SPARE_TOKENS)
        while True:
            opening = text[: _border(text, characters)]
            if len(opening) == len(text) or len(self._text_ids([opening])[0]) >= tokens + SPARE_TOKENS:
                return opening
            characters *= 2

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, without special tokens."""
        if self._layout.pieces is None:
            text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
            return text
        special = self._layout.special_ids
        pieces = [self._piece_of[id_] for id_ in ids if id_ not in special]
        return "".join(pieces).replace(SPACE, " ").strip()

    def language_id(self, code: str | None) -> int:
        """The id of a language's token; of the model's own source language for None.

        Raises BadRequest when the model does not have the language.
        """
        known = self._layout.languages
        code = code or self._layout.source_language
        if code is None or code not in known:
            raise BadRequest(
                f"The model has no language {code}; it has {', '.join(sorted(known)) or 'none to choose'}"
            )
        return known[code]

    def _text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        if self._layout.pieces is None:
            encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        codes, rests = zip(*map(self._split_code, texts), strict=True)
        # Only this way do encodings say what a piece of unknown text was.
        encodings = self._tokenizer.encode_batch(list(rests), add_special_tokens=False)
        return [
            self._named([*code, *encoding.tokens]) for code, encoding in zip(codes, encodings, strict=True)
        ]

    def _split_code(self, text: str) -> tuple[list[str], str]:
        end = text.find("<<") if self._layout.target_codes and text.startswith(">>") else -1
        return ([], text) if end < 0 else ([text[: end + 2]], text[end + 2 :])

    def _named(self, tokens: Sequence[str]) -> list[int]:
        pieces: Any = self._layout.pieces
        return [pieces.get(token, self._layout.unknown_id) for token in tokens]


def pieces(text: str, characters: int) -> Iterator[str]:
    """The text in pieces of about so many characters, which have its tokens together: between words."""
    start = 0
    while start < len(text):
        end = _border(text, start + characters)
        yield text[start:end]
        start = end


def _border(text: str, at: int) -> int:
    """Where the word ends that the place is in, or where that has become too long."""
    found = _WORD_END.search(text, max(0, at - 1), at + LONGEST_WORD)
    return found.end() if found else min(at, len(text))
