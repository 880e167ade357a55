"""Contents: the pieces that objects' bytes lie in.

A content is one or more pieces in order, a multipart object's parts staying the pieces they were uploaded as.
A piece's bytes lie in its row when they are few, else in a file that carries a name of ours. Forgetting a
content lists its files as discarded in the same transaction; they are removed later, when nobody reads them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    bindparam,
    delete,
    insert,
    select,
    update,
)

from ebbtide.database import metadata
from ebbtide.values import value

pieces = Table(
    "object_pieces",
    metadata,
    Column("content_id", String, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("file_name", String),
    Column("data", LargeBinary),
    Column("checksums", JSON(none_as_null=True)),
    Index("object_pieces_by_file", "file_name"),
)

discarded_files = Table(
    "discarded_files",
    metadata,
    Column("file_name", String, primary_key=True),
    Column("content_id", String, nullable=False),
    Column("discarded_at", Float, nullable=False),
    Index("discarded_files_by_time", "discarded_at"),
)


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Staged:
    """Bytes that are stored but that no key names yet: in a file on disk, or few enough to go into a row.

    etag: the MD5 in hex. checksums: S3's algorithm name -> base64. What is never published must be discarded.
    """

    id: str
    size_bytes: int
    etag: str
    checksums: Mapping[str, str]
    file_name: str | None
    data: bytes | None


@value
class Piece:
    """A stretch of a content's bytes: `data`, or the file of that name. checksums: those of a part."""

    size_bytes: int
    file_name: str | None
    data: bytes | None
    checksums: Mapping[str, str] | None = None


_PIECES = (
    select(pieces.c.size_bytes, pieces.c.file_name, pieces.c.data, pieces.c.checksums)
    .where(pieces.c.content_id == bindparam("content"))
    .order_by(pieces.c.position)
)
_ADD_PIECE = insert(pieces)
_OF_CONTENTS = pieces.c.content_id.in_(bindparam("contents", expanding=True))
_DISCARD_FILES = insert(discarded_files).from_select(
    ["file_name", "content_id", "discarded_at"],
    select(pieces.c.file_name, pieces.c.content_id, bindparam("at", type_=Float)).where(
        _OF_CONTENTS, pieces.c.file_name.is_not(None)
    ),
)
_REMOVE_PIECES = delete(pieces).where(_OF_CONTENTS)


def get_pieces(connection: Connection, content_id: str) -> Sequence[Piece]:
    """The content's pieces in order."""
    return [Piece(*row) for row in connection.execute(_PIECES, {"content": content_id})]


def add_piece(connection: Connection, content_id: str, position: int, staged: Staged) -> None:
    """position: from 1."""
    values = {
        "content_id": content_id,
        "position": position,
        "size_bytes": staged.size_bytes,
        "file_name": staged.file_name,
        "data": staged.data,
    }
    connection.execute(_ADD_PIECE, values)


def join(
    connection: Connection, parts: Sequence[tuple[str, Mapping[str, str] | None]], whole_id: str
) -> None:
    """Make contents of one piece each the pieces of another content, in that order.

    parts: each content's id, and the checksums to keep of it.
    """
    connection.execute(
        update(pieces)
        .where(pieces.c.content_id == bindparam("part"))
        .values(content_id=bindparam("whole"), position=bindparam("place"), checksums=bindparam("sums")),
        [
            {"part": part, "whole": whole_id, "place": place, "sums": checksums}
            for place, (part, checksums) in enumerate(parts, start=1)
        ],
    )


def discard(connection: Connection, content_ids: Sequence[str], at: float) -> None:
    """Forget the contents' bytes; their files are removed later, when nobody reads them."""
    connection.execute(_DISCARD_FILES, {"contents": content_ids, "at": at})
    connection.execute(_REMOVE_PIECES, {"contents": content_ids})


def files_discarded_before(connection: Connection, before: float, limit: int) -> Sequence[tuple[str, str]]:
    """File names and the contents they belonged to, the longest discarded first."""
    rows = connection.execute(
        select(discarded_files.c.file_name, discarded_files.c.content_id)
        .where(discarded_files.c.discarded_at <= before)
        .order_by(discarded_files.c.discarded_at)
        .limit(limit)
    )
    return [(row.file_name, row.content_id) for row in rows]


def forget_files(connection: Connection, file_names: Sequence[str]) -> None:
    """The discarded files are gone."""
    connection.execute(delete(discarded_files).where(discarded_files.c.file_name.in_(file_names)))


def known_files(connection: Connection, file_names: Sequence[str]) -> set[str]:
    """Those of the files that some content has, or had: the others were left by a crash."""
    kept = select(pieces.c.file_name).where(pieces.c.file_name.in_(file_names))
    leaving = select(discarded_files.c.file_name).where(discarded_files.c.file_name.in_(file_names))
    return set(connection.execute(kept.union_all(leaving)).scalars())
