"""Several summarisers on one data set: their scores, their speed and how long their summaries are."""

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ebbtide.evaluation import rouge
from ebbtide.evaluation.pairs import Pair
from ebbtide.evaluation.rouge import Score
from ebbtide.evaluation.summarisers import Summarise


@dataclass(frozen=True, slots=True)
class Row:
    """`words`: the median length of a summary. `summaries`: in the order of the pairs.

    `articles_per_s`: None of one whose time tells nothing about it.
    """

    summariser: str
    scores: Mapping[str, Score]
    articles_per_s: float | None
    words: float
    summaries: list[str]


def evaluate(
    pairs: Sequence[Pair],
    summarisers: Mapping[str, Summarise],
    progress: Callable[[int], None],
    *,
    untimed: Collection[str] = (),
) -> list[Row]:
    """A row for each summariser, in their order. progress: told how many summaries have come since.

    untimed: those without articles_per_s.
    """
    rows = []
    for name, summarise in summarisers.items():
        started_at = time.perf_counter()
        summaries: list[str] = []
        for summary in summarise([pair.article for pair in pairs]):
            summaries.append(summary)
            progress(1)
        took_s = time.perf_counter() - started_at
        found = rouge.f1(summaries, [pair.reference for pair in pairs])
        rows.append(
            Row(
                name,
                rouge.summed_up(found),
                None if name in untimed else len(pairs) / took_s,
                statistics.median(len(summary.split()) for summary in summaries),
                summaries,
            )
        )
    return rows
