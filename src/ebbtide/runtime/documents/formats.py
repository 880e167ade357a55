"""From a body and its content type to the document in it."""

import codecs
from collections.abc import Callable

from ebbtide.runtime.documents import apart, docx, html
from ebbtide.runtime.documents.document import Document, apart_from_references
from ebbtide.runtime.errors import BadRequest

PDF = "application/pdf"
HTML = ("text/html", "application/xhtml+xml")
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
MARKDOWN = ("text/markdown", "text/x-markdown")
TEXT = "text/plain"
EXTRA = "install ebbtide[documents]"

_READERS: dict[str, Callable[[bytes], Document]] = {PDF: apart.read, DOCX: docx.read}

TYPES = frozenset((PDF, *HTML, DOCX, *MARKDOWN, TEXT))

_BINARY = ((b"\x1f\x8b", "gzip-compressed"), (b"PK\x03\x04", "a ZIP archive"), (b"%PDF-", "a PDF"))
_SAMPLE_BYTES = 4096

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


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
        if media_type in _READERS:
            return _READERS[media_type](body)
        if media_type in HTML:
            return html.read(body if charset is None else text_of(body, charset))
    except ImportError as error:
        raise BadRequest(f"Reading {media_type} needs {error.name} on the server: {EXTRA}") from error
    text = text_of(body, charset)
    if media_type in MARKDOWN:
        blocks, references = apart_from_references(text.split("\n\n"))
        return Document("\n\n".join(blocks), title=_first_heading(text), set_aside={"references": references})
    return Document(text)


def text_of(body: bytes, charset: str | None = None) -> str:
    """Decode text: as its charset says, else by its byte order mark, else UTF-8, else by what its bytes
    look like. Raises BadRequest for what is no text, or not in the charset that was named.
    """
    for magic, name in _BINARY:
        if body.startswith(magic):
            raise BadRequest(
                f"The body is {name}, not text: send the text itself, or the file under its own type"
            )
    encoding = charset or next((name for mark, name in _MARKS if body.startswith(mark)), None)
    encoding = encoding or _utf_16_without_mark(body)
    try:
        text = body.decode(encoding or "utf-8")
    except LookupError as error:
        raise BadRequest(f"The charset {charset} is unknown") from error
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{body[error.start]:02x}"
        if encoding is not None:
            raise BadRequest(
                f"The body is not {encoding.removesuffix('-sig').upper()} text: {found}"
            ) from error
        text = _guessed(body, found)
    if "\0" in text:
        raise BadRequest(f"The body is binary, not text: character {text.index(chr(0))} is NUL")
    return text.removeprefix("\ufeff")


def _utf_16_without_mark(body: bytes) -> str | None:
    """Western text in UTF-16 has a NUL in nearly every second byte, and no other text has any."""
    sample = body[:_SAMPLE_BYTES]
    for name, zeros, others in (
        ("utf-16-le", sample[1::2], sample[::2]),
        ("utf-16-be", sample[::2], sample[1::2]),
    ):
        if len(body) % 2 == 0 and 2 * zeros.count(0) > len(zeros) and 0 not in others:
            return name
    return None


def _guessed(body: bytes, found: str) -> str:
    try:
        from charset_normalizer import from_bytes
    except ImportError as error:
        raise BadRequest(
            f"The body is not UTF-8 text: {found}; name its charset in the content type, or {EXTRA}"
        ) from error
    matches = from_bytes(body)
    best = matches.best()
    if best is None:
        raise BadRequest(f"The body is text in no charset that is known: {found}")
    # The Western charset is by far the commonest; a short text looks as clean in several of its neighbours.
    western = next((match for match in matches if match.encoding == "cp1252"), best)
    return str(western if western.chaos <= best.chaos else best)


def _first_heading(text: str) -> str | None:
    line = next((line for line in text.splitlines() if line.strip()), "")
    return line.lstrip("# ").strip() or None if line.startswith("#") else None
