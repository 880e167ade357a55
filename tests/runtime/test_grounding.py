"""Each sentence of a summary is linked to what supports it, and what the source does not say is flagged."""

import pytest

from ebbtide.runtime.grounding import Grounded, Source

SOURCE = (
    "The tide gauge at Brest has recorded sea level since 1807. "
    "Its keeper, Marie Dupont, wrote down 1,200 readings by hand. "
    "Two storms broke the gauge. "
    "The readings show that the sea rose by 30.5 cm."
)


def only(summary: str) -> Grounded:
    (grounded,) = Source(SOURCE).ground(summary)
    return grounded


def supporting(summary: str) -> list[str]:
    return [SOURCE[support.start : support.end] for support in only(summary).supports]


def test_a_sentence_copied_from_the_source_is_supported_by_that_sentence_whole() -> None:
    copied = "The readings show that the sea rose by 30.5 cm."
    assert supporting(copied) == [copied]
    assert only(copied).score == 1.0
    assert only(copied).supports[0].score == 1.0


def test_a_sentence_made_of_two_is_supported_by_both() -> None:
    assert set(supporting("Marie Dupont wrote 1200 readings and the sea rose by 30.5 cm.")) == {
        "Its keeper, Marie Dupont, wrote down 1,200 readings by hand.",
        "The readings show that the sea rose by 30.5 cm.",
    }


def test_a_sentence_of_other_words_has_no_support() -> None:
    assert only("Bananas grow quickly.") == Grounded(0, 21, 0.0, (), ())


@pytest.mark.parametrize(
    ("summary", "flagged"),
    [
        ("The gauge has recorded since 1807.", ()),
        ("The gauge has recorded since 1907.", ("1907",)),
        ("There were 1200 readings.", ()),
        ("The gauge was broken by 2 storms.", ()),
        ("The sea rose by 30.50 cm.", ()),
        ("The sea rose by 3.5 cm.", ("3.5",)),
        ("The keeper was Marie Dupont.", ()),
        ("The keeper was Marie Curie.", ("Curie",)),
        ("Dupont's readings are many.", ()),
        ("However the sea rose.", ()),
        ("Jean Dupont kept it.", ("Jean",)),
        ("NASA kept it.", ("NASA",)),
        ("The gauge is in Lisbon, and Lisbon is wet.", ("Lisbon",)),
    ],
)
def test_numbers_and_names_that_the_source_does_not_have_are_flagged(
    summary: str, flagged: tuple[str, ...]
) -> None:
    assert only(summary).unsupported == flagged


def test_every_sentence_of_a_summary_is_grounded_in_order() -> None:
    summary = "Two storms broke the gauge. The sea rose."
    assert [summary[found.start : found.end] for found in Source(SOURCE).ground(summary)] == [
        "Two storms broke the gauge.",
        "The sea rose.",
    ]


def test_an_empty_source_supports_nothing() -> None:
    (found,) = Source("").ground("Something was said.")
    assert (found.score, found.supports) == (0.0, ())
