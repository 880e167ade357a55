"""The header X-Ebbtide-Submission: what it says, and what is told of one that cannot be meant."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.api.submission import HEADER, MAX_LENGTH, Submission, read
from ebbtide.errors import ServiceError


def test_a_request_without_the_header_is_an_ordinary_one():
    assert read({"content-type": "text/plain"}) == Submission(priority=0, tags={}, deduplicate=True)


def test_priority_tags_deduplication_and_time_to_live_are_read():
    tags = {"project": "Trends 2026/a", "größe": ""}
    header = json.dumps({"priority": -100, "tags": tags, "deduplicate": False, "ttl_s": 604_800})

    assert read({HEADER: header}) == Submission(-100, tags, False, 604_800)


@pytest.mark.parametrize(
    ("header", "named"),
    [
        pytest.param("priority=5", "JSON object", id="not JSON"),
        pytest.param("[]", "JSON object", id="not an object"),
        pytest.param("[" * 20_000, "JSON object", id="nested without end"),
        pytest.param('{"prio": 5}', "'prio'", id="an unknown field"),
        pytest.param('{"priority": 101}', "priority", id="above the highest priority"),
        pytest.param('{"priority": -101}', "priority", id="below the lowest priority"),
        pytest.param('{"priority": 1.5}', "priority", id="half a priority"),
        pytest.param('{"priority": true}', "priority", id="a truth is no priority"),
        pytest.param('{"priority": "5"}', "priority", id="nor is a text"),
        pytest.param('{"priority": NaN}', "priority", id="nor what is no number"),
        pytest.param('{"deduplicate": 0}', "deduplicate", id="deduplicate is a truth"),
        pytest.param('{"ttl_s": 0}', "ttl_s", id="no time to live"),
        pytest.param('{"ttl_s": 2592001}', "ttl_s", id="more than a month to live"),
        pytest.param('{"ttl_s": true}', "ttl_s", id="a truth is no time"),
        pytest.param('{"tags": []}', "tags", id="tags are an object"),
        pytest.param(json.dumps({"tags": {str(n): "" for n in range(51)}}), "51 pairs", id="51 tags"),
        pytest.param('{"tags": {"": "x"}}', "1 to 128", id="an empty key"),
        pytest.param(json.dumps({"tags": {"k" * 129: "x"}}), "1 to 128", id="a long key"),
        pytest.param(json.dumps({"tags": {"k": "x" * 257}}), "256", id="a long value"),
        pytest.param('{"tags": {"k": 5}}', "'k'", id="a value that is a number"),
        pytest.param('{"tags": {"Aws:k": "x"}}', "aws:", id="AWS's own prefix"),
        pytest.param('{"tags": {"k": "a;b"}}', "'a;b'", id="a character that tags lack"),
        pytest.param(" " * MAX_LENGTH + "{}", "characters", id="a header without end"),
    ],
)
def test_a_header_that_cannot_be_meant_is_refused_by_what_is_wrong(header, named):
    with pytest.raises(ServiceError) as caught:
        read({HEADER: header})

    assert caught.value.code == "ValidationError"
    assert "X-Ebbtide-Submission" in caught.value.message
    assert named in caught.value.message


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_any_text_but_an_object_is_refused(header):
    with pytest.raises(ServiceError):
        read({HEADER: header})
