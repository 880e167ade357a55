"""Small checkpoints in the Hub's own layouts, trained for some seconds: their answers are not by chance.

Each learns the first words of some texts by heart: its answers to them follow the text, differ in length, and
the likeliest token is clearly the likeliest, as with models people use. Their tokenizers are trained too.

The session's fixture `trained` makes them once, for all workers: `trained("pegasus")` is a folder, only to be
read. The names are those of FAMILIES: pegasus; bart; distilbart (a tokenizer of vocab.json and merges.txt);
mbart (the source's language stands after the text), mbart50 (before it); t5 (version 1.0: ReLU, tied output),
flan-t5 (version 1.1: gated GELU, an output matrix of its own); marian; nllb; m2m100; led, longt5, pegasus_x,
bigbird_pegasus (they attend within windows, of which a text has several here). `corpus.texts()` are
what they learnt: compare answers there.
"""

import fcntl
import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoint_families import FAMILIES, POSITIONS, Made
from tests.corpus import lead, texts

Trained = Callable[[str], Path]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Trained:
    """The folder with the family's checkpoint, made by whichever worker asks first."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if hasattr(request.config, "workerinput") else base

    def folder(family: str) -> Path:
        path = shared / "checkpoints" / family
        path.parent.mkdir(exist_ok=True)
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.is_dir():
                make(family, path)
        return path

    return folder


def make(family: str, folder: Path, *, steps: int = 120) -> Path:
    """Train a checkpoint of the family and write it as the Hub has them; returns the folder."""
    import torch

    unfinished = folder.with_suffix(".unfinished")
    unfinished.mkdir(parents=True)
    with _one_thread():
        torch.manual_seed(0)
        made = FAMILIES[family](unfinished)
        _train(made, steps)
    # The files of the Hub have neither transformers' version nor its newer members.
    made.model.save_pretrained(unfinished)
    config = {**made.model.config.to_diff_dict(), **made.config_members}
    for name in ("transformers_version", "_name_or_path", "dtype", "scale_decoder_outputs"):
        config.pop(name, None)
    config["architectures"] = [type(made.model).__name__]
    (unfinished / "config.json").write_text(json.dumps(config, indent=2))
    (unfinished / "generation_config.json").write_text(json.dumps(made.generation, indent=2))
    return unfinished.rename(folder)


@contextmanager
def _one_thread() -> Iterator[None]:
    """For models this small, more threads only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(made: Made, steps: int, batch: int = 16) -> None:
    import torch

    draw = random.Random(0)
    pairs = [(made.source(text)[:POSITIONS], made.target(lead(text))) for text in texts()]
    optimiser = torch.optim.Adam(made.model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=5e-3, total_steps=steps)
    pad = made.model.config.pad_token_id

    def padded(rows: Sequence[list[int]], value: int) -> Any:
        longest = max(map(len, rows))
        return torch.tensor([row + [value] * (longest - len(row)) for row in rows])

    made.model.train()
    for _ in range(steps):
        chosen = draw.sample(pairs, batch)
        ids = padded([source for source, _ in chosen], pad)
        labels = padded([target for _, target in chosen], -100)
        loss = made.model(input_ids=ids, attention_mask=(ids != pad).long(), labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    made.model.eval()
