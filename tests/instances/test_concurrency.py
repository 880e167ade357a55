"""How an instance finds how many invocations it works on best at a time. Time is an argument."""

import pytest

from ebbtide.instances.concurrency import SEARCH_AGAIN_S, Concurrency, Search, room


class Instance:
    """Finishes invocations at the pace that `throughput` gives for the limit, always with work waiting."""

    def __init__(self, throughput):
        self.throughput = throughput
        self.now = 0.0

    def work(self, search, count, *, saturated=True):
        for _ in range(count):
            self.now += 1 / self.throughput(search.limit)
            search.finished(self.now, saturated=saturated)


def fits(_limit, _count):
    return None


def cores(count, each_s=0.02):
    """A model that computes on so many cores, each request on one."""
    return lambda limit: min(limit, count) / each_s


def batching(limit):
    """One whose batches get ever less faster."""
    return 100 * limit / (limit + 8)


def hurt_by_more(limit):
    """One that thrashes beyond four."""
    return 40 if limit <= 4 else 160 / limit


@pytest.mark.parametrize(
    ("throughput", "start", "found"),
    [
        pytest.param(cores(2), 2, 2, id="two cores need two"),
        pytest.param(cores(1), 4, 1, id="one core needs one, whatever it starts with"),
        pytest.param(cores(8), 2, 8, id="eight cores need eight"),
        pytest.param(batching, 2, 27, id="batches help, ever less"),
        pytest.param(lambda limit: 50.0, 2, 1, id="what nothing helps is done one by one"),
        pytest.param(hurt_by_more, 4, 1, id="thrashing is left again"),
    ],
)
def test_the_fewest_at_a_time_that_do_nearly_the_most_are_found(throughput, start, found):
    search = Search(start, fits)

    Instance(throughput).work(search, 5_000)

    assert search.settled is not None
    assert search.limit == found
    assert search.cause.startswith("found: ")


def test_without_work_waiting_nothing_is_learnt():
    search = Search(2, fits)

    Instance(cores(8)).work(search, 5_000, saturated=False)

    assert (search.limit, search.settled) == (2, None)


def test_what_is_found_tells_what_was_measured():
    search = Search(2, fits)

    Instance(cores(2)).work(search, 5_000)

    assert (
        search.cause == "found: 1 at a time finish 50/s, 2 at a time finish 100/s, 3 at a time finish 100/s"
    )


def test_memory_bounds_the_search_and_is_named():
    search = Search(2, lambda _, count: "8 GiB are not enough" if count > 4 else None)

    Instance(cores(8)).work(search, 5_000)

    assert search.limit == 3
    assert search.cause.endswith("; 8 GiB are not enough")


def test_a_knee_is_searched_for_again_after_a_while():
    search = Search(2, fits)
    instance = Instance(cores(2))
    instance.work(search, 5_000)
    instance.now += SEARCH_AGAIN_S
    instance.throughput = cores(8)

    instance.work(search, 5_000)

    assert search.limit == 8


def test_a_limit_that_was_asked_for_stays():
    asked = Concurrency(3, "MaxConcurrentInvocationsPerInstance")

    Instance(cores(8)).work(asked, 1_000)

    assert asked.limit == 3


GIB = 2**30


@pytest.mark.parametrize(
    ("limit_bytes", "refused"),
    [
        pytest.param(None, None, id="no limit"),
        pytest.param(8 * GIB, None, id="enough for all"),
        pytest.param(4 * GIB, "5 at a time would take 4.5 of 4.0 GiB", id="each request takes its share"),
    ],
)
def test_memory_of_requests_grows_with_their_number(limit_bytes, refused):
    assert (
        room(idle_bytes=2 * GIB, resident_bytes=3 * GIB, limit_bytes=limit_bytes, limit=2, count=5) == refused
    )
