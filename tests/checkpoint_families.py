"""The families of `checkpoints`: each one's files as the Hub has them, and its model before training."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.corpus import documents

POSITIONS = 128
"""Tokens that each model reads at the most; T5 and M2M100 have no such bound in their weights."""

PIECES = 320
"""Size of the SentencePiece models."""

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


@dataclass
class Made:
    """What a family's maker has written, and what training it needs.

    `source`, `target`: texts to the token ids that the encoder reads, and that the decoder is to give.
    `generation`: generation_config.json as the family has it on the Hub. `config_members`: what its
    config.json has beside the architecture.
    """

    model: Any
    source: Callable[[str], list[int]]
    target: Callable[[str], list[int]]
    generation: dict[str, Any]
    config_members: dict[str, Any]


def _sentencepiece(path: Path, **options: Any) -> Any:
    """Train a SentencePiece model into the file, and load it."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(text.split())[:4000] for text in documents(40)),
        model_prefix=str(path.with_suffix("")),
        vocab_size=PIECES,
        character_coverage=0.99,
        minloglevel=2,
        **options,
    )
    path.with_suffix(".vocab").unlink()
    path.with_suffix(".model").rename(path)
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def _write(folder: Path, name: str, members: Any) -> None:
    (folder / name).write_text(json.dumps(members, ensure_ascii=False, indent=2))


def _configure_tokenizer(folder: Path, name: str, **members: Any) -> None:
    _write(
        folder, "tokenizer_config.json", {"tokenizer_class": name, "model_max_length": POSITIONS, **members}
    )


def _shape(**members: Any) -> dict[str, Any]:
    """Two layers each way, four heads, 64 wide: for the families that name these as BART does."""
    return {
        "max_position_embeddings": POSITIONS,
        "d_model": 64,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 128,
        "decoder_ffn_dim": 128,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "init_std": 0.05,
        **members,
    }


