"""Cutting a long text into parts that fill a model's window, at its own borders, with nothing left out.

Sections end at headings, paragraphs at blank lines, sentences at their marks. Every character that is not
white space lies in exactly one part. All of it is linear in the text's length, and beside the text and its
parts it holds no more than about two windows of it.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from ebbtide.runtime.extractive import ABBREVIATION, LONGEST_ABBREVIATION, SENTENCE_END

SECTION_FILLS, PARAGRAPH_FILLS = 1 / 2, 3 / 4
"""How much of the window a part must fill to end at a section's, a paragraph's border; else a sentence's."""

HEADING_WORDS = 12
"""A line of its own with more words than this, or with a sentence's end, is no heading."""

HEADING_CHARACTERS = 200
"""A longer line is none either; so that a book on one line is not looked at word by word for it."""

COUNTED_AT_ONCE = 100_000
"""Characters."""

_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_ITEM = re.compile(r"\n(?=\s*(?:[*+•-]|\d+[.)])\s)")
_WORD = re.compile(r"\S+")
_SPACE = re.compile(r"\s+")
_MARKDOWN = re.compile(r"#{1,6}\s+\S")
_NUMBERED = re.compile(r"(?:\d+(?:\.\d+)*\.?|[IVX]+\.|[A-Z]\.)\s+[A-Z]")
_UNDERLINE = re.compile(r"([=\-~^\"'*+#])\1{2,}\s*$")
_CUSTOMARY = re.compile(
    r"(?:abstract|summary|background|introduction|related work|(?:materials and )?methods?|methodology"
    r"|results?(?: and discussion)?|discussion|conclusions?|limitations|acknowledge?ments?|references"
    r"|bibliography|appendi(?:x|ces)\b.*)\s*:?$",
    re.IGNORECASE,
)


class Border(IntEnum):
    """What a stretch of text begins: the higher, the better to cut before it."""

    WORD = 0
    SENTENCE = 1
    PARAGRAPH = 2
    SECTION = 3


@dataclass(frozen=True, slots=True)
class Stretch:
    """A sentence, or a heading with the sentence that it stands over: `text[start:end]`, never cut in two
    unless it is over the window alone. `heading`: of the section that it is in.
    """

    start: int
    end: int
    border: Border
    heading: str | None


@dataclass(frozen=True, slots=True)
class Part:
    """`text[start:end]` fits the window. `tokens`: how many were counted in it."""

    start: int
    end: int
    tokens: int
    heading: str | None


def split(text: str, window: int, count: Callable[[Sequence[str]], Sequence[int]]) -> list[Part]:
    """Cut the text into as few parts as its borders allow, none over `window` tokens.

    count: the tokens of each of several texts, without those that the model wants around a text. A part's
    tokens are the sum of its stretches': a tokenizer that finds more in the whole than in the pieces needs a
    window set lower by as much. The last two parts share what is left, so that no scrap ends the list.
    """
    pieces = _fitting(text, stretches(text), window, count)
    parts: list[Part] = []
    ahead: list[tuple[Stretch, int]] = []
    held = 0
    while True:
        while held < 2 * window and (piece := next(pieces, None)):
            ahead.append(piece)
            held += piece[1]
        if not ahead:
            return parts
        limit = window if not window < held < 1.5 * window else (held + 1) // 2
        end = _end(ahead, window=window, limit=limit)
        taken, opening = sum(tokens for _, tokens in ahead[:end]), ahead[0][0]
        parts.append(Part(opening.start, ahead[end - 1][0].end, taken, opening.heading))
        held -= taken
        del ahead[:end]


def stretches(text: str) -> Iterator[Stretch]:
    """The text's sentences in order, with the borders that they begin; headings go with what follows them."""
    heading: str | None = None
    waiting: int | None = None  # where a heading begins that no sentence has followed yet
    end = 0
    for start, end, is_heading in _blocks(text):
        if is_heading:
            heading = text[start : _line_end(text, start, end)].strip("# ")
            waiting = start if waiting is None else waiting
            continue
        border = Border.PARAGRAPH
        for sentence_start, sentence_end in _sentences(text, start, end):
            if waiting is not None:
                yield Stretch(waiting, sentence_end, Border.SECTION, heading)
                waiting = None
            else:
                yield Stretch(sentence_start, sentence_end, border, heading)
            border = Border.SENTENCE
    if waiting is not None:
        yield Stretch(waiting, end, Border.SECTION, heading)


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """Paragraphs and headings: start, end, and whether it is a heading. Blank ones are left out."""
    start = 0
    for blank in _BLANK.finditer(text):
        yield from _block(text, start, blank.start())
        start = blank.end()
    yield from _block(text, start, len(text))


