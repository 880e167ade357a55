"""An extractive summariser that needs no model: it chooses the document's own most central sentences.

Sentences are the nodes of a graph, weighted by the cosine of their TF-IDF vectors; the stationary
distribution of a random walk on it ranks them (LexRank with continuous weights: Erkan and Radev 2004,
JAIR 22, sections 3.2 and 3.3). They are chosen one by one for rank less likeness to what is chosen already
(maximal marginal relevance: Carbonell and Goldstein, SIGIR 1998) and given in the document's order.

The graph is never built: with unit vectors as the rows of A its weights are A Aᵀ, so a step of the walk is
two sparse products, and the work is linear in the document's length, not quadratic in its sentences. Unlike
in LexRank no edge leads from a sentence to itself, by which one that is like no other would rank as average.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

DEFAULT_MAX_WORDS = 120
DEFAULT_SHARE = 1 / 3
"""The most of the document that a summary takes when no length is asked for."""

DAMPING = 0.85
TOLERANCE = 1e-4
MAX_STEPS = 50
LEAST_DEGREE = 1e-9
"""Below it a degree is a rounding error: the sentence shares no term with any other."""
RELEVANCE = 0.7
"""How much rank counts against likeness to what is chosen already: Carbonell and Goldstein's lambda."""

MIN_WORDS, MAX_WORDS = 5, 80
"""A sentence outside these is a heading, a table or a list rather than prose."""
MIN_LETTERS = 0.92
"""The share of letters, spaces and a sentence's own marks below which it is code, a table or figures."""

LONGEST_ABBREVIATION = 12
"""Characters, with what precedes it: how far back from a dot one is looked for."""

