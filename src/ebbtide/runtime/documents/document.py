"""What was read from a file: its text, what it says about itself, and what was set aside."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_PDF_DATE = re.compile(r"(?:D:)?(\d{4})-?(\d{2})?-?(\d{2})?")
_REFERENCES = re.compile(
    r"(?:\d+\.?\s+)?(?:references|bibliography|literature cited|works cited)\s*:?$", re.IGNORECASE
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNTITLED = re.compile(
    r"\(?(?:untitled|microsoft word|unspecified|anonymous|unknown|python-docx$)"
    r"|.*\.(?:dvi|docx?|tex|indd|rtf)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Document:
    """`text`: paragraphs apart by blank lines, headings on lines that begin with #. `authors`: as the file
    writes them. `date`: YYYY-MM-DD, or less of it. `set_aside`: what was left out on purpose -> how many of
    it (references: blocks; footnotes; running_heads: lines). `pages`: of a format that has them.
    """

    text: str
    title: str | None = None
    authors: str | None = None
    date: str | None = None
    set_aside: dict[str, int] = field(default_factory=dict)
    pages: int | None = None


def apart_from_references(blocks: Sequence[str]) -> tuple[list[str], int]:
    """The blocks without the list of references, which ends at the next heading, and how many were in it.

    A file that is nothing but references keeps them.
    """
    kept: list[str] = []
    inside, count = False, 0
    for block in blocks:
        if _REFERENCES.match(block.lstrip("# ")):
            inside = True
        elif block.startswith("#"):
            inside = False
        if inside:
            count += 1
        else:
            kept.append(block)
    return (kept, count) if kept else (list(blocks), 0)


def tidy(value: str | None) -> str | None:
    """A member of a file's metadata on one line; None for what programs write when nobody says anything."""
    value = " ".join(_CONTROL.sub(" ", value or "").split())
    return None if not value or _UNTITLED.match(value) else value


def written_date(value: str | None) -> str | None:
    """The day in a PDF's or an ISO date, or as much of it as there is."""
    found = _PDF_DATE.match(value or "")
    return "-".join(part for part in found.groups() if part) if found else None
