"""Whole numbers that come as text, from anybody."""

MOST_DIGITS = 18
"""All numbers of so many digits fit the 64 bits that a file's offset or a database's column has."""


def whole_number(text: str) -> int | None:
    """The number that digits spell; None for other text, and for one too large to mean anything.

    `int` takes signs, blanks and the digits of all scripts, and raises ValueError from 4,301 digits on.
    """
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None
