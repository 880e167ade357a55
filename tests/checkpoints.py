"""Makes small checkpoints in the Hub's own layout, for tests: random weights, a really trained tokenizer.

Random weights give every path of decoding work to do, and no answer is the same by luck.
"""

import json
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

VOCABULARY = 400
POSITIONS = 128
END_BIAS = 4.0


def documents(count: int, *, min_words: int = 60) -> list[str]:
    """Real English texts: the long descriptions of Python packages installed here, in a fixed order."""
    texts = []
    for distribution in sorted(metadata.distributions(), key=lambda found: found.metadata["Name"].lower()):
        description = str(distribution.metadata.get_payload())
        if len(description.split()) >= min_words:
            texts.append(description)
        if len(texts) == count:
            return texts
    raise LookupError(
        f"Only {len(texts)} installed packages describe themselves in {min_words} words or more"
    )


def make_pegasus(
    folder: Path,
    texts: Iterable[str],
    *,
    seed: int = 0,
    safetensors: bool = True,
    generation: dict[str, Any] | None = None,
) -> Path:
    """Write a PEGASUS checkpoint of two layers whose vocabulary is learnt from `texts`; returns the folder.

    generation: members of generation_config.json beside those of google/pegasus-large.
    """
    import torch
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer(folder, texts)
    config = PegasusConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=POSITIONS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        scale_embedding=True,
        # Wider than PEGASUS's own 0.02: at this size the logits would all be alike.
        init_std=0.4,
    )
    torch.manual_seed(seed)
    model = PegasusForConditionalGeneration(config).eval()
    # Random weights hardly ever end an answer; this makes their lengths differ.
    model.final_logits_bias[0, config.eos_token_id] = END_BIAS
    if safetensors:
        model.save_pretrained(folder)
    else:
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    # As on the Hub, where neither transformers' version nor its newer members are in the file.
    config_members = {
        **config.to_diff_dict(),
        "architectures": ["PegasusForConditionalGeneration"],
        "model_type": "pegasus",
    }
    (folder / "config.json").write_text(json.dumps(config_members))
    generation_members = {
        "bos_token_id": 0,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "forced_eos_token_id": 1,
        "length_penalty": 0.8,
        "max_length": 32,
        "num_beams": 8,
        "pad_token_id": 0,
        **(generation or {}),
    }
    (folder / "generation_config.json").write_text(json.dumps(generation_members))
    return folder


def train_tokenizer(folder: Path, texts: Iterable[str]) -> None:
    """Write spiece.model and the configuration that PEGASUS checkpoints have beside it on the Hub."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(text.split())[:4000] for text in texts),
        model_prefix=str(folder / "spiece"),
        vocab_size=VOCABULARY - 103,
        # As PEGASUS's own model was trained: the tokenizer puts its 103 further tokens before the rest.
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        character_coverage=0.99,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    members = {"tokenizer_class": "PegasusTokenizer", "model_max_length": POSITIONS}
    (folder / "tokenizer_config.json").write_text(json.dumps(members))


def make_bart(folder: Path, texts: Iterable[str], *, seed: int = 0) -> Path:
    """Write a BART checkpoint of two layers with a byte-level tokenizer.json; returns the folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import BartConfig, BartForConditionalGeneration

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    config = BartConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=POSITIONS,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        init_std=0.4,
    )
    model = BartForConditionalGeneration(config).eval()
    model.final_logits_bias[0, config.eos_token_id] = END_BIAS
    model.save_pretrained(folder)
    generation_members = {
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
    (folder / "generation_config.json").write_text(json.dumps(generation_members))
    return folder
