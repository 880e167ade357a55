"""Whole numbers that come as text."""

import pytest

from ebbtide.wire.numbers import whole_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("007", 7),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, None),
        ("9" * 5000, None),
        ("", None),
        ("-1", None),
        ("+1", None),
        (" 1", None),
        ("1_0", None),
        ("٣", None),
        ("1.0", None),
    ],
)
def test_only_digits_of_a_number_that_fits_are_one(text, number):
    assert whole_number(text) == number
