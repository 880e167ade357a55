"""sumy's LexRank and TextRank, run by the Python of an environment that has sumy, on JSON lines.

In: {"method": ..., "max_words": ..., "sentences": [[text, words], ...]}. Out: {"summary": ..., "seconds":
...}, processor time without that of splitting. Its own tokenizer wants data of NLTK that no package has, so
words are given to it through its interface. Its stemmer and its stop words are its own.
"""

import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from sumy.models.dom import ObjectDocumentModel, Paragraph, Sentence
from sumy.nlp.stemmers import Stemmer
from sumy.summarizers.lex_rank import LexRankSummarizer
from sumy.summarizers.text_rank import TextRankSummarizer
from sumy.utils import get_stop_words

METHODS = {"LexRank": LexRankSummarizer, "TextRank": TextRankSummarizer}
WORD = re.compile(r"[^\W\d_](?:[^\W\d_]|['-])*")


class Words:
    """What sumy's Sentence asks of a tokenizer."""

    def to_words(self, sentence: str) -> tuple[str, ...]:
        return tuple(WORD.findall(sentence))


def within(max_words: int, words: dict[str, int]) -> Callable[[Sequence[Any]], list[Any]]:
    """What sumy takes for a count: picks, of the sentences from the best on, each that still fits."""

    def pick(ranked: Sequence[Any]) -> list[Any]:
        picked, held = [], 0
        for one in ranked:
            if held + words[str(one.sentence)] <= max_words:
                picked.append(one)
                held += words[str(one.sentence)]
        return picked

    return pick


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        summarise = METHODS[asked["method"]](Stemmer("english"))
        summarise.stop_words = get_stop_words("english")
        pick = within(asked["max_words"], dict(asked["sentences"]))
        started_at = time.process_time()
        sentences = [Sentence(text, Words()) for text, _ in asked["sentences"]]
        chosen = summarise(ObjectDocumentModel([Paragraph(sentences)]), pick)
        summary = " ".join(map(str, chosen))
        print(json.dumps({"summary": summary, "seconds": time.process_time() - started_at}), flush=True)


if __name__ == "__main__":
    main()
