"""Texts to train small models on, and to ask them about: English that is installed here."""

from functools import cache
from importlib import metadata
from itertools import islice

LEAD_WORDS = (2, 5)
"""A text's summary, or translation, is so many of its first words: to the first short one (of three letters
at the most) after the second, five at the most."""


def documents(count: int, *, min_words: int = 60) -> list[str]:
    """Real English texts: the long descriptions of Python packages installed here, in a fixed order. Ours is
    not among them: with each change of it every model would be another.
    """
    texts = []
    for distribution in sorted(metadata.distributions(), key=lambda found: found.metadata["Name"].lower()):
        description = str(distribution.metadata.get_payload())
        if len(description.split()) >= min_words and distribution.metadata["Name"] != "ebbtide":
            texts.append(description)
        if len(texts) == count:
            return texts
    raise LookupError(
        f"Only {len(texts)} installed packages describe themselves in {min_words} words or more"
    )


@cache
def texts(count: int = 32) -> list[str]:
    """The beginnings, of 12 words, of sentences in the documents."""
    beginnings = (
        " ".join(sentence.split()[:12])
        for document in documents(40)
        for sentence in " ".join(document.split()).split(". ")
        # A row of one sign can be cut into pieces in several ways that are exactly as likely.
        if 8 <= len(sentence.split()) <= 25 and max(map(len, sentence.split())) <= 16 and "==" not in sentence
    )
    return list(islice(beginnings, count))


def lead(text: str) -> str:
    """What the models learn to answer."""
    words = text.split()
    fewest, most = LEAD_WORDS
    last = next((i for i in range(fewest, most) if len(words[i]) <= 3), most)
    return " ".join(words[:last])
