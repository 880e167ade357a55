"""ROUGE by Google Research's rouge-score, whose figures papers report, with intervals by resampling."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ebbtide.runtime.extractive import split_sentences

MEASURES = {"rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeLsum": "ROUGE-L"}
"""As rouge-score names them -> as papers do. ROUGE-L is the summary-level one, as in PEGASUS's paper."""

RESAMPLES = 1_000
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Score:
    """F1 of one measure over a data set, in percent: the mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def f1(summaries: Sequence[str], references: Sequence[str]) -> Any:
    """An array of (pairs, 3): each pair's F1 in percent, in the order of MEASURES. Words are stemmed.

    Raises ImportError where rouge-score is not installed.
    """
    import numpy
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(MEASURES), use_stemmer=True)
    found = numpy.empty((len(references), len(MEASURES)))
    for row, (summary, reference) in enumerate(zip(summaries, references, strict=True)):
        scores = scorer.score(_by_sentences(reference), _by_sentences(summary))
        found[row] = [100 * scores[measure].fmeasure for measure in MEASURES]
    return found


def summed_up(found: Any) -> dict[str, Score]:
    """The measures' means with intervals, by paper's name; the same every time for the same scores."""
    import numpy

    drawn = numpy.random.default_rng(0).integers(0, len(found), (RESAMPLES, len(found)))
    means = numpy.stack([found[one].mean(axis=0) for one in drawn])
    low, high = numpy.percentile(means, INTERVAL, axis=0)
    middle = found.mean(axis=0)
    return {
        name: Score(float(middle[column]), float(low[column]), float(high[column]))
        for column, name in enumerate(MEASURES.values())
    }


def _by_sentences(text: str) -> str:
    """The summary-level measure wants a sentence a line. PEGASUS writes <n> where a line ends."""
    return "\n".join(split_sentences(text.replace("<n>", "\n\n")))
