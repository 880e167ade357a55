"""Real articles for a demonstration: files given, or the descriptions of the Python packages installed here.

Package authors write both the description and a one-line summary of it, which a reader can hold against ours.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from ebbtide.cli.errors import ArticleError

MIN_WORDS = 200
MAX_WORDS = 20_000


@dataclass(frozen=True, slots=True)
class Article:
    """A document: its title, its text, and its author's own summary where there is one."""

    title: str
    text: str
    summary: str | None = None

    @property
    def words(self) -> int:
        return len(self.text.split())


def from_files(paths: Iterable[Path]) -> list[Article]:
    """The files' texts under their names. Raises ArticleError naming a file that is not UTF-8 text."""
    articles = []
    for path in paths:
        try:
            articles.append(Article(path.name, path.read_text("utf-8")))
        except UnicodeDecodeError as error:
            raise ArticleError(f"{path} is not UTF-8 text") from error
    return articles


def from_packages() -> list[Article]:
    """The descriptions of 200 to 20,000 words among the packages installed here, by title."""
    by_title = {article.title: article for article in map(_article, distributions()) if article}
    return [by_title[title] for title in sorted(by_title, key=str.lower)]


def _article(package: Distribution) -> Article | None:
    metadata = package.metadata.json
    article = Article(
        title=package.name,
        text=prose(str(metadata.get("description", ""))),
        summary=str(metadata["summary"]) if "summary" in metadata else None,
    )
    return article if MIN_WORDS <= article.words <= MAX_WORDS else None


_NOT_PROSE = [
    re.compile(pattern, flags)
    for pattern, flags in [
        (r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL),  # fenced code
        (r"<!--.*?-->", re.DOTALL),
        (r"<(style|script|svg|table|picture)\b.*?</\1>", re.DOTALL | re.IGNORECASE),
        (r"</?[a-zA-Z][\w-]*(\s[^<>]*)?/?>", 0),  # other HTML tags
        (
            r"^\.\. [^\n]*(\n([ \t][^\n]*)?)*?(?=\n\S|\Z)",
            re.MULTILINE,
        ),  # reStructuredText directives, with their bodies
        (r"^(    |\t).*$", re.MULTILINE),  # indented code
        (r"^[ \t]*(>>>|\.\.\.|\$) .*$", re.MULTILINE),  # sessions
        (r"^[ \t]*[|+].*$", re.MULTILINE),  # tables
        (r"^[ \t]*#+ .*$", re.MULTILINE),  # headings
        (
            r"^([^\n]+\n)?[ \t]*([=\-~^\"'`*#+_.:])\2{2,}[ \t]*$",
            re.MULTILINE,
        ),  # underlines
        (r"!\[[^\]]*\](\([^)]*\)|\[[^\]]*\])", 0),  # pictures
        (r"^[ \t]*\[[^\]]+\]:.*$", re.MULTILINE),  # link targets
    ]
]
_LINKS = re.compile(r"\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])|`([^`<]+?)\s*<[^`>]*>`_{0,2}")
_URLS = re.compile(r"https?://\S+")
_HISTORY = re.compile(
    r"^[ \t]*#*[ \t]*(change ?log|changes|history|release notes|what's new)\b", re.MULTILINE | re.IGNORECASE
)
_ITEMS = re.compile(r"^[ \t]*(?:[*+-]|\d+\.|#\.) +", re.MULTILINE)
_MARKS = re.compile(r"^[ \t]*> ?|[*`]+|(?<=\w)_(?=\W|$)|(?<!\w)_(?=[A-Za-z])|:[a-z_]+:", re.MULTILINE)


def prose(markup: str) -> str:
    """What a person reads of a Markdown or reStructuredText document, in paragraphs.

    Code, tables, pictures, badges and link targets are left out; so are the history of changes, which ends
    many, and paragraphs and list items that hold no sentence.
    """
    text = _HISTORY.split(markup.replace("\r\n", "\n"), maxsplit=1)[0]
    for pattern in _NOT_PROSE:
        text = pattern.sub("\n", text)
    text = _LINKS.sub(lambda link: link[1] or link[3] or "", text)
    text = _MARKS.sub("", _ITEMS.sub("\n", _URLS.sub("", text)))
    return "\n\n".join(_paragraphs(text))


def _paragraphs(text: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", text):
        paragraph = " ".join(block.split())
        if len(paragraph.split()) >= 6 and re.search(r"[.!?:]", paragraph):
            yield paragraph
