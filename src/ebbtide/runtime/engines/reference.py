"""transformers' own models and generate: the engine for what the others lack, and their measure.

PEGASUS-X, LED, LongT5, BigBird-PEGASUS and any other AutoModelForSeq2SeqLM; needs ebbtide[transformers].
Every parameter means what it means in transformers, since it is transformers that gets it.
"""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

from ebbtide.runtime.batching import Batcher, IsAbandoned
from ebbtide.runtime.engine import Cancelled, Engine, Hypothesis
from ebbtide.runtime.errors import BadRequest, LoadFailure, one_line
from ebbtide.runtime.parameters import Generation

COMPUTE_TYPES = ("float32", "float16", "bfloat16")

MAX_BATCH_POSITIONS = 16_384
"""Source positions, padding and beams counted, decoded together. A large model keeps some 100 KiB of keys and
values of cross-attention for each; a single text may have more."""


class ReferenceEngine(Engine):
    """A checkpoint in the Hub's own layout, decoded with all of its threads, one batch at a time."""

    def __init__(
        self, folder: Path, *, threads: int, compute_type: str = "float32", trust_remote_code: bool = False
    ) -> None:
        """threads: cores it may use. compute_type: one of COMPUTE_TYPES.

        Raises LoadFailure when transformers is not there or cannot load the checkpoint.
        """
        if compute_type not in COMPUTE_TYPES:
            raise LoadFailure(f"transformers computes in {', '.join(COMPUTE_TYPES)}, not in {compute_type}")
        torch, transformers = torch_and_transformers()
        torch.set_num_threads(threads)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            model, loading = transformers.AutoModelForSeq2SeqLM.from_pretrained(
                folder,
                dtype=getattr(torch, compute_type),
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                weights_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # a fault in a user's files may surface anywhere in a large library
            raise LoadFailure(f"transformers cannot load the model: {one_line(error)}") from error
        if missing := sorted(loading["missing_keys"]):
            # transformers draws them at random, and warns.
            raise LoadFailure(f"The weights lack {len(missing)} tensors, {missing[0]} among them")
        # A Generation is complete: the checkpoint's own settings are in it already.
        model.generation_config = transformers.GenerationConfig()
        self._model = model.to(self._device).eval()
        # LED writes less than it reads; what else has places for both has as many.
        self._max_new_tokens = getattr(model.config, "max_decoder_position_embeddings", None)
        # LED: its checkpoints were trained to summarise with global attention on the first token, and their
        # users ask for it; transformers leaves it to the caller.
        self._attends_globally = "global_attention_mask" in inspect.signature(model.forward).parameters
        # BigBird: how it attends depends on the longest text of a batch, and stays as a short one made it.
        self._block_sparse = getattr(model.config, "attention_type", None) == "block_sparse"
        self._description = {
            "engine": "transformers",
            "compute_type": compute_type,
            "device": self._device,
            "threads": threads,
            "max_batch_positions": MAX_BATCH_POSITIONS,
        }
        self._is_unwanted: Callable[[], bool] = lambda: False
        call_between_layers(model, self._stop_if_unwanted)
        self._batcher = Batcher(self._decode, self._capacity, streams=1)

    def check(self, generation: Generation) -> None:
        longest = self._max_new_tokens
        if longest is not None and generation.max_new_tokens > longest:
            raise BadRequest(
                f"The length asked for, {generation.max_new_tokens} tokens, is over the {longest} that the "
                "model writes"
            )
        try:
            _settings(generation).validate()
        except ValueError as error:  # transformers' word for settings that do not go together
            raise BadRequest(f"transformers refuses the parameters: {one_line(error)}") from error

    def generate(
        self, sources: Sequence[Sequence[int]], generation: Generation, cancelled: Event
    ) -> list[list[Hypothesis]]:
        self.check(generation)
        return self._batcher.generate(sources, generation, cancelled)

    def describe(self) -> dict[str, Any]:
        return self._description

    def _capacity(self, generation: Generation, tokens: int) -> int:
        # A seed's answers are the same each time only when nothing else is drawn beside.
        if self._block_sparse or generation.seed is not None:
            return 1
        return max(1, MAX_BATCH_POSITIONS // (tokens * generation.num_beams))

    def _decode(
        self, generation: Generation, sources: Sequence[Sequence[int]], is_abandoned: IsAbandoned
    ) -> list[list[Hypothesis]]:
        import torch

        self._is_unwanted = lambda: all(is_abandoned(place) for place in range(len(sources)))
        # Masked: any id will do.
        pad = generation.pad_token_id or 0
        longest = max(map(len, sources))
        ids = torch.tensor([[*source, *[pad] * (longest - len(source))] for source in sources])
        mask = torch.tensor([[1] * len(source) + [0] * (longest - len(source)) for source in sources])
        inputs = {"input_ids": ids.to(self._device), "attention_mask": mask.to(self._device)}
        if self._attends_globally:
            inputs["global_attention_mask"] = torch.zeros_like(inputs["input_ids"])
            inputs["global_attention_mask"][:, 0] = 1
        if self._block_sparse:
            self._model.get_encoder().set_attention_type("block_sparse")
        if generation.seed is not None:
            torch.manual_seed(generation.seed)
        with torch.inference_mode():
            generated = self._model.generate(**inputs, generation_config=_settings(generation))
        answers = [_hypothesis(row, generation) for row in generated.tolist()]
        each = generation.num_return_sequences
        return [answers[start : start + each] for start in range(0, len(answers), each)]

    def _stop_if_unwanted(self) -> None:
        if self._is_unwanted():
            raise Cancelled


def torch_and_transformers() -> tuple[Any, Any]:
    """Both modules. Raises LoadFailure naming the extra when one is not installed."""
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise LoadFailure(f"The model needs {error.name}: install ebbtide[transformers]") from error
    return torch, transformers


def call_between_layers(model: Any, call: Callable[[], None]) -> None:
    """Have `call` called before each pass through the model and before each of its layers: what it raises
    ends the pass, so that even the reading of a long text can be given up midway."""
    from torch.nn import ModuleList

    layers = [layer for module in model.modules() if isinstance(module, ModuleList) for layer in module]
    for module in (model, *layers):
        module.register_forward_pre_hook(lambda *_: call())


def _settings(generation: Generation) -> Any:
    """transformers' GenerationConfig; what means nothing for the search asked for is left out."""
    from transformers import GenerationConfig

    settings: dict[str, Any] = {
        "decoder_start_token_id": generation.decoder_start_token_id,
        "eos_token_id": list(generation.eos_token_ids),
        "pad_token_id": generation.pad_token_id,
        "forced_bos_token_id": generation.forced_bos_token_id,
        "forced_eos_token_id": generation.forced_eos_token_id,
        "num_beams": generation.num_beams,
        "num_return_sequences": generation.num_return_sequences,
        "max_new_tokens": generation.max_new_tokens,
        "min_new_tokens": generation.min_new_tokens,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "encoder_no_repeat_ngram_size": generation.encoder_no_repeat_ngram_size,
        "repetition_penalty": generation.repetition_penalty,
        "bad_words_ids": [list(word) for word in generation.bad_words_ids] or None,
        "suppress_tokens": list(generation.suppress_tokens) or None,
        "begin_suppress_tokens": list(generation.begin_suppress_tokens) or None,
        "renormalize_logits": generation.renormalize_logits,
        "do_sample": generation.do_sample,
    }
    if generation.num_beams > 1:
        settings |= {
            "length_penalty": generation.length_penalty,
            "early_stopping": generation.early_stopping,
        }
    if generation.do_sample:
        settings |= {
            "temperature": generation.temperature,
            "top_k": generation.top_k,
            "top_p": generation.top_p,
        }
    made: Any = GenerationConfig
    return made(**settings)


def _hypothesis(row: list[int], generation: Generation) -> Hypothesis:
    """Without a score: transformers tells it only to who keeps the scores of every token at every step, which
    with 8 beams and PEGASUS's vocabulary are 3 MB a step."""
    tokens = row[1:]
    end = next((place for place, token in enumerate(tokens) if token in generation.eos_token_ids), None)
    return Hypothesis(tuple(tokens[:end]))
