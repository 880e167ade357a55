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


REPORT = (
    "The World Health Organization said on 5 March 2021 that 1,200 people in Paris were ill. Twenty-five "
    "percent of them recovered. The U.S. spent $3.5 billion. Maria Dupont's team at General Electric asked "
    "forty patients. It rose by one thousand metres. About 3 million children went to school in the 21st "
    "century. Germans paid €1.200 and 1\u202f500 more."
)


@pytest.mark.parametrize(
    ("summary", "flagged"),
    [
        pytest.param("Of 1200 people 25% recovered.", (), id="separators, and words in digits"),
        pytest.param("The team asked 40 patients.", (), id="tens in words"),
        pytest.param("The team asked fifty patients.", ("fifty",), id="a number in words that is not there"),
        pytest.param("It rose by 1,000 metres.", (), id="one thousand"),
        pytest.param("The 3,000,000 children went.", (), id="a million written out"),
        pytest.param("The 3 billion children went.", ("3 billion",), id="another magnitude"),
        pytest.param("The US spent $3.5bn.", (), id="magnitude abbreviated, dots in an acronym"),
        pytest.param("On 2021-03-05 it spoke.", (), id="a date in digits"),
        pytest.param("On March 6, 2021 it spoke.", ("6",), id="another day"),
        pytest.param("In the 20th century it spoke.", ("20th",), id="another ordinal"),
        pytest.param("They paid 1200 and 1,500.", (), id="points and thin spaces between thousands"),
        pytest.param("The WHO and GE spoke.", (), id="initials of names in the source"),
        pytest.param("The W.H.O. spoke.", (), id="with dots"),
        pytest.param("The BBC spoke.", ("BBC",), id="other initials"),
        pytest.param("A German paid for the Duponts.", (), id="singular and plural"),
        pytest.param("GE's teams asked.", (), id="a possessive"),
        pytest.param("One of them asked someone.", (), id="one, a pronoun"),
    ],
)
def test_numbers_and_names_are_the_same_however_they_are_written(
    summary: str, flagged: tuple[str, ...]
) -> None:
    (grounded,) = Source(REPORT).ground(summary)
    assert grounded.unsupported == flagged


def test_every_sentence_of_a_summary_is_grounded_in_order() -> None:
    summary = "Two storms broke the gauge. The sea rose."
    assert [summary[found.start : found.end] for found in Source(SOURCE).ground(summary)] == [
        "Two storms broke the gauge.",
        "The sea rose.",
    ]


def test_an_empty_source_supports_nothing() -> None:
    (found,) = Source("").ground("Something was said.")
    assert (found.score, found.supports) == (0.0, ())
