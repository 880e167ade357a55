"""Locations as clients write them, and ids in the order of their making."""

import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.identifiers import Location, parse_location, random_id, time_of_id, time_ordered_id


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        pytest.param("s3://in/a/b.json", Location("in", "a/b.json"), id="s3"),
        pytest.param("s3://in", Location("in", ""), id="s3 bucket alone"),
        pytest.param("s3://in/what?#.txt", Location("in", "what?#.txt"), id="s3 keys are not URLs"),
        pytest.param("s3://in/a%20b", Location("in", "a%20b"), id="s3 keys are not percent-encoded"),
        pytest.param("https://in.s3.eu-west-1.amazonaws.com/a%20b", Location("in", "a b"), id="virtual host"),
        pytest.param("https://in.s3.amazonaws.com/a", Location("in", "a"), id="virtual host, no region"),
        pytest.param("https://s3.eu-west-1.amazonaws.com/in/a", Location("in", "a"), id="path style"),
        pytest.param("https://s3-eu-west-1.amazonaws.com/in/a", Location("in", "a"), id="old path style"),
        pytest.param("http://127.0.0.1:8377/in/a/b", Location("in", "a/b"), id="our own host"),
        pytest.param("https://x.s3.dots.s3.amazonaws.com/a", Location("x.s3.dots", "a"), id="dotted bucket"),
    ],
)
def test_a_location_is_found_in_every_form_that_clients_use(uri: str, location: Location) -> None:
    assert parse_location(uri) == location


@pytest.mark.parametrize("uri", ["", "in/a", "ftp://in/a", "s3://", "https://s3.amazonaws.com/"])
def test_what_names_no_bucket_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"names no bucket|is neither"):
        parse_location(uri)


@given(st.lists(st.floats(min_value=0, max_value=4e9), min_size=2, max_size=20))
def test_ids_made_later_sort_later_and_are_uuids(times: list[float]) -> None:
    milliseconds = sorted({int(at * 1000) for at in times})

    made = [time_ordered_id(at / 1000 + 0.0001) for at in milliseconds]

    assert made == sorted(made)
    assert {uuid.UUID(one).version for one in made} == {7}


def test_ids_are_uuids_that_no_two_threads_share() -> None:
    with ThreadPoolExecutor(4) as threads:
        drawn = list(threads.map(lambda n: time_ordered_id(1.0) if n % 2 else random_id(), range(4000)))

    assert len(set(drawn)) == 4000
    parsed = [uuid.UUID(one) for one in drawn]
    assert [str(one) for one in parsed] == drawn
    assert [one.version for one in parsed[:2]] == [4, 7]
    assert {one.variant for one in parsed} == {uuid.RFC_4122}


def test_a_fork_does_not_draw_its_parents_ids() -> None:
    draws = """
import os
from ebbtide.identifiers import random_id
random_id()  # more was drawn than this one took
child = os.fork()
if child:
    os.waitpid(child, 0)
print(*(random_id() for _ in range(1000)), flush=True)
"""

    drawn = subprocess.run([sys.executable, "-c", draws], capture_output=True, text=True, check=True).stdout

    assert len(set(drawn.split())) == 2000


@given(st.integers(min_value=0, max_value=1 << 42))
def test_an_id_tells_when_it_was_made(milliseconds: int) -> None:
    assert time_of_id(time_ordered_id(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=0.0011)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("lost+found", id="another file's name"),
        pytest.param(str(uuid.uuid4()), id="a random UUID"),
        pytest.param(time_ordered_id(1.0).upper(), id="capitals"),
    ],
)
def test_no_time_is_read_from_what_is_no_id_of_ours(text: str) -> None:
    with pytest.raises(ValueError):
        time_of_id(text)
