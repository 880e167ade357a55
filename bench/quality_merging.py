"""ROUGE of `long_document=merge` beside `truncate`, of one model, on articles many times its window.

No checkpoint can be fetched here, so the bench trains one of PEGASUS's form, from random weights, by
`ebbtide finetune`'s own training: on stretches that fill the window, from anywhere in the articles of the
development part and in the RFCs, to say the author's abstract. So small a model of so little text copies
nothing: it has learnt how abstracts are worded and, from the stretch, what words to choose. What can be read
off is whether it chooses better with the whole article read than with its beginning. Both ways write as much.
The held-out part is only scored, through what `ebbtide evaluate` runs. All is seeded; the checkpoint stays
under build/, and a training that was stopped goes on.
"""

import hashlib
import json
import os
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.quality_data import FOLDER, Article, articles
from bench.quality_rfcs import rfcs
from ebbtide import finetuning
from ebbtide.evaluation import summarisers, table
from ebbtide.evaluation.pairs import Pair
from ebbtide.finetuning import Settings
from ebbtide.runtime.extractive import prose

WINDOW = 512
"""Tokens, as of google/pegasus-xsum."""

PIECES = 2_000
"""A small vocabulary has each of its tokens often enough to be learnt."""

SHAPE = {
    "max_position_embeddings": WINDOW,
    "d_model": 128,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 512,
    "decoder_ffn_dim": 512,
    "init_std": 0.05,
    "scale_embedding": True,
}

STRETCHES, STRETCH_CHARACTERS = 8_000, 4 * WINDOW

TRAINING = Settings(
    epochs=1,
    batch_size=8,
    learning_rate=1e-3,
    warmup_steps=100,
    optimizer="adamw_torch",
    max_output_tokens=160,
    save_steps=100,
)

GENERATION = {"num_beams": 2, "min_length": 100, "max_new_tokens": 160, "no_repeat_ngram_size": 3}


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs, of the held-out part."""
    found = articles()
    threads = len(os.sched_getaffinity(0))
    model = _trained([one for one in found if not one.held_out] + rfcs(), threads)
    pairs = [Pair(one.text, one.abstract) for one in found if one.held_out]
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as scratch:
        compared = {
            way: summarisers.model(
                str(model),
                task="summarization",
                parameters={**GENERATION, "long_document": way},
                environment={},
                cache=Path(scratch),
                unpacked=Path(scratch) / way,
                threads=threads,
            )
            for way in ("truncate", "merge")
        }
        for row in table.evaluate(pairs, compared, lambda _: None):
            scores = " / ".join(
                f"{one.mean:.1f} ({one.low:.1f} to {one.high:.1f})" for one in row.scores.values()
            )
            yield (
                f"small model, {row.summariser}: ROUGE-1 / 2 / L, {len(pairs)} articles held out",
                f"{scores}; {row.words:.0f} words",
            )


def _trained(development: Sequence[Article], threads: int) -> Path:
    """The checkpoint's folder."""
    import torch

    made_of = hashlib.sha256(Path(__file__).read_bytes())
    for one in development:
        made_of.update(one.text.encode())
    folder = FOLDER / f"checkpoint-{made_of.hexdigest()[:16]}"
    model = folder / "trained" / "model"
    if not model.exists():
        torch.set_num_threads(threads)
        print(f"training a small model into {folder}, once", file=sys.stderr)
        if not (folder / "start" / "tokenizer_config.json").exists():
            _begin(folder / "start", development)
        finetuning.train(
            folder / "start", list(_stretches(development)), TRAINING, folder / "trained", progress=_tell
        )
    return model


def _tell(step: int, steps: int, loss: float | None) -> None:
    if loss is not None and step % 50 == 0:
        print(f"step {step} of {steps}, loss {loss:.2f}", file=sys.stderr)


def _begin(folder: Path, development: Sequence[Article]) -> None:
    """Random weights in PEGASUS's form, with a SentencePiece model of these texts, in the Hub's layout."""
    import sentencepiece
    import torch
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(sentence for one in development for sentence in prose(one.text)),
        model_prefix=str(folder / "spiece"),
        vocab_size=PIECES,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    torch.manual_seed(0)
    # PEGASUS's tokenizer puts 103 tokens of its own before the others.
    network = PegasusForConditionalGeneration(PegasusConfig(vocab_size=PIECES + 103, **SHAPE))
    network.save_pretrained(folder)
    tokenizer = {"tokenizer_class": "PegasusTokenizer", "model_max_length": WINDOW}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def _stretches(development: Sequence[Article]) -> Iterator[Pair]:
    """Each from a paragraph drawn at random; what of it is beyond the window is cut by the training."""
    draw = random.Random(0)
    for _ in range(STRETCHES):
        one = draw.choice(development)
        paragraphs = one.text.split("\n\n")
        beginning = draw.randrange(len(paragraphs))
        yield Pair("\n\n".join(paragraphs[beginning:])[:STRETCH_CHARACTERS], one.abstract)


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}", flush=True)