def _block(text: str, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    while start < end:
        if text[start].isspace():
            start += 1
            continue
        after = _heading_end(text, start, end)
        if after is None:
            yield start, end, False
            return
        yield start, after, True
        start = after


def _heading_end(text: str, start: int, end: int) -> int | None:
    """Where the heading ends that a block begins with; None when it begins with something else."""
    line_end = _line_end(text, start, end)
    line = text[start:line_end]
    if _MARKDOWN.match(line):
        return line_end
    if line_end == end:
        return end if _stands_alone_as_heading(line) else None
    next_end = _line_end(text, line_end + 1, end)
    return next_end if _UNDERLINE.match(text, line_end + 1, next_end) else None


def _line_end(text: str, start: int, end: int) -> int:
    found = text.find("\n", start, end)
    return end if found < 0 else found


def _stands_alone_as_heading(line: str) -> bool:
    line = line.strip()
    if _CUSTOMARY.match(line):
        return True
    if len(line) > HEADING_CHARACTERS or len(line.split()) > HEADING_WORDS:
        return False
    if line.endswith((".", "!", "?", "…", ",", ";", "。")):
        return False
    return _NUMBERED.match(line) is not None or (line.isupper() and len(line) > 3)


def _sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Sentences and list items. An abbreviation's dot ends neither."""
    for item_start, item_end in _items(text, start, end):
        begun = item_start
        for mark in SENTENCE_END.finditer(text, item_start, item_end):
            near = max(begun, mark.end() - LONGEST_ABBREVIATION)
            if mark.group() == "." and ABBREVIATION.search(text, near, mark.end()):
                continue
            yield begun, mark.end()
            begun = _after_space(text, mark.end(), item_end)
        if begun < item_end:
            yield begun, item_end


def _items(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    for mark in _ITEM.finditer(text, start, end):
        yield start, mark.start()
        start = _after_space(text, mark.end(), end)
    yield start, end


def _after_space(text: str, start: int, end: int) -> int:
    word = _WORD.search(text, start, end)
    return word.start() if word else end


def _fitting(
    text: str, found: Iterable[Stretch], window: int, count: Callable[[Sequence[str]], Sequence[int]]
) -> Iterator[tuple[Stretch, int]]:
    """Each stretch with its tokens; one that is over the window alone is cut between its words."""
    for group in _groups(found):
        counted = count([text[stretch.start : stretch.end] for stretch in group])
        for stretch, tokens in zip(group, counted, strict=True):
            halves = _halves(text, stretch) if tokens > window else None
            if halves is None:
                yield stretch, tokens  # over it, a single character: the model's own refusal is the clearest
            else:
                yield from _fitting(text, halves, window, count)


def _groups(found: Iterable[Stretch]) -> Iterator[list[Stretch]]:
    group: list[Stretch] = []
    characters = 0
    for stretch in found:
        group.append(stretch)
        characters += stretch.end - stretch.start
        if characters > COUNTED_AT_ONCE:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _halves(text: str, stretch: Stretch) -> tuple[Stretch, Stretch] | None:
    """Cut between two words near the middle, else, in a text without white space, in the middle itself."""
    if stretch.end - stretch.start < 2:
        return None
    middle = (stretch.start + stretch.end) // 2
    gap = _SPACE.search(text, middle, stretch.end)
    at = gap.end() if gap and gap.end() < stretch.end else text.rfind(" ", stretch.start + 1, middle) + 1
    at = at or middle
    return (
        Stretch(stretch.start, at, stretch.border, stretch.heading),
        Stretch(at, stretch.end, Border.WORD, stretch.heading),
    )


def _end(pieces: Sequence[tuple[Stretch, int]], *, window: int, limit: int) -> int:
    """How many of the pieces a part takes, at least one.

    limit: the tokens to aim at, within the window, which no part of several pieces may exceed.
    """
    held = pieces[0][1]
    section = paragraph = None
    for index in range(1, len(pieces)):
        stretch, tokens = pieces[index]
        if stretch.border is Border.SECTION and held >= SECTION_FILLS * limit:
            section = index
        elif stretch.border is Border.PARAGRAPH and held >= PARAGRAPH_FILLS * limit:
            paragraph = index
        if held >= limit or held + tokens > window:
            return section or paragraph or index
        held += tokens
    return len(pieces)
