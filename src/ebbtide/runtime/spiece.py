"""SentencePiece's model files as `tokenizers.Tokenizer`, in the numbering that a model's checkpoints have.

Read here rather than by transformers, which needs sentencepiece and protobuf in releases that fit each other.
Source of the fields: sentencepiece_model.proto; of PEGASUS's layout: PegasusTokenizer in transformers 4.57.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Model, Unigram

PEGASUS_OFFSET = 103
"""How far PEGASUS moves every piece up, for tokens of its pre-training."""

UNIGRAM = 1
BYTE_PAIRS = 2
"""SentencePiece's model types that are read."""

USER_DEFINED = 4
"""A piece that is found in a text before anything else is."""

UNKNOWN = "<unk>"


@dataclass(frozen=True, slots=True)
class Piece:
    """One of the vocabulary. score: by which pieces are chosen or merged; kind: USER_DEFINED, or another."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """`model_type`: UNIGRAM or BYTE_PAIRS. `charsmap`: its compiled Unicode normalisation; empty for none."""

    pieces: list[Piece]
    model_type: int
    unknown_id: int
    charsmap: bytes

    def tokenizer(self, scores: Mapping[str, float], special: Sequence[str]) -> Tokenizer:
        """A tokenizer that finds the model's pieces.

        scores: every token, in the order of its id, with its score. special: those that are no text and are
        found before the text is normalised; <unk> is always one of them.
        """
        tokenizer = Tokenizer(self._segmentation(scores))
        if self.charsmap:
            tokenizer.normalizer = normalizers.Precompiled(self.charsmap)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.WhitespaceSplit(),
                pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always"),
            ]
        )
        tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
        tokenizer.add_special_tokens(
            [AddedToken(token, normalized=False, special=True) for token in [*special, UNKNOWN]]
        )
        tokenizer.add_tokens(
            [AddedToken(piece.text, normalized=False) for piece in self.pieces if piece.kind == USER_DEFINED]
        )
        return tokenizer

    def _segmentation(self, scores: Mapping[str, float]) -> Model:
        if self.model_type == UNIGRAM:
            return Unigram(list(scores.items()), unk_id=list(scores).index(UNKNOWN), byte_fallback=False)
        ids = {token: id_ for id_, token in enumerate(scores)}
        pairs = [
            (piece.text[:place], piece.text[place:], piece.score)
            for piece in self.pieces
            for place in range(1, len(piece.text))
            if piece.text[:place] in ids and piece.text[place:] in ids
        ]
        # The piece with the highest score is made first; of two ways to it, the one with the longer left.
        pairs.sort(key=lambda pair: (-pair[2], -len(pair[0])))
        return BPE(ids, [(left, right) for left, right, _ in pairs], unk_token=UNKNOWN, fuse_unk=True)


def pegasus_tokenizer(path: Path, *, offset: int = PEGASUS_OFFSET) -> Tokenizer:
    """The tokenizer of a PEGASUS checkpoint from its spiece.model. offset: 0 for BigBird-PEGASUS.

    Raises ValueError for a file that is no SentencePiece model.
    """
    model = parse(path.read_bytes())
    special = ["<pad>", "</s>"]
    if offset:
        special += ["<mask_1>", "<mask_2>", *(f"<unk_{i}>" for i in range(2, offset))]
    # The model's own first two pieces are <pad> and </s>, which stay where they are.
    scores = dict.fromkeys(special, -100.0) | dict.fromkeys(special[:4], 0.0)
    tokenizer = model.tokenizer(scores | {piece.text: piece.score for piece in model.pieces[2:]}, special)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def parse(data: bytes) -> SentencePieceModel:
    """Read a ModelProto. Raises ValueError when it is none, or of another type than the two."""
    pieces: list[Piece] = []
    model_type, unknown_id, charsmap = UNIGRAM, 0, b""
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(_message(value)))
        elif number == 2:
            trainer = dict(_fields(_message(value)))
            model_type = _integer(trainer.get(3, UNIGRAM))
            if model_type not in (UNIGRAM, BYTE_PAIRS):
                raise ValueError("The SentencePiece model is neither of unigrams nor of byte pairs")
            unknown_id = _integer(trainer.get(40, 0))
        elif number == 3:
            charsmap = _message(dict(_fields(_message(value))).get(2, b""))
    if not pieces:
        raise ValueError("The file is not a SentencePiece model: it holds no pieces")
    return SentencePieceModel(pieces, model_type, unknown_id, charsmap)


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
