"""The engine: one thread that decodes for all callers, a step at a time.

Between two steps sources join and leave: who is cancelled, who is done, and in their place who waits.
Requests of any settings share a step, since the step is the same for all and the searches differ outside of
it. A source is encoded alone, so nothing is padded there; those that are decoded meanwhile wait for at most
`ENCODED_AT_ONCE` tokens, or one source, between two of their steps.

Turns are fair between callers, by tokens, as in batching.py: a list of five hundred texts does not hold up
the one text that comes after it, nor do those that keep coming hold up the list. Memory is bounded by
admitting no more than the caches have room for; whose turn it is waits for that room and is not overtaken.

After a fault in a step its sources are decoded anew, each alone: only the one that cannot be decoded fails.
"""

import atexit
import itertools
import logging
import math
import threading
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ebbtide.runtime.batching import Turns, cost
from ebbtide.runtime.engine import Cancelled, Engine, Hypothesis
from ebbtide.runtime.engines.native.batch import Batch, Decoding
from ebbtide.runtime.engines.native.model import Model
from ebbtide.runtime.engines.native.search import Search, search
from ebbtide.runtime.errors import BadRequest, one_line
from ebbtide.runtime.parameters import Generation

logger = logging.getLogger(__name__)

MAX_ROWS = 64
"""Beams and samples decoded together: with more, products gain nothing and steps take longer."""

CACHE_BYTES = 512 << 20
"""Room for keys and values of all that is decoded at once; a lone source may take more."""

ENCODED_AT_ONCE = 1024
"""Source tokens encoded between two steps, unless a single source has more."""


@dataclass(slots=True, eq=False)
class _Request:
    """What one caller waits for; `answers` by place."""

    generation: Generation
    cancelled: threading.Event
    answers: list[list[Hypothesis]]
    left: int
    decoded_now: int = 0
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def may_decode_more(self) -> bool:
        most = self.generation.batch_size
        return most is None or self.decoded_now < most

    @property
    def is_unwanted(self) -> bool:
        """Cancelled, which its caller is told now, or failed already."""
        if self.cancelled.is_set() and self.error is None:
            self.fail(Cancelled())
        return self.error is not None

    def answer(self, place: int, hypotheses: list[Hypothesis]) -> None:
        self.answers[place] = hypotheses
        self.left -= 1
        if not self.left:
            self.done.set()

    def fail(self, error: Exception) -> None:
        self.error = error
        self.done.set()


@dataclass(frozen=True, slots=True, eq=False)
class _Text:
    """`alone`: nothing else may be decoded beside it."""

    request: _Request
    place: int
    source: Sequence[int]
    search: Search
    alone: bool = False

    def anew(self) -> "_Text":
        """From its beginning, and alone."""
        begun = search(self.request.generation, self.source, self.place)
        return replace(self, search=begun, alone=True)


