"""A checkpoint's tokenizer, from whichever of the Hub's files it has; the ids are transformers' own."""

import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from ebbtide.runtime import spiece
from ebbtide.runtime.checkpoint import Checkpoint, refuse_pointer
from ebbtide.runtime.errors import LoadFailure, one_line
from ebbtide.runtime.tokenizer import Layout, TextTokenizer

FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")
"""fairseq's first tokens, in place of SentencePiece's three."""

MBART_LANGUAGES = (
    *(
        "ar_AR",
        "cs_CZ",
        "de_DE",
        "en_XX",
        "es_XX",
        "et_EE",
        "fi_FI",
        "fr_XX",
        "gu_IN",
        "hi_IN",
        "it_IT",
        "ja_XX",
    ),
    *(
        "kk_KZ",
        "ko_KR",
        "lt_LT",
        "lv_LV",
        "my_MM",
        "ne_NP",
        "nl_XX",
        "ro_RO",
        "ru_RU",
        "si_LK",
        "tr_TR",
        "vi_VN",
    ),
    "zh_CN",
)
MBART50_LANGUAGES = (
    *MBART_LANGUAGES,
    *(
        "af_ZA",
        "az_AZ",
        "bn_IN",
        "fa_IR",
        "he_IL",
        "hr_HR",
        "id_ID",
        "ka_GE",
        "km_KH",
        "mk_MK",
        "ml_IN",
        "mn_MN",
    ),
    *(
        "mr_IN",
        "pl_PL",
        "ps_AF",
        "pt_XX",
        "sv_SE",
        "sw_KE",
        "ta_IN",
        "te_IN",
        "th_TH",
        "tl_XX",
        "uk_UA",
        "ur_PK",
    ),
    *("xh_ZA", "gl_ES", "sl_SI"),
)

# The classes of transformers whose texts begin or end with a language, and how its token is written.
_LANGUAGE_TOKENS = {
    "MBartTokenizer": re.compile(r"[a-z]{2}_[A-Z]{2}"),
    "MBart50Tokenizer": re.compile(r"[a-z]{2}_[A-Z]{2}"),
    "NllbTokenizer": re.compile(r"[a-z]{3}_[A-Z][a-z]{3}"),
    "M2M100Tokenizer": re.compile(r"__([a-z]+)__"),
}
_SOURCE_LANGUAGES = {"MBartTokenizer": "en_XX", "MBart50Tokenizer": "en_XX", "NllbTokenizer": "eng_Latn"}

_CLASSES = {
    "mbart": "MBartTokenizer",
    "m2m_100": "M2M100Tokenizer",
    "pegasus": "PegasusTokenizer",
    "pegasus_x": "PegasusTokenizer",
    "bigbird_pegasus": "PegasusTokenizer",
}
"""What a model type means where no file names a tokenizer."""


def text_tokenizer(checkpoint: Checkpoint) -> TextTokenizer:
    """Raises LoadFailure when the checkpoint has no tokenizer that is read here, or a damaged one."""
    try:
        return _text_tokenizer(checkpoint)
    except LoadFailure:
        raise
    except Exception as error:  # tokenizers raises no narrower ones for what it cannot read
        raise LoadFailure(f"The model's tokenizer cannot be read: {one_line(error)}") from error


def _text_tokenizer(checkpoint: Checkpoint) -> TextTokenizer:
    files = _Files(checkpoint.folder)
    named = checkpoint.tokenizer_class or _CLASSES.get(checkpoint.model_type)
    if checkpoint.model_type == "marian":
        return _marian(checkpoint, files)
    if named == "M2M100Tokenizer":
        return _m2m100(checkpoint, files)
    if tokenizer_file := files.find("tokenizer.json"):
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    elif (pieces_file := files.find("spiece.model")) and named == "PegasusTokenizer":
        offset = checkpoint.tokenizer_config.get("offset", spiece.PEGASUS_OFFSET)
        tokenizer = spiece.pegasus_tokenizer(pieces_file, offset=offset)
    elif pieces_file:
        tokenizer = _t5(checkpoint, pieces_file)
    elif pieces_file := files.find("sentencepiece.bpe.model"):
        tokenizer = _fairseq(checkpoint, pieces_file, named)
    elif (words := files.find("vocab.json")) and (merges := files.find("merges.txt")):
        tokenizer = _byte_pairs(words, merges)
    else:
        raise LoadFailure(
            "The model's files have no tokenizer: neither tokenizer.json nor spiece.model, "
            "sentencepiece.bpe.model or vocab.json with merges.txt"
        )
    if named in _LANGUAGE_TOKENS:
        return TextTokenizer(tokenizer, _with_languages(checkpoint, named, tokenizer.get_vocab()))
    return TextTokenizer(tokenizer, Layout(*_around(tokenizer)))


class _Files:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, name: str) -> Path | None:
        path = self._folder / name
        if not path.is_file():
            return None
        refuse_pointer(path)
        return path

    def need(self, name: str) -> Path:
        if found := self.find(name):
            return found
        raise LoadFailure(f"The model's files have no {name}, which its tokenizer needs")


