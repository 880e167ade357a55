"""The text of a PDF in the order in which it is read, by PDFium: columns, headings, paragraphs.

Running heads, page numbers, stamps in margins and the list of references are set aside; words that a line's
end divided are mended. Of a page its lines are kept, not the page.
"""

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from ebbtide.runtime.documents import words
from ebbtide.runtime.documents.document import Document, apart_from_references, tidy, written_date
from ebbtide.runtime.documents.words import Line
from ebbtide.runtime.errors import BadRequest

MARGIN_LINES = 2
"""How many lines at a page's top and bottom may be running heads and page numbers."""

RUNNING_PAGES = 3
"""Such a line that stands on so many pages, numbers aside, is a running head."""

HEADING_SIZE = 1.12
"""A line of a font this much higher than that of the median letter, and short, is a heading."""

HEADING_WORDS = 15

PARAGRAPH_GAP = 1.45
"""A distance between lines this many times the page's usual one begins a paragraph."""

GUTTER = 0.01
"""The least white width between two columns, as a share of the page's."""

FULL_WIDTH = 0.55
"""A line wider than this share of its page's text belongs to no column."""

COLUMN_LINES = 4
"""Fewer lines than this on either side of a gap are a table or a formula, not columns."""

ACROSS = 0.35
"""Of a page's narrow lines at most this share lies across its columns."""

LETTERS = 0.5
"""A line with a smaller share of them is a formula, whatever its size."""

PROSE_WORDS, PROSE_LETTERS = 6, 0.75
"""A line with fewer words, or a smaller share of letters in them and the spaces between, may be code."""

LINES_SEEN = 50
"""How many lines back a paragraph's width is looked for: a book may be set as one."""

_DIVIDED = re.compile(r"(\w+)[-\u00ad]$")
_DIGITS = re.compile(r"\d+")
_ROMAN = re.compile(r"[ivxlc]+$", re.IGNORECASE)


def read(body: bytes) -> Document:
    """Raises BadRequest for a file that is broken, needs a password, or has no text (scanned pages)."""
    pages, aside, about = _opened(body)
    running = _running(pages)
    kept = [
        [line for line in page if not (line.outermost and _masked(line.text) in running)] for page in pages
    ]
    if not any(kept):
        kept = pages  # pages that are all alike: nothing is left to be headed
    blocks = list(_blocks([line for page in kept for line in _in_reading_order(page)]))
    if not blocks:
        raise BadRequest(
            f"The PDF has no text on any of its pages ({len(pages)}): scanned ones need character "
            "recognition first"
        )
    body_blocks, references = apart_from_references(blocks)
    return Document(
        text="\n\n".join(body_blocks),
        title=tidy(about.get("Title")) or _largest(pages),
        authors=tidy(about.get("Author")),
        date=written_date(about.get("CreationDate")),
        set_aside=aside
        | {"references": references, "running_heads": sum(map(len, pages)) - sum(map(len, kept))},
        pages=len(pages),
    )


def _opened(body: bytes) -> tuple[list[list[Line]], dict[str, int], dict[str, str]]:
    """Each page's lines, how many words and pages were left out, and what the file says about itself."""
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(body)
    except pypdfium2.PdfiumError as error:
        reason = "needs a password" if "password" in str(error).lower() else f"cannot be read: {error}"
        raise BadRequest(f"The PDF {reason}") from error
    pages: list[list[Line]] = []
    aside: Counter[str] = Counter()
    for number in range(len(pdf)):
        try:
            found, sideways = _lines(pdf, number)
        except pypdfium2.PdfiumError:
            found, sideways = [], 0
            aside["unreadable_pages"] += 1
        pages.append(found)
        aside["sideways_words"] += sideways
    about: dict[str, str] = pdf.get_metadata_dict()
    pdf.close()
    return pages, {name: count for name, count in aside.items() if count}, about


def _lines(pdf: Any, number: int) -> tuple[list[Line], int]:
    page = pdf[number]
    try:
        text_page = page.get_textpage()
        try:
            found, sideways = words.lines(text_page)
        finally:
            text_page.close()
    finally:
        page.close()
    return _with_outermost(found), sideways


def _with_outermost(lines: Sequence[Line]) -> list[Line]:
    by_height = sorted(range(len(lines)), key=lambda index: lines[index].bottom)
    outer = {*by_height[:MARGIN_LINES], *by_height[-MARGIN_LINES:]}
    return [replace(line, outermost=index in outer) for index, line in enumerate(lines)]


def _running(pages: Sequence[Sequence[Line]]) -> set[str]:
    """What stands in the margins of several pages, numbers aside; a page number alone is such a line too."""
    seen = Counter(text for page in pages for text in {_masked(line.text) for line in page if line.outermost})
    return {text for text, count in seen.items() if count >= RUNNING_PAGES} | {"#"}


def _masked(text: str) -> str:
    text = _DIGITS.sub("#", text)
    return "#" if _ROMAN.match(text) else text


def _in_reading_order(lines: Sequence[Line]) -> list[Line]:
    """Column by column; a line across the columns is read between what stands above and below it."""
    if not lines:
        return []
    gutter = _gutter(lines)
    if gutter is None:
        return sorted(lines, key=lambda line: (-line.top, line.left))
    ordered: list[Line] = []
    band: list[Line] = []
    for line in sorted(lines, key=lambda line: -line.top):
        if line.left < gutter < line.right:
            ordered += _by_column(band, gutter)
            band = []
            ordered.append(line)
        else:
            band.append(line)
    return ordered + _by_column(band, gutter)


