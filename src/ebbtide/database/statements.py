"""Statements for what every group of invocations pays for: straight to the database's driver."""

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

if TYPE_CHECKING:
    from psycopg import Connection as PsycopgConnection

MAX_ROWS = 32
"""Most rows that one statement is given. Each number of rows is a text of its own, which drivers prepare."""


class Statement:
    """A statement for what every group of invocations pays for, with a `?` for each value.

    It goes straight to the driver: SQLAlchemy's work on parameters and results takes longer than most of
    these statements do. Errors are the driver's own.
    """

    def __init__(self, text: str) -> None:
        self._texts = {"sqlite": text, "postgresql": _numbered(text)}

    def execute(self, connection: Connection, values: Sequence[Any]) -> list[Any]:
        """Carry it out; returns the rows it answers with as tuples, if it is one that does."""
        return _on_driver(connection, self._texts[connection.dialect.name], values)


def _on_driver(connection: Connection, text: str, values: Sequence[Any]) -> list[Any]:
    cursor = _cursor(connection)
    try:
        cursor.execute(text, values)
        return [] if cursor.description is None else list(cursor.fetchall())
    finally:
        cursor.close()


def _cursor(connection: Connection) -> Any:
    """A driver's cursor that takes a statement's text as the database reads it."""
    if connection.dialect.name != "postgresql":
        return connection.connection.cursor()
    from psycopg import RawCursor

    # Other cursors of psycopg look for their own placeholders, at each execution of a long text: that took
    # longer than the statement.
    driver: PsycopgConnection[Any] = connection.connection.dbapi_connection  # type: ignore[assignment]
    return RawCursor(driver)


def _numbered(text: str) -> str:
    """A statement with PostgreSQL's own placeholders, $1 and on, for each `?`."""
    first, *others = text.split("?")
    return first + "".join(f"${n}{part}" for n, part in enumerate(others, 1))


class Rows:
    """A `Statement` that many rows pass together: whenever the driver begins one, the writer lets the event
    loop have the interpreter and waits for it after.
    """

    def __init__(self, statement: str, row: str) -> None:
        """statement: `{}` in it stands for the rows. row: one of them, a `?` for each of its values."""
        self._statement = statement
        self._row = row
        self._texts: dict[tuple[str, int], str] = {}

    def execute(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """Carry it out; returns the rows it answers with, if it is one that does."""
        answers: list[Any] = []
        for begin in range(0, len(rows), MAX_ROWS):
            some = rows[begin : begin + MAX_ROWS]
            text = self._text(connection.dialect.name, len(some))
            answers += _on_driver(connection, text, tuple(chain.from_iterable(some)))
        return answers

    def _text(self, dialect: str, size: int) -> str:
        text = self._texts.get((dialect, size))
        if text is None:
            text = self._statement.format(", ".join([self._row] * size))
            if dialect == "postgresql":
                text = _numbered(text)
            self._texts[dialect, size] = text
        return text
