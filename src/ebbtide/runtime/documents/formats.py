"""From a body and its content type to the document in it."""

from ebbtide.runtime.documents import apart
from ebbtide.runtime.documents.charset import EXTRA, text_of
from ebbtide.runtime.documents.document import Document, apart_from_references
from ebbtide.runtime.errors import BadRequest

PDF = "application/pdf"
HTML = ("text/html", "application/xhtml+xml")
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
MARKDOWN = ("text/markdown", "text/x-markdown")
TEXT = "text/plain"

_READ_APART = {PDF: "pdf", DOCX: "docx"} | dict.fromkeys(HTML, "html")

TYPES = frozenset((*_READ_APART, *MARKDOWN, TEXT))


def sniffed(body: bytes) -> str | None:
    """The type of a body that came without one, by its first bytes; None when they say nothing."""
    if body.startswith(b"%PDF-"):
        return PDF
    if body.startswith(b"PK\x03\x04") and b"word/" in body:
        return DOCX
    beginning = body[:512].lstrip().lower()
    return HTML[0] if beginning.startswith((b"<!doctype html", b"<html")) else None


def read(body: bytes, media_type: str, charset: str | None = None) -> Document:
    """The document in a body of one of TYPES. Raises BadRequest naming what is wrong with it, and for a
    format whose library is not installed.
    """
    try:
        if media_type in _READ_APART:
            return apart.read(body, _READ_APART[media_type], charset)
    except ImportError as error:
        raise BadRequest(f"Reading {media_type} needs {error.name} on the server: {EXTRA}") from error
    text = text_of(body, charset)
    if media_type in MARKDOWN:
        blocks, references = apart_from_references(text.split("\n\n"))
        return Document("\n\n".join(blocks), title=_first_heading(text), set_aside={"references": references})
    return Document(text)


def _first_heading(text: str) -> str | None:
    line = next((line for line in text.splitlines() if line.strip()), "")
    return line.lstrip("# ").strip() or None if line.startswith("#") else None
