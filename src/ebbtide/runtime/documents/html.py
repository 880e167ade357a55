"""The main text of a web page by trafilatura: without navigation, advertisements and comments."""

from collections import defaultdict
from typing import Any

from ebbtide.runtime.documents.charset import text_of
from ebbtide.runtime.documents.document import Document, apart_from_references, tidy, written_date
from ebbtide.runtime.errors import BadRequest

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
PERMALINKS = frozenset(("", "¶", "§", "#", "🔗", "\uf0c1"))
"""What generators of documentation put behind a heading, linked to itself."""

ARTICLE_SHARE = 0.9
"""What holds this share of a page's paragraphs is its article."""

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
    _unlink_headings(tree)
    _mark_article(tree)
    about = extract_metadata(tree, extensive=False)  # else any number in the text may be taken for its date
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


def _unlink_headings(tree: Any) -> None:
    """A heading that holds a link is taken for navigation, and would be lost."""
    for heading in tree.iter(*HEADINGS):
        for link in list(heading.iter("a")):
            if "".join(link.itertext()).strip() in PERMALINKS:
                link.drop_tree()
            else:
                link.drop_tag()


def _mark_article(tree: Any) -> None:
    """Name the innermost part with nearly all paragraphs where the page does not: elsewhere trafilatura looks
    for paragraphs one by one, and leaves out the headings between them.
    """
    if next(tree.iter("article", "main"), None) is not None:
        return
    held: defaultdict[Any, int] = defaultdict(int)
    for element in reversed(list(tree.iter())):
        if element.tag == "p":
            held[element] = len(element.text_content())
        if held[element] and element.getparent() is not None:
            held[element.getparent()] += held[element]
    wanted = ARTICLE_SHARE * held[tree]
    holding = [element for element in tree.iter("div", "section") if wanted and held[element] >= wanted]
    if holding:
        holding[-1].tag = "article"  # of those that hold so much each lies in the one before
