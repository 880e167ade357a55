"""Fine-tuning a summarisation checkpoint on pairs of article and reference, by transformers' own trainer.

Seeded and resumable: the training's state is kept in a work folder, and a run that was stopped goes on from
its last checkpoint. The result is an archive that CreateModel takes, with the user's own tokenizer files: a
tokenizer that one release of transformers saves, another cannot load.
"""

import hashlib
import json
import random
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ebbtide.archives import tarfile
from ebbtide.evaluation.pairs import Pair
from ebbtide.runtime.checkpoint import Checkpoint
from ebbtide.runtime.conversion.tokenizer import text_tokenizer
from ebbtide.runtime.errors import LoadFailure, one_line
from ebbtide.runtime.tokenizer import TextTokenizer

TOKENIZER_FILES = ("*token*.json", "*.model", "*.spm", "vocab.json", "merges.txt", "vocab.txt")

IDENTITY = "identity.json"

T5_POSITIONS = 512
"""What T5 was trained on; its weights know no bound."""

LONGEST_OUTPUT = 256

IGNORED = -100
"""The label that torch's loss leaves out."""


class TrainingError(Exception):
    """The training cannot be done as asked. The message says why."""


class TrainingStopped(Exception):
    """It was asked to stop, and has kept its state: the same run goes on from there."""

    def __init__(self, step: int, steps: int) -> None:
        super().__init__(f"stopped at step {step:,} of {steps:,}")


Progress = Callable[[int, int, float | None], None]
"""Told the steps done, how many there will be, and the loss of late; None before the first is known."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train. Lengths are in tokens, 0 for the model's own; Adafactor is what PEGASUS was tuned with.

    save_steps: steps between the states that a stopped run can go on from.
    """

    epochs: float = 3.0
    batch_size: int = 8
    accumulation_steps: int = 1
    learning_rate: float = 5e-5
    warmup_steps: int = 0
    label_smoothing: float = 0.1
    max_input_tokens: int = 0
    max_output_tokens: int = 0
    optimizer: str = "adafactor"
    seed: int = 0
    save_steps: int = 500


@dataclass(frozen=True, slots=True)
class Trained:
    """`cut_articles`, `cut_references`: how many were over the lengths and read only in part.

    `losses`: (step, training loss), as far as this run went; `resumed_at`: the step that it began at.
    """

    steps: int
    cut_articles: int
    cut_references: int
    losses: list[tuple[int, float]]
    resumed_at: int


