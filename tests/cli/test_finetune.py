"""`ebbtide finetune` trains a checkpoint on one's own pairs, and a run that was stopped goes on."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from tests import corpus
from tests.checkpoints import Trained
from tests.deployments import deploy, outcome

from ebbtide import finetuning
from ebbtide.archives import tarfile
from ebbtide.cli.errors import CommandError
from ebbtide.cli.finetune import finetune
from ebbtide.evaluation import pairs
from ebbtide.evaluation.pairs import Pair
from ebbtide.finetuning import Settings, TrainingError, TrainingStopped
from ebbtide.pytest_plugin import Ebbtide

DEADLINE_S = 300.0

SETTINGS = Settings(epochs=2, batch_size=4, learning_rate=0.003, save_steps=4)
"""A dozen steps, whose state is kept at every fourth."""


def written(folder: Path, count: int = 24) -> Path:
    """Pairs whose reference is the text's last words: what the checkpoint has not learnt."""
    rows = [
        {"article": " ".join(text.split()[:40]), "summary": " ".join(text.split()[:40][-4:])}
        for text in corpus.texts(count)
    ]
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def arguments(model: Path, data: Path, output: Path, *options: str) -> list[str]:
    """A run of SETTINGS."""
    command = [sys.executable, "-m", "ebbtide", "finetune", str(model), "--data", str(data), "--json"]
    command += ["--output", str(output), "--epochs", "2", "--batch-size", "4", "--save-steps", "4"]
    return [*command, "--learning-rate", "0.003", *options]


def run(command: list[str], home: Path) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "EBBTIDE_DATA": str(home)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def weights(archive: Path, folder: Path) -> dict[str, Any]:
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    with safe_open(folder / "model.safetensors", "numpy") as tensors:
        return {name: tensors.get_tensor(name).tobytes() for name in tensors.keys()}  # noqa: SIM118


@dataclass(frozen=True)
class Resumed:
    """A run of the command that was killed after its first state, and the one that went on."""

    model: Path
    data: Path
    archive: Path
    told: dict[str, Any]

    @property
    def work(self) -> Path:
        return self.archive.with_name(self.archive.name + ".training")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, trained: Trained) -> Resumed:
    folder = tmp_path_factory.mktemp("finetune")
    model, data = trained("pegasus"), written(folder)
    for _ in range(10):  # until one was not done before it was killed
        archive = folder / f"{uuid.uuid4()}.tar.gz"
        command = arguments(model, data, archive)
        kept = archive.with_name(f"{archive.name}.training") / "checkpoint-4"
        with subprocess.Popen(
            command, env={**os.environ, "EBBTIDE_DATA": str(folder)}, stdout=subprocess.DEVNULL
        ) as process:
            deadline = time.monotonic() + DEADLINE_S
            while not (kept / "trainer_state.json").is_file() and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.kill()
        if process.returncode == -signal.SIGKILL:
            break
    finished = run(command, folder / "home")
    assert finished.returncode == 0, finished.stderr
    return Resumed(model, data, archive, json.loads(finished.stdout))


def test_a_run_that_was_killed_goes_on_and_ends_as_one_that_was_not(tmp_path: Path, resumed: Resumed) -> None:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    training, _ = finetuning.divided(pairs.read(resumed.data), 0.05, 0)
    whole = finetuning.train(resumed.model, training, SETTINGS, tmp_path)
    torch.set_num_threads(threads)

    assert (whole.resumed_at, whole.steps) == (0, resumed.told["steps"])
    assert 4 <= resumed.told["resumed_at"] < whole.steps
    assert whole.losses[-1][1] < whole.losses[0][1]
    with safe_open(tmp_path / "model" / "model.safetensors", "numpy") as tensors:
        expected = {name: tensors.get_tensor(name).tobytes() for name in tensors.keys()}  # noqa: SIM118
    assert weights(resumed.archive, tmp_path / "again") == expected


