"""The lines of a PDF's page by PDFium: its characters' words, with the boxes in which they stand.

PDFium gives characters in the order in which they were drawn, with white space where it sees a gap. The text
that it gives of a rectangle costs a look at the whole page, and has every character that reaches into it;
so a word's box is taken from its first and its last character, two calls instead of one a character.
"""

import ctypes
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

_HYPHENS = "\u0002\ufffe"
"""What PDFium writes for the hyphen of a word that a line's end divides; the next line follows at once."""

_WORD = re.compile(f"[^\\s\\x00-\\x1f\\x7f{_HYPHENS}]+[{_HYPHENS}]?|[{_HYPHENS}]")
_HALF = re.compile("[\ud800-\udfff]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufefc]")
_SAME_DIRECTION = 0.17
"""Radians from a quarter turn within which text counts as set in that direction: 10 degrees."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in points; the font's height, not the ink's."""


@dataclass(frozen=True, slots=True)
class Line:
    """Text with its box, in points, as one sees it who turns the page so that the text is upright.

    `size`: its font's height, of most letters. `outermost`: whether it is one of the page's first or last
    two lines by their place.
    """

    text: str
    left: float
    bottom: float
    right: float
    top: float
    size: float
    outermost: bool = False


@dataclass(frozen=True, slots=True)
class _Word:
    """`turns`: quarter turns of its direction, None for a slanted one. `spaced`: white space precedes it."""

    text: str
    box: Box
    turns: int | None
    spaced: bool


def lines(text_page: Any) -> tuple[list[Line], int]:
    """The lines of a page of pypdfium2 in the order drawn, and how many words were left out since they run in
    another direction than most: stamps in the margin, slanted watermarks.
    """
    words = list(_words(text_page.raw))
    letters: Counter[int] = Counter()
    for word in words:
        if word.turns is not None:
            letters[word.turns] += len(word.text)
    if not letters:
        return [], len(words)
    (upright, _), *_ = letters.most_common(1)
    kept = [word for word in words if word.turns == upright]
    return _joined(kept), len(words) - len(kept)


def _words(page: Any) -> Iterator[_Word]:
    import pypdfium2.raw as pdfium

    unicode_of = pdfium.FPDFText_GetUnicode
    text = "".join([chr(unicode_of(page, index)) for index in range(pdfium.FPDFText_CountChars(page))])
    text = _HALF.sub("\ufffd", text)
    box_of = _boxes(page)
    before = 0
    for found in _WORD.finditer(text):
        spaced = found.start() > before
        start, before = found.start(), found.end()
        first, last = box_of(start), box_of(before - 1)
        if _on_one_line(first, last):
            yield _Word(_plain(found[0]), _around(first, last), 0, spaced)
            continue
        # It goes on in another line without white space, or does not run from left to right.
        yield from _pieces(page, text[start:before], start, spaced)


def _pieces(page: Any, text: str, start: int, spaced: bool) -> Iterator[_Word]:
    """Characters that stand beside each other, of a stretch that is not one line from left to right."""
    box_of = _boxes(page)
    begun, turns = 0, _turns(page, start)
    previous = whole = _turned(box_of(start), turns)
    for offset in range(1, len(text)):
        other = _turns(page, start + offset)
        box = _turned(box_of(start + offset), other)
        if other == turns and _beside(previous, box):
            whole = _around(whole, box)
        else:
            yield _Word(_plain(text[begun:offset]), whole, turns, spaced)
            begun, turns, whole, spaced = offset, other, box, False
        previous = box
    yield _Word(_plain(text[begun:]), whole, turns, spaced)


def _boxes(page: Any) -> Any:
    """A function from a character's index to its Box."""
    import pypdfium2.raw as pdfium

    rectangle = pdfium.FS_RECTF()
    reference = ctypes.byref(rectangle)
    read = pdfium.FPDFText_GetLooseCharBox

    def box(index: int) -> Box:
        read(page, index, reference)
        return rectangle.left, rectangle.bottom, rectangle.right, rectangle.top

    return box


def _turns(page: Any, index: int) -> int | None:
    import pypdfium2.raw as pdfium

    # PDFium's angle grows clockwise.
    quarters = -pdfium.FPDFText_GetCharAngle(page, index) / (math.pi / 2)
    nearest = round(quarters)
    return nearest % 4 if abs(quarters - nearest) * math.pi / 2 < _SAME_DIRECTION else None


def _turned(box: Box, turns: int | None) -> Box:
    """The box of text that runs upwards (1), upside down (2), downwards (3), turned to be upright."""
    left, bottom, right, top = box
    if turns == 1:
        return bottom, -right, top, -left
    if turns == 2:
        return -right, -top, -left, -bottom
    if turns == 3:
        return -top, left, -bottom, right
    return box


def _on_one_line(first: Box, last: Box) -> bool:
    overlap = min(first[3], last[3]) - max(first[1], last[1])
    return overlap > 0.2 * min(first[3] - first[1], last[3] - last[1]) and last[2] >= first[2]


def _beside(one: Box, other: Box) -> bool:
    """Whether they touch, or nearly, in one line."""
    height = max(one[3] - one[1], other[3] - other[1])
    gap = max(one[0], other[0]) - min(one[2], other[2])
    return min(one[3], other[3]) > max(one[1], other[1]) and gap < height


def _around(one: Box, other: Box) -> Box:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _plain(text: str) -> str:
    return text.replace("\u0002", "-").replace("\ufffe", "-")


def _joined(words: Sequence[_Word]) -> list[Line]:
    """Words that follow each other at one height, in whatever fonts, as lines."""
    made: list[Line] = []
    parts: list[str] = []
    left = bottom = right = top = 0.0
    letters: Counter[float] = Counter()  # at each height
    for word in words:
        word_left, word_bottom, word_right, word_top = word.box
        height = round(word_top - word_bottom, 2)
        gap = word_left - right
        if gap < 0 and _RIGHT_TO_LEFT.search(word.text):
            gap = left - word_right
        overlap = min(top, word_top) - max(bottom, word_bottom)
        larger, smaller = max(top - bottom, height), min(top - bottom, height)
        if parts and overlap > 0.4 * smaller and -0.5 * larger < gap < 1.5 * larger:
            if word.spaced or gap > 0.25 * smaller:
                parts.append(" ")
            parts.append(word.text)
            left, bottom = min(left, word_left), min(bottom, word_bottom)
            right, top = max(right, word_right), max(top, word_top)
            letters[height] += len(word.text)
            continue
        if parts:
            made.append(Line("".join(parts), left, bottom, right, top, max(letters, key=letters.__getitem__)))
        parts = [word.text]
        left, bottom, right, top = word.box
        letters = Counter({height: len(word.text)})
    if parts:
        made.append(Line("".join(parts), left, bottom, right, top, max(letters, key=letters.__getitem__)))
    return made
