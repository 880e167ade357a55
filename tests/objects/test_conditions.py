"""Conditional and range requests."""

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.errors import ServiceError
from ebbtide.objects.conditions import Conditions, byte_range, check_write, is_unchanged
from ebbtide.objects.errors import InvalidRange, NoSuchKey, PreconditionFailed

ETAG, MODIFIED_AT = "abc", 1000.75


@pytest.mark.parametrize(
    ("conditions", "not_modified"),
    [
        pytest.param(Conditions(), False, id="no condition"),
        pytest.param(Conditions(if_match='"abc"'), False, id="the tag matches"),
        pytest.param(Conditions(if_match='"x", "abc"'), False, id="one of the tags matches"),
        pytest.param(Conditions(if_match="*"), False, id="any tag will do"),
        pytest.param(Conditions(if_none_match='"x"'), False, id="the reader has another"),
        pytest.param(Conditions(if_none_match='W/"abc"'), True, id="the reader has this one"),
        pytest.param(Conditions(if_modified_since=999.0), False, id="modified since"),
        pytest.param(Conditions(if_modified_since=1000.0), True, id="modified within that second"),
        pytest.param(Conditions(if_unmodified_since=1000.0), False, id="not modified after that second"),
        pytest.param(
            Conditions(if_match="abc", if_unmodified_since=5.0), False, id="a matching tag outweighs the time"
        ),
        pytest.param(
            Conditions(if_none_match="x", if_modified_since=2000.0), False, id="another tag outweighs it too"
        ),
    ],
)
def test_what_may_be_read(conditions, not_modified):
    assert conditions.not_modified(ETAG, MODIFIED_AT) is not_modified


@pytest.mark.parametrize("conditions", [Conditions(if_match='"x"'), Conditions(if_unmodified_since=999.0)])
def test_what_may_not_be_read(conditions):
    with pytest.raises(PreconditionFailed):
        conditions.not_modified(ETAG, MODIFIED_AT)


@pytest.mark.parametrize(
    ("there", "conditions", "allowed"),
    [
        pytest.param(None, {"if_none_match": "*"}, True, id="create"),
        pytest.param("abc", {"if_none_match": "*"}, False, id="create over another"),
        pytest.param("abc", {"if_match": '"abc"'}, True, id="replace what was read"),
        pytest.param("abc", {"if_match": '"x"'}, False, id="replace what has changed"),
        pytest.param("abc", {}, True, id="no condition"),
    ],
)
def test_what_may_be_written(there, conditions, allowed):
    given = {"if_match": None, "if_none_match": None} | conditions
    if allowed:
        check_write("k", there, **given)
    else:
        with pytest.raises(PreconditionFailed):
            check_write("k", there, **given)


def test_what_is_to_be_replaced_must_be_there():
    with pytest.raises(NoSuchKey):
        check_write("k", None, if_match='"abc"', if_none_match=None)


def test_only_any_tag_can_be_excluded_from_a_write():
    with pytest.raises(ServiceError) as refused:
        check_write("k", "abc", if_match=None, if_none_match='"x"')

    assert refused.value.code == "NotImplemented"


@pytest.mark.parametrize(
    ("conditions", "failed"),
    [
        pytest.param({"if_match": "x"}, "If-Match", id="another tag"),
        pytest.param({"if_none_match": ETAG}, "If-None-Match", id="that tag"),
        pytest.param({"if_unmodified_since": MODIFIED_AT - 1}, "If-Unmodified-Since", id="changed"),
        pytest.param({"if_modified_since": MODIFIED_AT}, "If-Modified-Since", id="unchanged"),
        pytest.param({"if_modified_since": MODIFIED_AT + 9}, None, id="a time to come"),
    ],
)
def test_a_copy_names_the_condition_that_failed(conditions, failed):
    asked = Conditions(**conditions, prefix="x-")
    if failed is None:
        asked.check_copy(ETAG, MODIFIED_AT, now=MODIFIED_AT + 5)
        return
    with pytest.raises(PreconditionFailed) as refused:
        asked.check_copy(ETAG, MODIFIED_AT, now=MODIFIED_AT + 5)
    assert refused.value.members["Condition"] == f"x-{failed}"


@pytest.mark.parametrize(
    ("if_range", "counts"),
    [
        pytest.param(None, True, id="no condition"),
        pytest.param(f'"{ETAG}"', True, id="the same tag"),
        pytest.param('"other"', False, id="another tag"),
        pytest.param(f'W/"{ETAG}"', False, id="a weak tag"),
        pytest.param(formatdate(MODIFIED_AT, usegmt=True), True, id="the same date"),
        pytest.param(formatdate(MODIFIED_AT + 1, usegmt=True), False, id="a later date"),
        pytest.param("nonsense", False, id="nonsense"),
    ],
)
def test_a_range_counts_while_if_range_names_the_object(if_range, counts):
    assert is_unchanged(if_range, ETAG, MODIFIED_AT) == counts


@given(size=st.integers(1, 50), start=st.integers(0, 60), end=st.integers(0, 60))
def test_a_range_is_what_slicing_gives(size, start, end):
    body = bytes(range(size))
    if end < start:
        assert byte_range(f"bytes={start}-{end}", size) is None
    elif start >= size:
        with pytest.raises(InvalidRange):
            byte_range(f"bytes={start}-{end}", size)
    else:
        offset, length = byte_range(f"bytes={start}-{end}", size)
        assert body[offset : offset + length] == body[start : end + 1]


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=-1", "bytes=-0"])
def test_an_empty_object_has_no_ranges(header):
    with pytest.raises(InvalidRange):
        byte_range(header, 0)
