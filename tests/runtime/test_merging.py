"""A text beyond the window is summarised whole: in parts, whose summaries are merged."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.runtime.errors import BadRequest
from ebbtide.runtime.merging import PARTS_AT_ONCE, FinishedParts, Merged, Written, merge


class LeadWords:
    """A model that anyone can follow: the first words are the summary, and a word is a token."""

    def __init__(self, window: int, longest: int, *, sequences: int = 1) -> None:
        self.window, self.longest, self.one_answer = window, longest, sequences == 1
        self._sequences = sequences
        self.read: list[str] = []

    def count(self, texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    def summarise_parts(self, texts: Sequence[str], *, longest: int) -> list[Written]:
        self.read += texts
        return [self._lead(text, longest) for text in texts]

    def summarise(self, text: str) -> list[Written]:
        assert len(text.split()) <= self.window
        return [self._lead(text, self.longest)] * self._sequences

    def _lead(self, text: str, words: int) -> Written:
        lead = text.split()[:words]
        return Written(" ".join(lead), len(lead))


def numbered(sentences: int, words: int = 10) -> str:
    return " ".join(f"N{n} {'word ' * (words - 2)}end." for n in range(sentences))


def merged(text: str, model: LeadWords, finished: FinishedParts | None = None) -> Merged:
    return merge(text, model, finished, lambda level, done, parts: None)


def test_a_text_that_fits_is_summarised_once() -> None:
    model = LeadWords(100, 5)
    result = merged(numbered(10), model)
    assert ([answer.text for answer in result.answers], result.passes, model.read) == (
        ["N0 word word word word"],
        [],
        [],
    )


@given(st.integers(1, 400), st.integers(12, 80), st.integers(1, 60))
def test_every_sentence_is_read_and_the_answer_is_as_long_as_asked(
    sentences: int, window: int, longest: int
) -> None:
    model = LeadWords(window, longest)
    text = numbered(sentences)
    result = merged(text, model)
    assert 0 < result.answers[0].tokens <= longest
    if result.passes:
        read = [text[one.part.start : one.part.end] for one in result.passes[0]]
        assert " ".join(" ".join(read).split()) == " ".join(text.split())
        assert all(one.summary.tokens <= window // 4 for parts in result.passes for one in parts)


def test_summaries_that_fit_the_answer_together_are_the_answer_as_they_stand() -> None:
    result = merged(numbered(10), LeadWords(50, 40))
    assert result.answers[0].text == " ".join(one.summary.text for one in result.passes[0])


def test_several_sequences_are_all_of_the_last_pass() -> None:
    assert len(merged(numbered(10), LeadWords(50, 40, sequences=3)).answers) == 3


def test_a_very_long_text_takes_several_passes() -> None:
    assert len(merged(numbered(4_000), LeadWords(100, 10)).passes) >= 3


def test_a_model_that_only_repeats_is_refused_and_not_run_for_ever() -> None:
    class Repeating(LeadWords):
        def summarise_parts(self, texts: Sequence[str], *, longest: int) -> list[Written]:
            return [Written(text, len(text.split())) for text in texts]

    with pytest.raises(BadRequest, match="no shorter"):
        merged(numbered(100), Repeating(50, 5))


def test_progress_is_told_as_parts_are_finished() -> None:
    told: list[tuple[int, int, int]] = []
    model = LeadWords(100, 10)
    passes = merge(numbered(1_000), model, None, lambda *reached: told.append(reached)).passes
    first = [done for level, done, _ in told if level == 1]
    assert first[:3] == [0, PARTS_AT_ONCE, 2 * PARTS_AT_ONCE]
    last = {level: (done, parts) for level, done, parts in told}
    assert last == {level: (len(each), len(each)) for level, each in enumerate(passes, start=1)}


def test_work_done_again_resumes_from_the_parts_that_were_finished(tmp_path: Path) -> None:
    class Dying(LeadWords):
        def summarise_parts(self, texts: Sequence[str], *, longest: int) -> list[Written]:
            if self.read:
                raise RuntimeError("killed")
            return super().summarise_parts(texts, longest=longest)

    text = numbered(1_000)
    first = Dying(100, 10)
    with pytest.raises(RuntimeError):
        merged(text, first, FinishedParts(tmp_path, "invocation", "model"))
    again, anew = LeadWords(100, 10), LeadWords(100, 10)
    result = merged(text, again, FinishedParts(tmp_path, "invocation", "model"))
    assert result.answers == merged(text, anew).answers
    assert len(again.read) == len(anew.read) - PARTS_AT_ONCE


def test_finished_parts_are_of_one_article_and_those_not_kept_are_made_again(tmp_path: Path) -> None:
    kept = FinishedParts(tmp_path / "i", "one")
    kept.put("key", Written("text", 1))
    assert FinishedParts(tmp_path / "i", "one").get("key") == Written("text", 1)
    assert FinishedParts(tmp_path / "i", "another").get("key") is None

    shutil.rmtree(tmp_path / "i")
    assert kept.get("key") is None
    (tmp_path / "i").write_text("in the way")
    kept.put("key", Written("text", 1))
    assert kept.get("key") is None