def _around(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the tokenizer puts before and after a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a").ids
    before = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return tuple(whole[:before]), tuple(whole[before + len(bare) :])


def _with_languages(checkpoint: Checkpoint, named: str, ids: Mapping[str, int], **members: Any) -> Layout:
    """Texts begin with their language; MBart's, and those of NLLB's first release, end with it."""
    pattern = _LANGUAGE_TOKENS[named]
    matches = ((pattern.fullmatch(token), id_) for token, id_ in ids.items())
    # M2M100's tokens stand in underlines; a language's code is what is between.
    languages = {found.group(found.lastindex or 0): id_ for found, id_ in matches if found}
    end = ids["</s>"]
    last = named == "MBartTokenizer" or checkpoint.tokenizer_config.get("legacy_behaviour") is True
    return Layout(
        prefix=() if last else (None,),
        suffix=(end, None) if last else (end,),
        languages=languages,
        source_language=checkpoint.tokenizer_config.get("src_lang") or _SOURCE_LANGUAGES.get(named, "en"),
        **members,
    )


def _t5(checkpoint: Checkpoint, path: Path) -> Tokenizer:
    model = spiece.parse(path.read_bytes())
    extra = [f"<extra_id_{i}>" for i in range(checkpoint.tokenizer_config.get("extra_ids", 100))]
    scores = {piece.text: piece.score for piece in model.pieces} | dict.fromkeys(reversed(extra), 0.0)
    tokenizer = model.tokenizer(scores, ["<pad>", "</s>", *extra])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", list(scores).index("</s>"))]
    )
    return tokenizer


def _fairseq(checkpoint: Checkpoint, path: Path, named: str | None) -> Tokenizer:
    if named == "NllbTokenizer":
        listed = (checkpoint.json("special_tokens_map.json") or {}).get("additional_special_tokens")
        codes = [
            str(token) for token in listed or checkpoint.tokenizer_config.get("additional_special_tokens", ())
        ]
    else:
        codes = list(MBART50_LANGUAGES if named == "MBart50Tokenizer" else MBART_LANGUAGES)
    if not codes:
        raise LoadFailure("The model's languages stand in none of tokenizer.json and special_tokens_map.json")
    model = spiece.parse(path.read_bytes())
    special = [*FAIRSEQ, *codes, "<mask>"]
    scores = dict.fromkeys(FAIRSEQ, 0.0) | {piece.text: piece.score for piece in model.pieces[3:]}
    return model.tokenizer(scores | dict.fromkeys(special[len(FAIRSEQ) :], 0.0), special)


def _byte_pairs(words: Path, merges: Path) -> Tokenizer:
    """RoBERTa's layout, which is BART's."""
    tokenizer = Tokenizer(BPE.from_file(str(words), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ids = tokenizer.get_vocab()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in FAIRSEQ])
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", ids["<s>"]), ("</s>", ids["</s>"])]
    )
    return tokenizer


def _marian(checkpoint: Checkpoint, files: _Files) -> TextTokenizer:
    pieces = _vocabulary(checkpoint, files)
    special = ("</s>", "<unk>", "<pad>")
    return TextTokenizer(
        _segmenter(files.need("source.spm"), ["</s>", "<pad>"]),
        Layout(
            prefix=(),
            suffix=(pieces["</s>"],),
            pieces=pieces,
            unknown_id=pieces["<unk>"],
            target_codes=True,
            special_ids=tuple(pieces[token] for token in special if token in pieces),
        ),
    )


def _m2m100(checkpoint: Checkpoint, files: _Files) -> TextTokenizer:
    pieces = _vocabulary(checkpoint, files)
    listed = (checkpoint.json("special_tokens_map.json") or {}).get("additional_special_tokens") or ()
    # The languages come after the vocabulary, in the order in which they are listed.
    free = count(len(pieces))
    pieces |= {str(token): next(free) for token in listed if token not in pieces}
    special = [*FAIRSEQ, *map(str, listed)]
    return TextTokenizer(
        _segmenter(files.need("sentencepiece.bpe.model"), special),
        _with_languages(
            checkpoint,
            "M2M100Tokenizer",
            pieces,
            pieces=pieces,
            unknown_id=pieces["<unk>"],
            special_ids=tuple(pieces[token] for token in special),
        ),
    )


def _vocabulary(checkpoint: Checkpoint, files: _Files) -> dict[str, int]:
    files.need("vocab.json")
    return {str(piece): int(id_) for piece, id_ in (checkpoint.json("vocab.json") or {}).items()}


def _segmenter(path: Path, special: Sequence[str]) -> Tokenizer:
    """Finds pieces, numbered as in their own file; the model's ids for them are in its vocabulary."""
    model = spiece.parse(path.read_bytes())
    scores = {piece.text: piece.score for piece in model.pieces}
    return model.tokenizer(scores | {token: 0.0 for token in special if token not in scores}, special)
