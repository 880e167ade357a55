"""What `summarize` is given: files of every kind that a server reads, directories, rows of a data set."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebbtide.cli.errors import ArticleError
from ebbtide.evaluation.pairs import ARTICLE_NAMES, DataError, rows

CONTENT_TYPES = {
    ".txt": "text/plain",
    ".text": "text/plain",
    ".md": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}
"""By a file's suffix. A directory stands for its files with one of these."""

DATA_SETS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
"""Suffixes of files in which each row is an article."""


@dataclass(frozen=True, slots=True)
class Document:
    """One article: a file, or a row of one.

    row: its number in the file, from 1. text: of a row. fields: what else the row says (id, date, ...).
    """

    path: Path
    row: int | None = None
    text: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.path) if self.row is None else f"{self.path}:{self.row}"

    def request(self, parameters: Mapping[str, Any]) -> tuple[str, bytes]:
        """The content type and the body that ask for its summary.

        A text goes as the JSON that every summarisation endpoint takes. Other files go as they are, and have
        no room for parameters. Raises OSError.
        """
        if self.text is not None:
            return _json(self.text, parameters)
        content = self.path.read_bytes()
        content_type = CONTENT_TYPES.get(self.path.suffix.lower(), "text/plain")
        if content_type == "text/plain":
            try:
                return _json(content.decode("utf-8-sig"), parameters)
            except UnicodeDecodeError:
                pass  # the server guesses the charset
        return content_type, content


def _json(text: str, parameters: Mapping[str, Any]) -> tuple[str, bytes]:
    return "application/json", json.dumps({"inputs": text, "parameters": dict(parameters)}).encode()


def documents(paths: Iterable[Path], column: str | None = None) -> Iterator[Document]:
    """The articles that the paths stand for, in order, each file once; a directory's by name.

    column: where a row has its article; by default the first of ARTICLE_NAMES that it has.
    Raises ArticleError for a directory without articles and for a data set that cannot be read.
    """
    seen: set[Path] = set()
    for path in paths:
        if path.is_dir():
            files = sorted(_files(path))
            if not files:
                kinds = ", ".join([*CONTENT_TYPES, *DATA_SETS])
                raise ArticleError(f"{path} has no files of the kinds {kinds}")
        else:
            files = [path]
        for file in files:
            if file in seen:
                continue
            seen.add(file)
            if file.suffix.lower() in DATA_SETS:
                yield from _of_rows(file, column)
            else:
                yield Document(file)


def _files(directory: Path) -> Iterator[Path]:
    kinds = {*CONTENT_TYPES, *DATA_SETS}
    for path in directory.rglob("*"):
        hidden = any(step.startswith(".") for step in path.relative_to(directory).parts)
        if path.suffix.lower() in kinds and not hidden and path.is_file():
            yield path


def _of_rows(path: Path, column: str | None) -> Iterator[Document]:
    try:
        for number, row in enumerate(rows(path), start=1):
            name = column or next((name for name in ARTICLE_NAMES if name in row), None)
            text = None if name is None else row.get(name)
            if not isinstance(text, str):
                wanted = column or " or ".join(ARTICLE_NAMES)
                raise ArticleError(f"{path}: row {number} has no text in {wanted}")
            yield Document(path, number, text, {key: row[key] for key in row if key != name})
    except DataError as error:
        raise ArticleError(str(error)) from error
