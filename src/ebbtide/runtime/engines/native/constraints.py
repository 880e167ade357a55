"""Which tokens may come next in a hypothesis and at what score: transformers' logits processors, a row at a
time.

They touch few tokens of a large vocabulary, so they are told as edits: a token's new score, or that it alone
may come. The order is transformers' (repetition_penalty, n-grams, bad words, least length, forced tokens,
suppressed tokens). Source: generation/logits_process.py and GenerationMixin._get_logits_processor of
transformers 5.23.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ebbtide.runtime.parameters import Generation

FORBIDDEN = -np.inf


@dataclass(frozen=True, slots=True)
class Edits:
    """`scores`: tokens whose scores change, and to what. `only`: the one token that may come, at score 0."""

    scores: dict[int, float]
    only: int | None = None


class Constraints:
    """Of one source's hypotheses."""

    def __init__(self, generation: Generation, source: Sequence[int]) -> None:
        self._generation = generation
        self._source = source
        # A bad word that is an end token is let be, as in transformers.
        words = [
            word for word in generation.bad_words_ids if word not in {(e,) for e in generation.eos_token_ids}
        ]
        self._bad_words = [word for word in words if len(word) > 1]
        self._never = {word[0] for word in words if len(word) == 1} | set(generation.suppress_tokens)
        # transformers counts from the start token, and from the forced first one where there is one.
        self._begin = 1 if generation.forced_bos_token_id is None else 2

    def edits(self, tokens: Sequence[int], score: Callable[[int], np.float32]) -> Edits:
        """tokens: the hypothesis so far, with the start token. score: of a next token."""
        wanted = self._generation
        length = len(tokens)
        only: int | None = None
        # The end last, which wins where an answer is to have one token.
        if wanted.forced_bos_token_id is not None and length == 1:
            only = wanted.forced_bos_token_id
        if wanted.forced_eos_token_id is not None and length == wanted.max_new_tokens:
            only = wanted.forced_eos_token_id
        suppressed = set(wanted.suppress_tokens)
        if length == self._begin:
            suppressed |= set(wanted.begin_suppress_tokens)
        if only is not None:
            return Edits({only: FORBIDDEN} if only in suppressed else {}, only)
        edited: dict[int, float] = {}
        if wanted.repetition_penalty != 1:
            penalty = np.float32(wanted.repetition_penalty)
            for token in set(tokens):
                before = score(token)
                edited[token] = float(before * penalty if before < 0 else before / penalty)
        forbidden = self._never | suppressed
        if wanted.no_repeat_ngram_size:
            forbidden |= _completions(_ngrams(tokens, wanted.no_repeat_ngram_size), tokens)
        if wanted.encoder_no_repeat_ngram_size:
            forbidden |= _completions(self._source_ngrams, tokens)
        for word in self._bad_words:
            if tuple(tokens[1 - len(word) :]) == word[:-1]:
                forbidden.add(word[-1])
        if length - 1 < wanted.min_new_tokens:
            forbidden |= set(wanted.eos_token_ids)
        return Edits(edited | dict.fromkeys(forbidden, FORBIDDEN))

    @cached_property
    def _source_ngrams(self) -> dict[tuple[int, ...], set[int]]:
        return _ngrams(self._source, self._generation.encoder_no_repeat_ngram_size)


def _ngrams(tokens: Sequence[int], size: int) -> dict[tuple[int, ...], set[int]]:
    """What has followed each run of size - 1 tokens."""
    followers: dict[tuple[int, ...], set[int]] = {}
    for start in range(len(tokens) - size + 1):
        *before, last = tokens[start : start + size]
        followers.setdefault(tuple(before), set()).add(last)
    return followers


def _completions(followers: dict[tuple[int, ...], set[int]], tokens: Sequence[int]) -> set[int]:
    """The tokens that would complete one of these n-grams after the hypothesis so far."""
    size = len(next(iter(followers))) if followers else 0
    # With too few tokens nothing can be completed; a slice from -0 would be all of them.
    return followers.get(tuple(tokens[len(tokens) - size :]), set()) if len(tokens) >= size else set()
