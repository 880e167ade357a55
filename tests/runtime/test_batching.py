"""Batches out of what callers ask for at once: what goes together, whose turn it is, what is dropped."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from ebbtide.runtime.batching import MAX_PADDING, Batcher, IsAbandoned, Queue, Request
from ebbtide.runtime.engine import Cancelled, Hypothesis
from ebbtide.runtime.parameters import Generation

GREEDY = Generation(decoder_start_token_id=0, eos_token_ids=(1,), max_new_tokens=10)
BEAMS = Generation(decoder_start_token_id=0, eos_token_ids=(1,), max_new_tokens=10, num_beams=4)
PATIENCE_S = 120.0


def queue_of(*requests: Sequence[int], capacity: int = 8, generation: Generation = GREEDY) -> Queue:
    """A queue that requests for texts of these lengths have come to, one after the other."""
    queue = Queue(lambda _generation, _length: capacity)
    for lengths in requests:
        ask(queue, *lengths, generation=generation)
    return queue


def ask(queue: Queue, *lengths: int, generation: Generation = GREEDY) -> Request:
    request = Request.of(len(lengths), threading.Event())
    queue.add(request, [[7] * length for length in lengths], generation)
    return request


def taken(queue: Queue, idle_streams: int = 1) -> list[int]:
    """The lengths of the texts in the next batch."""
    return sorted(len(text.source) for text in queue.take(idle_streams))


def test_texts_of_several_requests_are_decoded_together():
    assert taken(queue_of([20], [20, 19], [18])) == [18, 19, 20, 20]


def test_texts_with_other_settings_are_not():
    queue = queue_of([20])
    ask(queue, 20, generation=BEAMS)

    assert [taken(queue), taken(queue)] == [[20], [20]]


def test_texts_much_shorter_wait_for_a_batch_of_their_own():
    queue = queue_of([100], [10], [95], [12])

    assert [taken(queue), taken(queue)] == [[95, 100], [10, 12]]


def test_padding_keeps_its_bound_whatever_the_lengths():
    lengths = [[1 + 37 * i % 1000] for i in range(300)]
    queue = queue_of(*lengths, capacity=16)

    while queue:
        batch = taken(queue)
        assert sum(batch) >= (1 - MAX_PADDING) * batch[-1] * len(batch)


def test_mixed_lengths_still_fill_the_batches():
    queue = queue_of(*([64 + 37 * i % 960] for i in range(64)), capacity=8)

    batches = []
    while queue:
        batches.append(taken(queue))

    assert len(batches) <= 64 / 8 * 2


@pytest.mark.parametrize(
    ("capacity", "batch_size", "idle_streams", "expected"),
    [
        pytest.param(3, None, 1, 3, id="memory bounds a batch"),
        pytest.param(0, None, 1, 1, id="but one text is always decoded"),
        pytest.param(8, 2, 1, 2, id="so does batch_size"),
        pytest.param(8, None, 2, 3, id="idle streams share what waits"),
    ],
)
def test_a_batch_has_its_bounds(capacity: int, batch_size: int | None, idle_streams: int, expected: int):
    generation = Generation(0, (1,), batch_size=batch_size)
    queue = queue_of(*[[20]] * 6, capacity=capacity, generation=generation)

    assert len(queue.take(idle_streams)) == expected


def test_a_later_request_does_not_wait_for_all_of_a_long_list():
    queue = queue_of([20] * 500, capacity=4)
    queue.take()

    ask(queue, 20, generation=BEAMS)
    batches = [queue.take() for _ in range(3)]

    assert BEAMS in [batch[0].generation for batch in batches]


def test_a_long_list_is_not_held_up_by_all_that_comes_later():
    queue = queue_of([20] * 8, capacity=1)
    positions = []
    for _ in range(40):
        ask(queue, 20, generation=BEAMS)
        positions.append(queue.take()[0].generation)

    assert positions.count(GREEDY) >= 4


def test_a_short_text_waits_for_no_more_long_ones_than_came_before_it():
    queue = queue_of([1000], [1000], capacity=1)
    ask(queue, 10)
    ask(queue, 1000)

    assert [taken(queue) for _ in range(3)].index([10]) == 2


def test_what_was_cancelled_while_it_waited_is_not_decoded():
    queue = queue_of([20])
    ask(queue, 30).cancelled.set()

    queue.drop_cancelled()

    assert taken(queue) == [20]
    assert not queue


class Decoding:
    """A decode that can be held: a text's answer is its length."""

    def __init__(self) -> None:
        self.began = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)

    def __call__(
        self, _: Generation, sources: Sequence[Sequence[int]], is_abandoned: IsAbandoned
    ) -> list[list[Hypothesis]]:
        self.began.release()
        assert self.gate.acquire(timeout=PATIENCE_S)
        if 13 in map(len, sources):
            raise RuntimeError("no memory for it")
        return [[Hypothesis((len(source), is_abandoned(place)))] for place, source in enumerate(sources)]


