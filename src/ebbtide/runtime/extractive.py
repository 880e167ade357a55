"""An extractive summariser that needs no model: it chooses the document's own most telling sentences.

Five things tell, added up with fixed weights as Edmundson did (1969, JACM 16:2): how central a sentence is,
how early it stands, whether it is of the conclusion, how much of the title it says, and whether it speaks of
what the text does. Sentences are chosen one by one for that less what they say again (maximal marginal
relevance: Carbonell and Goldstein, SIGIR 1998) and given in the document's order. The weights were set on
one half of the articles of `python -m bench.quality`, and are measured on the other half.

Centrality: sentences are the nodes of a graph, weighted by the cosine of their TF-IDF vectors; the stationary
distribution of a random walk on it ranks them (LexRank with continuous weights: Erkan and Radev 2004,
JAIR 22, sections 3.2 and 3.3). The graph is never built: with unit vectors as the rows of A its weights are
A Aᵀ, so a step of the walk is two sparse products, and the work is linear in the document's length, not
quadratic in its sentences. Unlike in LexRank no edge leads from a sentence to itself, by which one that is
like no other would rank as average.
"""

import heapq
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

DEFAULT_MAX_WORDS = 120
DEFAULT_SHARE = 1 / 3
"""The most of the document that a summary takes when no length is asked for."""

DAMPING = 0.85
TOLERANCE = 1e-4
MAX_STEPS = 50
LEAST_DEGREE = 1e-9
"""Below it a degree is a rounding error: the sentence shares no term with any other."""

TITLE, CONCLUSION, CUE = 2.0, 1.0, 0.25
"""What a sentence's likeness to the title, its place in a conclusion, and a cue weigh; the most central
sentence and the first one count 1 for that.
"""
LEAD = 5
"""The sentence after so many counts half as much for its place as the first."""
REPETITION = 0.8
"""How much a sentence loses when all that it says is said already."""
REPEATED = 0.7
"""One that says so much again is no longer of use."""
CUES = frozenset(
    """aim allow article describe designed implement intended introduce offer paper present provide report
    study""".split()  # noqa: SIM905
)
"""Terms of sentences in which a text says what it does."""
HEADING_WORDS = 14
"""A line with more words is a paragraph, whatever it is marked as."""

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
_HEADING = re.compile(r"#{1,6}\s+\S|\d{1,2}(?:\.\d{1,2})*\.?\s+[A-Z]")
_CONCLUSION = re.compile(r"\b(?:conclusions?|concluding|discussion|summary|outlook)\b", re.IGNORECASE)
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
    title, sentences = _read(text)
    if not sentences:
        return ""
    lengths = [sentence.words for sentence in sentences]
    limit = max_words
    if limit is None:
        limit = max(min_words, min(DEFAULT_MAX_WORDS, int(sum(lengths) * DEFAULT_SHARE)))

    vectors = unit_vectors([sentence.text for sentence in sentences])
    scores = weigh(sentences, vectors, title)
    picked = select(scores, vectors, lengths, max_words=limit, min_words=min_words)
    if picked:
        return " ".join(sentences[i].text for i in sorted(picked))
    shortest = min(sentences, key=lambda sentence: sentence.words).text
    if max_words is None:
        return shortest
    return _cut(shortest, max_words)


@dataclass(frozen=True, slots=True)
class Sentence:
    """`concludes`: it stands under a heading of conclusions, a discussion or a summary."""

    text: str
    words: int
    concludes: bool


def prose(text: str) -> list[str]:
    """The sentences that a summary may be made of, in order: prose, or all with words where none is."""
    return [sentence.text for sentence in _read(text)[1]]


