"""JSON from anybody."""

import pytest

from ebbtide.wire.json_text import parse_json

DEEP = 100_000


def test_a_text_is_its_value():
    assert parse_json('{"a": [1, null]}') == parse_json(b'{"a": [1, null]}') == {"a": [1, None]}


@pytest.mark.parametrize("text", ["", "{", "[" * DEEP, "[" * DEEP + "]" * DEEP, '{"a":' * DEEP])
def test_what_is_no_json_or_nested_without_end_is_one_kind_of_error(text):
    with pytest.raises(ValueError):
        parse_json(text)
