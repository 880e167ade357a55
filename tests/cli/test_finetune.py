"""`ebbtide finetune` trains a checkpoint on one's own pairs, and a run that was stopped goes on."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tests import checkpoints
from tests.checkpoints import Trained

from ebbtide import finetuning
from ebbtide.archives import tarfile
from ebbtide.evaluation.pairs import Pair
from ebbtide.finetuning import Settings, TrainingError

DEADLINE_S = 120.0


def written(folder: Path, count: int = 24) -> Path:
    """Pairs whose reference is the text's last words: what the checkpoint has not learnt."""
    rows = [
        {"article": " ".join(text.split()[:40]), "summary": " ".join(text.split()[:40][-4:])}
        for text in checkpoints.texts(count)
    ]
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def arguments(model: Path, data: Path, output: Path, *options: str) -> list[str]:
    """A run of about twenty steps, whose state is kept at every fourth."""
    command = [sys.executable, "-m", "ebbtide", "finetune", str(model), "--data", str(data), "--json"]
    command += ["--output", str(output), "--epochs", "4", "--batch-size", "4", "--save-steps", "4"]
    return [*command, "--learning-rate", "0.003", *options]


def run(command: list[str], home: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "EBBTIDE_DATA": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def weights(archive: Path, folder: Path) -> dict[str, Any]:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    with safe_open(folder / "model.safetensors", "numpy") as tensors:
        return {name: tensors.get_tensor(name).tobytes() for name in tensors.keys()}  # noqa: SIM118


def test_a_run_that_was_killed_goes_on_and_ends_as_one_that_was_not(tmp_path: Path, trained: Trained) -> None:
    model, data = trained("pegasus"), written(tmp_path)
    whole = run(arguments(model, data, tmp_path / "whole.tar.gz"), tmp_path / "home")
    assert whole.returncode == 0, whole.stderr
    told = json.loads(whole.stdout)
    losses = [loss for _, loss in told["losses"]]
    assert losses[-1] < losses[0]
    assert [row["summariser"] for row in told["evaluated"]] == [
        "lead-3",
        f"{model} (before)",
        str(tmp_path / "whole.tar.gz"),
    ]

    again = arguments(model, data, tmp_path / "again.tar.gz")
    with subprocess.Popen(
        again, env={**os.environ, "EBBTIDE_DATA": str(tmp_path)}, stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + DEADLINE_S
        kept = tmp_path / "again.tar.gz.training" / "checkpoint-8"
        while not (kept / "trainer_state.json").is_file() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    resumed = run(again, tmp_path / "home")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["resumed_at"] >= 4
    assert weights(tmp_path / "again.tar.gz", tmp_path / "a") == weights(
        tmp_path / "whole.tar.gz", tmp_path / "b"
    )


def test_the_archive_has_the_user_s_own_tokenizer(tmp_path: Path, trained: Trained) -> None:
    model = trained("pegasus")
    pairs = [Pair(text, checkpoints.lead(text)) for text in checkpoints.texts(4)]
    finetuning.train(model, pairs, Settings(epochs=1, batch_size=2), tmp_path / "work", progress=False)
    finetuning.write_archive(tmp_path / "work" / "model", tmp_path / "model.tar.gz")
    with tarfile.open(tmp_path / "model.tar.gz") as file:
        spiece = file.extractfile("spiece.model")
        assert spiece is not None
        assert spiece.read() == (model / "spiece.model").read_bytes()


def test_a_work_folder_of_another_run_is_not_gone_on_with(tmp_path: Path, trained: Trained) -> None:
    model, pairs = trained("pegasus"), [Pair("One text.", "Text."), Pair("Another.", "Other.")]
    finetuning.train(model, pairs, Settings(epochs=1), tmp_path, progress=False)
    with pytest.raises(TrainingError, match="another data, learning_rate"):
        finetuning.train(model, pairs[:1], Settings(epochs=1, learning_rate=1.0), tmp_path, progress=False)


def test_the_same_pairs_are_held_out_for_the_same_seed() -> None:
    pairs = [Pair(str(n), str(n)) for n in range(40)]
    training, evaluation = finetuning.divided(pairs, 0.1, 7)
    assert (len(training), len(evaluation)) == (36, 4)
    assert (training, evaluation) == finetuning.divided(pairs, 0.1, 7)
    assert sorted(training + evaluation, key=lambda pair: int(pair.article)) == pairs


def test_a_single_pair_cannot_be_trained_and_evaluated_on() -> None:
    with pytest.raises(TrainingError, match="too few"):
        finetuning.divided([Pair("a", "b")], 0.05, 0)


def test_a_model_that_is_no_summariser_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    command = arguments(tmp_path / "model", written(tmp_path, 4), tmp_path / "out.tar.gz")
    finished = run(command, tmp_path)
    assert finished.returncode == 1
    assert "cannot be trained" in finished.stderr
    assert "Traceback" not in finished.stderr
