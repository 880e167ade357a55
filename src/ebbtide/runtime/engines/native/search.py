"""Greedy search, sampling and beam search over the scores that the decoder gives: transformers' algorithms.

A search holds the hypotheses of one source. At each step it is shown the scores of its rows' next tokens and
says which rows go on with which token. It knows nothing of models and batches, so that searches of any
settings can stand in one batch.

Scores come with each row's likeliest tokens. A search looks at those, and at the whole row only where its
constraints leave too few of them: the vocabulary is some hundred thousand wide and the step is paid by
everyone.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ebbtide.runtime.engine import Hypothesis
from ebbtide.runtime.engines.native.constraints import FORBIDDEN, Constraints, Edits
from ebbtide.runtime.parameters import Generation

_NEVER = np.float32(-1e9)
"""transformers' score for what must not be chosen, in the float32 arithmetic in which scores are compared."""

_MARGIN = 8
"""Likeliest tokens wanted beyond those needed, for constraints to take away."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one source's rows. logits: float32 [rows, vocabulary]; total [rows]: the logarithm of the sum of
    their exponentials; best_logits, best_tokens [rows, best]: the largest, in falling order."""

    logits: np.ndarray
    total: np.ndarray
    best_logits: np.ndarray
    best_tokens: np.ndarray

    def of_rows(self, first: int, last: int) -> "Scores":
        rows = slice(first, last)
        return Scores(self.logits[rows], self.total[rows], self.best_logits[rows], self.best_tokens[rows])


@dataclass(frozen=True, slots=True)
class Continuations:
    """The rows of the next step: each one's row in this step, and its newest token. None left: it is done."""

    parents: list[int]
    tokens: list[int]