def _read(text: str) -> tuple[str, list[Sentence]]:
    """The title, empty where none stands over the text, and the sentences that `prose` gives."""
    title, concludes = "", False
    found: list[Sentence] = []
    others: list[Sentence] = []
    for paragraph in _PARAGRAPH.split(text):
        sentences = [
            Sentence(sentence, len(WORD.findall(sentence)), concludes) for sentence in _sentences(paragraph)
        ]
        line = paragraph.strip()
        if sum(sentence.words for sentence in sentences) <= HEADING_WORDS and not _ENDED.search(line):
            if _HEADING.match(line) or _CONCLUSION.match(line):
                concludes = _CONCLUSION.search(line) is not None
            if not title and not found:
                title = line
        for sentence in sentences:
            (found if _is_prose(sentence.text, sentence.words) else others).append(sentence)
    return title, found or [sentence for sentence in others if sentence.words]


def split_sentences(text: str) -> Iterator[str]:
    """Split a text into sentences; a blank line, a list item and a heading's mark end one too.

    Abbreviations, initials and decimal points do not. Lines wrapped within a paragraph are joined, and the
    mark of a list item or a heading is left out.
    """
    for paragraph in _PARAGRAPH.split(text):
        yield from _sentences(paragraph)


def _sentences(paragraph: str) -> Iterator[str]:
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
    degrees = _walk(vectors, [1.0] * len(vectors))
    ranks = [1 / len(vectors)] * len(vectors)
    for _ in range(MAX_STEPS):
        # A sentence like no other leaves its rank to the jump.
        shares = [
            rank / degree if degree > LEAST_DEGREE else 0.0
            for rank, degree in zip(ranks, degrees, strict=True)
        ]
        walked = _walk(vectors, shares)
        jump = (1 - DAMPING * sum(walked)) / len(vectors)
        moved = [DAMPING * weight + jump for weight in walked]
        change = sum(abs(new - old) for new, old in zip(moved, ranks, strict=True))
        ranks = moved
        if change < TOLERANCE:
            break
    return ranks


def weigh(sentences: Sequence[Sentence], vectors: Sequence[Vector], title: str) -> list[float]:
    """What each sentence counts for a summary. vectors: theirs, as of `unit_vectors`."""
    ranks = centrality(vectors)
    highest = max(ranks)
    holding = Counter(term for vector in vectors for term in vector)
    named = {term: math.log(1 + len(vectors) / (holding[term] or 1)) for term in set(terms(title))}
    norm = math.sqrt(sum(weight * weight for weight in named.values())) or 1.0
    return [
        rank / highest
        + LEAD / (LEAD + place)
        + TITLE * _cosine(vector, named) / norm
        + CONCLUSION * sentence.concludes
        + CUE * (not CUES.isdisjoint(vector))
        for place, (sentence, vector, rank) in enumerate(zip(sentences, vectors, ranks, strict=True))
    ]


def select(
    scores: Sequence[float],
    vectors: Sequence[Vector],
    lengths: Sequence[int],
    *,
    max_words: int,
    min_words: int,
) -> list[int]:
    """Choose sentences by maximal marginal relevance within max_words; indexes, best first.

    A sentence repeats what is chosen by the product of its vector and each term's greatest weight there: at
    least its cosine with any of them. Those that repeat REPEATED of themselves are taken only to reach
    min_words. As that only grows with what is chosen, the best one is mostly found at the heap's top.
    """
    said: Vector = {}
    picked: list[int] = []
    set_aside: list[int] = []
    words = 0
    # The earlier of two equals: it is the one that introduces its subject.
    heap = [(-score, i, 0) for i, score in enumerate(scores)]
    heapq.heapify(heap)
    while heap:
        _, i, chosen_then = heapq.heappop(heap)
        if words + lengths[i] > max_words:
            continue
        repeats = _cosine(vectors[i], said)
        if repeats >= REPEATED:
            set_aside.append(i)
            continue
        now = (REPETITION * repeats - scores[i], i, len(picked))
        if chosen_then < len(picked) and heap and heap[0] < now:
            heapq.heappush(heap, now)
            continue
        picked.append(i)
        words += lengths[i]
        for term, weight in vectors[i].items():
            said[term] = max(said.get(term, 0.0), weight)
    for i in set_aside:
        if words < min_words and words + lengths[i] <= max_words:
            picked.append(i)
            words += lengths[i]
    return picked


def _walk(vectors: Sequence[Vector], values: Sequence[float]) -> list[float]:
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