def test_a_run_that_is_asked_to_stop_keeps_the_step_at_hand(tmp_path: Path, trained: Trained) -> None:
    stop, told = threading.Event(), list[int]()

    def progress(step: int, steps: int, loss: float | None) -> None:
        told.append(step)
        if step == 2:
            stop.set()

    training = pairs.read(written(tmp_path))
    with pytest.raises(TrainingStopped, match="step 2 of 12"):
        finetuning.train(trained("pegasus"), training, SETTINGS, tmp_path, progress=progress, stop=stop)
    told.clear()
    with pytest.raises(TrainingStopped, match="step 3 of 12"):
        finetuning.train(trained("pegasus"), training, SETTINGS, tmp_path, progress=progress, stop=stop)
    assert sorted(set(told)) == [2, 3]


def test_the_table_at_the_end_has_the_model_before_and_after(resumed: Resumed) -> None:
    assert [row["summariser"] for row in resumed.told["evaluated"]] == [
        "lead-3",
        f"{resumed.model} (before)",
        str(resumed.archive),
    ]


def test_the_archive_has_the_user_s_own_tokenizer(resumed: Resumed) -> None:
    with tarfile.open(resumed.archive) as file:
        spiece = file.extractfile("spiece.model")
        assert spiece is not None
        assert spiece.read() == (resumed.model / "spiece.model").read_bytes()


def test_a_work_folder_of_another_run_is_not_gone_on_with(resumed: Resumed) -> None:
    others, settings = [Pair("One text.", "Text.")], replace(SETTINGS, learning_rate=1.0)
    with pytest.raises(TrainingError, match="another data, learning_rate"):
        finetuning.train(resumed.model, others, settings, resumed.work)


def test_the_archive_answers_when_it_is_deployed(ebbtide: Ebbtide, resumed: Resumed) -> None:
    environment = {"HF_TASK": "summarization"}
    endpoint = deploy(ebbtide, environment=environment, archive=resumed.archive.read_bytes())
    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint.name,
        Body=json.dumps({"inputs": corpus.texts(1)[0]}).encode(),
        ContentType="application/json",
    )
    kind, body, _ = outcome(ebbtide, answer)
    assert (kind, list(json.loads(body)[0])) == ("output", ["summary_text"])


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        pytest.param('{"article": "a", "summary": "b"}\n{bad', "bad.jsonl", id="a broken line"),
        pytest.param('{"story": "a", "gist": "b"}', "article", id="members of other names"),
        pytest.param("", "bad.jsonl", id="nothing in it"),
    ],
)
def test_data_that_cannot_be_trained_on_is_refused_in_one_line(tmp_path: Path, data: str, cause: str) -> None:
    (tmp_path / "bad.jsonl").write_text(data)
    with pytest.raises(CommandError, match=cause) as refused:
        finetune("model", tmp_path / "bad.jsonl", tmp_path / "out.tar.gz")
    assert "\n" not in str(refused.value)


def test_the_same_pairs_are_held_out_for_the_same_seed() -> None:
    every = [Pair(str(n), str(n)) for n in range(40)]
    training, evaluation = finetuning.divided(every, 0.1, 7)
    assert (len(training), len(evaluation)) == (36, 4)
    assert (training, evaluation) == finetuning.divided(every, 0.1, 7)
    assert sorted(training + evaluation, key=lambda pair: int(pair.article)) == every


def test_a_single_pair_cannot_be_trained_and_evaluated_on() -> None:
    with pytest.raises(TrainingError, match="too few"):
        finetuning.divided([Pair("a", "b")], 0.05, 0)


def test_a_model_that_is_no_summariser_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CommandError, match="cannot be trained") as refused:
        finetune(str(tmp_path / "model"), written(tmp_path, 4), tmp_path / "out.tar.gz")
    assert "\n" not in str(refused.value)


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path, trained: Trained) -> None:
    (tmp_path / "model").mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (tmp_path / "model" / name).symlink_to(trained("pegasus") / name)
    with pytest.raises(CommandError, match="cannot be trained") as refused:
        finetune(str(tmp_path / "model"), written(tmp_path, 4), tmp_path / "out.tar.gz")
    assert "\n" not in str(refused.value)
