"""Long texts are cut at their own borders; nothing is lost and no part is over the window."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.runtime.splitting import COUNTED_AT_ONCE, Border, Part, split, stretches


def words(texts: Sequence[str]) -> list[int]:
    """A tokenizer that any reader can follow: a token a word."""
    return [len(text.split()) for text in texts]


def characters(texts: Sequence[str]) -> list[int]:
    return [len(text) for text in texts]


def sentence(of_words: int, name: str = "word") -> str:
    return " ".join([name.capitalize(), *[name] * (of_words - 1)]) + "."


PROSE = st.text(alphabet=st.sampled_from("ab AB.!?\n\n #1-=é。"), max_size=400)


@given(PROSE, st.integers(1, 40))
def test_every_sign_lies_in_exactly_one_part_in_order_and_every_part_fits(text: str, window: int) -> None:
    parts = split(text, window, characters)
    position = 0
    for part in parts:
        assert text[position : part.start].strip() == ""
        assert 0 < part.tokens <= window
        assert part.start < part.end
        position = part.end
    assert text[position:].strip() == ""


@given(PROSE, st.integers(1, 12))
def test_a_window_in_words_is_filled_and_never_exceeded(text: str, window: int) -> None:
    for part in split(text, window, words):
        assert part.tokens <= window


def test_a_text_that_fits_is_one_part() -> None:
    text = f"{sentence(5)} {sentence(5)}"
    assert split(text, 10, words) == [Part(0, len(text), 10, None)]


def test_a_text_of_white_space_has_no_parts() -> None:
    assert split(" \n\n ", 10, words) == []


def test_a_part_ends_at_a_section_if_that_fills_half_the_window() -> None:
    text = "\n\n".join([f"1 Introduction\n\n{sentence(8)}\n\n{sentence(5)}", f"2 Methods\n\n{sentence(17)}"])
    parts = split(text, 20, words)
    assert [text[part.start : part.end].split("\n")[0] for part in parts] == ["1 Introduction", "2 Methods"]
    assert [part.heading for part in parts] == ["1 Introduction", "2 Methods"]


def test_without_a_section_a_part_ends_at_a_paragraph_and_else_at_a_sentence() -> None:
    paragraphs = f"{sentence(8)} {sentence(8)}\n\n{sentence(3)} {sentence(8)} {sentence(20)}"
    assert [part.tokens for part in split(paragraphs, 20, words)] == [16, 11, 20]
    sentences = " ".join(sentence(8) for _ in range(4))
    assert [part.tokens for part in split(sentences, 20, words)] == [16, 16]


def test_what_is_left_is_shared_by_the_last_two_parts() -> None:
    text = " ".join(sentence(2) for _ in range(11))
    assert [part.tokens for part in split(text, 20, words)] == [12, 10]


def test_a_heading_goes_with_the_sentence_that_follows_it() -> None:
    text = f"{sentence(9)}\n\n# Results\n{sentence(6)}"
    assert [text[part.start : part.end] for part in split(text, 10, words)] == [
        sentence(9),
        f"# Results\n{sentence(6)}",
    ]


@pytest.mark.parametrize(
    ("line", "is_heading"),
    [
        ("Abstract", True),
        ("Materials and Methods", True),
        ("3.2 Data collection", True),
        ("IV. Discussion", True),
        ("THE RESULTS", True),
        ("## Anything at all, even a long one with very many words in it that goes on and on", True),
        ("The results were good.", False),
        ("3 patients died.", False),
        ("we show that", False),
    ],
)
def test_headings_are_known_by_their_form(line: str, is_heading: bool) -> None:
    borders = [found.border for found in stretches(f"One sentence.\n\n{line}\n\nAnother sentence.")]
    assert (Border.SECTION in borders) is is_heading


def test_an_underlined_line_is_a_heading() -> None:
    (only,) = stretches("Usage\n=====\nCall it.")
    assert (only.border, only.heading) == (Border.SECTION, "Usage")


def test_an_abbreviation_ends_no_sentence_and_a_list_item_does() -> None:
    text = "As Smith et al. Found, cf. Fig. 2. Then:\n- one\n- two"
    assert [text[found.start : found.end] for found in stretches(text)] == [
        "As Smith et al. Found, cf. Fig. 2.",
        "Then:",
        "- one",
        "- two",
    ]


def test_a_sentence_over_the_window_is_cut_between_words() -> None:
    text = sentence(50)
    parts = split(text, 20, words)
    assert all(part.tokens <= 20 for part in parts)
    assert " ".join(text[part.start : part.end].strip() for part in parts) == text


def test_a_word_over_the_window_is_cut_within() -> None:
    text = "a" * 100
    assert "".join(text[part.start : part.end] for part in split(text, 30, characters)) == text


def test_a_million_words_are_counted_once_and_some_at_a_time() -> None:
    counted: list[int] = []

    def count(texts: Sequence[str]) -> list[int]:
        counted.append(sum(map(len, texts)))
        return words(texts)

    text = "\n\n".join(" ".join(sentence(20) for _ in range(50)) for _ in range(1000))
    parts = split(text, 1000, count)
    assert len(parts) == 1000
    assert sum(counted) <= len(text)
    assert max(counted) <= 1.1 * COUNTED_AT_ONCE
