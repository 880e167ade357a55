"""A SentencePiece model file as a `tokenizers.Tokenizer`, laid out as PEGASUS numbers its tokens.

Read here rather than by transformers, which needs sentencepiece and protobuf in releases that fit each other.
Source of the fields: sentencepiece_model.proto; of the layout: PegasusTokenizer in transformers 4.57.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

PEGASUS_OFFSET = 103
"""How far PEGASUS moves every piece up, for tokens of its pre-training."""

UNIGRAM = 1
USER_DEFINED = 4


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """`charsmap`: SentencePiece's compiled Unicode normalisation; empty for the identity."""

    pieces: list[Piece]
    unknown_id: int
    charsmap: bytes


def pegasus_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a PEGASUS checkpoint from its spiece.model.

    Raises ValueError for a file that is no SentencePiece Unigram model.
    """
    model = parse(path.read_bytes())
    special = ["<pad>", "</s>", "<mask_1>", "<mask_2>", *(f"<unk_{i}>" for i in range(2, PEGASUS_OFFSET))]
    # The model's own first two pieces are <pad> and </s>, which stay where they are.
    vocabulary = [(token, 0.0) for token in special[:4]] + [(token, -100.0) for token in special[4:]]
    vocabulary += [(piece.text, piece.score) for piece in model.pieces[2:]]
    tokenizer = Tokenizer(Unigram(vocabulary, unk_id=model.unknown_id + PEGASUS_OFFSET, byte_fallback=False))
    if model.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(model.charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in [*special, "<unk>"]]
    )
    # <n>, PEGASUS's sign for a new line, is one of these: it is text, and found before words are.
    tokenizer.add_tokens(
        [AddedToken(piece.text, normalized=False) for piece in model.pieces[2:] if piece.kind == USER_DEFINED]
    )
    return tokenizer


def parse(data: bytes) -> SentencePieceModel:
    """Read a ModelProto. Raises ValueError when it is none, or not of the Unigram kind."""
    pieces: list[Piece] = []
    unknown_id, charsmap = 0, b""
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(_message(value)))
        elif number == 2:
            trainer = dict(_fields(_message(value)))
            if trainer.get(3, UNIGRAM) != UNIGRAM:
                raise ValueError("The SentencePiece model is not of the Unigram kind")
            unknown_id = _integer(trainer.get(40, 0))
        elif number == 3:
            charsmap = _message(dict(_fields(_message(value))).get(2, b""))
    if not pieces:
        raise ValueError("The file is not a SentencePiece model: it holds no pieces")
    return SentencePieceModel(pieces, unknown_id, charsmap)


def _piece(data: bytes) -> Piece:
    members = dict(_fields(data))
    (score,) = struct.unpack("<f", _message(members.get(2, bytes(4))))
    return Piece(_message(members.get(1, b"")).decode(), score, _integer(members.get(3, 1)))


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in protobuf's encoding: numbers as integers, all else as bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        kind = key & 7
        if kind == 0:
            number, position = _varint(data, position)
            yield key >> 3, number
            continue
        if kind == 2:
            length, position = _varint(data, position)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError(f"The file is not a SentencePiece model: wire type {kind}")
        if position + length > len(data):
            raise ValueError("The SentencePiece model ends in the middle of a field")
        yield key >> 3, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(data):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise ValueError("The SentencePiece model ends in the middle of a number")


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("The file is not a SentencePiece model: a number stands where bytes should")
    return value


def _integer(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise ValueError("The file is not a SentencePiece model: bytes stand where a number should")
    return value
