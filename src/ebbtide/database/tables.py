"""The tables' registry, and how columns of texts compare."""

from typing import Any

from sqlalchemy import Column, MetaData, String, Text
from sqlalchemy.ext.compiler import compiles

metadata = MetaData()
"""Every module's tables; a module declares its own with `Table(name, metadata, ...)`."""


@compiles(String, "postgresql")
@compiles(Text, "postgresql")
def _compare_bytes(*_: Any, type_expression: object = None, **__: Any) -> str:
    """Columns of texts compare by their bytes, as in SQLite and S3, whatever locale a database has."""
    return 'TEXT COLLATE "C"' if isinstance(type_expression, Column) else "TEXT"
