"""The text of a Word document by python-docx: paragraphs, headings, lists and tables in their order."""

import io
import zipfile
from collections.abc import Iterator
from typing import Any

from ebbtide.runtime.documents.document import Document, apart_from_references, tidy
from ebbtide.runtime.errors import BadRequest, one_line

MAX_UNPACKED_BYTES = 1 << 28
"""A document of thousands of pages has a tenth of it; what unpacks to more is an attack or a mistake."""

OLE_MAGIC = b"\xd0\xcf\x11\xe0"


def read(body: bytes) -> Document:
    """Raises BadRequest for a file that is broken, encrypted, of the old kind, or without text."""
    import docx

    if body.startswith(OLE_MAGIC):
        raise BadRequest("The Word document is encrypted, or of the old .doc kind: save it as plain .docx")
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise BadRequest(f"The Word document unpacks to {unpacked} bytes, over {MAX_UNPACKED_BYTES}")
        opened = docx.Document(io.BytesIO(body))
        blocks, references = apart_from_references([block for block in _blocks(opened) if block])
    except BadRequest:
        raise
    except Exception as error:  # lxml, zipfile and the package reader each have their own
        raise BadRequest(f"The Word document cannot be read: {one_line(error)}") from error
    if not blocks:
        raise BadRequest("The Word document has no text")
    about = opened.core_properties
    return Document(
        text="\n\n".join(blocks),
        title=tidy(about.title) or _title(opened),
        authors=tidy(about.author),
        date=about.created.date().isoformat() if about.created else None,
        set_aside={"references": references},
    )


def _blocks(opened: Any) -> Iterator[str]:
    from docx.table import Table

    for element in opened.iter_inner_content():
        if isinstance(element, Table):
            yield "\n".join(
                " | ".join(" ".join(cell.text.split()) for cell in row.cells) for row in element.rows
            )
            continue
        text = " ".join(element.text.split())
        style = element.style.name if element.style is not None else ""
        if not text:
            continue
        if style.startswith("Heading") or style == "Title":
            yield f"# {text}"
        elif style.startswith("List"):
            yield f"- {text}"
        else:
            yield text


def _title(opened: Any) -> str | None:
    for paragraph in opened.paragraphs:
        if paragraph.style is not None and paragraph.style.name == "Title":
            return tidy(paragraph.text)
    return None
