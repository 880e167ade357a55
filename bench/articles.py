"""How fast whole articles are read, end to end, of 1,000 to 1,000,000 words; what reading takes beside the
model; and the model server's memory meanwhile.

The model has PEGASUS's form with a window of 1,024 tokens, two layers and random weights: what is measured is
everything but the model. What the own work comes to beside a real one is computed from PEGASUS-large's pace
in a queue, measured by `python -m bench engines`. The extra `transformers` makes the checkpoint.
"""

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

import ebbtide
from bench.engines import SMALL, TOOLKIT, made
from bench.server import Measured, deploy, server
from ebbtide.client import Client
from ebbtide.runtime import loading, status
from ebbtide.runtime.deployment import HUGGING_FACE, Deployment

SIZES = (1_000, 10_000, 100_000, 1_000_000)
SENTENCE, PARAGRAPH, SECTION = 20, 5, 10
"""Words, sentences and paragraphs."""

PARAMETERS = {"max_new_tokens": 64, "num_beams": 1}
LARGE_S, LARGE_TOKENS = 60 / 104.5, 512
"""PEGASUS-large on two cores: seconds for each part of so many tokens, with 64 out. Source:
docs/benchmarks.md, the engines side by side, a greedy queue on the native engine."""

OWN_WORDS, OWN_RUNS = 100_000, 3
MB = 1e6


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as scratch:
        checkpoint = made(Path(scratch), TOOLKIT, SMALL)
        yield from end_to_end(checkpoint)
        yield from beside_the_model(checkpoint, Path(scratch) / "cache")


def end_to_end(checkpoint: Path) -> Iterator[tuple[str, str]]:
    """From the 202 to the stored answer, the article in the object store."""
    with server() as measured:
        deploy(measured, "articles", model=str(checkpoint), instances=1)
        own = ebbtide.connect(data=measured.data).ebbtide
        _read(measured, own, SIZES[0])  # the first finds nothing warm
        for words in SIZES:
            model_server = _model_server(measured)
            Path(f"/proc/{model_server.pid}/clear_refs").write_text("5")
            parts, took_s = _read(measured, own, words)
            what = f"article of {words:,} words in {parts:,} parts, merged, a small model: end to end"
            peak_mb = _peak_bytes(model_server) / MB
            yield what, f"{took_s:.1f} s, {words / took_s:,.0f} words/s; model server's peak {peak_mb:.0f} MB"


def beside_the_model(checkpoint: Path, cache: Path) -> Iterator[tuple[str, str]]:
    """What a request takes beyond the engine's time: tokenizing, which has threads of its own, is in it."""
    environment = {"HF_MODEL_ID": str(checkpoint), "HF_TASK": "summarization", "OMP_NUM_THREADS": "2"}
    deployment = Deployment(repository=HUGGING_FACE, model_dir=None, cache=cache, environment=environment)
    cache.mkdir()
    service: Any = loading.load(deployment, status.StatusFile(cache / "status"))
    engine = service._model._summariser.engine
    generate, inside_s = engine.generate, [0.0]

    def timed(*arguments: Any) -> Any:
        began_at = time.perf_counter()
        generated = generate(*arguments)
        inside_s[0] += time.perf_counter() - began_at
        return generated

    engine.generate = timed
    body = json.dumps({"inputs": article(OWN_WORDS), "parameters": PARAMETERS}).encode()
    own_s, model_s = [], []
    for _ in range(OWN_RUNS):
        inside_s[0] = 0.0
        began_at = time.perf_counter()
        answer = service.answer(body, {"Content-Type": "application/json"}, threading.Event())
        if answer.status != 200:
            raise SystemExit(answer.body.decode())
        own_s.append(time.perf_counter() - began_at - inside_s[0])
        model_s.append(inside_s[0])
    own, model = statistics.median(own_s), statistics.median(model_s)
    tokens = sum(service._model._summariser.count([article(OWN_WORDS)]))
    large_s = tokens / LARGE_TOKENS * LARGE_S
    shares = (
        f"{own / model:.1%} of the small model's time, {own / large_s:.2%} of PEGASUS-large's {large_s:.0f} s"
    )
    yield (
        f"cutting, counting and merging {OWN_WORDS:,} words, beside the model",
        f"{own / OWN_WORDS * 1e6:.1f} µs a word, {shares}",
    )


def article(words: int) -> str:
    """Sections of paragraphs of sentences, in words that the checkpoint's tokenizer knows."""
    paragraphs = []
    for number in range(max(1, words // (SENTENCE * PARAGRAPH))):
        sentences = [
            " ".join(f"w{200 + (7 * number + 13 * sentence + word) % 3000}" for word in range(SENTENCE)) + "."
            for sentence in range(PARAGRAPH)
        ]
        if number % SECTION == 0:
            paragraphs.append(f"# Section {number // SECTION + 1}")
        paragraphs.append(" ".join(sentence.capitalize() for sentence in sentences))
    return "\n\n".join(paragraphs)


def _read(measured: Measured, own: Client, words: int) -> tuple[int, float]:
    """How many parts the article was read in, and the seconds from its acceptance to its outcome."""
    s3 = measured.client("s3")
    body = json.dumps({"inputs": article(words), "parameters": PARAMETERS})
    s3.put_object(Bucket="articles-out", Key="article", Body=body, ContentType="application/json")
    answer = measured.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName="articles", InputLocation="s3://articles-out/article"
    )
    done = own.wait(answer["InferenceId"])
    if done["state"] != "succeeded":
        raise SystemExit(done["failure_reason"])
    parts = [step["progress"]["parts"] for step in done["timeline"] if step["event"] == "parts_summarised"]
    at = {step["event"]: _epoch_s(step["at"]) for step in done["timeline"]}
    return parts[0] if parts else 1, at["stored"] - at["accepted"]


def _epoch_s(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def _model_server(measured: Measured) -> psutil.Process:
    """The largest of the processes below the server: the fork server, which it came from, is much smaller."""
    return max(measured.process.children(recursive=True), key=lambda process: process.memory_info().rss)


def _peak_bytes(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) * 1024


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
