"""`python -m ebbtide.runtime.convert FOLDER OUTPUT COMPUTE_TYPE`: one checkpoint to CTranslate2's format.

A process of its own: the only part of the runtime that imports transformers and torch. It writes all that
serving needs into OUTPUT: the engine's model, the tokenizer, and `summariser.json`. On failure the cause is
the last line on standard output.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ebbtide.runtime import lifeline
from ebbtide.runtime.errors import LoadFailure, one_line
from ebbtide.runtime.parameters import model_settings
from ebbtide.runtime.spiece import pegasus_tokenizer


def main() -> int:
    lifeline.die_with_parent()
    folder, output, compute_type = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    try:
        import torch  # noqa: F401 its absence is told apart from a fault in the model
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        print(f"Converting the model needs {error.name}, once: install ebbtide[convert]")
        return 1
    try:
        _convert(folder, output, compute_type)
    except LoadFailure as error:
        print(error)
        return 1
    except Exception as error:  # any fault in a user's files may surface anywhere in two large libraries
        print(f"The model cannot be converted: {one_line(error)}")
        raise
    return 0


def _convert(folder: Path, output: Path, compute_type: str) -> None:
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoConfig, PreTrainedTokenizerFast

    config = AutoConfig.from_pretrained(folder)
    described = _describe(folder, config.max_position_embeddings)
    tokenizer = _tokenizer(folder)
    tokenizer.no_truncation()
    tokenizer.no_padding()

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, model_class: Any, model_name_or_path: str, **options: Any) -> Any:
            # Read by CTranslate2 and absent from many configurations: the architectures' own constants.
            is_pegasus = model_class.__name__.startswith("Pegasus")
            for name, value in (("normalize_before", is_pegasus), ("normalize_embedding", not is_pegasus)):
                if not hasattr(options["config"], name):
                    setattr(options["config"], name, value)
            return super().load_model(model_class, model_name_or_path, **options)

        def load_tokenizer(self, *_: Any, **__: Any) -> Any:
            # Not the directory's: those that one release of transformers saves, another cannot load.
            named = {
                f"{name}_token": getattr(config, f"{name}_token_id", None) for name in ("bos", "eos", "pad")
            }
            tokens = {name: tokenizer.id_to_token(i) for name, i in named.items() if i is not None}
            made: Any = PreTrainedTokenizerFast
            return made(tokenizer_object=tokenizer, unk_token="<unk>", **tokens)  # noqa: S106 not a password

    # It empties the folder first, so what serving needs beside the model follows.
    Converter(str(folder), low_cpu_mem_usage=True).convert(str(output), quantization=compute_type, force=True)
    tokenizer.save(str(output / "tokenizer.json"))
    (output / "summariser.json").write_text(json.dumps(described, indent=2))


def _tokenizer(folder: Path) -> Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    return pegasus_tokenizer(folder / "spiece.model")


def _describe(folder: Path, positions: int) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text())
    generation_file = folder / "generation_config.json"
    generation = json.loads(generation_file.read_text()) if generation_file.is_file() else None
    tokenizer_file = folder / "tokenizer_config.json"
    tokenizer_config = json.loads(tokenizer_file.read_text()) if tokenizer_file.is_file() else {}
    return {
        "positions": positions,
        "max_input_tokens": min(positions, int(tokenizer_config.get("model_max_length", positions))),
        "generation": model_settings(config, generation),
        "task_specific_params": config.get("task_specific_params"),
        "prefix": config.get("prefix"),
        "config": config,
    }


if __name__ == "__main__":
    sys.exit(main())