@pytest.fixture
def decoding() -> Decoding:
    return Decoding()


@pytest.fixture
def batcher(decoding: Decoding) -> Batcher:
    return Batcher(decoding, lambda _generation, _length: 8, streams=1)


def test_each_caller_gets_its_own_answers_in_order(batcher: Batcher, decoding: Decoding):
    decoding.gate.release(20)
    with ThreadPoolExecutor(8) as callers:
        asked = [[[7] * (10 * i + j) for j in (1, 2)] for i in range(8)]
        answers = list(callers.map(lambda s: batcher.generate(s, GREEDY, threading.Event()), asked))

    assert [[each[0].tokens[0] for each in several] for several in answers] == [
        [10 * i + 1, 10 * i + 2] for i in range(8)
    ]


def test_what_decoding_raises_reaches_the_caller_and_the_next_is_served(batcher: Batcher, decoding: Decoding):
    decoding.gate.release(2)

    with pytest.raises(RuntimeError, match="no memory for it"):
        batcher.generate([[7] * 13], GREEDY, threading.Event())

    assert batcher.generate([[7] * 2], GREEDY, threading.Event())[0][0].tokens[0] == 2


def test_a_text_that_cannot_be_decoded_fails_alone(batcher: Batcher, decoding: Decoding):
    with ThreadPoolExecutor(4) as callers:
        held = callers.submit(batcher.generate, [[7]], BEAMS, threading.Event())
        assert decoding.began.acquire(timeout=PATIENCE_S)
        asked = [
            callers.submit(batcher.generate, [[7] * length], GREEDY, threading.Event())
            for length in (12, 13, 13)
        ]
        decoding.gate.release(20)

        assert held.result(PATIENCE_S)
        assert asked[0].result(PATIENCE_S)[0][0].tokens[0] == 12
        for each in asked[1:]:
            assert isinstance(each.exception(PATIENCE_S), RuntimeError)


def test_a_cancelled_request_that_waits_is_let_go_at_once(batcher: Batcher, decoding: Decoding):
    cancelled = threading.Event()
    with ThreadPoolExecutor(2) as callers:
        running = callers.submit(batcher.generate, [[7]], GREEDY, threading.Event())
        assert decoding.began.acquire(timeout=PATIENCE_S)
        waiting = callers.submit(batcher.generate, [[7]], BEAMS, cancelled)

        cancelled.set()

        assert isinstance(waiting.exception(PATIENCE_S), Cancelled)
        assert not running.done()
        decoding.gate.release()


def test_a_batch_decoded_for_a_cancelled_request_alone_is_told_and_waited_for(
    batcher: Batcher, decoding: Decoding
):
    cancelled = threading.Event()
    with ThreadPoolExecutor(1) as callers:
        running = callers.submit(batcher.generate, [[7]], GREEDY, cancelled)
        assert decoding.began.acquire(timeout=PATIENCE_S)

        cancelled.set()
        with pytest.raises(TimeoutError):
            running.exception(0.2)
        decoding.gate.release()

        assert isinstance(running.exception(PATIENCE_S), Cancelled)
