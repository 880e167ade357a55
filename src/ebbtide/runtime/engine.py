"""What an engine is: token ids in, generated token ids out, many callers at once."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ebbtide.runtime.parameters import Generation


class Cancelled(Exception):
    """Nobody wants the answer any more; what was computed of it is given up."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """`tokens`: the answer's ids, with a forced first one, without the start token and the end token.

    `score`: transformers' sequences_scores, the log-probability over length ** length_penalty; of beam search
    alone.
    """

    tokens: tuple[int, ...]
    score: float | None = None


class Engine(ABC):
    """A loaded model. It batches what its callers ask for at the same time as it sees fit."""

    @abstractmethod
    def check(self, generation: Generation) -> None:
        """Raises BadRequest, naming the parameter, for a generation that it cannot honour to the letter."""

    @abstractmethod
    def generate(
        self, sources: Sequence[Sequence[int]], generation: Generation, cancelled: threading.Event
    ) -> list[list[Hypothesis]]:
        """For each source (ids with the tokens that the model wants around a text) its
        `generation.num_return_sequences` best answers, best first. Blocks; called from many threads.

        Raises Cancelled soon after `cancelled` is set: between two decoding steps where the engine can.
        Raises BadRequest as `check` does.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What it computes with, for an operator: engine, compute_type, device, threads, batch bounds."""
