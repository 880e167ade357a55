"""Tokenizers read from checkpoints' files, beside SentencePiece's and transformers' own."""

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.checkpoint_families import MBART_LANGUAGES
from tests.checkpoints import Trained
from tests.corpus import documents

from ebbtide.runtime.checkpoint import Checkpoint
from ebbtide.runtime.conversion.tokenizer import text_tokenizer
from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.tokenizer import TextTokenizer, pieces

PARAGRAPHS = 1_000
ALIKE = 20
"""Paragraphs that may be cut in another way that is exactly as likely: rows of one character, and with
vocabularies this small some words.
"""

AWKWARD = (
    *(
        "  Spaces \t and\nlines  ",
        "ﬁne №5 — ½",
        "naïve façade 日本 日本語",
        "emoji 😀😀 end",
        "½½ x",
        "…",
        "a" * 50,
    ),
    "tab\tand\u00a0no-break space",
)


@pytest.fixture(scope="module")
def paragraphs() -> list[str]:
    found = [
        paragraph
        for document in documents(60)
        for paragraph in re.split(r"\n\s*\n", document)
        if len(paragraph.split()) >= 5
    ]
    assert len(found) >= PARAGRAPHS
    return [*found[:PARAGRAPHS], *AWKWARD]


@pytest.fixture
def tokenizer(trained: Trained, tmp_path: Path) -> Callable[[str], TextTokenizer]:
    """A family's tokenizer, saved and loaded again."""

    def load(family: str) -> TextTokenizer:
        text_tokenizer(Checkpoint(trained(family))).save(tmp_path)
        return TextTokenizer.load(tmp_path)

    return load


def _pieces(folder: Path, name: str) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / name))


def _fairseq(pieces: Any, text: str) -> list[int]:
    return [3 if piece == 0 else piece + 1 for piece in pieces.encode(text)]


# What the families' tokenizers in transformers 4.57 do with SentencePiece's own ids.
EXPECTED: dict[str, tuple[str, Callable[[Any, str], list[int]]]] = {
    "pegasus": ("spiece.model", lambda pieces, text: [*(id_ + 103 for id_ in pieces.encode(text)), 1]),
    "t5": ("spiece.model", lambda pieces, text: [*pieces.encode(text), 1]),
    "mbart": (
        "sentencepiece.bpe.model",
        lambda pieces, text: [*_fairseq(pieces, text), 2, len(pieces) + 1 + MBART_LANGUAGES.index("en_XX")],
    ),
    "mbart50": (
        "sentencepiece.bpe.model",
        lambda pieces, text: [len(pieces) + 1 + MBART_LANGUAGES.index("en_XX"), *_fairseq(pieces, text), 2],
    ),
    "nllb": (
        "sentencepiece.bpe.model",
        # eng_Latn is the 47th of its languages.
        lambda pieces, text: [len(pieces) + 1 + 46, *_fairseq(pieces, text), 2],
    ),
}


@pytest.mark.parametrize("family", EXPECTED)
def test_a_sentencepiece_model_gives_sentencepiece_s_tokens_in_the_family_s_numbering(
    trained: Trained, tokenizer: Callable[[str], TextTokenizer], paragraphs: list[str], family: str
):
    name, expected = EXPECTED[family]
    pieces = _pieces(trained(family), name)

    ids = tokenizer(family).encode(paragraphs)

    assert disagreeing(ids, [expected(pieces, text) for text in paragraphs]) <= ALIKE


