"""ROUGE of the extractive summariser beside an article's beginning and sumy's LexRank and TextRank.

All choose from the same sentences, the article's prose as ebbtide splits it, and each takes those that it
ranks highest as long as they fit the same number of words. Speeds are articles per second of processor time,
of one process: ebbtide's with splitting, sumy's without. The articles (bench/quality_data.py), the RFCs
(bench/quality_rfcs.py) and the environment with sumy are made under build/ at the first run.
"""

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.peers.environment import python_with
from bench.quality_data import Article, articles
from bench.quality_rfcs import rfcs
from ebbtide.evaluation import rouge
from ebbtide.runtime.extractive import DEFAULT_MAX_WORDS, WORD, prose, summarise

Summaries = tuple[list[str], float]
"""In the order of the articles, and the processor time that they took, in s."""


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    found = articles()
    held_out = [one.held_out for one in found]
    yield "articles with abstracts; in the held-out part", f"{len(found)}; {sum(held_out)}"
    yield "median words of an article; of an abstract", _words(found)
    for what, scores, articles_per_s in _scored(found):
        shown = f"{_shown(scores[held_out])} held out, {_shown(scores)} all"
        yield what, f"{shown}; {articles_per_s:.1f} articles/s"
    others = rfcs()
    yield "RFCs with abstracts, all held out", f"{len(others)}"
    yield "median words of an RFC; of an abstract", _words(others)
    for what, scores, articles_per_s in _scored(others):
        yield f"RFCs, {what}", f"{_shown(scores)}; {articles_per_s:.1f} RFCs/s"


def _scored(found: Sequence[Article]) -> Iterator[tuple[str, Any, float]]:
    """What it is, each article's scores, and articles per second."""
    for name, summarised in METHODS.items():
        summaries, took_s = summarised(found)
        scores = rouge.f1(summaries, [one.abstract for one in found])
        yield f"{name}, {DEFAULT_MAX_WORDS} words: ROUGE-1 / 2 / L", scores, len(found) / took_s


def _words(found: Sequence[Article]) -> str:
    texts = ([one.text for one in found], [one.abstract for one in found])
    return "; ".join(f"{statistics.median(len(text.split()) for text in each):,.0f}" for each in texts)


def _shown(scores: Any) -> str:
    return " / ".join(f"{mean:.1f}" for mean in scores.mean(axis=0))


def _extractive(found: Sequence[Article]) -> Summaries:
    started_at = time.process_time()
    summaries = [summarise(one.text, max_words=DEFAULT_MAX_WORDS) for one in found]
    return summaries, time.process_time() - started_at


def _lead(found: Sequence[Article]) -> Summaries:
    started_at = time.process_time()
    summaries = []
    for one in found:
        held, picked = 0, []
        for sentence, words in _sentences(one):
            if held + words <= DEFAULT_MAX_WORDS:
                picked.append(sentence)
                held += words
        summaries.append(" ".join(picked))
    return summaries, time.process_time() - started_at


def _sumy(method: str) -> Callable[[Sequence[Article]], Summaries]:
    def summarised(found: Sequence[Article]) -> Summaries:
        asked = (
            {"method": method, "max_words": DEFAULT_MAX_WORDS, "sentences": _sentences(one)} for one in found
        )
        finished = subprocess.run(
            [python_with("requirements-sumy.txt"), "-m", "bench.quality_peers"],
            input="".join(json.dumps(one) + "\n" for one in asked),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        answers = [json.loads(line) for line in finished.stdout.splitlines()]
        return [one["summary"] for one in answers], sum(one["seconds"] for one in answers)

    return summarised


def _sentences(article: Article) -> list[tuple[str, int]]:
    return [(sentence, len(WORD.findall(sentence))) for sentence in prose(article.text)]


METHODS: dict[str, Callable[[Sequence[Article]], Summaries]] = {
    "ebbtide/extractive": _extractive,
    "the article's beginning": _lead,
    "sumy's LexRank": _sumy("LexRank"),
    "sumy's TextRank": _sumy("TextRank"),
}


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}", flush=True)