def divided(pairs: Sequence[Pair], held_out: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Pairs to train on, and the share to evaluate on, at least one; the same ones for the same seed.

    Raises TrainingError when nothing is left to train on.
    """
    order = list(range(len(pairs)))
    random.Random(seed).shuffle(order)  # noqa: S311 a draw of rows, not a secret
    count = max(1, round(held_out * len(pairs)))
    if count >= len(pairs):
        raise TrainingError(f"{len(pairs)} pairs are too few to train on some and evaluate on others")
    return [pairs[index] for index in sorted(order[count:])], [
        pairs[index] for index in sorted(order[:count])
    ]


def train(
    model: Path,
    pairs: Sequence[Pair],
    settings: Settings,
    work: Path,
    *,
    progress: Progress = lambda *_: None,
    stop: threading.Event | None = None,
) -> Trained:
    """Train the checkpoint in `model` (the Hub's layout); the result is then in work / "model".

    work: its folder, from which a run of the same model, pairs and settings goes on. stop: set to have it end
    after the step at hand. Raises TrainingStopped then, TrainingError for a work folder of another run, and
    for a checkpoint that is no sequence-to-sequence model.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM, PrinterCallback, Seq2SeqTrainer, set_seed
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # bars of loading and saving, not of training

    _check_identity(work, _identity(model, pairs, settings))
    set_seed(settings.seed)
    try:
        tokenizer = text_tokenizer(Checkpoint(model))
        network = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=torch.float32)
    except (OSError, ValueError, LoadFailure) as error:
        raise TrainingError(f"The model cannot be trained: {one_line(error)}") from error
    rows = _Rows(pairs, tokenizer, network.config, settings)
    last = _last_checkpoint(work)
    trainer = Seq2SeqTrainer(
        model=network,
        args=_arguments(settings, work),
        data_collator=partial(_padded, network=network),
        train_dataset=rows,
        callbacks=[_reporting(progress, stop or threading.Event())],
    )
    trainer.remove_callback(PrinterCallback)  # it prints on standard output, which is the command's own
    trainer.train(resume_from_checkpoint=None if last is None else str(last))
    if trainer.state.global_step < trainer.state.max_steps:
        raise TrainingStopped(trainer.state.global_step, trainer.state.max_steps)
    network.save_pretrained(work / "model")
    for pattern in TOKENIZER_FILES:
        for file in model.glob(pattern):
            shutil.copyfile(file, work / "model" / file.name)
    history = [
        (int(entry["step"]), float(entry["loss"])) for entry in trainer.state.log_history if "loss" in entry
    ]
    resumed_at = _step(last) if last else 0
    return Trained(trainer.state.global_step, rows.cut_articles, rows.cut_references, history, resumed_at)


def _arguments(settings: Settings, work: Path) -> Any:
    """What transformers' trainer is told."""
    import torch
    from transformers import Seq2SeqTrainingArguments

    return Seq2SeqTrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation_steps,
        learning_rate=settings.learning_rate,
        warmup_steps=settings.warmup_steps,
        label_smoothing_factor=settings.label_smoothing,
        optim=settings.optimizer,
        seed=settings.seed,
        data_seed=settings.seed,
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_steps=max(1, min(50, settings.save_steps)),
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _reporting(progress: Progress, stop: threading.Event) -> Any:
    """The trainer's callback that tells how far it is, and ends it with its state kept."""
    from transformers import TrainerCallback

    class Reporting(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self._tell(state)

        def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self._tell(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
            self._tell(state)
            if stop.is_set():
                control.should_save = control.should_training_stop = True

        def _tell(self, state: Any) -> None:
            losses = (entry["loss"] for entry in reversed(state.log_history) if "loss" in entry)
            progress(state.global_step, state.max_steps, next(losses, None))

    return Reporting()


def write_archive(folder: Path, output: Path) -> None:
    """Put a model's files into a model.tar.gz, which appears whole or not at all."""
    unfinished = output.with_name(output.name + ".unfinished")
    # Weights hardly shrink: the least compression is five times faster and a few percent larger.
    with tarfile.open(unfinished, "w:gz", compresslevel=1) as archive:
        for file in sorted(folder.iterdir()):
            archive.add(file, arcname=file.name)
    unfinished.rename(output)


class _Rows:
    """A dataset as torch's loader takes it: the token ids of a pair, made when it is asked for."""

    def __init__(
        self, pairs: Sequence[Pair], tokenizer: TextTokenizer, config: Any, settings: Settings
    ) -> None:
        self._pairs = pairs
        self._tokenizer = tokenizer
        positions: int = getattr(config, "max_position_embeddings", None) or T5_POSITIONS
        self._longest_input = settings.max_input_tokens or positions
        self._longest_output = settings.max_output_tokens or min(positions, LONGEST_OUTPUT)
        tasks: Mapping[str, Any] = getattr(config, "task_specific_params", None) or {}
        # What serving puts before a text must stand there in training too.
        self._prefix = tasks.get("summarization", {}).get("prefix") or ""
        self.cut_articles = self._over([pair.article for pair in pairs], self._longest_input)
        self.cut_references = self._over([pair.reference for pair in pairs], self._longest_output)

    def _over(self, texts: Sequence[str], longest: int) -> int:
        groups = (texts[first : first + 256] for first in range(0, len(texts), 256))
        return sum(len(ids) > longest for group in groups for ids in self._tokenizer.encode(group))

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        pair = self._pairs[index]
        article, reference = self._tokenizer.encode([self._prefix + pair.article, pair.reference])
        if len(article) > self._longest_input:
            article = self._tokenizer.beginning(article, self._longest_input)
        if len(reference) > self._longest_output:
            reference = self._tokenizer.beginning(reference, self._longest_output)
        return {"input_ids": article, "labels": reference}


def _padded(rows: Sequence[Mapping[str, list[int]]], network: Any) -> dict[str, Any]:
    """A batch of rows as tensors (rows, longest), what is no token masked out of reading and of the loss."""
    import torch

    def tensor(name: str, filler: int) -> Any:
        longest = max(len(row[name]) for row in rows)
        return torch.tensor([row[name] + [filler] * (longest - len(row[name])) for row in rows])

    labels = tensor("labels", IGNORED)
    longest = max(len(row["input_ids"]) for row in rows)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    return {
        "input_ids": tensor("input_ids", network.config.pad_token_id),
        "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        "labels": labels,
        # The loss with label smoothing is computed outside the model, which then must be given these.
        "decoder_input_ids": network.prepare_decoder_input_ids_from_labels(labels=labels),
    }


def _last_checkpoint(work: Path) -> Path | None:
    """The newest state that was written whole: the trainer writes its own file last."""
    whole = [path for path in work.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(whole, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _identity(model: Path, pairs: Sequence[Pair], settings: Settings) -> dict[str, Any]:
    data = hashlib.sha256()
    for pair in pairs:
        data.update(json.dumps(asdict(pair)).encode())
    weights = hashlib.sha256()
    for file in sorted(model.iterdir()):
        if file.is_file():
            weights.update(f"{file.name} {file.stat().st_size}\n".encode())
    return {"model": weights.hexdigest(), "data": data.hexdigest(), **asdict(settings)}


def _check_identity(work: Path, identity: Mapping[str, Any]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    noted = work / IDENTITY
    if noted.is_file():
        found = json.loads(noted.read_text())
        other = [name for name, value in identity.items() if found.get(name) != value]
        if other:
            raise TrainingError(
                f"{work} is of a run with another {', '.join(other)}: remove it, or name another folder"
            )
    else:
        noted.write_text(json.dumps(identity, indent=2))