def disagreeing(ours: list[list[int]], theirs: list[list[int]]) -> int:
    assert [len(ids) for ids in ours] == [len(ids) for ids in theirs]
    return sum(mine != other for mine, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("family", ["bart", "distilbart", "marian", "m2m100"])
def test_the_tokens_and_texts_are_transformers_own(
    trained: Trained, tokenizer: Callable[[str], TextTokenizer], paragraphs: list[str], family: str
):
    from transformers import AutoTokenizer

    original = AutoTokenizer.from_pretrained(trained(family))
    ours = tokenizer(family)

    ids = ours.encode(paragraphs)

    assert disagreeing(ids, [original(text)["input_ids"] for text in paragraphs]) <= ALIKE
    for each in ids[::10]:
        decoded = original.decode(each, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert ours.decode(each) == decoded


def test_a_source_language_stands_where_the_family_puts_it(tokenizer: Callable[[str], TextTokenizer]):
    nllb = tokenizer("nllb")
    french = nllb.language_id("fra_Latn")

    assert nllb.encode(["A queue."], source_language="fra_Latn")[0][0] == french
    assert nllb.encode(["A queue."])[0][0] == nllb.language_id("eng_Latn")
    assert len(nllb.languages) == 202

    mbart = tokenizer("mbart")
    assert mbart.encode(["A queue."], source_language="ro_RO")[0][-1] == mbart.language_id("ro_RO")


def test_a_language_that_the_model_does_not_have_is_refused_naming_those_it_has(
    tokenizer: Callable[[str], TextTokenizer],
):
    with pytest.raises(BadRequest, match="no language klingon; it has ar_AR, cs_CZ"):
        tokenizer("mbart").encode(["A queue."], source_language="klingon")


def test_a_marian_text_can_name_the_language_it_is_to_become(
    trained: Trained, tokenizer: Callable[[str], TextTokenizer]
):
    vocabulary = json.loads((trained("marian") / "vocab.json").read_text())
    marian = tokenizer("marian")

    named, plain = marian.encode([">>deu<< A queue.", "A queue."])

    assert named == [vocabulary[">>deu<<"], *plain]


@pytest.mark.parametrize("family", ["pegasus", "mbart", "nllb"])
def test_the_beginning_of_a_text_keeps_what_stands_around_it(
    tokenizer: Callable[[str], TextTokenizer], family: str
):
    ours = tokenizer(family)
    whole = ours.encode(["Results are written to object storage."])[0]
    bare = ours.encode([""])[0]

    cut = ours.beginning(whole, 8)

    assert len(cut) == 8
    assert cut[: 8 - 2] == whole[: 8 - 2]
    assert cut[-1] == bare[-1]


@pytest.mark.parametrize("family", ["pegasus", "t5", "nllb", "bart", "marian"])
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_the_opening_of_a_text_has_the_tokens_of_the_whole_and_pieces_have_them_all(
    trained: Trained, paragraphs: list[str], family: str, data: st.DataObject
):
    ours = known_tokenizer(trained(family))
    known = [*paragraphs[:40], *AWKWARD, "日本語" * 700, "\ue000 " * 300]
    if family != "bart":  # to which spaces are text: where a run of them is cut it has more tokens
        known.append(" " * 5_000)
    chosen = data.draw(st.lists(st.sampled_from(known) | st.text(), min_size=1, max_size=12))
    text = data.draw(st.sampled_from([" ", "\n\n", "\t", "\r\n", "  \n"])).join(chosen)
    tokens = data.draw(st.integers(1, 300))

    opening = ours.opening(text, tokens)
    whole, beginning, *parts = bare_ids(ours, [text, opening, *pieces(text, 10 * tokens)])

    assert text.startswith(opening)
    assert beginning[:tokens] == whole[:tokens]
    assert sum(map(len, parts)) == len(whole)


@cache
def known_tokenizer(folder: Path) -> TextTokenizer:
    return text_tokenizer(Checkpoint(folder))


def bare_ids(ours: TextTokenizer, texts: list[str]) -> list[list[int]]:
    """The texts' own, without those around them."""
    bare, *encoded = ours.encode(["", *texts])
    before = sum(one == other for one, other in zip(bare, ours.encode(["x"])[0], strict=False))
    return [ids[before : len(ids) - len(bare) + before] for ids in encoded]


def test_the_opening_of_a_book_is_a_small_part_of_it(trained: Trained, paragraphs: list[str]):
    book = "\n\n".join(paragraphs)
    assert len(known_tokenizer(trained("pegasus")).opening(book, 128)) < len(book) / 20


@pytest.mark.parametrize(
    ("family", "name", "fact"),
    [
        pytest.param("pegasus", "spiece.model", "have no tokenizer", id="none at all"),
        pytest.param("marian", "source.spm", "have no source.spm", id="one of two files"),
        pytest.param("m2m100", "vocab.json", "have no vocab.json", id="the other"),
    ],
)
def test_a_missing_file_is_named(trained: Trained, tmp_path: Path, family: str, name: str, fact: str):
    folder = Path(shutil.copytree(trained(family), tmp_path / "checkpoint"))
    (folder / name).unlink()

    with pytest.raises(LoadFailure, match=fact):
        text_tokenizer(Checkpoint(folder))


@pytest.mark.parametrize("content", [b"", b"{}", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_damaged_tokenizer_is_refused(trained: Trained, tmp_path: Path, content: bytes):
    folder = Path(shutil.copytree(trained("bart"), tmp_path / "checkpoint"))
    (folder / "tokenizer.json").write_bytes(content)

    with pytest.raises(LoadFailure, match="tokenizer"):
        text_tokenizer(Checkpoint(folder))
