"""A converted sequence-to-sequence model on CTranslate2, as a pipeline; without torch and transformers."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ctranslate2
from tokenizers import Encoding, Tokenizer

from ebbtide.runtime.engines import ctranslate
from ebbtide.runtime.errors import BadRequest, LoadFailure
from ebbtide.runtime.parameters import Generation, generation, task_settings
from ebbtide.runtime.pipeline import ANSWER_MEMBERS, Pipeline, Summaries

logger = logging.getLogger(__name__)

# transformers' clean_up_tokenization, in its order.
_CLEAN_UPS = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class Summariser(Pipeline):
    """What `convert` wrote, loaded. Requests may come from several threads; each stream decodes one batch."""

    def __init__(self, folder: Path, *, task: str, concurrency: int, threads: int) -> None:
        """threads: cores in all. They are divided among as many streams as requests may come at once.

        Raises LoadFailure when the engine refuses the model.
        """
        described = json.loads((folder / "summariser.json").read_text())
        self._positions: int = described["positions"]
        self._defaults = described["generation"] | task_settings(described, task)
        self._answer_member = ANSWER_MEMBERS[task]
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._max_input_tokens: int = described["max_input_tokens"]
        streams = min(concurrency, threads)
        try:
            self._translator = ctranslate2.Translator(
                str(folder),
                device="cuda" if ctranslate2.get_cuda_device_count() else "cpu",
                inter_threads=streams,
                intra_threads=threads // streams,
            )
        except (RuntimeError, ValueError) as error:
            raise LoadFailure(f"CTranslate2 cannot load the model: {error}") from error

    def run(self, texts: Sequence[str], parameters: Mapping[str, Any]) -> Summaries:
        wanted = generation(parameters, self._defaults, positions=self._positions)
        encodings, cut_tokens = self._encode(texts, truncate=wanted.truncate)
        first = wanted.forced_bos_token_id
        prefix = None if first is None else [[self._tokenizer.id_to_token(first)]] * len(texts)
        results = self._translator.translate_batch(
            [encoding.tokens for encoding in encodings],
            target_prefix=prefix,
            **ctranslate.arguments(wanted),
        )
        count = wanted.num_return_sequences
        answers = [[self._answer(tokens, wanted) for tokens in result.hypotheses[:count]] for result in results]
        # One sequence asked for is given as itself, several as a list: transformers' pipelines do so.
        items = [each[0] if len(each) == 1 else each for each in answers]
        return Summaries(items, cut_tokens)

    def _encode(self, texts: Sequence[str], *, truncate: bool) -> tuple[list[Encoding], tuple[int, ...]]:
        """Tokens of each text, and how many of its tokens were left out, which happens only when asked for.

        Raises BadRequest for a text over the model's window: a part of it must not pass for the whole.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        limit = self._max_input_tokens if truncate else self._positions
        cut_tokens = tuple(max(0, len(encoding) - limit) for encoding in encodings)
        for position, cut in enumerate(cut_tokens):
            if cut and not truncate:
                raise BadRequest(
                    f"inputs[{position}] has {len(encodings[position])} tokens and the model reads {limit}: "
                    'send less, or {"parameters": {"truncation": true}} to summarise only what it can read'
                )
            if cut:
                logger.warning("Truncated as asked: %d tokens of inputs[%d] were not read", cut, position)
                encodings[position] = self._beginning(texts[position], limit)
        return encodings, cut_tokens

    def _beginning(self, text: str, limit: int) -> Encoding:
        """The text's first tokens, `limit` of them with those that the model wants around every text."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        encoding.truncate(limit - self._tokenizer.num_special_tokens_to_add(is_pair=False))
        return self._tokenizer.post_process(encoding)

    def _answer(self, tokens: Sequence[str], wanted: Generation) -> dict[str, str]:
        ids = [known for token in tokens if (known := self._tokenizer.token_to_id(token)) is not None]
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        if wanted.clean_up:
            for loose, tight in _CLEAN_UPS:
                text = text.replace(loose, tight)
        return {self._answer_member: text}