def _by_column(band: Sequence[Line], gutter: float) -> list[Line]:
    left = [line for line in band if line.right <= gutter]
    return _in_reading_order(left) + _in_reading_order([line for line in band if line.right > gutter])


def _gutter(lines: Sequence[Line]) -> float | None:
    """Where the second of two columns, or of more the one with the fewest lines across its edge, begins: an
    edge that lines share, with white before it and lines beside; None when there are no columns.

    Some lines may lie across it: over the columns of a paper's first page stand its title and its authors.
    """
    left, right = min(line.left for line in lines), max(line.right for line in lines)
    width = right - left
    narrow = [line for line in lines if line.right - line.left < FULL_WIDTH * width]
    if len(narrow) < max(2 * COLUMN_LINES, len(lines) // 2):
        return None
    white = GUTTER * width
    starts = Counter(round((line.left - left) / white) for line in narrow)
    best: tuple[int, float] | None = None
    for step, count in starts.items():
        edge = min(line.left for line in narrow if round((line.left - left) / white) == step)
        if count < COLUMN_LINES or edge - left < white:
            continue
        beside = [line for line in narrow if line.right <= edge - white]
        across = sum(line.left < edge < line.right or edge - white < line.right <= edge for line in narrow)
        after = len(narrow) - len(beside) - across
        if min(len(beside), after) < COLUMN_LINES or across > ACROSS * len(narrow):
            continue
        if best is None or (across, edge) < best:
            best = across, edge
    return best[1] - white / 2 if best else None


def _blocks(lines: Sequence[Line]) -> Iterator[str]:
    """Paragraphs, and headings marked as Markdown's are."""
    if not lines:
        return
    usual = _prose_size(lines)
    gaps = [above.bottom - line.bottom for above, line in pairwise(lines) if above.bottom > line.bottom]
    usual_gap = statistics.median(gaps) if gaps else usual
    words = Counter(word.lower() for line in lines for word in re.findall(r"[\w-]+", line.text))
    paragraph: list[Line] = []
    for line in lines:
        heading = _is_heading(line, usual)
        if paragraph and (
            heading != _is_heading(paragraph[-1], usual) or _begins(paragraph, line, usual_gap, usual)
        ):
            yield _written(paragraph, words, heading=_is_heading(paragraph[-1], usual))
            paragraph = []
        paragraph.append(line)
    yield _written(paragraph, words, heading=_is_heading(paragraph[-1], usual))


def _prose_size(lines: Sequence[Line]) -> float:
    """The median letter's, where there is prose; fonts of code are often higher at the same size."""
    letters: Counter[float] = Counter()
    for line in lines:
        words = line.text.split()
        if len(words) >= PROSE_WORDS and sum(map(str.isalpha, line.text)) >= PROSE_LETTERS * len(line.text):
            letters[line.size] += len(line.text)
    return statistics.median(letters.elements() if letters else (line.size for line in lines))


def _is_heading(line: Line, usual: float) -> bool:
    if line.size <= HEADING_SIZE * usual or len(line.text.split()) > HEADING_WORDS or "://" in line.text:
        return False
    return sum(map(str.isalpha, line.text)) >= LETTERS * len(line.text)


def _begins(paragraph: Sequence[Line], line: Line, usual_gap: float, usual: float) -> bool:
    """Whether the line begins another paragraph: far below, or indented; at a column's or a page's top, where
    the line before ends a sentence short of its column's edge.
    """
    above = paragraph[-1]
    gap = above.bottom - line.bottom
    ended = above.text.rstrip("\"'”’)").endswith((".", "!", "?", ":"))
    if gap <= 0 or gap > 6 * usual_gap:
        widest = max(one.right - one.left for one in paragraph[-LINES_SEEN:])
        return ended and above.right - above.left < 0.9 * widest
    return gap > PARAGRAPH_GAP * usual_gap or (ended and line.left - above.left > 0.7 * usual)


def _written(paragraph: Sequence[Line], words: Counter[str], *, heading: bool) -> str:
    parts: list[str] = []
    for line in paragraph:
        divided = _DIVIDED.search(parts[-1]) if parts and parts[-1].endswith(("-", "\u00ad")) else None
        first = re.match(r"\w+", line.text)
        if not parts:
            parts.append(line.text)
        elif divided and first is not None and line.text[0].islower():
            # The hyphen stays where the document writes the word so elsewhere.
            if not words[f"{divided.group(1)}-{first.group()}".lower()]:
                parts[-1] = parts[-1][:-1]
            parts.append(line.text)
        else:
            parts += [" ", line.text]
    return ("# " if heading else "") + "".join(parts)


def _largest(pages: Sequence[Sequence[Line]]) -> str | None:
    """The first page's highest line, with those of its size that follow: nearly always the title."""
    lines = next((page for page in pages if page), None)
    if not lines:
        return None
    size = max(line.size for line in lines)
    title = " ".join(line.text for line in lines if line.size > 0.95 * size)
    return title if len(title.split()) <= 2 * HEADING_WORDS else None
