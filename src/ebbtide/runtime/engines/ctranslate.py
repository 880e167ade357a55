"""CTranslate2 as an engine: a converted model, quantised or not, decoded in batches by its C++ library.

What `Generation` asks is translated into translate_batch's arguments, or refused by name where CTranslate2
means something else by it. Greedy search and sampling are transformers' own, token for token in float32. Beam
search scores otherwise in two cases, and some answers differ by it (docs/generation.md has figures). What may
not come (the end before min_new_tokens, a repeated n-gram, a bad word) is left out before probabilities are
normalised, where transformers forbids it after; `renormalize_logits` true means CTranslate2's way, and is the
same. And early_stopping false, which transformers ends by an estimate, ends when `PATIENCE` times num_beams
hypotheses are finished.

Hypotheses are asked for with their end token and ranked here: transformers counts the end in a hypothesis's
length, also the forced one that CTranslate2 does not know of.

Greedy search and sampling stop for a cancelled request between two steps. Beam search cannot be stopped: the
request is let go, and the model server says that it still runs (batching.py).
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ctranslate2

from ebbtide.runtime.batching import Batcher, IsAbandoned
from ebbtide.runtime.engine import Engine, Hypothesis
from ebbtide.runtime.engines import cores, memory
from ebbtide.runtime.engines.cores import Division
from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.parameters import Generation

PATIENCE = 2
"""Finished hypotheses awaited for each beam when early_stopping is false."""

ALMOST_NO_PENALTY = 1e-9
"""For length_penalty 0, at which CTranslate2 would end a search by another rule."""

BATCH_MEMORY_SHARE = 1.3
"""What all batches may take together, in what the weights take: beyond it, more texts at once gain little."""

LEAST_BATCH_MEMORY_BYTES = 256 << 20

USUAL_TOKENS = 512
"""There are no more streams than have memory for one text of this length each."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What a text takes of memory depends on: decoder layers, their width, the vocabulary's size."""

    layers: int
    width: int
    vocabulary: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape":
        """As a checkpoint's config.json says it, in BART's names or T5's."""
        layers = config.get("decoder_layers") or config.get("num_decoder_layers") or config["num_layers"]
        width = max(config["d_model"], config.get("num_heads", 0) * config.get("d_kv", 0))
        return cls(layers, width, config["vocab_size"])

    def text_bytes(self, generation: Generation, length: int) -> int:
        """The most that one source of so many tokens takes while it is decoded, within a tenth."""
        rows = max(generation.num_beams, generation.num_return_sequences)
        # Keys and values of every layer, for the source once and for each row's tokens; these are reallocated
        # as they grow. Four arrays of a row's scores over the vocabulary stand at once.
        position = self.layers * 2 * self.width * 4
        own = rows * generation.max_new_tokens * position * 5 // 4
        return (length * position + own + rows * self.vocabulary * 4 * 4) * 11 // 10


