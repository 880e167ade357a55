"""Articles with the summaries that people wrote of them, from JSON lines, JSON, CSV or Parquet."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

ARTICLE_NAMES = ("article", "document", "text", "inputs", "dialogue", "body", "content", "description")
REFERENCE_NAMES = ("reference", "summary", "highlights", "abstract", "target", "headline", "title")
"""The names that data sets for summarisation commonly have, tried in this order."""

PARQUET_ROWS = 256

csv.field_size_limit(2**31 - 1)  # a field is a whole article, and Python's own limit is 128 KiB


class DataError(Exception):
    """The file holds no pairs. The message says where and why."""


@dataclass(frozen=True, slots=True)
class Pair:
    article: str
    reference: str


def read(
    path: Path, *, article: str | None = None, reference: str | None = None, limit: int | None = None
) -> list[Pair]:
    """The file's pairs in order, the first `limit` of them.

    article, reference: the members' or columns' names; by default the first of ARTICLE_NAMES and of
    REFERENCE_NAMES that the first row has. Raises DataError, naming the row, for a file of another kind, a
    row without either, and a file without rows.
    """
    pairs: list[Pair] = []
    names: tuple[str, str] | None = None
    for number, row in enumerate(islice(rows(path), limit), start=1):
        if names is None:
            names = _name(row, article, ARTICLE_NAMES), _name(row, reference, REFERENCE_NAMES)
        values = [row.get(name) for name in names]
        for name, value in zip(names, values, strict=True):
            if not isinstance(value, str) or not value.strip():
                raise DataError(f"{path}: row {number} has no text in {name}")
        pairs.append(Pair(str(values[0]), str(values[1])))
    if not pairs:
        raise DataError(f"{path} has no rows")
    return pairs


def rows(path: Path) -> Iterator[Mapping[str, Any]]:
    """The rows of a file of JSON lines, JSON, CSV, TSV or Parquet, by their names. Raises DataError."""
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            yield from _of_parquet(path)
        elif kind in (".csv", ".tsv"):
            with path.open(encoding="utf-8-sig", newline="") as file:
                yield from csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",")
        elif kind == ".json":
            rows = json.loads(path.read_text("utf-8"))
            if not isinstance(rows, list):
                raise DataError(f"{path} is no JSON array of objects")
            yield from (_object(path, number, row) for number, row in enumerate(rows, start=1))
        else:
            with path.open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield _object(path, number, _json(path, number, line))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:  # of JSON, CSV, Parquet, and of bytes that are no UTF-8
        raise DataError(f"{path} cannot be read: {error}") from error


def _json(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}: line {number} is not JSON: {error}") from error


def _of_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    """Some of the file's rows in memory at a time."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise DataError(
            f"{path} is Parquet, which needs pyarrow: install ebbtide[parquet], or write it as JSON lines "
            "elsewhere: pandas.read_parquet(FILE).to_json(OUTPUT, orient='records', lines=True)"
        ) from error
    with ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=PARQUET_ROWS):
            yield from batch.to_pylist()


def _object(path: Path, number: int, row: Any) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{path}: row {number} is no JSON object")
    return row


def _name(row: Mapping[str, Any], asked: str | None, usual: tuple[str, ...]) -> str:
    for name in (asked,) if asked else usual:
        if name in row:
            return name
    wanted = asked or " or ".join(usual)
    raise DataError(f"The data has no {wanted}: its rows have {', '.join(map(str, row))}")