class Search(ABC):
    """`best`: how many of each row's likeliest tokens it wants to see. `max_rows`: at most at a step; the
    first step has `first_rows`, each of them the start token."""

    best: int
    max_rows: int
    first_rows: int

    def __init__(self, generation: Generation, source: Sequence[int]) -> None:
        self.generation = generation
        self._constraints = Constraints(generation, source)

    @abstractmethod
    def advance(self, scores: Scores) -> Continuations: ...

    @abstractmethod
    def hypotheses(self) -> list[Hypothesis]:
        """The answers, best first, once it is done."""

    def _candidates(
        self, tokens: Sequence[int], scores: Scores, row: int, count: int, shift: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """The row's `count` likeliest tokens under the constraints, and their scores: logits less `shift`.

        In falling order; fewer where fewer are allowed.
        """
        logits = scores.logits[row]
        edits = self._constraints.edits(tokens, lambda token: logits[token] - np.float32(shift))
        if edits.only is not None:
            score = np.float32(edits.scores.get(edits.only, 0.0))
            return np.array([edits.only]), np.array([score], np.float32)
        best_tokens = scores.best_tokens[row]
        best_scores = scores.best_logits[row] - np.float32(shift)
        if not edits.scores:
            return best_tokens[:count], best_scores[:count]
        changed = np.fromiter(edits.scores, np.int64)
        values = np.fromiter(edits.scores.values(), np.float32)
        allowed = values > FORBIDDEN
        # For so few numpy's isin takes 70 us, and both cores wait for it.
        untouched = np.array([token not in edits.scores for token in best_tokens.tolist()])
        if np.count_nonzero(untouched) < count:
            best_tokens, best_scores = np.arange(logits.size), logits - np.float32(shift)
            untouched = np.ones(logits.size, bool)
            untouched[changed] = False
        elif not allowed.any():
            return best_tokens[untouched][:count], best_scores[untouched][:count]
        best_tokens = np.concatenate([best_tokens[untouched], changed[allowed]])
        best_scores = np.concatenate([best_scores[untouched], values[allowed]])
        # Among equals the smaller id, as with what the decoder gives.
        order = np.lexsort((best_tokens, -best_scores))[:count]
        return best_tokens[order], best_scores[order]

    def _whole(self, tokens: Sequence[int], scores: Scores, row: int, shift: float) -> np.ndarray:
        """All of the row's scores under the constraints: float32 [vocabulary]."""
        whole: np.ndarray = scores.logits[row] - np.float32(shift)
        return _edited(whole, self._constraints.edits(tokens, whole.__getitem__))


def _edited(scores: np.ndarray, edits: Edits) -> np.ndarray:
    if edits.only is not None:
        scores = np.full_like(scores, FORBIDDEN)
        scores[edits.only] = 0
    for token, score in edits.scores.items():
        scores[token] = score
    return scores


def search(generation: Generation, source: Sequence[int], place: int) -> Search:
    """The search that the generation asks for. place: of the source in its request, for the seed."""
    seed = None if generation.seed is None else (generation.seed, place)
    draw = np.random.default_rng(seed)
    if generation.num_beams > 1:
        return _BeamSearch(generation, source, draw)
    return _Rows(generation, source, draw)


class _Rows(Search):
    """Greedy search, or samples drawn independently, each in a row of its own."""

    def __init__(self, generation: Generation, source: Sequence[int], draw: np.random.Generator) -> None:
        super().__init__(generation, source)
        self._draw = draw
        self.first_rows = self.max_rows = generation.num_return_sequences
        self.best = (generation.top_k if generation.do_sample else 1) + _MARGIN
        self._all = [[generation.decoder_start_token_id] for _ in range(self.first_rows)]
        self._running = list(range(self.first_rows))

    def advance(self, scores: Scores) -> Continuations:
        next_tokens = [self._next(self._all[place], scores, row) for row, place in enumerate(self._running)]
        parents, tokens, running = [], [], []
        for row, (place, token) in enumerate(zip(self._running, next_tokens, strict=True)):
            self._all[place].append(token)
            if (
                token in self.generation.eos_token_ids
                or len(self._all[place]) > self.generation.max_new_tokens
            ):
                continue
            parents.append(row)
            tokens.append(token)
            running.append(place)
        self._running = running
        return Continuations(parents, tokens)

    def hypotheses(self) -> list[Hypothesis]:
        return [Hypothesis(_answer(tokens, self.generation)) for tokens in self._all]

    def _next(self, tokens: list[int], scores: Scores, row: int) -> int:
        wanted = self.generation
        if not wanted.do_sample:
            candidates, _ = self._candidates(tokens, scores, row, 1, 0)
            return int(candidates[0])
        if wanted.top_k:
            candidates, logits = self._candidates(tokens, scores, row, wanted.top_k, 0)
        else:
            whole = self._whole(tokens, scores, row, 0)
            candidates = np.argsort(-whole, kind="stable")
            logits = whole[candidates]
        shares = _warped(logits, wanted, keep=1)
        return int(candidates[self._draw.choice(len(shares), p=shares)])


class _BeamSearch(Search):
    """GenerationMixin._beam_search of transformers 5.23 for one source, with beam sampling.

    A hypothesis that only fills a place there (at -1e9) is none here. Names are transformers'.
    """

    def __init__(self, generation: Generation, source: Sequence[int], draw: np.random.Generator) -> None:
        super().__init__(generation, source)
        self._draw = draw
        # As many as leave num_beams that go on, should all the best ones end.
        self._beams_to_keep = max(2, 1 + len(generation.eos_token_ids)) * generation.num_beams
        self.best = self._beams_to_keep + _MARGIN
        # All beams of the first step would be the same one.
        self.first_rows, self.max_rows = 1, generation.num_beams
        self._running = [[generation.decoder_start_token_id]]
        self._running_scores = np.zeros(1, np.float32)
        self._finished: list[tuple[np.float32, list[int]]] = []

    def advance(self, scores: Scores) -> Continuations:
        wanted = self.generation
        rows, tokens, totals = self._sampled(scores) if wanted.do_sample else self._best(scores)
        length = len(self._running[0])
        is_last = length >= wanted.max_new_tokens
        ends = np.array([is_last or token in wanted.eos_token_ids for token in tokens.tolist()], bool)

        going_on = np.flatnonzero(~ends)
        going_on = going_on[np.argsort(-totals[going_on], kind="stable")][: wanted.num_beams]
        for place in np.flatnonzero(ends[: wanted.num_beams]):
            score = totals[place] / np.float32(length**wanted.length_penalty)
            self._finished.append((score, [*self._running[rows[place]], int(tokens[place])]))
        # Stable: of equal ones the earlier found stays.
        self._finished.sort(key=lambda finished: -finished[0])
        del self._finished[wanted.num_beams :]

        parents, newest = rows[going_on].tolist(), tokens[going_on].tolist()
        self._running = [[*self._running[row], token] for row, token in zip(parents, newest, strict=True)]
        self._running_scores = totals[going_on]
        return Continuations([], []) if self._is_done() else Continuations(parents, newest)

    def hypotheses(self) -> list[Hypothesis]:
        wanted = self.generation
        found = [Hypothesis(_answer(tokens, wanted), float(score)) for score, tokens in self._finished]
        # Where the constraints allow fewer answers than were asked for.
        missing = [Hypothesis((), float(_NEVER))] * (wanted.num_return_sequences - len(found))
        return (found + missing)[: wanted.num_return_sequences]

    def _best(self, scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best continuations of all rows: their rows, tokens and accumulated scores, best first."""
        rows, tokens, totals = [], [], []
        for row, hypothesis in enumerate(self._running):
            if self.generation.renormalize_logits:
                whole = _log_shares(self._whole(hypothesis, scores, row, scores.total[row]))
                candidates = np.argsort(-whole, kind="stable")[: self._beams_to_keep]
                values = whole[candidates]
            else:
                candidates, values = self._candidates(
                    hypothesis, scores, row, self._beams_to_keep, scores.total[row]
                )
            rows.append(np.full(len(candidates), row))
            tokens.append(candidates)
            totals.append(values + self._running_scores[row])
        together = np.concatenate(totals)
        # Among equals the first row's, and of one row the likelier, as they stand.
        order = np.argsort(-together, kind="stable")[: self._beams_to_keep]
        # A forced token leaves no other; in transformers the beams that repeat it stand before those.
        order = order[together[order] > FORBIDDEN]
        return np.concatenate(rows)[order], np.concatenate(tokens)[order], together[order]

    def _sampled(self, scores: Scores) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Continuations drawn without replacement by their accumulated scores, in the order drawn."""
        wanted = self.generation
        whole = np.stack(
            [
                _warped_scores(
                    self._whole(hypothesis, scores, row, scores.total[row]),
                    wanted,
                    len(wanted.eos_token_ids) + 1,
                )
                for row, hypothesis in enumerate(self._running)
            ]
        )
        totals = (whole + self._running_scores[:, None]).ravel()
        # The largest of scores disturbed by Gumbel noise are such a draw (Kool, van Hoof, Welling 2019).
        drawn = np.argsort(-(totals + self._draw.gumbel(size=totals.size)), kind="stable")
        drawn = drawn[: self._beams_to_keep]
        drawn = drawn[np.isfinite(totals[drawn])]
        return drawn // whole.shape[1], drawn % whole.shape[1], totals[drawn]

    def _is_done(self) -> bool:
        wanted = self.generation
        if not self._running:
            return True
        if len(self._finished) < wanted.num_beams:
            return False
        if wanted.early_stopping is True:
            return True
        length = len(self._running[0]) - 1
        if wanted.early_stopping == "never" and wanted.length_penalty > 0:
            length = wanted.max_new_tokens
        best_possible = self._running_scores[0] / np.float32(length**wanted.length_penalty)
        return not best_possible > self._finished[-1][0]


def _answer(tokens: list[int], generation: Generation) -> tuple[int, ...]:
    """Without the start token and the end token."""
    return tuple(tokens[1:-1] if tokens[-1] in generation.eos_token_ids else tokens[1:])


def _log_shares(scores: np.ndarray) -> np.ndarray:
    largest = scores.max()
    shares: np.ndarray = scores - largest - np.log(np.exp(scores - largest).sum())
    return shares


def _warped(logits: np.ndarray, generation: Generation, keep: int) -> np.ndarray:
    """Shares of candidates in falling order after temperature and top_p; `keep` of them at least."""
    scaled = logits.astype(np.float64) / generation.temperature
    shares: np.ndarray = np.exp(scaled - scaled[0])
    shares /= shares.sum()
    if generation.top_p < 1:
        shares[_nucleus(shares, generation, keep) :] = 0
        shares /= shares.sum()
    return shares


def _nucleus(shares: np.ndarray, generation: Generation, keep: int) -> int:
    """How many of the likeliest candidates, in falling order, top_p leaves; `keep` at least."""
    # What a candidate and all less likely ones make together.
    tails = np.cumsum(shares[::-1])[::-1]
    return max(keep, int(np.count_nonzero(tails > 1 - generation.top_p)))


def _warped_scores(scores: np.ndarray, generation: Generation, keep: int) -> np.ndarray:
    """float32 [vocabulary]: scores over the temperature, forbidden beyond top_k and top_p."""
    order = np.argsort(-scores, kind="stable")
    if generation.top_k:
        order = order[: max(generation.top_k, keep)]
    order = order[np.isfinite(scores[order])]
    kept = order
    if generation.top_p < 1:
        # By place, not by a share above 0: at a low temperature a share underflows that is not forbidden.
        scaled = scores[order].astype(np.float64) / generation.temperature
        kept = order[: _nucleus(np.exp(_log_shares(scaled)), generation, keep)]
    warped = np.full_like(scores, FORBIDDEN)
    warped[kept] = scores[kept] / np.float32(generation.temperature)
    return warped
