"""How far a model has come with an invocation whose text it reads in parts.

A level is a pass over the text: its parts, then the parts' summaries in parts, and so on. Of a request with
several such articles the one that is read now is kept.
"""

import json
from dataclasses import asdict, dataclass

from sqlalchemy import Column, Connection, Float, Integer, String, Table, text

from ebbtide.database import metadata
from ebbtide.queue.invocations import Claim

progress = Table(
    "invocation_progress",
    metadata,
    Column("invocation_id", String, primary_key=True),
    Column("level", Integer, primary_key=True),
    Column("parts_done", Integer, nullable=False),
    Column("parts", Integer, nullable=False),
    Column("article", Integer, nullable=False),
    Column("articles", Integer, nullable=False),
    Column("at", Float, nullable=False),
)

_HELD = "SELECT 1 FROM invocations WHERE id = :id AND state = 'claimed' AND claim_count = :claim_count"
_LEAVE_ARTICLE = text(
    f"DELETE FROM invocation_progress WHERE invocation_id = :id AND article <> :article AND EXISTS ({_HELD})"
)
_RECORD = text(
    f"""
INSERT INTO invocation_progress (invocation_id, level, parts_done, parts, article, articles, at)
SELECT :id, :level, :parts_done, :parts, :article, :articles, :now WHERE EXISTS ({_HELD})
    ON CONFLICT (invocation_id, level) DO UPDATE
       SET parts_done = excluded.parts_done, parts = excluded.parts, article = excluded.article,
           articles = excluded.articles, at = excluded.at
"""
)
_OF = text(
    "SELECT level, parts_done, parts, article, articles, at FROM invocation_progress "
    "WHERE invocation_id = :id ORDER BY level"
)


@dataclass(frozen=True, slots=True)
class Progress:
    """`parts_done` of the `parts` of a level, of the `article`-th of `articles`, both from 1 on, at `at`."""

    level: int
    parts_done: int
    parts: int
    article: int
    articles: int
    at: float

    @classmethod
    def reported(cls, text: str, *, at: float) -> "Progress":
        """What a model server reports: a JSON object of the members but `at`. Raises ValueError."""
        told = json.loads(text)
        names = [name for name in cls.__slots__ if name != "at"]
        if not isinstance(told, dict) or sorted(told) != sorted(names):
            raise ValueError(f"it has other members than {', '.join(names)}")
        if not all(type(value) is int and 0 <= value < 1 << 31 for value in told.values()):
            raise ValueError("a count is none")
        return cls(**told, at=at)

    def told(self) -> dict[str, int]:
        """The counts, as events tell them."""
        counts = asdict(self)
        del counts["at"]
        return counts


def record(connection: Connection, held: Claim, reached: Progress) -> None:
    """Keep it, in the place of what was known of its level; nothing for a claim that is not held any more."""
    values = asdict(reached)
    values |= {"id": held.invocation.id, "claim_count": held.count, "now": values.pop("at")}
    connection.execute(_LEAVE_ARTICLE, values)
    connection.execute(_RECORD, values)


def of(connection: Connection, invocation_id: str) -> list[Progress]:
    """Each level's, the first first; empty for one that is not read in parts."""
    return [Progress(*row) for row in connection.execute(_OF, {"id": invocation_id})]
