"""`python -m bench engines [--quick] [--only PART ...] [--scratch FOLDER]`: the engines side by side.

Equal work for all: a checkpoint of google/pegasus-large's shape with random weights, made in the scratch
folder, sources of random tokens, 64 tokens out of each. *toolkit* is what the Hugging Face toolkit does:
transformers' own generate in float32, a request at a time, torch's default threads. *ctranslate2* and
*native* are ebbtide's engines as they serve, int8, asked by a thread a request. Each is a process of its own
that stays loaded; runs are interleaved and figures are medians.

Parts: `alone` one request at a time; `queue` requests that are there at once; `mixed` 64 to 1024 tokens that
arrive at random at 80 % of what the engine can do, beside the same engine asked one at a time, and what of
the work was padding; `neighbour` alone with a process beside it that takes a core; `roofline` what the native
engine reaches of what the machine could do; `memory` at the end of what was measured.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import roofline
from bench.__main__ import machine

TOOLKIT = "toolkit"
ENGINES = ("ctranslate2", "native")
PACKAGES = ("ctranslate2", "onnxruntime", "tokenizers", "torch", "transformers")
PARTS = ("alone", "queue", "mixed", "neighbour", "roofline", "memory")
LARGE = {"layers": 16, "d_model": 1024, "ffn_dim": 4096, "vocabulary": 96103}
SMALL = {"layers": 2, "d_model": 128, "ffn_dim": 256, "vocabulary": 4000}
TOKENS_IN, TOKENS_OUT = 512, 64
SEARCHES = {"greedy": 1, "8 beams": 8}
THREADS = 2
RUNS = 3
QUEUE = {"greedy": 16, "8 beams": 8}
TOOLKIT_QUEUE = 2  # one at a time: a longer one tells nothing more
MIXED, SHORTEST, LONGEST, LOAD = 24, 64, 1024, 0.8
FIRST_WORD = 200  # ids below are special
CONCURRENCY = 64


@dataclass(frozen=True, slots=True)
class Work:
    """Requests of so many tokens each, at so many seconds from the start; `one_at_a_time`: in their order."""

    tokens: Sequence[int]
    at_s: Sequence[float]
    beams: int
    one_at_a_time: bool = False


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench engines", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small model: shows that the bench works")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--subjects", nargs="+", choices=(TOOLKIT, *ENGINES), default=(TOOLKIT, *ENGINES))
    parser.add_argument("--scratch", type=Path, default=Path("build/bench"), help="keeps the models (6 GB)")
    given = parser.parse_args(arguments)
    print(machine(PACKAGES), end="\n\n| what | figure |\n|---|---|\n")
    for what, figure in measure(given.scratch, given.subjects, given.only, quick=given.quick):
        print(f"| {what} | {figure} |", flush=True)


def measure(
    scratch: Path, subjects: Sequence[str], parts: Sequence[str], *, quick: bool
) -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    folders = {name: made(scratch.absolute(), name, SMALL if quick else LARGE) for name in subjects}
    measures: dict[str, Callable[[dict[str, Subject]], Iterator[tuple[str, str]]]] = {
        "alone": alone,
        "queue": queue,
        "mixed": mixed,
        "neighbour": neighbour,
        "roofline": of_roofline,
        "memory": memory,
    }
    with ExitStack() as stack:
        running = {
            name: stack.enter_context(Subject.started(name, folder)) for name, folder in folders.items()
        }
        for subject in running.values():
            subject.do(Work([TOKENS_IN], [0], 1))
        for part in parts:
            yield from measures[part](running)


def alone(subjects: dict[str, "Subject"]) -> Iterator[tuple[str, str]]:
    for search, beams in SEARCHES.items():
        seconds = _alone_s(subjects, beams)
        for name, taken_s in seconds.items():
            figure = f"{60 / taken_s:.1f} a minute ({taken_s:.2f} s){_ratio(seconds, taken_s)}"
            yield f"{search}, one alone, {name}", figure


def queue(subjects: dict[str, "Subject"]) -> Iterator[tuple[str, str]]:
    for search, beams in SEARCHES.items():
        seconds = {}
        for name, subject in subjects.items():
            count = TOOLKIT_QUEUE if name == TOOLKIT else QUEUE[search]
            done = subject.do(Work([TOKENS_IN] * count, [0] * count, beams))
            seconds[name] = done["taken_s"] / count
        for name, each_s in seconds.items():
            figure = f"{60 / each_s:.1f} a minute{_ratio(seconds, each_s)}"
            yield f"{search}, a queue of {QUEUE[search]}, {name}", figure


def mixed(subjects: dict[str, "Subject"]) -> Iterator[tuple[str, str]]:
    chance = random.Random(0)
    tokens = [chance.randint(SHORTEST, LONGEST) for _ in range(MIXED)]
    for name, subject in subjects.items():
        if name == TOOLKIT:
            continue
        together_s = subject.do(Work(tokens, [0] * MIXED, 1))["taken_s"]
        rate = LOAD * MIXED / together_s
        at_s = [0.0]
        while len(at_s) < MIXED:
            at_s.append(at_s[-1] + chance.expovariate(rate))
        done = {one: subject.do(Work(tokens, at_s, 1, one_at_a_time=one)) for one in (False, True)}
        p95_s = {one: statistics.quantiles(each["waits_s"], n=20)[-1] for one, each in done.items()}
        yield (
            f"greedy, {SHORTEST} to {LONGEST} tokens at {rate * 60:.0f} a minute, {name}: p95 to the answer",
            f"{p95_s[False]:.1f} s; one at a time {p95_s[True]:.1f} s; {done[False]['padding']:.0%} padding",
        )


def neighbour(subjects: dict[str, "Subject"]) -> Iterator[tuple[str, str]]:
    quiet_s: dict[str, list[float]] = {name: [] for name in subjects}
    disturbed_s: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(RUNS):
        for name, subject in subjects.items():
            quiet_s[name].append(subject.do(Work([TOKENS_IN], [0], 1))["taken_s"])
            with _busy():
                disturbed_s[name].append(subject.do(Work([TOKENS_IN], [0], 1))["taken_s"])
    for name, taken_s in disturbed_s.items():
        ratio = statistics.median(taken_s) / statistics.median(quiet_s[name])
        yield f"greedy, one alone beside a busy neighbour, {name}", f"x {ratio:.2f}"


def of_roofline(subjects: dict[str, "Subject"]) -> Iterator[tuple[str, str]]:
    if "native" in subjects:
        yield "native, greedy, alone", _fraction(_alone_s({"native": subjects["native"]}, 1)["native"])


def memory(subjects: dict[str, "Subject"]) -> Iterator[tuple[str, str]]:
    for name, subject in subjects.items():
        resident, peak = subject.memory_bytes()
        yield f"memory, {name}", f"{resident / 1e9:.2f} GB resident, {peak / 1e9:.2f} GB at its peak"


def _alone_s(subjects: dict[str, "Subject"], beams: int) -> dict[str, float]:
    """Median seconds of one request, the subjects taking turns."""
    taken_s: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(RUNS):
        for name, subject in subjects.items():
            taken_s[name].append(subject.do(Work([TOKENS_IN], [0], beams))["taken_s"])
    return {name: statistics.median(runs) for name, runs in taken_s.items()}


def _ratio(seconds: dict[str, float], own_s: float) -> str:
    return f", x {seconds[TOOLKIT] / own_s:.1f}" if TOOLKIT in seconds else ""


def _fraction(taken_s: float) -> str:
    """Of the least time that the roofline leaves: the encoder's products, each step's weights read once."""
    limit = roofline.roofline()
    encoding_s = 2 * TOKENS_IN * _encoder_weights() / limit.int8_s
    least_s = encoding_s + TOKENS_OUT * _step_weights() / limit.read_bytes_s
    return (
        f"{least_s / taken_s:.0%} of the roofline ({limit.int8_s / 1e9:.0f} GOP/s int8, "
        f"{limit.read_bytes_s / 1e9:.0f} GB/s: {least_s:.2f} s at the least)"
    )


@contextmanager
def _busy() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Subject:
    """One process with one engine in it, on this side."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @classmethod
    @contextmanager
    def started(cls, name: str, folder: Path) -> Iterator["Subject"]:
        command = [sys.executable, "-m", "bench.engines", "--serve", name, str(folder)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            subject = cls(process)
            try:
                subject._read()
                yield subject
            finally:
                process.kill()

    def do(self, work: Work) -> dict[str, Any]:
        """taken_s: from the start to the last answer; waits_s: of each request, from its arrival; padding:
        its part of the multiplications.
        """
        assert self._process.stdin is not None
        fields = [list(work.tokens), list(work.at_s), work.beams, work.one_at_a_time]
        self._process.stdin.write(json.dumps(fields) + "\n")
        self._process.stdin.flush()
        return self._read()

    def memory_bytes(self) -> tuple[int, int]:
        """Resident now, and at its peak."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        [peak] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return psutil.Process(self._process.pid).memory_info().rss, int(peak.split()[1]) * 1024

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("An engine's process ended; what it printed is above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def serve(name: str, folder: Path) -> None:
    """One engine's process: load it, then do the work that comes in, a line each."""
    padding = Padding()
    generate = _toolkit(folder) if name == TOOLKIT else _engine(folder, padding)
    print("{}", flush=True)
    for line in sys.stdin:
        work = Work(*json.loads(line))
        workers = 1 if work.one_at_a_time or name == TOOLKIT else CONCURRENCY
        padding.wanted = padding.done = 0
        print(json.dumps(_done(work, generate, workers) | {"padding": padding.share}), flush=True)


def _done(work: Work, generate: Callable[[list[int], int], int], workers: int) -> dict[str, Any]:
    chance = random.Random(1)
    began_at = time.perf_counter()

    def answer(source: list[int], at_s: float) -> float:
        made = generate(source, work.beams)
        if made != TOKENS_OUT:
            raise SystemExit(f"{made} tokens came out, not {TOKENS_OUT}")
        return time.perf_counter() - began_at - at_s

    with ThreadPoolExecutor(workers) as threads:
        waiting = []
        for count, at_s in zip(work.tokens, work.at_s, strict=True):
            source = [chance.randrange(FIRST_WORD, SMALL["vocabulary"]) for _ in range(count - 1)]
            time.sleep(max(0.0, began_at + at_s - time.perf_counter()))
            waiting.append(threads.submit(answer, [*source, 1], at_s))
        waits_s = [each.result() for each in waiting]
    return {"taken_s": time.perf_counter() - began_at, "waits_s": waits_s}


def _toolkit(folder: Path) -> Callable[[list[int], int], int]:
    import torch
    from transformers import PegasusForConditionalGeneration

    model = PegasusForConditionalGeneration.from_pretrained(folder).eval()

    def generate(source: list[int], beams: int) -> int:
        with torch.inference_mode():
            answer = model.generate(
                torch.tensor([source]),
                num_beams=beams,
                do_sample=False,
                max_new_tokens=TOKENS_OUT,
                min_new_tokens=TOKENS_OUT,
            )
        return int(answer.shape[1]) - 1  # the start token

    return generate


class Padding:
    """Counts multiplications, those that were wanted and those that were done."""

    wanted = 0
    done = 0

    @property
    def share(self) -> float:
        return 1 - self.wanted / self.done if self.done else 0.0

    def watch(self, engine: Any) -> None:
        """Have it told of what the engine decodes."""
        if engine.describe()["engine"] == "native":
            batch = engine._batch
            step = batch.step

            def counted_step() -> Any:
                lengths = [each.length for each in batch.decodings]
                weights, position = _step_weights(), 2 * LARGE["layers"] * LARGE["d_model"]
                # Sources are encoded one by one; a step reads the keys and values of the longest's places.
                encoded = sum(each.length * _encoder_weights() for each in batch.decodings if not each.step)
                rows = len(lengths) * weights + encoded
                self.wanted += rows + sum(lengths) * position
                self.done += rows + len(lengths) * max(lengths) * position
                return step()

            batch.step = counted_step
        else:
            batcher = engine._batcher
            decode = batcher._decode

            def counted_decode(generation: Any, sources: Sequence[Sequence[int]], is_abandoned: Any) -> Any:
                # All of the encoder's products, and attention to what it gives, are as wide as the longest.
                self.wanted += sum(map(len, sources))
                self.done += len(sources) * max(map(len, sources))
                return decode(generation, sources, is_abandoned)

            batcher._decode = counted_decode


def _encoder_weights() -> int:
    """Of a source's token: the encoder's, and those that make the keys and values of cross attention."""
    d_model, ffn_dim = LARGE["d_model"], LARGE["ffn_dim"]
    return LARGE["layers"] * (4 * d_model**2 + 2 * d_model * ffn_dim + 2 * d_model**2)


def _step_weights() -> int:
    """Of an answer's token."""
    d_model, ffn_dim = LARGE["d_model"], LARGE["ffn_dim"]
    return LARGE["layers"] * (6 * d_model**2 + 2 * d_model * ffn_dim) + d_model * LARGE["vocabulary"]


def _engine(folder: Path, padding: Padding) -> Callable[[list[int], int], int]:
    from ebbtide.runtime import engines
    from ebbtide.runtime.parameters import Generation

    engine = engines.load(folder, folder, threads=THREADS)
    padding.watch(engine)
    print(json.dumps(engine.describe()), file=sys.stderr)

    def generate(source: list[int], beams: int) -> int:
        wanted = Generation(
            decoder_start_token_id=0,
            eos_token_ids=(1,),
            pad_token_id=0,
            num_beams=beams,
            max_new_tokens=TOKENS_OUT,
            min_new_tokens=TOKENS_OUT,
        )
        [[best, *_]] = engine.generate([source], wanted, threading.Event())
        return len(best.tokens)

    return generate


def made(scratch: Path, name: str, shape: dict[str, int]) -> Path:
    """The folder that the subject loads, made if it is not there: the checkpoint, or it prepared."""
    checkpoint = scratch / f"pegasus-{shape['d_model']}"
    if not checkpoint.is_dir():
        unfinished = checkpoint.with_name(checkpoint.name + ".unfinished")
        subprocess.run(
            [sys.executable, "-m", "bench.engines", "--make", json.dumps(shape), str(unfinished)], check=True
        )
        unfinished.rename(checkpoint)
    if name == TOOLKIT:
        return checkpoint
    prepared = checkpoint.with_name(f"{checkpoint.name}-{name}")
    if not prepared.is_dir():
        unfinished = prepared.with_name(prepared.name + ".unfinished")
        unfinished.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "ebbtide.runtime.convert", str(checkpoint), str(unfinished)]
        subprocess.run([*command, name, "int8"], check=True, stdin=subprocess.DEVNULL)
        unfinished.rename(prepared)
        from ebbtide.runtime import engines

        engines.prepare(prepared, threads=THREADS)
    return prepared


