"""Batches out of what many callers ask for at the same time, for engines that decode one batch from end to
end.

A text waits until one of the engine's streams is free. The stream takes the text whose turn it is, and with
it those that wait with equal settings and of about its length, as many as fit: padding is at most
`MAX_PADDING` of a batch, and memory bounds it. While several streams are free each takes its share, so that
none idles.

Turns are fair queueing by virtual time (Demers, Keshav and Shenker, SIGCOMM 1989) over requests: the clock
counts the tokens that each of those who wait has had, and a text has its turn when the clock is where its
request's texts before it end. So a list of five hundred does not hold up one text that comes later, nor do
those that come later hold up the list. What one long article can cost a short one is the batch under way when
that comes, and those whose turn was before: never one that came later.

A text that nobody wants any more is dropped while it waits. In a batch under way the engine is told, and
stops it between two steps where it can; where it cannot, its caller is let go if the batch goes on for
others, and else waits for its end, since the processor is busy for it alone.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from ebbtide.runtime.engine import Cancelled, Hypothesis
from ebbtide.runtime.parameters import Generation

MAX_PADDING = 0.15
"""The largest part of a batch that may be padding."""

GATHER_SHARE = 0.02
"""How long a free stream lets texts gather before it takes them, as a part of what its last batch took: those
who waited for that batch ask for their next texts now."""

MAX_GATHER_S = 0.05
CANCELLATION_POLL_S = 0.05

IsAbandoned = Callable[[int], bool]
Decode = Callable[[Generation, Sequence[Sequence[int]], IsAbandoned], list[list[Hypothesis]]]
"""Answers for sources of equal settings, in their order; asks meanwhile which of them nobody wants any
more."""

Capacity = Callable[[Generation, int], int]
"""How many sources of so many tokens fit into one batch: one at least."""


class Turns:
    """The clock of fair queueing: the tokens that each of those who wait has had."""

    def __init__(self) -> None:
        self._clock = 0.0

    def of(self, costs: Iterable[int]) -> list[float]:
        """When each text of a request that comes now has its turn; costs: in tokens."""
        return list(accumulate(costs, initial=self._clock))[:-1]

    def taken(self, turn: float, tokens: int, *, requests: int) -> None:
        """Work of so many tokens is begun at its turn. requests: how many wait, with those begun now."""
        self._clock = max(self._clock, turn) + tokens / requests


@dataclass(slots=True, eq=False)
class Request:
    """What one caller waits for; `answers` by place, `left` of them to come."""

    cancelled: threading.Event
    answers: list[list[Hypothesis]]
    left: int
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, count: int, cancelled: threading.Event) -> "Request":
        return cls(cancelled, [[] for _ in range(count)], count)


@dataclass(frozen=True, slots=True, eq=False)
class Text:
    """One source of a request. `turn`: in tokens, on a clock that goes as fast as each request is served."""

    request: Request
    place: int
    source: Sequence[int]
    generation: Generation
    turn: float


def cost(source: Sequence[int], generation: Generation) -> int:
    """The tokens that it may take to read and to answer."""
    return len(source) + generation.max_new_tokens


class Queue:
    """What waits, and what of it is decoded next. Knows neither threads nor time."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._waiting: list[Text] = []
        self._turns = Turns()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: Request, sources: Sequence[Sequence[int]], generation: Generation) -> None:
        """All of a request's sources."""
        turns = self._turns.of(cost(source, generation) for source in sources)
        self._waiting += [
            Text(request, place, source, generation, turn)
            for place, (source, turn) in enumerate(zip(sources, turns, strict=True))
        ]

    def drop_cancelled(self) -> None:
        self._waiting = [text for text in self._waiting if not text.request.cancelled.is_set()]

    def take(self, idle_streams: int = 1) -> list[Text]:
        """The text whose turn it is and what goes with it, for one of so many streams that are idle."""
        leader = min(self._waiting, key=lambda text: text.turn)
        fitting = [text for text in self._waiting if text.generation == leader.generation]
        length = len(leader.source)
        fitting.sort(key=lambda text: (text is not leader, abs(len(text.source) - length), text.turn))
        most = -(-len(fitting) // idle_streams)
        if leader.generation.batch_size is not None:
            most = min(most, leader.generation.batch_size)
        batch: list[Text] = []
        longest = tokens = 0
        for text in fitting:
            with_it = max(longest, len(text.source))
            if len(batch) == max(1, min(most, self._capacity(leader.generation, with_it))):
                break
            if tokens + len(text.source) >= (1 - MAX_PADDING) * with_it * (len(batch) + 1):
                batch.append(text)
                longest, tokens = with_it, tokens + len(text.source)
        requests = {text.request for text in self._waiting}
        tokens = sum(cost(text.source, text.generation) for text in batch)
        self._turns.taken(leader.turn, tokens, requests=len(requests))
        taken = set(batch)
        self._waiting = [text for text in self._waiting if text not in taken]
        return batch


class Batcher:
    """Decodes what `generate` is asked for, in `streams` threads; called from many."""

    def __init__(self, decode: Decode, capacity: Capacity, *, streams: int) -> None:
        self._decode = decode
        self._changed = threading.Condition()
        self._queue = Queue(capacity)
        self._running: list[list[Text]] = []
        self._idle = 0
        self._gather_s = 0.0
        for number in range(streams):
            threading.Thread(target=self._run, name=f"stream {number}", daemon=True).start()

    def generate(
        self, sources: Sequence[Sequence[int]], generation: Generation, cancelled: threading.Event
    ) -> list[list[Hypothesis]]:
        """The answers to each source. Raises Cancelled, and what decoding them raised."""
        if not sources:
            return []
        request = Request.of(len(sources), cancelled)
        with self._changed:
            self._queue.add(request, sources, generation)
            self._changed.notify_all()
        while not request.done.wait(CANCELLATION_POLL_S):
            if cancelled.is_set() and self._let_go(request):
                raise Cancelled
        if cancelled.is_set():
            raise Cancelled
        if request.error:
            raise request.error
        return request.answers

    def _let_go(self, request: Request) -> bool:
        """Drop what waits of a cancelled request; whether no batch is decoded for it alone."""
        with self._changed:
            self._queue.drop_cancelled()
            its_batches = [batch for batch in self._running if any(text.request is request for text in batch)]
            return not any(all(text.request.cancelled.is_set() for text in batch) for batch in its_batches)

    def _run(self) -> None:
        while True:
            batch = self._next()
            began_at = time.monotonic()
            self._compute(batch)
            self._gather_s = min(MAX_GATHER_S, GATHER_SHARE * (time.monotonic() - began_at))

    def _next(self) -> list[Text]:
        with self._changed:
            self._idle += 1
            while True:
                self._changed.wait_for(lambda: self._queue)
                gathered_at = time.monotonic() + self._gather_s
                while (left_s := gathered_at - time.monotonic()) > 0:
                    self._changed.wait(left_s)
                self._queue.drop_cancelled()
                if self._queue:  # another stream may have taken what there was
                    break
            batch = self._queue.take(self._idle)
            self._idle -= 1
            self._running.append(batch)
            return batch

    def _compute(self, batch: list[Text]) -> None:
        outcomes = self._decoded(batch)
        with self._changed:
            self._running.remove(batch)
            for text, outcome in zip(batch, outcomes, strict=True):
                request = text.request
                if isinstance(outcome, Exception):
                    request.error = request.error or outcome
                else:
                    request.answers[text.place] = outcome
                request.left -= 1
                if not request.left:
                    request.done.set()

    def _decoded(self, batch: list[Text]) -> list[list[Hypothesis] | Exception]:
        """Each text's answers. A fault of one, or of all together, is found by decoding each alone."""
        try:
            return [
                *self._decode(
                    batch[0].generation,
                    [text.source for text in batch],
                    lambda place: batch[place].request.cancelled.is_set(),
                )
            ]
        except Exception as error:  # noqa: BLE001 whatever it is, those who wait must hear of it
            if len(batch) == 1:
                return [error]
        return [outcome for text in batch for outcome in self._decoded([text])]
