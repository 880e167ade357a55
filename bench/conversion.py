"""A checkpoint of PEGASUS-large's shape made ready for CTranslate2 in int8, weights in the page cache: as
ebbtide does it, and by CTranslate2's own converter, which loads the model with torch and transformers.

Time from the start of the process to its end, and the most private memory it took: pages of mapped files are
the page cache's. Medians. `python -m bench.conversion FOLDER` keeps the checkpoint in FOLDER.
"""

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from bench.engines import LARGE, TOOLKIT, made

RUNS = 3
POLL_S = 0.01

THEIRS = """
import sys
from ctranslate2.converters import TransformersConverter
from transformers import PreTrainedTokenizerFast

class Converter(TransformersConverter):
    def load_model(self, model_class, name, **options):
        options["config"].normalize_before, options["config"].normalize_embedding = True, False
        return super().load_model(model_class, name, **options)

    def load_tokenizer(self, *_, **__):
        named = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk_2>"}
        return PreTrainedTokenizerFast(tokenizer_file=f"{sys.argv[1]}/tokenizer.json", **named)

Converter(sys.argv[1], low_cpu_mem_usage=True).convert(sys.argv[2], quantization="int8", force=True)
"""


def measure(scratch: Path = Path("build/bench")) -> Iterator[tuple[str, str]]:
    checkpoint, output = made(scratch, TOOLKIT, LARGE), scratch / "converted"
    commands = {
        "ebbtide": ["-m", "ebbtide.runtime.convert", str(checkpoint), str(output), "ctranslate2", "int8"],
        "CTranslate2's own converter": ["-c", THEIRS, str(checkpoint), str(output)],
    }
    (checkpoint / "model.safetensors").read_bytes()
    for name, arguments in commands.items():
        figures = []
        for _ in range(RUNS):
            shutil.rmtree(output, ignore_errors=True)
            figures.append(_taken([sys.executable, *arguments]))
        seconds, peaks = zip(*figures, strict=True)
        yield (
            f"conversion by {name}",
            f"{statistics.median(seconds):.1f} s, {max(peaks) / 1e9:.2f} GB private",
        )
    shutil.rmtree(output)


def _taken(command: list[str]) -> tuple[float, int]:
    """The seconds and the most private bytes that the command takes."""
    began, peak = time.monotonic(), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        looked_at = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                memory = looked_at.memory_info()
            except psutil.NoSuchProcess:
                break
            peak = max(peak, memory.rss - memory.shared)
            time.sleep(POLL_S)
    if process.returncode:
        raise RuntimeError(f"{command[2]} failed with {process.returncode}")
    return time.monotonic() - began, peak


if __name__ == "__main__":
    for what, figure in measure(*map(Path, sys.argv[1:2])):
        print(f"{what}: {figure}", flush=True)
