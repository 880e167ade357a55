"""Digests and rules of SQS messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.errors import ServiceError
from ebbtide.notifications.queue_messages import (
    attributes_md5,
    check_attributes,
    check_message,
    message_bytes,
)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("timestamp", "235c5c510d26fb653d073faed50ae77c"),
        ("SOME_Valid.attribute-Name", "36655e7e9d7c0e8479fa3f3f42247ae7"),
    ],
)
def test_the_digest_of_attributes_is_the_one_that_sqs_answers(name, digest):
    """The expected digests were answered by Amazon SQS; moto's tests quote them."""
    attribute = {"DataType": "Number", "StringValue": "1493147359900"}

    assert attributes_md5({name: attribute}) == digest


def test_the_digest_of_attributes_does_not_depend_on_their_order():
    a, b = {"DataType": "String", "StringValue": "1"}, {"DataType": "Binary", "BinaryValue": b"2"}

    assert attributes_md5({"a": a, "b": b}) == attributes_md5({"b": b, "a": a})
    assert attributes_md5({"a": a, "b": b}) != attributes_md5({"a": a})


def test_the_size_of_a_message_counts_its_attributes():
    attributes = {"name": {"DataType": "String", "StringValue": "värde"}}

    assert message_bytes("ü", attributes) == 2 + 4 + 6 + 6


@pytest.mark.parametrize(
    ("body", "sendable"),
    [
        pytest.param("tab\tand\nnewline\r", True, id="white space"),
        pytest.param("\U0001f600 \ufffd", True, id="all of Unicode"),
        pytest.param("\x1f", False, id="a control character"),
        pytest.param("\ufffe", False, id="a non-character"),
        pytest.param("\ud800", False, id="half a character"),
    ],
)
def test_a_body_is_what_xml_can_carry(body, sendable):
    if sendable:
        check_message(body, {}, 100)
    else:
        with pytest.raises(ServiceError) as raised:
            check_message(body, {}, 100)
        assert raised.value.code == "InvalidMessageContents"


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.fixed_dictionaries(
            {"DataType": st.sampled_from(["String", "Number", "Binary", "Text", "String.x"])},
            optional={"StringValue": st.text(), "BinaryValue": st.binary()},
        ),
        max_size=12,
    ),
    st.text(),
)
def test_every_message_that_is_accepted_has_a_digest_and_fits(attributes, body):
    try:
        check_attributes(attributes)
        check_message(body, attributes, 1_000)
    except ServiceError:
        return

    assert len(attributes_md5(attributes)) == 32
    assert message_bytes(body, attributes) <= 1_000
