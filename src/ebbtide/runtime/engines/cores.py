"""How CTranslate2 divides an instance's cores: into streams, each decoding a batch of its own.

Threads of one stream wait for each other after every matrix product, those of two streams never; but a stream
more is memory for a batch more. What pays depends on the processor and the model, so it is measured once,
when the model is prepared, and kept beside it.
"""

import json
import os
import platform
import random
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctranslate2

FILE = "cores.json"
WORTHWHILE = 1.1
"""How many times the texts a second more streams must bring to be chosen over fewer."""

SOURCE_TOKENS, ANSWER_TOKENS, BEAMS = 128, 8, 4
"""What is decoded to measure: enough for both halves of the model to count, some seconds for a large one."""


@dataclass(frozen=True, slots=True)
class Division:
    """`streams` of `threads_each`: together no more than the instance's cores."""

    streams: int
    threads_each: int


def known(folder: Path, threads: int) -> Division:
    """As measured for the model in the folder on such a processor, else one stream of all cores."""
    streams = _kept(folder).get(_key(threads), {}).get("streams", 1)
    return Division(streams, threads // streams)


def measure(folder: Path, threads: int) -> None:
    """Find the division that decodes most texts a second with so many cores, and keep it; once."""
    if ctranslate2.get_cuda_device_count():
        return  # the model runs elsewhere
    kept = _kept(folder)
    if threads == 1 or _key(threads) in kept:
        return
    rates: dict[int, float] = {}
    streams = 1
    while streams <= threads:
        rates[streams] = _texts_per_s(folder, Division(streams, threads // streams))
        streams *= 2
    best = 1
    for streams, rate in rates.items():
        if rate > WORTHWHILE * rates[best]:
            best = streams
    kept[_key(threads)] = {
        "streams": best,
        "texts_per_s": {str(streams): round(rate, 3) for streams, rate in rates.items()},
    }
    unfinished = folder / f"{FILE}.{os.getpid()}"
    unfinished.write_text(json.dumps(kept, indent=2))
    unfinished.rename(folder / FILE)


def _texts_per_s(folder: Path, division: Division) -> float:
    translator = ctranslate2.Translator(
        str(folder), inter_threads=division.streams, intra_threads=division.threads_each
    )
    vocabulary = json.loads(next(folder.glob("*_vocabulary.json")).read_text())
    draw = random.Random(0)  # noqa: S311 any texts do, but the same each time
    sources = [draw.choices(vocabulary, k=SOURCE_TOKENS) for _ in range(division.streams)]
    start = json.loads((folder / "config.json").read_text()).get("decoder_start_token")

    def decode(source: list[str], tokens: int) -> None:
        translator.translate_batch(
            [source[:tokens]],
            target_prefix=None if start else [vocabulary[:1]],
            beam_size=BEAMS,
            min_decoding_length=ANSWER_TOKENS,
            max_decoding_length=ANSWER_TOKENS,
        )

    def decode_all(tokens: int) -> None:
        callers = [threading.Thread(target=decode, args=(source, tokens)) for source in sources]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()

    decode_all(1)  # the first time, memory is claimed and read
    began_at = time.perf_counter()
    decode_all(SOURCE_TOKENS)
    return division.streams / (time.perf_counter() - began_at)


def _kept(folder: Path) -> dict[str, Any]:
    try:
        kept: dict[str, Any] = json.loads((folder / FILE).read_text())
    except FileNotFoundError:
        return {}
    return kept


def _key(threads: int) -> str:
    return f"{_processor()}, {threads} cores"


def _processor() -> str:
    """The processor's name: a cache may be shared by machines of several kinds."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
