"""Checkpoints of a few thousand weights, one for each task of HF_TASK that is served with transformers.

The weights are random and wider than models begin with, so that answers differ clearly with what is asked:
what tests show with them is that a request reaches the pipeline whole and its answer comes back whole.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = """
the a tide sea moon wave coast harbour river ebb flow rises falls runs is in on of at and who where when what
north south london paris anna peter slowly twice every day night long short high low water ship 1 2 3 . , ?
""".split()  # noqa: SIM905 a list of words reads better as a text
POSITIONS = 64


def make(task: str, folder: Path) -> Path:
    """Write a checkpoint for the task as the Hub has them; returns the folder."""
    import torch

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = _MAKERS[task](folder).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.normal_(0, 0.3)
    model.save_pretrained(folder)
    return folder


def _words(folder: Path) -> int:
    """A tokenizer of whole words; returns the size of its vocabulary."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Letters too, so that every word can be spelt.
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = list(dict.fromkeys([*special, *WORDS, *letters, *(f"##{letter}" for letter in letters)]))
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    members = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": POSITIONS}
    (folder / "tokenizer_config.json").write_text(json.dumps(members))
    return len(vocabulary)


_WIDTHS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def _bert(name: str, **members: Any) -> Callable[[Path], Any]:
    def make_one(folder: Path) -> Any:
        import transformers

        config = transformers.BertConfig(
            vocab_size=_words(folder), max_position_embeddings=POSITIONS, **_WIDTHS, **members
        )
        return getattr(transformers, name)(config)

    return make_one


def _tapas(folder: Path) -> Any:
    from transformers import TapasConfig, TapasForQuestionAnswering

    size = _words(folder)
    members = {"tokenizer_class": "TapasTokenizer", "model_max_length": POSITIONS}
    (folder / "tokenizer_config.json").write_text(json.dumps(members))
    return TapasForQuestionAnswering(
        TapasConfig(vocab_size=size, max_position_embeddings=POSITIONS, **_WIDTHS)
    )


def _gpt2(folder: Path) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    members = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "model_max_length": POSITIONS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(members))
    config = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=POSITIONS,
        n_embd=16,
        n_layer=2,
        n_head=2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


def _image_processor(folder: Path, name: str, size: Any, **members: Any) -> None:
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": name, "size": size, **members})
    )


_SQUARE = {"height": 32, "width": 32}
_PATCHES = {"image_size": 32, "patch_size": 8, "num_channels": 3, **_WIDTHS}


def _vit(name: str) -> Callable[[Path], Any]:
    def make_one(folder: Path) -> Any:
        import transformers

        _image_processor(folder, "ViTImageProcessor", _SQUARE)
        return getattr(transformers, name)(transformers.ViTConfig(num_labels=3, **_PATCHES))

    return make_one


def _segformer(folder: Path) -> Any:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    _image_processor(folder, "SegformerImageProcessor", _SQUARE)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=3,
    )
    return SegformerForSemanticSegmentation(config)


def _yolos(folder: Path) -> Any:
    from transformers import YolosConfig, YolosForObjectDetection

    _image_processor(folder, "YolosImageProcessor", {"shortest_edge": 32, "longest_edge": 64})
    return YolosForObjectDetection(
        YolosConfig(**{**_PATCHES, "image_size": [32, 32]}, num_detection_tokens=4, num_labels=3)
    )


def _glpn(folder: Path) -> Any:
    from transformers import GLPNConfig, GLPNForDepthEstimation

    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "GLPNImageProcessor", "size_divisor": 32})
    )
    config = GLPNConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=8,
    )
    return GLPNForDepthEstimation(config)


def _clip(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel

    vocabulary = {word: place for place, word in enumerate(["<|end|>", "[UNK]", *dict.fromkeys(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|end|>", special_tokens=[("<|end|>", 0)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    members = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|end|>",
        "eos_token": "<|end|>",
        "model_max_length": 32,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(members))
    _image_processor(folder, "CLIPImageProcessor", {"shortest_edge": 32}, crop_size=_SQUARE)
    text = {
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 32,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    return CLIPModel(
        CLIPConfig(text_config={**_WIDTHS, **text}, vision_config=dict(_PATCHES), projection_dim=8)
    )


SAMPLES_PER_S = 8000
_AUDIO = {
    "conv_dim": [8, 8],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 8],
    "num_feat_extract_layers": 2,
    "feat_extract_norm": "layer",
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    **_WIDTHS,
}


def _extractor(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": SAMPLES_PER_S})
    )


def _speech(folder: Path) -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    _extractor(folder)
    letters = [chr(code) for code in range(ord("A"), ord("Z") + 1)]
    vocabulary = {
        token: place for place, token in enumerate(["<pad>", "<s>", "</s>", "<unk>", "|", *letters])
    }
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "Wav2Vec2CTCTokenizer"}))
    return Wav2Vec2ForCTC(Wav2Vec2Config(vocab_size=len(vocabulary), pad_token_id=0, **_AUDIO))


def _sounds(folder: Path) -> Any:
    from transformers import Wav2Vec2Config, Wav2Vec2ForSequenceClassification

    _extractor(folder)
    return Wav2Vec2ForSequenceClassification(Wav2Vec2Config(num_labels=3, classifier_proj_size=8, **_AUDIO))


def _labels(*names: str) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: place for place, name in enumerate(names)},
    }


_MAKERS: dict[str, Callable[[Path], Any]] = {
    "audio-classification": _sounds,
    "automatic-speech-recognition": _speech,
    "depth-estimation": _glpn,
    "feature-extraction": _bert("BertModel"),
    "fill-mask": _bert("BertForMaskedLM"),
    "image-classification": _vit("ViTForImageClassification"),
    "image-feature-extraction": _vit("ViTModel"),
    "image-segmentation": _segformer,
    "object-detection": _yolos,
    "question-answering": _bert("BertForQuestionAnswering"),
    "table-question-answering": _tapas,
    "text-classification": _bert("BertForSequenceClassification", num_labels=3),
    "text-generation": _gpt2,
    "token-classification": _bert("BertForTokenClassification", **_labels("O", "B-PER", "I-PER", "B-LOC")),
    "zero-shot-classification": _bert(
        "BertForSequenceClassification", **_labels("contradiction", "neutral", "entailment")
    ),
    "zero-shot-image-classification": _clip,
}