class CTranslate2(Engine):
    """The model in a folder that CTranslate2's converter or ours has written."""

    def __init__(
        self,
        folder: Path,
        shape: Shape,
        defaults: Generation,
        *,
        threads: int,
        compute_type: str = "default",
    ) -> None:
        """threads: cores in all. defaults: the checkpoint's own generation. compute_type: CTranslate2's; by
        default what the model was converted to.

        Raises LoadFailure when CTranslate2 refuses the model.
        """
        device = "cuda" if ctranslate2.get_cuda_device_count() else "cpu"
        self._tokens = _vocabulary(folder)
        self._ids = {token: id_ for id_, token in enumerate(self._tokens)}
        self._shape = shape
        self._start = defaults.decoder_start_token_id
        self._names_start = (
            json.loads((folder / "config.json").read_text()).get("decoder_start_token") is None
        )
        # A GPU is one stream's: its own parallelism is within a batch.
        self._division = Division(1, threads) if device == "cuda" else cores.known(folder, threads)
        free_bytes = memory.free_bytes(device) // 2
        text_bytes = shape.text_bytes(defaults, USUAL_TOKENS)
        if self._division.streams * text_bytes > free_bytes:
            streams = max(1, free_bytes // text_bytes)
            self._division = Division(streams, threads // streams)
        try:
            self._translator = ctranslate2.Translator(
                str(folder),
                device=device,
                compute_type=compute_type,
                inter_threads=self._division.streams,
                intra_threads=self._division.threads_each,
            )
        except (RuntimeError, ValueError) as error:
            raise LoadFailure(f"CTranslate2 cannot load the model: {error}") from error
        wanted_bytes = max(
            LEAST_BATCH_MEMORY_BYTES,
            int(BATCH_MEMORY_SHARE * (folder / "model.bin").stat().st_size),
            self._division.streams * text_bytes,
        )
        self._batch_bytes = min(free_bytes, wanted_bytes)
        self._batcher = Batcher(self._decode, self._capacity, streams=self._division.streams)

    def check(self, generation: Generation) -> None:
        refuse(generation)
        if generation.decoder_start_token_id != self._start and not self._names_start:
            raise _refusal(f"a decoder_start_token_id other than the model's, {self._start}")
        named = {
            "bad_words_ids": [id_ for word in generation.bad_words_ids for id_ in word],
            "suppress_tokens": generation.suppress_tokens,
            "eos_token_id": generation.eos_token_ids,
            "decoder_start_token_id": [generation.decoder_start_token_id],
            "forced_bos_token_id": [generation.forced_bos_token_id or 0],
        }
        for name, ids in named.items():
            if any(id_ >= len(self._tokens) for id_ in ids):
                raise BadRequest(f"{name} has an id beyond the model's {len(self._tokens)} tokens")

    def generate(
        self, sources: Sequence[Sequence[int]], generation: Generation, cancelled: threading.Event
    ) -> list[list[Hypothesis]]:
        self.check(generation)
        # What is done with the text before and after makes no difference to what can be decoded together.
        return self._batcher.generate(sources, replace(generation, truncate=False, clean_up=False), cancelled)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "ctranslate2",
            "compute_type": self._translator.compute_type,
            "device": self._translator.device,
            "streams": self._division.streams,
            "threads_per_stream": self._division.threads_each,
            "batch_memory_bytes": self._batch_bytes,
        }

    def _capacity(self, generation: Generation, length: int) -> int:
        return max(
            1, self._batch_bytes // self._division.streams // self._shape.text_bytes(generation, length)
        )

    def _decode(
        self, generation: Generation, sources: Sequence[Sequence[int]], is_abandoned: IsAbandoned
    ) -> list[list[Hypothesis]]:
        named = arguments(generation)
        if named.get("sampling_topk", 0) > len(self._tokens):
            named["sampling_topk"] = 0
        if named["max_decoding_length"] == 0:
            # The forced end token is the whole answer.
            return [[Hypothesis(())] * generation.num_return_sequences for _ in sources]
        suppressed = [[id_] for id_ in generation.suppress_tokens]
        # A word that is an end token is allowed, as in transformers.
        suppressed += [
            list(word) for word in generation.bad_words_ids if word not in _words(generation.eos_token_ids)
        ]
        prefix = [generation.decoder_start_token_id] if self._names_start else []
        if generation.forced_bos_token_id is not None:
            prefix.append(generation.forced_bos_token_id)
        results = self._translator.translate_batch(
            [self._named(source) for source in sources],
            target_prefix=[self._named(prefix)] * len(sources) if prefix else None,
            suppress_sequences=[self._named(word) for word in suppressed] or None,
            # Given for beam search it would be refused.
            callback=(lambda step: is_abandoned(step.batch_id)) if generation.num_beams == 1 else None,
            **named,
        )
        return [self._ranked(result, generation) for result in results]

    def _ranked(self, result: Any, generation: Generation) -> list[Hypothesis]:
        ranked = []
        for place, tokens in enumerate(result.hypotheses):
            ids = tuple(self._ids[token] for token in tokens)
            score = result.scores[place] if generation.num_beams > 1 else None
            if ids and ids[-1] in generation.eos_token_ids:
                ids = ids[:-1]
            elif score is not None and generation.forced_eos_token_id is not None:
                score *= (len(ids) / (len(ids) + 1)) ** generation.length_penalty
            ranked.append(Hypothesis(ids, score))
        if generation.num_beams > 1:
            ranked.sort(key=lambda hypothesis: -(hypothesis.score or 0.0))
        return ranked[: generation.num_return_sequences]

    def _named(self, ids: Sequence[int]) -> list[str]:
        return [self._tokens[id_] for id_ in ids]


def arguments(generation: Generation) -> dict[str, Any]:
    """translate_batch's arguments for it, but for those that are tokens."""
    beams = generation.num_beams
    # A forced end is not generated: CTranslate2 stops one token before it.
    longest = generation.max_new_tokens - (generation.forced_eos_token_id is not None)
    patience = 1 if beams == 1 or generation.early_stopping else PATIENCE
    named: dict[str, Any] = {
        "beam_size": beams,
        "patience": patience,
        "num_hypotheses": beams * patience if beams > 1 else generation.num_return_sequences,
        "max_decoding_length": longest,
        "min_decoding_length": min(generation.min_new_tokens, longest),
        "length_penalty": generation.length_penalty or ALMOST_NO_PENALTY,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "repetition_penalty": generation.repetition_penalty,
        "end_token": list(generation.eos_token_ids),
        "return_end_token": True,
        "return_scores": beams > 1,
        # The library's own default cuts inputs at 1,024 tokens and tells nobody.
        "max_input_length": 0,
    }
    if generation.do_sample:
        named |= {
            "sampling_topk": generation.top_k,
            "sampling_topp": generation.top_p,
            "sampling_temperature": generation.temperature,
        }
    return named


def refuse(generation: Generation) -> None:
    """Raises BadRequest naming a parameter that CTranslate2 lacks, or means otherwise than transformers."""
    beams = generation.num_beams > 1
    # transformers counts the start token among those generated so far; CTranslate2 does not.
    ends_at_start = generation.decoder_start_token_id in generation.eos_token_ids
    refused = {
        "early_stopping never": beams and generation.early_stopping == "never",
        "do_sample with num_beams over 1": beams and generation.do_sample,
        # transformers applies it to log-probabilities here, CTranslate2 to what they are computed from.
        "repetition_penalty with num_beams over 1": beams and generation.repetition_penalty != 1,
        "repetition_penalty for a model whose start token is its end token": (
            ends_at_start and generation.repetition_penalty != 1
        ),
        "no_repeat_ngram_size 1 for a model whose start token is its end token": (
            ends_at_start and generation.no_repeat_ngram_size == 1
        ),
        "encoder_no_repeat_ngram_size": generation.encoder_no_repeat_ngram_size > 0,
        "begin_suppress_tokens": bool(generation.begin_suppress_tokens),
        "seed": generation.seed is not None,
        "a model without an end token": not generation.eos_token_ids,
    }
    for name, is_asked in refused.items():
        if is_asked:
            raise _refusal(name)


def _refusal(what: str) -> BadRequest:
    return BadRequest(f"The engine ctranslate2 does not serve {what}; EBBTIDE_ENGINE chooses another")


def _words(ids: Sequence[int]) -> set[tuple[int, ...]]:
    return {(id_,) for id_ in ids}


def _vocabulary(folder: Path) -> list[str]:
    """The target's tokens in the order of their ids; the source's are the same in all models served."""
    for name in ("shared_vocabulary.json", "target_vocabulary.json"):
        if (folder / name).is_file():
            tokens: list[str] = json.loads((folder / name).read_text())
            return tokens
    raise LoadFailure("The converted model has no vocabulary: remove it from the cache")
