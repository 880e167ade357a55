"""Numbers in a text, however they are written: 1,200 and 1200, 30.50 and 30.5, twenty-five and 25, 3 million
and 3,000,000, the 5th and 5, March and 3 in a date.
"""

import re
from collections.abc import Iterator
from decimal import Decimal

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
)
_SMALL = {word: n for n, word in enumerate(f"{_UNITS} seventeen eighteen nineteen".split())}
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL |= {word: 10 * n for n, word in enumerate(_TENS.split(), start=2)}
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
_ORDINAL = {word: n for n, word in enumerate(_ORDINALS.split(), start=1)}
_MONTHS = "January February March April May June July August September October November December"
_MONTH = {word: n for n, word in enumerate(_MONTHS.split(), start=1)}
_LARGE = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_SHORT = {"k": 10**3, "m": 10**6, "mn": 10**6, "bn": 10**9, "tn": 10**12}

_ANY = "|".join([*_SMALL, *_LARGE])
_WRITTEN = re.compile(
    rf"""
    (?P<digits>\d{{1,40}}(?:[.,\u00a0\u202f]\d{{1,40}}){{0,12}})
    (?:(?:st|nd|rd|th)\b|[ -]?(?P<large>{"|".join(_LARGE)})s?\b|(?P<short>{"|".join(_SHORT)})\b)?
  | \b(?P<words>(?:{_ANY})(?:(?:[ -]|\ and\ )(?:{_ANY}))*)s?\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_GROUPED = re.compile(r"\d{1,3}(?:[,.\u00a0\u202f]\d{3})+$")
_TOKEN = re.compile(r"[^\W\d_]+")


def written(text: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Each number as the text writes it, with the values that it may mean, in plain digits.

    One is left out where it is a word: it is a pronoun as often.
    """
    for found in _WRITTEN.finditer(text):
        if found["words"]:
            value = _in_digits(found["words"])
            if value != 1:
                yield found["words"], frozenset([str(value)])
            continue
        values = _values(found["digits"])
        if found["large"]:
            values = {value * _LARGE[found["large"].lower()] for value in values}
        elif found["short"]:
            # 3m are three metres or three million.
            values |= {value * _SHORT[found["short"].lower()] for value in values}
        yield found[0].strip(), frozenset(map(_plain, values))


def occurring(text: str) -> set[str]:
    """The values of all numbers that a text may be said to have, in plain digits."""
    values = {value for _, several in written(text) for value in several}
    # What stands before "million" is a number too, for whoever writes it without.
    values |= {
        _plain(value)
        for found in _WRITTEN.finditer(text)
        if found["digits"]
        for value in _values(found["digits"])
    }
    for word in _TOKEN.findall(text):
        if word.lower() in _ORDINAL or word.lower() == "one":
            values.add(str(_ORDINAL.get(word.lower(), 1)))
        elif word in _MONTH:
            values.add(str(_MONTH[word]))
    return values


def _values(digits: str) -> set[Decimal]:
    """1,200 is 1200; 1.200 is that or 1.2; 1,5 is 1.5 where a comma is decimal; 1.2.3 is three numbers."""
    found = set()
    if _GROUPED.match(digits):
        found.add(Decimal(re.sub(r"\D", "", digits)))
    if not re.search(r"[\u00a0\u202f]", digits):
        *whole, last = re.split(r"[.,]", digits)
        if not whole:
            found.add(Decimal(last))
        elif len(whole) == 1 and not (found and "," in digits):
            found.add(Decimal(f"{whole[0]}.{last}"))
        elif digits.count(".") == 1 and digits.rindex(".") > digits.rfind(","):
            found.add(Decimal(f"{''.join(whole)}.{last}"))
    return found or {Decimal(part) for part in re.findall(r"\d+", digits)}


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _in_digits(words: str) -> int:
    total = current = 0
    for word in _TOKEN.findall(words.lower()):
        if word in _SMALL:
            current += _SMALL[word]
        elif word == "hundred":
            current = max(current, 1) * 100
        elif word in _LARGE:
            total, current = total + max(current, 1) * _LARGE[word], 0
    return total + current