def make_checkpoint(shape: dict[str, int], folder: Path) -> None:
    """A PEGASUS of this shape with random weights, and a tokenizer that knows as many words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    torch.manual_seed(0)
    config = PegasusConfig(
        vocab_size=shape["vocabulary"],
        encoder_layers=shape["layers"],
        decoder_layers=shape["layers"],
        encoder_ffn_dim=shape["ffn_dim"],
        decoder_ffn_dim=shape["ffn_dim"],
        d_model=shape["d_model"],
        encoder_attention_heads=16,
        decoder_attention_heads=16,
        max_position_embeddings=1024,
        scale_embedding=True,
        activation_function="relu",
    )
    PegasusForConditionalGeneration(config).save_pretrained(folder)
    special = ["<pad>", "</s>", *(f"<unk_{number}>" for number in range(2, FIRST_WORD))]
    words = [f"▁w{number}" for number in range(FIRST_WORD, shape["vocabulary"])]
    tokenizer = Tokenizer(models.Unigram([(piece, -10.0) for piece in special + words], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PegasusTokenizer", "model_max_length": 1024}
    (folder / "tokenizer_config.json").write_text(json.dumps(described))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if sys.argv[1] == "--serve":
        serve(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1] == "--make":
        make_checkpoint(json.loads(sys.argv[2]), Path(sys.argv[3]))
    else:
        main(sys.argv[1:])