class NativeEngine(Engine):
    """A model that `preparation.prepare` has written."""

    def __init__(self, folder: Path, *, threads: int) -> None:
        """threads: cores it may use. Raises LoadFailure."""
        self._model = Model(folder, threads)
        self._threads = threads
        self._batch = Batch(self._model)
        self._texts: dict[Decoding, _Text] = {}
        self._waiting: list[tuple[float, int, _Text]] = []
        self._turns = Turns()
        self._order = itertools.count()
        self._arrived = threading.Condition()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decoding", daemon=True)
        self._thread.start()
        # A thread that comes back from ONNX Runtime into an interpreter that is gone aborts the process.
        atexit.register(self._end)

    def check(self, generation: Generation) -> None:
        named = {
            "bad_words_ids": [token for word in generation.bad_words_ids for token in word],
            "suppress_tokens": generation.suppress_tokens,
            "begin_suppress_tokens": generation.begin_suppress_tokens,
            "eos_token_id": generation.eos_token_ids,
            "decoder_start_token_id": [generation.decoder_start_token_id],
            "forced_bos_token_id": [generation.forced_bos_token_id or 0],
            "forced_eos_token_id": [generation.forced_eos_token_id or 0],
        }
        for name, tokens in named.items():
            if any(token >= self._model.vocabulary for token in tokens):
                raise BadRequest(f"{name} has an id beyond the model's {self._model.vocabulary} tokens")

    def generate(
        self, sources: Sequence[Sequence[int]], generation: Generation, cancelled: threading.Event
    ) -> list[list[Hypothesis]]:
        self.check(generation)
        if not sources:
            return []
        request = _Request(generation, cancelled, [[] for _ in sources], len(sources))
        with self._arrived:
            turns = self._turns.of(cost(source, generation) for source in sources)
            for place, (source, turn) in enumerate(zip(sources, turns, strict=True)):
                text = _Text(request, place, source, search(generation, source, place))
                insort(self._waiting, (turn, next(self._order), text))
            self._arrived.notify()
        request.done.wait()
        if request.error:
            raise request.error
        return request.answers

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "native",
            "compute_type": self._model.compute_type,
            "device": "cpu",
            "threads": self._threads,
            "max_rows": MAX_ROWS,
            "cache_bytes": CACHE_BYTES,
        }

    def _end(self) -> None:
        """Finish the step under way, and no more."""
        self._ends.set()
        with self._arrived:
            self._arrived.notify()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.is_set():
            with self._arrived:
                self._arrived.wait_for(lambda: self._waiting or self._texts or self._ends.is_set())
            try:
                self._step()
            except Exception as error:  # noqa: BLE001 callers must hear of any fault, and the next be served
                self._isolate(error)

    def _step(self) -> None:
        self._drop_cancelled()
        encoded = 0
        while (text := self._next(encoded)) is not None:
            encoded += len(text.source)
            self._join(text)
            self._drop_cancelled()
        if not self._texts:
            return
        for decoding in self._batch.step():
            text = self._leave(decoding)
            text.request.answer(text.place, decoding.search.hypotheses())

    def _next(self, encoded: int) -> _Text | None:
        """Whose turn it is, if there is room for it after so many tokens have been encoded."""
        with self._arrived:
            ready = (each for each in self._waiting if each[2].request.may_decode_more)
            if (entry := next(ready, None)) is None:
                return None
            turn, _, text = entry
            if encoded and encoded + len(text.source) > ENCODED_AT_ONCE:
                return None
            if self._texts and not self._may_join(text):
                return None
            requests = {each[2].request for each in self._waiting}
            self._turns.taken(turn, cost(text.source, text.request.generation), requests=len(requests))
            self._waiting.remove(entry)
            return text

    def _may_join(self, text: _Text) -> bool:
        if text.alone or any(each.alone for each in self._texts.values()):
            return False
        return self._has_room(Decoding.begin(text.search, len(text.source)))

    def _join(self, text: _Text) -> None:
        try:
            kept = self._model.encode(text.source)
        except Exception as error:  # noqa: BLE001 a fault with one source is none of the others'
            text.request.fail(error)
            return
        decoding = Decoding.begin(text.search, len(text.source))
        self._texts[decoding] = text
        text.request.decoded_now += 1
        self._batch.join(decoding, kept)

    def _has_room(self, decoding: Decoding) -> bool:
        rows = sum(each.search.max_rows for each in (*self._texts, decoding))
        return rows <= MAX_ROWS and self._batch.cache_bytes(decoding) <= CACHE_BYTES

    def _drop_cancelled(self) -> None:
        for decoding, text in list(self._texts.items()):
            if text.request.is_unwanted:
                self._leave(decoding)
        with self._arrived:
            unwanted = [each for each in self._waiting if each[2].request.is_unwanted]
            for each in unwanted:
                self._waiting.remove(each)

    def _leave(self, decoding: Decoding) -> _Text:
        text = self._texts.pop(decoding)
        text.request.decoded_now -= 1
        self._batch.leave(decoding)
        return text

    def _isolate(self, error: Exception) -> None:
        """Have what a fault has interrupted decoded one by one; what was alone has failed."""
        texts = list(self._texts.values())
        self._texts.clear()
        self._batch = Batch(self._model)
        for text in texts:
            text.request.decoded_now -= 1
        if len(texts) == 1:
            texts[0].request.fail(error)
            return
        logger.warning("A step of %d texts failed, each is decoded alone: %s", len(texts), one_line(error))
        with self._arrived:
            for text in texts:
                insort(self._waiting, (-math.inf, next(self._order), text.anew()))
