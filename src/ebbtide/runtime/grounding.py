"""What in the source supports each sentence of a summary, and which numbers and names are not from there.

A source sentence supports a summary's sentence by the share of that one's terms that it holds, each weighted
by its inverse frequency among the source's sentences. The best is taken first, then those that add most to
what is held together. It is a check of words, not of meaning: a denial has the words of what it denies. A
number or a name that occurs nowhere in the source is flagged, since these are what models invent most.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ebbtide.runtime import quantities
from ebbtide.runtime.extractive import STOP_WORDS, WORD, terms
from ebbtide.runtime.splitting import stretches

MAX_SUPPORTS = 3
"""Source sentences named for one of the summary; more are seldom read."""

LEAST_GAIN = 0.1
"""A further source sentence must hold this share of the terms that those before it do not."""

MAX_INITIALS = 6

_DOTTED = re.compile(r"\b(?:[A-Z]\.){2,}")
_NAME_RUN = re.compile(r"[A-Z][\w'’-]*(?:\s+(?:(?:of|and|the|for|de|&)\s+){0,2}[A-Z][\w'’-]*)+")


@dataclass(frozen=True, slots=True)
class Support:
    """`source[start:end]` holds the share `score` (above 0, at most 1) of the sentence's weighted terms."""

    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class Grounded:
    """`summary[start:end]`, a sentence. `score`: the share of its terms that the supports hold together.

    `unsupported`: its numbers and names that occur nowhere in the source, as the summary writes them.
    """

    start: int
    end: int
    score: float
    supports: tuple[Support, ...]
    unsupported: tuple[str, ...]


class Source:
    """A text that summaries are held against, read once; the work is linear in its length."""

    def __init__(self, text: str) -> None:
        self._spans = [(found.start, found.end) for found in stretches(text)]
        self._terms = [frozenset(terms(text[start:end])) for start, end in self._spans]
        holding = Counter(term for held in self._terms for term in held)
        self._weights = {term: math.log(1 + len(self._spans) / count) for term, count in holding.items()}
        # A term that occurs nowhere weighs as much as one that occurs once: it is missed, not ignored.
        self._unknown = math.log(1 + len(self._spans)) if self._spans else 1.0
        self._sentences: defaultdict[str, list[int]] = defaultdict(list)
        for index, held in enumerate(self._terms):
            for term in held:
                self._sentences[term].append(index)
        words = set(WORD.findall(text)) | set(WORD.findall(_undotted(text)))
        self._words = {form for word in words for form in _forms(word)} | set(_initials(text))
        self._numbers = quantities.occurring(text)

    def ground(self, summary: str) -> list[Grounded]:
        """Each sentence of the summary with what supports it, in order."""
        return [self._sentence(summary, found.start, found.end) for found in stretches(summary)]

    def _sentence(self, summary: str, start: int, end: int) -> Grounded:
        sentence = summary[start:end]
        wanted = {term: self._weights.get(term, self._unknown) for term in terms(sentence)}
        total = sum(wanted.values())
        supports: list[Support] = []
        missing = dict(wanted)
        while len(supports) < MAX_SUPPORTS and missing:
            index, gain = self._best(missing)
            if gain <= 0 or (supports and gain < LEAST_GAIN * total):
                break
            held = self._terms[index]
            score = sum(weight for term, weight in wanted.items() if term in held) / total
            supports.append(Support(*self._spans[index], round(score, 4)))
            missing = {term: weight for term, weight in missing.items() if term not in held}
        covered = 1 - sum(missing.values()) / total if total else 1.0
        return Grounded(
            start, end, round(covered, 4), tuple(supports), tuple(dict.fromkeys(self._unsupported(sentence)))
        )

    def _best(self, missing: Mapping[str, float]) -> tuple[int, float]:
        """The source sentence that holds most of what is missing, the earlier of two equals, and how much."""
        gains: defaultdict[int, float] = defaultdict(float)
        for term, weight in missing.items():
            for index in self._sentences.get(term, ()):
                gains[index] += weight
        if not gains:
            return -1, 0.0
        best = max(gains, key=lambda index: (gains[index], -index))
        return best, gains[best]

    def _unsupported(self, sentence: str) -> Iterator[str]:
        numbers = list(quantities.written(sentence))
        for number, values in numbers:
            if not values & self._numbers:
                yield number
        counted = {word for number, _ in numbers for word in WORD.findall(number)}
        for name in _names(_undotted(sentence)):
            if name not in counted and not _forms(name) & self._words:
                yield name


def _names(sentence: str) -> Iterator[str]:
    """Words written as names are. The first counts only before another, since any word begins in a capital
    there; a word in capitals or with a capital within counts anywhere.
    """
    words: Sequence[str] = WORD.findall(sentence)
    for position, word in enumerate(words):
        if not word[0].isalpha() or word.lower() in STOP_WORDS:
            continue
        inner = any(character.isupper() for character in word[1:])
        followed = position + 1 < len(words) and words[position + 1][0].isupper()
        if inner or (word[0].isupper() and (position > 0 or followed)):
            yield word


def _forms(word: str) -> set[str]:
    """As it stands, without a possessive's ending, and in the singular."""
    word = re.sub(r"['’]s?$", "", word.lower())
    return {word, *terms(word)}


def _undotted(text: str) -> str:
    """U.S. as US."""
    return _DOTTED.sub(lambda found: found[0].replace(".", ""), text)


def _initials(text: str) -> Iterator[str]:
    """What the names of several words may be shortened to: WHO for World Health Organization."""
    for run in _NAME_RUN.finditer(text):
        letters = "".join(word[0] for word in run[0].split() if word[0].isupper())
        for start in range(len(letters) - 1):
            for end in range(start + 2, min(len(letters), start + MAX_INITIALS) + 1):
                yield letters[start:end].lower()
