"""The main text of a web page by trafilatura: without navigation, advertisements and comments."""

from ebbtide.runtime.documents.charset import text_of
from ebbtide.runtime.documents.document import Document, apart_from_references, tidy, written_date
from ebbtide.runtime.errors import BadRequest

MAX_BYTES = 1 << 26
"""A page of a whole book has a twentieth of it. Parsed it takes several times its size in memory."""


def read(body: bytes, charset: str | None = None) -> Document:
    """charset: None where it is the page's own affair. Raises BadRequest for one without text."""
    if len(body) > MAX_BYTES:
        raise BadRequest(f"The HTML page has more than {MAX_BYTES} bytes")
    import trafilatura
    from trafilatura.metadata import extract_metadata

    tree = trafilatura.load_html(body if charset is None else text_of(body, charset))
    if tree is None:
        raise BadRequest("The body is no HTML page")
    about = extract_metadata(tree)
    # favor_recall: a paragraph lost is worse than a line too many, where nothing may be dropped unsaid.
    text = trafilatura.extract(
        tree, output_format="markdown", include_comments=False, include_links=False, favor_recall=True
    )
    if not text:
        raise BadRequest("The HTML page has no main text: nothing in it reads as an article")
    blocks, references = apart_from_references(text.split("\n\n"))
    return Document(
        text="\n\n".join(blocks),
        title=tidy(about.title),
        authors=tidy(about.author),
        date=written_date(about.date),
        set_aside={"references": references},
    )