def _pegasus(folder: Path) -> Made:
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    # As PEGASUS's own was trained; the tokenizer puts its 103 further tokens before the rest.
    pieces = _sentencepiece(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    _configure_tokenizer(folder, "PegasusTokenizer")
    config = PegasusConfig(**_shape(vocab_size=PIECES + 103, scale_embedding=True))

    def ids(text: str) -> list[int]:
        return [piece + 103 for piece in pieces.encode(text)] + [1]

    generation = {
        "bos_token_id": 0,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "forced_eos_token_id": 1,
        "length_penalty": 0.8,
        "max_length": 32,
        "num_beams": 8,
        "pad_token_id": 0,
    }
    return Made(PegasusForConditionalGeneration(config), ids, ids, generation, {})


def _bart(folder: Path, *, whole: bool = True) -> Made:
    """whole: a tokenizer.json; else vocab.json and merges.txt alone, as distilbart has them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import BartConfig, BartForConditionalGeneration

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES + 100,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(40), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    if whole:
        tokenizer.save(str(folder / "tokenizer.json"))
    else:
        tokenizer.model.save(str(folder))
    _configure_tokenizer(folder, "BartTokenizer")
    config = BartConfig(**_shape(vocab_size=tokenizer.get_vocab_size(), scale_embedding=False))

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text).ids)

    generation = {
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "early_stopping": True,
        "eos_token_id": 2,
        "forced_bos_token_id": 0,
        "forced_eos_token_id": 2,
        "max_length": 32,
        "no_repeat_ngram_size": 3,
        "num_beams": 4,
        "pad_token_id": 1,
    }
    return Made(BartForConditionalGeneration(config), ids, ids, generation, {})


def _distilbart(folder: Path) -> Made:
    return _bart(folder, whole=False)


def _mbart(folder: Path) -> Made:
    from transformers import MBartConfig, MBartForConditionalGeneration

    pieces = _sentencepiece(folder / "sentencepiece.bpe.model")
    _configure_tokenizer(folder, "MBartTokenizer")
    # fairseq's <s>, <pad>, </s>, <unk> for SentencePiece's three, then the languages and the mask.
    languages = {code: PIECES + 1 + i for i, code in enumerate(MBART_LANGUAGES)}
    config = MBartConfig(
        **_shape(vocab_size=PIECES + 1 + len(languages) + 1, scale_embedding=True),
        decoder_start_token_id=languages["en_XX"],
    )

    def ids(text: str) -> list[int]:
        return [_fairseq(piece) for piece in pieces.encode(text)] + [2, languages["en_XX"]]

    generation = {
        "bos_token_id": 0,
        "decoder_start_token_id": languages["en_XX"],
        "eos_token_id": 2,
        "forced_eos_token_id": 2,
        "max_length": 32,
        "num_beams": 5,
        "pad_token_id": 1,
    }
    return Made(MBartForConditionalGeneration(config), ids, ids, generation, {})


def _mbart50(folder: Path) -> Made:
    from transformers import MBartConfig, MBartForConditionalGeneration
    from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

    pieces = _sentencepiece(folder / "sentencepiece.bpe.model")
    _configure_tokenizer(folder, "MBart50Tokenizer", src_lang="en_XX")
    languages = {code: PIECES + 1 + i for i, code in enumerate(FAIRSEQ_LANGUAGE_CODES)}
    config = MBartConfig(
        **_shape(vocab_size=PIECES + 1 + len(languages) + 1, scale_embedding=True), decoder_start_token_id=2
    )

    def ids(language: str) -> Callable[[str], list[int]]:
        return lambda text: [languages[language], *map(_fairseq, pieces.encode(text)), 2]

    generation = {
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "early_stopping": True,
        "eos_token_id": 2,
        "forced_eos_token_id": 2,
        "max_length": 32,
        "num_beams": 5,
        "pad_token_id": 1,
    }
    model = MBartForConditionalGeneration(config)
    members = {"tokenizer_class": "MBart50Tokenizer"}
    return Made(model, ids("en_XX"), ids("de_DE"), generation, members)


def _fairseq(piece: int) -> int:
    """A SentencePiece id in fairseq's numbering: <unk> is 3 there, and all after the specials one further."""
    return 3 if piece == 0 else piece + 1


def _t5(folder: Path, *, flan: bool = False) -> Made:
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    pieces = _sentencepiece(folder / "spiece.model", pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    extra = [f"<extra_id_{i}>" for i in range(100)]
    _configure_tokenizer(
        folder, "T5Tokenizer", extra_ids=100, additional_special_tokens=extra, model_max_length=512
    )
    config = T5Config(
        # Wider than the vocabulary, as every published T5.
        vocab_size=PIECES + 100 + 28,
        d_model=64,
        d_kv=24,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        **({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if flan else {}),
    )

    def ids(text: str) -> list[int]:
        return [*pieces.encode(text), 1]

    members: dict[str, Any] = {
        "n_positions": 512,
        "task_specific_params": {
            "summarization": {
                "early_stopping": True,
                "length_penalty": 2.0,
                "max_length": 32,
                "min_length": 5,
                "no_repeat_ngram_size": 3,
                "num_beams": 4,
                "prefix": "summarize: ",
            },
            "translation_en_to_de": {
                "early_stopping": True,
                "max_length": 32,
                "num_beams": 4,
                "prefix": "translate English to German: ",
            },
        },
    }
    generation = {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    model = T5ForConditionalGeneration(config)
    if flan:
        # transformers 5 takes every new T5 for a tied one, and those of the Hub for what they are.
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
        model.config.tie_word_embeddings = False
        members["tie_word_embeddings"] = False
    return Made(model, ids, ids, generation, members)


def _flan_t5(folder: Path) -> Made:
    return _t5(folder, flan=True)


def _marian(folder: Path) -> Made:
    import torch
    from transformers import MarianConfig, MarianMTModel

    source = _sentencepiece(folder / "source.spm")
    # A vocabulary of its own, so that the source's pieces and the target's overlap in part.
    target = _sentencepiece(folder / "target.spm", split_digits=True, max_sentencepiece_length=4)
    both = {model.id_to_piece(i) for model in (source, target) for i in range(3, PIECES)}
    ordered = ["</s>", "<unk>", ">>deu<<", *sorted(both), "<pad>"]
    vocabulary = {piece: i for i, piece in enumerate(ordered)}
    _write(folder, "vocab.json", vocabulary)
    _configure_tokenizer(folder, "MarianTokenizer", source_lang="en", target_lang="de")
    pad = vocabulary["<pad>"]
    config = MarianConfig(
        **_shape(vocab_size=len(vocabulary), scale_embedding=True, activation_function="swish"),
        decoder_start_token_id=pad,
        pad_token_id=pad,
        eos_token_id=0,
        forced_eos_token_id=0,
    )

    def ids(model: Any) -> Callable[[str], list[int]]:
        return lambda text: [vocabulary.get(piece, 1) for piece in model.encode(text, out_type=str)] + [0]

    generation = {
        "bad_words_ids": [[pad]],
        "bos_token_id": 0,
        "decoder_start_token_id": pad,
        "eos_token_id": 0,
        "forced_eos_token_id": 0,
        "max_length": 32,
        "num_beams": 4,
        "pad_token_id": pad,
    }
    model = MarianMTModel(config)
    # Marian starts from nothing, which its checkpoints have as padding of zeros; so it has to stay.
    embeddings = model.get_input_embeddings().weight
    with torch.no_grad():
        embeddings[pad] = 0
    embeddings.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([pad]), 0))
    return Made(model, ids(source), ids(target), generation, {})


def _nllb(folder: Path) -> Made:
    from transformers import M2M100Config, M2M100ForConditionalGeneration
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    pieces = _sentencepiece(folder / "sentencepiece.bpe.model", model_type="bpe")
    _configure_tokenizer(folder, "NllbTokenizer", src_lang="eng_Latn")
    _write(folder, "special_tokens_map.json", {"additional_special_tokens": FAIRSEQ_LANGUAGE_CODES})
    languages = {code: PIECES + 1 + i for i, code in enumerate(FAIRSEQ_LANGUAGE_CODES)}
    # Two more than the tokenizer has, as in the published ones.
    config = M2M100Config(
        **_shape(vocab_size=PIECES + 1 + len(languages) + 1 + 2, scale_embedding=True),
        decoder_start_token_id=2,
    )

    def ids(language: str) -> Callable[[str], list[int]]:
        return lambda text: [languages[language], *map(_fairseq, pieces.encode(text)), 2]

    generation = {
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "eos_token_id": 2,
        "max_length": 32,
        "pad_token_id": 1,
    }
    return Made(
        M2M100ForConditionalGeneration(config),
        ids("eng_Latn"),
        ids("deu_Latn"),
        generation,
        {},
    )


def _m2m100(folder: Path) -> Made:
    from transformers import M2M100Config, M2M100ForConditionalGeneration
    from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

    pieces = _sentencepiece(folder / "sentencepiece.bpe.model", model_type="bpe")
    ordered = ["<s>", "<pad>", "</s>", "<unk>", *(pieces.id_to_piece(i) for i in range(3, PIECES))]
    vocabulary = {piece: i for i, piece in enumerate(ordered)}
    _write(folder, "vocab.json", vocabulary)
    codes = FAIRSEQ_LANGUAGE_CODES["m2m100"]
    tokens = [f"__{code}__" for code in codes]
    _write(folder, "special_tokens_map.json", {"additional_special_tokens": tokens})
    _configure_tokenizer(folder, "M2M100Tokenizer", language_codes="m2m100", num_madeup_words=8)
    languages = {code: len(vocabulary) + i for i, code in enumerate(codes)}
    config = M2M100Config(
        **_shape(vocab_size=len(vocabulary) + len(languages) + 8, scale_embedding=True),
        decoder_start_token_id=2,
    )

    def ids(language: str) -> Callable[[str], list[int]]:
        return lambda text: [
            languages[language],
            *(vocabulary.get(piece, 3) for piece in pieces.encode(text, out_type=str)),
            2,
        ]

    generation = {
        "bos_token_id": 0,
        "decoder_start_token_id": 2,
        "early_stopping": True,
        "eos_token_id": 2,
        "max_length": 32,
        "num_beams": 5,
        "pad_token_id": 1,
    }
    return Made(M2M100ForConditionalGeneration(config), ids("en"), ids("de"), generation, {})


def _led(folder: Path) -> Made:
    from transformers import LEDConfig, LEDForConditionalGeneration

    bart = _bart(folder)
    shape = _shape(vocab_size=bart.model.config.vocab_size)
    del shape["max_position_embeddings"]
    config = LEDConfig(
        **shape,
        max_encoder_position_embeddings=POSITIONS,
        max_decoder_position_embeddings=POSITIONS // 2,
        attention_window=[16, 16],
    )
    generation = {name: value for name, value in bart.generation.items() if not name.startswith("forced_")}
    return Made(LEDForConditionalGeneration(config), bart.source, bart.target, generation, {})


def _longt5(folder: Path) -> Made:
    from transformers import LongT5Config, LongT5ForConditionalGeneration

    t5 = _t5(folder)
    config = LongT5Config(
        vocab_size=t5.model.config.vocab_size,
        d_model=64,
        d_kv=24,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
        encoder_attention_type="transient-global",
        local_radius=7,
        global_block_size=8,
    )
    members = {"n_positions": 512}
    return Made(LongT5ForConditionalGeneration(config), t5.source, t5.target, t5.generation, members)


def _pegasus_x(folder: Path) -> Made:
    from transformers import PegasusXConfig, PegasusXForConditionalGeneration

    pegasus = _pegasus(folder)
    shape = _shape(vocab_size=pegasus.model.config.vocab_size, scale_embedding=True)
    config = PegasusXConfig(**shape, block_size=16, num_global_tokens=8)
    model = PegasusXForConditionalGeneration(config)
    return Made(model, pegasus.source, pegasus.target, pegasus.generation, {})


def _bigbird_pegasus(folder: Path) -> Made:
    from transformers import BigBirdPegasusConfig, BigBirdPegasusForConditionalGeneration

    pegasus = _pegasus(folder)
    shape = _shape(vocab_size=pegasus.model.config.vocab_size, scale_embedding=True)
    config = BigBirdPegasusConfig(**shape, block_size=4, num_random_blocks=1)
    generation = {**pegasus.generation, "bos_token_id": 2, "decoder_start_token_id": 2}
    del generation["forced_eos_token_id"]
    model = BigBirdPegasusForConditionalGeneration(config)
    return Made(model, pegasus.source, pegasus.target, generation, {})


FAMILIES: dict[str, Callable[[Path], Made]] = {
    "pegasus": _pegasus,
    "bart": _bart,
    "distilbart": _distilbart,
    "mbart": _mbart,
    "mbart50": _mbart50,
    "t5": _t5,
    "flan-t5": _flan_t5,
    "marian": _marian,
    "nllb": _nllb,
    "m2m100": _m2m100,
    "led": _led,
    "longt5": _longt5,
    "pegasus_x": _pegasus_x,
    "bigbird_pegasus": _bigbird_pegasus,
}
