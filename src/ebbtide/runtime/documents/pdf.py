"""The text of a PDF in the order in which it is read, by PDFium: columns, headings, paragraphs.

PDFium gives stretches of one line and one font with their boxes. Running heads, page numbers and the list of
references are set aside; words that a line's end divided are mended. A page is held in memory at a time.
"""

import re
import statistics
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ebbtide.runtime.documents.document import Document, apart_from_references, tidy, written_date
from ebbtide.runtime.errors import BadRequest

MARGIN_LINES = 2
"""How many lines at a page's top and bottom may be running heads and page numbers."""

RUNNING_PAGES = 3
"""Such a line that stands on so many pages, numbers aside, is a running head."""

HEADING_SIZE = 1.12
"""A line of a font this much higher than the body's median, and short, is a heading."""

HEADING_WORDS = 15

PARAGRAPH_GAP = 1.45
"""A distance between lines this many times the page's usual one begins a paragraph."""

GUTTER = 0.01
"""The least white width between two columns, as a share of the page's."""

FULL_WIDTH = 0.55
"""A line wider than this share of its page's text belongs to no column."""

COLUMN_LINES = 4
"""Fewer lines than this on either side of a gap are a table or a formula, not columns."""

_PDFIUM = threading.Lock()
"""PDFium serves one thread at a time: https://pypdfium2.readthedocs.io/en/stable/python_api.html"""

