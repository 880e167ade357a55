"""`python -m ebbtide.runtime.convert FOLDER OUTPUT ENGINE COMPUTE_TYPE`: a checkpoint as an engine loads it.

A process of its own, so that what a conversion takes of memory is gone with it. It writes all that serving
needs into OUTPUT: the engine's files, the tokenizer, and `summariser.json`, which describes the model. On
failure the cause is the last line on standard output.
"""

import json
import logging
import sys
from pathlib import Path
from typing import Any

from ebbtide.runtime import lifeline
from ebbtide.runtime.checkpoint import Checkpoint
from ebbtide.runtime.conversion import ctranslate
from ebbtide.runtime.conversion.tokenizer import text_tokenizer
from ebbtide.runtime.errors import LoadFailure, exit_status, one_line
from ebbtide.runtime.parameters import Generation, generation, model_settings, task_settings

UNBOUNDED = 1_000_000
"""transformers writes a number beyond any text for a tokenizer that knows no bound."""


def main() -> int:
    lifeline.die_with_parent()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    folder, output, engine, compute_type = Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:5]
    try:
        convert(Checkpoint(folder), output, engine, compute_type)
    except LoadFailure as error:
        print(error)
        return 1
    except Exception as error:  # any fault in a user's files may surface anywhere
        print(f"The model cannot be converted: {one_line(error)}")
        if (status := exit_status(error)) == 1:
            raise
        return status
    return 0


def convert(checkpoint: Checkpoint, output: Path, engine: str, compute_type: str) -> None:
    """Write into the folder `output` what the engine and the summariser load.

    Raises LoadFailure naming what is wrong with the checkpoint.
    """
    tokenizer = text_tokenizer(checkpoint)
    if engine == "ctranslate2":
        special_ids = _special_ids(describe(checkpoint)["generation"])
        ctranslate.prepare(checkpoint, tokenizer.tokens, special_ids, output, compute_type)
    elif engine == "native":
        from ebbtide.runtime.engines.native import preparation as native

        native.prepare(checkpoint, output, compute_type)
    output.mkdir(exist_ok=True)
    tokenizer.save(output)
    (output / "summariser.json").write_text(
        json.dumps(described_for(engine, checkpoint) | {"compute_type": compute_type}, indent=2)
    )


def described_for(engine: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """What `describe` says, with the engine's name and the settings as that engine is to be asked."""
    described = describe(checkpoint)
    if engine == "ctranslate2" and checkpoint.model_type == "marian":
        _without_padding(described["generation"])
    return described | {"engine": engine}


def own_generation(engine: str, checkpoint: Checkpoint, task: str) -> Generation:
    """What the engine is asked for when a request has no parameters.

    Raises LoadFailure, and BadRequest where every request must say more than the checkpoint does.
    """
    described = described_for(engine, checkpoint)
    return generation({}, described["generation"] | task_settings(described, task), positions=None)


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """What is to know of the model besides its weights, for every engine.

    positions: the most tokens it can read or write, None for one that counts without end. max_input_tokens:
    where its tokenizer cuts. generation: its own settings. config: its config.json.
    """
    config = checkpoint.config
    # LED reads more than it writes, and T5 tells places by how far they are from each other.
    positions = config.get("max_encoder_position_embeddings") or config.get("max_position_embeddings")
    longest = checkpoint.tokenizer_config.get("model_max_length") or config.get("n_positions")
    bounds = [int(bound) for bound in (positions, longest) if bound and bound < UNBOUNDED]
    return {
        "positions": positions,
        "max_input_tokens": min(bounds, default=512),
        "generation": model_settings(config, checkpoint.generation_config),
        "task_specific_params": config.get("task_specific_params"),
        "prefix": config.get("prefix"),
        "config": config,
    }


def _special_ids(generation: dict[str, Any]) -> dict[str, int]:
    """The ids of the end token, of several the first, and of the token that an answer starts from."""
    end = generation.get("eos_token_id")
    start = generation.get("decoder_start_token_id", generation.get("bos_token_id"))
    named: dict[str, Any] = {
        "eos_token_id": end[0] if isinstance(end, list) and end else end,
        "decoder_start_token_id": start,
    }
    for name, id_ in named.items():
        if not isinstance(id_, int):
            raise LoadFailure(f"The model has no {name}, in neither generation_config.json nor config.json")
    return named


def _without_padding(generation: dict[str, Any]) -> None:
    """MarianMT starts with its padding, and must not generate it: in CTranslate2 it starts from nothing, and
    has no padding.
    """
    padding = generation.pop("pad_token_id", None)
    generation["bad_words_ids"] = [word for word in generation.get("bad_words_ids", []) if word != [padding]]
    generation["decoder_start_token_id"] = generation["eos_token_id"]


if __name__ == "__main__":
    sys.exit(main())
