"""CTranslate2 as an engine: a converted model, quantised or not, decoded in batches by its C++ library.

What `Generation` asks is translated into translate_batch's arguments, or refused by name where CTranslate2
means something else by it. Greedy search and sampling are transformers' own, token for token in float32. Beam
search differs in two ways, both of them of scores and seldom of answers: a forbidden token (the end before
min_new_tokens, a repeated n-gram, a bad word) is left out before probabilities are normalised, where
transformers forbids it after (`renormalize_logits` true means CTranslate2's way, and is the same); and
early_stopping false, which transformers ends by an estimate, ends when `PATIENCE` times num_beams hypotheses are
finished.

Hypotheses are asked for with their end token and ranked here: transformers counts the end in a hypothesis's
length, also the forced one that CTranslate2 does not know of.
"""

from typing import Any

from ebbtide.runtime.errors import BadRequest
from ebbtide.runtime.parameters import Generation

PATIENCE = 2
"""Finished hypotheses awaited for each beam when early_stopping is false."""


def arguments(generation: Generation) -> dict[str, Any]:
    """translate_batch's arguments but for those that are tokens. Raises BadRequest for what it cannot honour."""
    _refuse(generation)
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
        "length_penalty": generation.length_penalty,
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


def _refuse(generation: Generation) -> None:
    """Raises BadRequest naming a parameter that CTranslate2 lacks, or means otherwise than transformers."""
    beams = generation.num_beams > 1
    # transformers counts the start token among those generated so far; CTranslate2 does not.
    ends_at_start = generation.decoder_start_token_id in generation.eos_token_ids
    refused = {
        "early_stopping never": beams and generation.early_stopping == "never",
        "do_sample with num_beams over 1": beams and generation.do_sample,
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
    }
    for name, is_asked in refused.items():
        if is_asked:
            raise BadRequest(f"The engine ctranslate2 does not serve {name}; EBBTIDE_ENGINE chooses another")
