"""The text of a Word document by python-docx: paragraphs, headings, lists, tables and text boxes in order.

Word writes text into more places than python-docx's paragraphs show (insertions that are tracked, content
controls, tables within tables), so the document's own XML is walked. What was deleted or moved away is left.
"""

import io
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

from ebbtide.runtime.documents.document import Document, apart_from_references, tidy
from ebbtide.runtime.errors import BadRequest, one_line

MAX_UNPACKED_BYTES = 1 << 28
MAX_XML_BYTES = 1 << 26
"""A document of a thousand pages has a tenth of either; what unpacks to more is an attack or a mistake. The
XML takes ten times its size in memory once it is parsed.
"""

OLE_MAGIC = b"\xd0\xcf\x11\xe0"

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_MATH_TEXT = "{http://schemas.openxmlformats.org/officeDocument/2006/math}t"
_TEXT_BOX = f"{_W}txbxContent"
_LETTERS = {f"{_W}tab": " ", f"{_W}br": " ", f"{_W}cr": " ", f"{_W}noBreakHyphen": "-"}
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
"""The same again for programs that do not know the first form."""


def read(body: bytes) -> Document:
    """Raises BadRequest for a file that is broken, encrypted, of the old kind, or without text."""
    import docx

    if body.startswith(OLE_MAGIC):
        raise BadRequest("The Word document is encrypted, or of the old .doc kind: save it as plain .docx")
    try:
        _check_size(body)
        opened = docx.Document(io.BytesIO(body))
        styles = {style.style_id: style.name or "" for style in opened.styles}
        found = [(style, text) for style, text in _paragraphs(opened.element.body, styles) if text]
        footnotes = sum(
            1 for _ in opened.element.body.iter(f"{_W}footnoteReference", f"{_W}endnoteReference")
        )
        about = opened.core_properties
        created = about.created.date().isoformat() if about.created else None
    except (BadRequest, MemoryError):
        raise
    except Exception as error:  # lxml, zipfile and the package reader each have their own
        raise BadRequest(f"The Word document cannot be read: {one_line(error)}") from error
    blocks, references = apart_from_references([_block(style, text) for style, text in found])
    if not blocks:
        raise BadRequest("The Word document has no text")
    return Document(
        text="\n\n".join(blocks),
        title=tidy(about.title) or next((tidy(text) for style, text in found if style == "Title"), None),
        authors=tidy(about.author),
        date=created,
        set_aside={"references": references, "footnotes": footnotes},
    )


def _check_size(body: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        members = archive.infolist()
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_UNPACKED_BYTES:
        raise BadRequest(f"The Word document unpacks to {unpacked} bytes, over {MAX_UNPACKED_BYTES}")
    xml = sum(member.file_size for member in members if member.filename.endswith((".xml", ".rels")))
    if xml > MAX_XML_BYTES:
        raise BadRequest(f"The Word document unpacks to {xml} bytes of XML, over {MAX_XML_BYTES}")


def _paragraphs(parent: Any, styles: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The name of each paragraph's style, and its text; of a table, a line for each row."""
    for element in parent.iterchildren():
        if element.tag == f"{_W}p":
            named = element.find(f"{_W}pPr/{_W}pStyle")
            yield styles.get(named.get(f"{_W}val"), "") if named is not None else "", _text(element)
            for box in element.iter(_TEXT_BOX):
                if next(box.iterancestors(_FALLBACK), None) is None:
                    yield from _paragraphs(box, styles)
        elif element.tag == f"{_W}tbl":
            rows = [
                " | ".join(
                    " ".join(text for _, text in _paragraphs(cell, styles) if text)
                    for cell in row.iterchildren(f"{_W}tc")
                )
                for row in element.iterchildren(f"{_W}tr")
            ]
            yield "", "\n".join(row for row in rows if row.strip("| "))
        elif element.tag in (f"{_W}sdt", f"{_W}sdtContent", f"{_W}ins", f"{_W}customXml"):
            yield from _paragraphs(element, styles)


def _text(paragraph: Any) -> str:
    """Its own: that of boxes which hang on it comes after it, once."""
    parts = [
        _LETTERS.get(element.tag) or element.text or ""
        for element in paragraph.iter(f"{_W}t", _MATH_TEXT, *_LETTERS)
        if next(element.iterancestors(_FALLBACK, f"{_W}moveFrom", f"{_W}p")) is paragraph
    ]
    return " ".join("".join(parts).split())


def _block(style: str, text: str) -> str:
    if style.lower().startswith("heading") or style == "Title":
        return f"# {text}"
    return f"- {text}" if style.startswith("List") else text