Vector = dict[str, float]

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+(?:['’\-]\w+)*")
_PARAGRAPH = re.compile(r"\n\s*\n|\n(?=\s*(?:[*+•#>|=~-]|\d+[.)])\s*)")
SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s+[\"'“‘(\[]*[^\W_a-zà-ÿ])|[。！？]+[」』”]*")
_PROSE = re.compile(r"[^\W\d_]|[\s,.;'’\"“”()\-–—]")
_ENDED = re.compile(r"[.!?…。！？][\"'”’)\]」』]*$")
_MARK = re.compile(r"^(?:[*+•#>-]+|\d+[.)])\s+")
ABBREVIATION = re.compile(
    r"(?:^|[\s(\[])(?:[A-Z]|e\.g|i\.e|al|ca|cf|vs|etc|approx|resp|Fig|Figs|Eq|Eqs|Ref|Refs|Sec|Tab|Vol|No|pp|Dr|Mr|Mrs"
    r"|Ms|Prof|St|Jr|Sr|Inc|Ltd|Co|Corp|U\.S|U\.K|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec)\.$"
)
STOP_WORDS = frozenset(
    """a about above after again against all also am an and any are as at be because been before being
    below between both but by can cannot could did do does doing down during each few for from further
    had has have having he her here hers him his how i if in into is it its itself just may me might
    more most must my no nor not now of off on once only or other our ours out over own same she should
    so some such than that the their theirs them then there these they this those through to too under
    until up upon us very was we were what when where which while who whom why will with within without
    would you your yours""".split()  # noqa: SIM905 a list of so many words would fill a page
)


def summarise(text: str, *, max_words: int | None = None, min_words: int = 0) -> str:
    """Summarise a text by some of its sentences, in its own order.

    max_words: bound on the summary's words; by default 120, or a third of the text when that is less. Where
    every sentence is longer than an explicit bound, the shortest is cut there and ends in an ellipsis.
    min_words: sentences are added, alike or not, until the summary has that many, as far as max_words and the
    text allow. A text without words gives the empty string.
    """
    sentences = list(split_sentences(text))
    lengths = [len(WORD.findall(sentence)) for sentence in sentences]
    chosen = [i for i, sentence in enumerate(sentences) if _is_prose(sentence, lengths[i])]
    if not chosen:
        chosen = [i for i, length in enumerate(lengths) if length]
    if not chosen:
        return ""
    prose, prose_lengths = [sentences[i] for i in chosen], [lengths[i] for i in chosen]
    limit = max_words
    if limit is None:
        limit = max(min_words, min(DEFAULT_MAX_WORDS, int(sum(prose_lengths) * DEFAULT_SHARE)))

    vectors = unit_vectors(prose)
    picked = select(centrality(vectors), vectors, prose_lengths, max_words=limit, min_words=min_words)
    if picked:
        return " ".join(prose[i] for i in sorted(picked))
    shortest = min(range(len(prose)), key=prose_lengths.__getitem__)
    if max_words is None:
        return prose[shortest]
    return _cut(prose[shortest], max_words)


def split_sentences(text: str) -> Iterator[str]:
    """Split a text into sentences; a blank line, a list item and a heading's mark end one too.

    Abbreviations, initials and decimal points do not. Lines wrapped within a paragraph are joined, and the
    mark of a list item or a heading is left out.
    """
    for paragraph in _PARAGRAPH.split(text):
        joined = _MARK.sub("", " ".join(paragraph.split()))
        start = 0
        for end in SENTENCE_END.finditer(joined):
            # The dot belongs to an abbreviation when it is the mark's first and only sign.
            if end.group() == "." and ABBREVIATION.search(
                joined, max(start, end.end() - LONGEST_ABBREVIATION), end.end()
            ):
                continue
            yield joined[start : end.end()].strip()
            start = end.end()
        if rest := joined[start:].strip():
            yield rest


def unit_vectors(sentences: Sequence[str]) -> list[Vector]:
    """A TF-IDF vector of length 1 for each sentence; the inverse frequency is over the sentences given.

    A sentence of stop words alone has the empty vector.
    """
    counts = [Counter(terms(sentence)) for sentence in sentences]
    holding = Counter(term for count in counts for term in count)
    inverse_frequency = {term: math.log(1 + len(sentences) / n) for term, n in holding.items()}
    vectors = []
    for count in counts:
        weights = {term: n * inverse_frequency[term] for term, n in count.items()}
        norm = math.sqrt(sum(weight * weight for weight in weights.values()))
        vectors.append({term: weight / norm for term, weight in weights.items()})
    return vectors


def centrality(vectors: Sequence[Vector]) -> list[float]:
    """LexRank of each sentence, by power iteration; they sum to 1."""
    degrees = _weigh(vectors, [1.0] * len(vectors))
    ranks = [1 / len(vectors)] * len(vectors)
    for _ in range(MAX_STEPS):
        # A sentence like no other leaves its rank to the jump.
        shares = [
            rank / degree if degree > LEAST_DEGREE else 0.0
            for rank, degree in zip(ranks, degrees, strict=True)
        ]
        walked = _weigh(vectors, shares)
        jump = (1 - DAMPING * sum(walked)) / len(vectors)
        moved = [DAMPING * weight + jump for weight in walked]
        change = sum(abs(new - old) for new, old in zip(moved, ranks, strict=True))
        ranks = moved
        if change < TOLERANCE:
            break
    return ranks


def select(
    ranks: Sequence[float],
    vectors: Sequence[Vector],
    lengths: Sequence[int],
    *,
    max_words: int,
    min_words: int,
) -> list[int]:
    """Choose sentences by maximal marginal relevance within max_words; indexes, best first.

    Sentences whose relevance is negative, which say again what is chosen, are taken only to reach min_words.
    """
    highest = max(ranks)
    likeness = [0.0] * len(ranks)
    picked: list[int] = []
    words = 0
    open_to_choice = set(range(len(ranks)))
    while fitting := [i for i in open_to_choice if words + lengths[i] <= max_words]:
        # The earlier of two equals: it is the one that introduces its subject.
        relevance, negated = max(
            (RELEVANCE * ranks[i] / highest - (1 - RELEVANCE) * likeness[i], -i) for i in fitting
        )
        if relevance < 0 and words >= min_words:
            break
        best = -negated
        picked.append(best)
        open_to_choice.remove(best)
        words += lengths[best]
        for i in open_to_choice:
            likeness[i] = max(likeness[i], _cosine(vectors[best], vectors[i]))
    return picked


def _weigh(vectors: Sequence[Vector], values: Sequence[float]) -> list[float]:
    """The product (A Aᵀ - I) x: what each receives when every sentence gives its value along its edges."""
    carried: defaultdict[str, float] = defaultdict(float)
    for vector, value in zip(vectors, values, strict=True):
        for term, weight in vector.items():
            carried[term] += weight * value
    # A unit vector's likeness to itself is 1; an empty one has no edge at all.
    return [
        sum(weight * carried[term] for term, weight in vector.items()) - (value if vector else 0.0)
        for vector, value in zip(vectors, values, strict=True)
    ]


def _cosine(one: Vector, other: Vector) -> float:
    if len(other) < len(one):
        one, other = other, one
    return sum(weight * other[term] for term, weight in one.items() if term in other)


def terms(sentence: str) -> Iterator[str]:
    for word in WORD.findall(sentence.lower()):
        if word not in STOP_WORDS:
            yield _singular(word)


def _singular(word: str) -> str:
    """Harman's s-stemmer (1991): plural and singular are one term."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us")):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    return word[:-1]


def _is_prose(sentence: str, words: int) -> bool:
    if not MIN_WORDS <= words <= MAX_WORDS or "://" in sentence or not _ENDED.search(sentence):
        return False
    return len(_PROSE.findall(sentence)) >= MIN_LETTERS * len(sentence)


def _cut(sentence: str, words: int) -> str:
    *_, last = islice(WORD.finditer(sentence), words)
    return f"{sentence[: last.end()]}…"
