"""Summaries in a database, and how often they speak of something, month by month.

    ebbtide summarize articles.jsonl -o summaries.jsonl
    python trends.py summaries.jsonl summaries.db "machine learning" --date published

The file may have grown, or be another run's: rows that are in the database already are replaced. Needs
nothing but Python; `summaries.db` is SQLite, for whatever else is to be asked of it.
"""

import argparse
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

SCHEMA = """
CREATE TABLE IF NOT EXISTS summaries
    (inference_id TEXT PRIMARY KEY, source TEXT, published TEXT, summary TEXT NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5
    (summary, content = 'summaries', tokenize = 'porter unicode61');
"""

TREND = """
SELECT substr(published, 1, 7) AS month, count(*),
       sum(rowid IN (SELECT rowid FROM words WHERE words MATCH :phrase))
  FROM summaries WHERE published IS NOT NULL GROUP BY month ORDER BY month
"""


def rows(path: Path, date: str) -> Iterator[tuple[str, str, str | None, str]]:
    """Of each article that has a summary: id, where it came from, its date, the summary."""
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["summary"] is not None:
                source = row["file"] + (f":{row['row']}" if "row" in row else "")
                yield row["inference_id"], source, row.get("article", {}).get(date), row["summary"]


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("summaries", type=Path, help="what ebbtide summarize --output wrote")
    asked.add_argument("database")
    asked.add_argument("phrase", help="what to follow; a word stands for its forms")
    asked.add_argument("--date", default="date", help="the articles' column with their date, as 2026-11-23")
    given = asked.parse_args()
    with sqlite3.connect(given.database) as database:
        database.executescript(SCHEMA)
        database.executemany(
            "INSERT OR REPLACE INTO summaries VALUES (?, ?, ?, ?)", rows(given.summaries, given.date)
        )
        database.execute("INSERT INTO words (words) VALUES ('rebuild')")
        quoted = '"' + given.phrase.replace('"', '""') + '"'
        for month, articles, with_phrase in database.execute(TREND, {"phrase": quoted}):
            share = with_phrase / articles
            print(f"{month}  {with_phrase:5} of {articles:5}  {share:4.0%}  {'#' * round(40 * share)}")


if __name__ == "__main__":
    main()
