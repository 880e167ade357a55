"""The tokenizer read from spiece.model, beside SentencePiece's own."""

from pathlib import Path

import pytest
import sentencepiece

from ebbtide.runtime.spiece import PEGASUS_OFFSET, parse, pegasus_tokenizer

END = 1


@pytest.fixture(scope="module")
def original(pegasus: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(pegasus / "spiece.model"))


def test_texts_become_the_tokens_that_sentencepiece_gives_moved_by_103(
    pegasus: Path, original: sentencepiece.SentencePieceProcessor, texts: list[str]
):
    tokenizer = pegasus_tokenizer(pegasus / "spiece.model")

    for text in [*texts, "  Spaces \t and\nlines  ", "ﬁne №5 — ½", "naïve façade 日本"]:
        expected = [token + PEGASUS_OFFSET for token in original.encode(text)] + [END]
        assert tokenizer.encode(text).ids == expected


def test_tokens_become_the_text_again(
    pegasus: Path, original: sentencepiece.SentencePieceProcessor, texts: list[str]
):
    tokenizer = pegasus_tokenizer(pegasus / "spiece.model")
    known = [text for text in texts if original.unk_id() not in original.encode(text)]
    assert known

    for text in known:
        assert tokenizer.decode(tokenizer.encode(text).ids) == original.decode(original.encode(text))


def test_the_tokens_of_pre_training_have_their_places(pegasus: Path):
    tokenizer = pegasus_tokenizer(pegasus / "spiece.model")

    assert [tokenizer.id_to_token(i) for i in (0, 1, 2, 3, 4, 104, 105)] == [
        *("<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>", "<unk_102>", "<unk>")
    ]


def test_bigbird_numbers_tokens_as_sentencepiece_does(
    pegasus: Path, original: sentencepiece.SentencePieceProcessor, texts: list[str]
):
    tokenizer = pegasus_tokenizer(pegasus / "spiece.model", offset=0)

    for text in texts:
        assert tokenizer.encode(text).ids == [*original.encode(text), END]


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: data[:-3], lambda data: b"version https://x"]
)
def test_a_damaged_file_is_refused(pegasus: Path, damage):
    with pytest.raises(ValueError, match="SentencePiece model"):
        parse(damage((pegasus / "spiece.model").read_bytes()))
