"""The extractive summariser's rules."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.runtime.extractive import (
    REPEATED,
    REPETITION,
    centrality,
    select,
    split_sentences,
    summarise,
    unit_vectors,
)

TIDES = (
    "The tide rises because the moon pulls the ocean towards itself. "
    "The moon pulls the ocean on the far side less than the earth. "
    "A second tide rises there, and the ocean has two tides a day. "
    "Fishermen have kept tables of the tides since the Middle Ages. "
    "My aunt prefers mountains to any kind of water."
)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        pytest.param("It rained. We left.", ["It rained.", "We left."], id="a full stop ends a sentence"),
        pytest.param("Why? Because!", ["Why?", "Because!"], id="so do ? and !"),
        pytest.param("It is 3.14 m long.", ["It is 3.14 m long."], id="a decimal point does not"),
        pytest.param(
            "See Fig. 3 by J. Smith et al. Nothing.",
            ["See Fig. 3 by J. Smith et al. Nothing."],
            id="nor an abbreviation or an initial",
        ),
        pytest.param(
            'He said "Go." We went.', ['He said "Go."', "We went."], id="a closing quotation belongs to it"
        ),
        pytest.param("First\nline. Second", ["First line.", "Second"], id="wrapped lines are joined"),
        pytest.param("A title\n\nThe text.", ["A title", "The text."], id="a blank line ends one"),
        pytest.param(
            "Two:\n- one thing\n- another", ["Two:", "one thing", "another"], id="so does a list item"
        ),
        pytest.param(
            "今日は晴れ。明日は雨。", ["今日は晴れ。", "明日は雨。"], id="so does an ideographic full stop"
        ),
        pytest.param("", [], id="an empty text has none"),
    ],
)
def test_a_text_is_split_into_sentences(text: str, sentences: list[str]):
    assert list(split_sentences(text)) == sentences


@given(st.text())
def test_splitting_loses_no_word(text: str):
    joined = " ".join(split_sentences(text))

    assert [c for c in joined if c.isalpha()] == [c for c in text if c.isalpha()]


def test_a_sentence_that_shares_the_subject_ranks_above_one_that_does_not():
    sentences = list(split_sentences(TIDES))

    ranks = centrality(unit_vectors(sentences))

    assert ranks.index(min(ranks)) == sentences.index("My aunt prefers mountains to any kind of water.")
    assert sum(ranks) == pytest.approx(1)


def test_equal_sentences_rank_equally_and_only_one_of_them_is_chosen():
    sentences = ["The tide rises twice a day.", "The tide rises twice a day.", "Boats wait for the tide."]
    vectors = unit_vectors(sentences)
    ranks = centrality(vectors)

    chosen = select(ranks, vectors, [6, 6, 5], max_words=20, min_words=0)

    assert ranks[0] == pytest.approx(ranks[1])
    assert sorted(chosen) == [0, 2]


def test_a_repetition_is_taken_only_where_a_length_is_asked_for_that_nothing_else_reaches():
    vectors = unit_vectors(["The tide rises.", "The tide rises.", "Boats wait."])

    assert select([3, 2, 1], vectors, [3, 3, 2], max_words=20, min_words=6) == [0, 2, 1]


@given(
    scores=st.lists(st.floats(0, 5), min_size=1, max_size=12),
    words=st.data(),
    max_words=st.integers(1, 40),
)
def test_the_best_is_chosen_at_every_step(scores: list[float], words: st.DataObject, max_words: int):
    """As if all that are left were weighed anew each time, which would be quadratic."""
    sentence = st.lists(st.sampled_from(["tide", "moon", "boat", "rope", "net"]), min_size=1, max_size=4)
    count = len(scores)
    sentences = words.draw(st.lists(sentence.map(" ".join), min_size=count, max_size=count))
    vectors, lengths = unit_vectors(sentences), [len(sentence.split()) for sentence in sentences]

    chosen = select(scores, vectors, lengths, max_words=max_words, min_words=0)

    said: dict[str, float] = {}
    held, left = 0, set(range(len(scores)))
    for picked in chosen:
        repeats = {i: sum(w * said.get(term, 0) for term, w in vectors[i].items()) for i in left}
        open_to_choice = [i for i in left if held + lengths[i] <= max_words and repeats[i] < REPEATED]
        worth = {i: scores[i] - REPETITION * repeats[i] for i in open_to_choice}
        assert worth[picked] == pytest.approx(max(worth.values()))
        held += lengths[picked]
        left.remove(picked)
        for term, weight in vectors[picked].items():
            said[term] = max(said.get(term, 0), weight)


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        pytest.param(
            "Nets and boats\n\nGulls sleep on every roof here. Nobody has mended the nets or the boats.",
            "Nobody has mended the nets or the boats.",
            id="what says the title's words",
        ),
        pytest.param(
            "Gulls sleep on every roof here.\n\n# 4. Conclusions\n\nMany older nets need urgent mending.",
            "Many older nets need urgent mending.",
            id="what stands under a heading of conclusions",
        ),
        pytest.param(
            "Gulls sleep on every roof here. Many older nets need urgent mending.",
            "Gulls sleep on every roof here.",
            id="else the first",
        ),
    ],
)
def test_of_sentences_that_share_nothing_is_chosen(text: str, chosen: str):
    assert summarise(text, max_words=8) == chosen


def test_sentences_come_in_the_order_of_the_text():
    summary = summarise(TIDES, max_words=30)

    chosen = [TIDES.index(sentence) for sentence in split_sentences(summary)]
    assert len(chosen) > 1
    assert chosen == sorted(chosen)


@given(max_words=st.integers(1, 80))
def test_a_summary_is_never_longer_than_asked(max_words: int):
    summary = summarise(TIDES, max_words=max_words)

    assert 0 < len(summary.split()) <= max_words


@given(min_words=st.integers(0, 50))
def test_a_summary_is_at_least_as_long_as_asked(min_words: int):
    summary = summarise(TIDES, max_words=57, min_words=min_words)

    assert len(summary.split()) >= min_words


def test_without_a_length_it_takes_at_most_a_third():
    assert 0 < len(summarise(TIDES).split()) <= len(TIDES.split()) / 3


def test_markup_and_code_are_passed_over_for_prose():
    text = f"# Install\n\n```\npip install tides==1.0 && tides --moon x\n```\n\n{TIDES}\n\nSee https://example.org/x."

    summary = summarise(text, max_words=40)

    assert "pip" not in summary
    assert "https" not in summary


def test_a_text_without_prose_is_summarised_by_what_it_has():
    assert summarise("alpha beta") == "alpha beta"


@pytest.mark.parametrize("text", ["", " \n", "...", "-- ??"])
def test_a_text_without_words_has_an_empty_summary(text: str):
    assert summarise(text) == ""


@given(st.text(), st.one_of(st.none(), st.integers(1, 20)), st.integers(0, 20))
def test_any_text_can_be_summarised(text: str, max_words: int | None, min_words: int):
    assert isinstance(summarise(text, max_words=max_words, min_words=min_words), str)