_DIVIDED = re.compile(r"(\w+)[-\u00ad\u0002\ufffe]$")
_DIGITS = re.compile(r"\d+")
_ROMAN = re.compile(r"[ivxlc]+$", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Line:
    """Text with its box, in points from the page's lower left corner. `size`: its font's height.

    `outermost`: whether it is one of the page's first or last two lines by their place.
    """

    text: str
    left: float
    bottom: float
    right: float
    top: float
    size: float
    outermost: bool = False

    @property
    def height(self) -> float:
        return self.top - self.bottom


def read(body: bytes) -> Document:
    """Raises BadRequest for a file that is broken, needs a password, or has no text (scanned pages)."""
    import pypdfium2

    with _PDFIUM:
        try:
            pdf = pypdfium2.PdfDocument(body)
        except pypdfium2.PdfiumError as error:
            reason = "needs a password" if "password" in str(error).lower() else f"cannot be read: {error}"
            raise BadRequest(f"The PDF {reason}") from error
        try:
            pages = [_lines(pdf, number) for number in range(len(pdf))]
            about = pdf.get_metadata_dict()
        except pypdfium2.PdfiumError as error:
            raise BadRequest(f"The PDF cannot be read: {error}") from error
        finally:
            pdf.close()
    running = _running(pages)
    kept = [
        [line for line in page if not (line.outermost and _masked(line.text) in running)] for page in pages
    ]
    blocks = list(_blocks([line for page in kept for line in _in_reading_order(page)]))
    if not blocks:
        raise BadRequest(
            f"The PDF has no text on its {len(pages)} pages: scanned pages need character recognition first"
        )
    body_blocks, references = apart_from_references(blocks)
    return Document(
        text="\n\n".join(body_blocks),
        title=tidy(about.get("Title")) or _largest(pages),
        authors=tidy(about.get("Author")),
        date=written_date(about.get("CreationDate")),
        set_aside={"references": references, "running_heads": sum(map(len, pages)) - sum(map(len, kept))},
        pages=len(pages),
    )


def _lines(pdf: Any, number: int) -> list[Line]:
    page = pdf[number]
    text_page = page.get_textpage()
    try:
        pieces = []
        for index in range(text_page.count_rects()):
            left, bottom, right, top = text_page.get_rect(index)
            text = text_page.get_text_bounded(left, bottom, right, top)
            # PDFium writes U+0002 for the hyphen of a divided word.
            text = " ".join(_CONTROL.sub(" ", text.replace("\u0002", "-")).split())
            if text:
                size = _font_height(text_page, left, bottom, right, top)
                pieces.append(Line(text, left, bottom, right, top, size))
        return _with_outermost(_joined(pieces))
    finally:
        text_page.close()
        page.close()


def _font_height(text_page: Any, left: float, bottom: float, right: float, top: float) -> float:
    """Of the stretch's first sign: the height of its ink says little, x and X differ by half."""
    index = text_page.get_index(
        (left + right) / 2, (bottom + top) / 2, (right - left) / 2, (top - bottom) / 2
    )
    if index is None:
        return top - bottom
    _, lowest, _, highest = text_page.get_charbox(index, loose=True)
    return float(highest - lowest) or top - bottom


def _with_outermost(lines: Sequence[Line]) -> list[Line]:
    by_height = sorted(range(len(lines)), key=lambda index: lines[index].bottom)
    outer = {*by_height[:MARGIN_LINES], *by_height[-MARGIN_LINES:]}
    return [replace(line, outermost=index in outer) for index, line in enumerate(lines)]


def _joined(pieces: Sequence[Line]) -> list[Line]:
    """Pieces of one line, which differ in font, as one: they follow each other and overlap in height."""
    lines: list[Line] = []
    for piece in pieces:
        last = lines[-1] if lines else None
        if last is not None and _continues(last, piece):
            gap = piece.left - last.right
            space = " " if gap > 0.1 * min(last.height, piece.height) else ""
            lines[-1] = replace(
                last,
                text=last.text + space + piece.text,
                bottom=min(last.bottom, piece.bottom),
                right=max(last.right, piece.right),
                top=max(last.top, piece.top),
                size=max(last.size, piece.size),
            )
        else:
            lines.append(piece)
    return lines


def _continues(last: Line, piece: Line) -> bool:
    overlap = min(last.top, piece.top) - max(last.bottom, piece.bottom)
    gap = piece.left - last.right
    size = max(last.height, piece.height)
    return overlap > 0.4 * min(last.height, piece.height) and -0.3 * size < gap < 1.5 * size


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
    """The middle of the widest white strip between columns; None when there are none."""
    left, right = min(line.left for line in lines), max(line.right for line in lines)
    width = right - left
    narrow = sorted(
        (line for line in lines if line.right - line.left < FULL_WIDTH * width), key=lambda line: line.left
    )
    if len(narrow) < max(2 * COLUMN_LINES, len(lines) // 2):
        return None
    best: tuple[float, float] | None = None
    reached = narrow[0].right
    for count, line in enumerate(narrow[1:], start=1):
        gap = line.left - reached
        enough = COLUMN_LINES <= count <= len(narrow) - COLUMN_LINES
        if gap > GUTTER * width and enough and (best is None or gap > best[0]):
            best = gap, (line.left + reached) / 2
        reached = max(reached, line.right)
    return best[1] if best else None


def _blocks(lines: Sequence[Line]) -> Iterator[str]:
    """Paragraphs, and headings marked as Markdown's are."""
    if not lines:
        return
    usual = statistics.median(line.size for line in lines)
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


def _is_heading(line: Line, usual: float) -> bool:
    return line.size > HEADING_SIZE * usual and len(line.text.split()) <= HEADING_WORDS


def _begins(paragraph: Sequence[Line], line: Line, usual_gap: float, usual: float) -> bool:
    """Whether the line begins another paragraph: far below, or indented; at a column's or a page's top, where
    the line before ends a sentence short of its column's edge.
    """
    above = paragraph[-1]
    gap = above.bottom - line.bottom
    ended = above.text.rstrip("\"'”’)").endswith((".", "!", "?", ":"))
    if gap <= 0 or gap > 6 * usual_gap:
        widest = max(one.right - one.left for one in paragraph)
        return ended and above.right - above.left < 0.9 * widest
    return gap > PARAGRAPH_GAP * usual_gap or (ended and line.left - above.left > 0.7 * usual)


def _written(paragraph: Sequence[Line], words: Counter[str], *, heading: bool) -> str:
    text = ""
    for line in paragraph:
        divided = _DIVIDED.search(text)
        if not text:
            text = line.text
        elif divided and line.text[0].islower():
            first = re.match(r"\w+", line.text)
            assert first is not None
            compound = f"{divided.group(1)}-{first.group()}".lower()
            # The hyphen stays where the document writes the word so elsewhere.
            kept = text if words[compound] else text[:-1]
            text = kept + line.text
        else:
            text = f"{text} {line.text}"
    return f"# {text}" if heading else text


def _largest(pages: Sequence[Sequence[Line]]) -> str | None:
    """The first page's highest line, with those of its size that follow: nearly always the title."""
    lines = next((page for page in pages if page), None)
    if not lines:
        return None
    size = max(line.size for line in lines)
    title = " ".join(line.text for line in lines if line.size > 0.95 * size)
    return title if len(title.split()) <= 2 * HEADING_WORDS else None
