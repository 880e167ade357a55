"""Pages of keys."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.objects import listing


@dataclass(frozen=True)
class Item:
    key: str


def scan_of(keys):
    items = [Item(key) for key in sorted(keys)]

    def scan(lower, limit):
        return [item for item in items if item.key >= lower][:limit]

    return scan


def page(keys, *, prefix="", delimiter="", after="", limit=1000):
    found = listing.page(scan_of(keys), prefix=prefix, delimiter=delimiter, after=after, limit=limit)
    return [item.key for item in found.contents], found.common_prefixes, found.next_after


KEYS = ["a", "b/1", "b/2", "b/c/3", "d", "e/1"]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        pytest.param({}, (KEYS, [], None), id="all"),
        pytest.param({"prefix": "b/"}, (KEYS[1:4], [], None), id="a prefix"),
        pytest.param({"prefix": "c"}, ([], [], None), id="a prefix of nothing"),
        pytest.param({"delimiter": "/"}, (["a", "d"], ["b/", "e/"], None), id="a delimiter rolls up"),
        pytest.param(
            {"prefix": "b/", "delimiter": "/"}, (["b/1", "b/2"], ["b/c/"], None), id="below a prefix"
        ),
        pytest.param({"limit": 2}, (["a", "b/1"], [], "b/1"), id="a page ends at its limit"),
        pytest.param({"delimiter": "/", "limit": 2}, (["a"], ["b/"], "b/"), id="a common prefix counts once"),
        pytest.param(
            {"delimiter": "/", "after": "b/"}, (["d"], ["e/"], None), id="a listed prefix is passed over"
        ),
        pytest.param(
            {"delimiter": "/", "after": "b/1"}, (["d"], ["e/"], None), id="also from a key inside it"
        ),
        pytest.param({"after": "d"}, (["e/1"], [], None), id="after a key"),
        pytest.param({"prefix": "b/", "after": "a"}, (KEYS[1:4], [], None), id="after what precedes it"),
        pytest.param({"prefix": "b/", "after": "d"}, ([], [], None), id="after what follows the prefix"),
        pytest.param({"limit": 6}, (KEYS, [], None), id="a full last page is the last"),
        pytest.param({"limit": 0}, ([], [], None), id="nothing asked for"),
    ],
)
def test_a_page(wish, expected):
    assert page(KEYS, **wish) == expected


texts = st.text(alphabet="ab/\ud7ff\ue000\U0010ffff", max_size=6)


@given(
    keys=st.sets(texts.filter(bool), max_size=30),
    prefix=texts,
    delimiter=st.sampled_from(["", "/", "a", "\U0010ffff"]),
    limit=st.integers(1, 5),
)
def test_the_pages_together_are_the_list(keys, prefix, delimiter, limit):
    expected_keys, expected_prefixes = set(), set()
    for key in keys:
        if key.startswith(prefix):
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                expected_prefixes.add(prefix + rest[: rest.index(delimiter) + len(delimiter)])
            else:
                expected_keys.add(key)

    listed, rolled, after = [], [], ""
    while after is not None:
        contents, prefixes, after = page(keys, prefix=prefix, delimiter=delimiter, after=after, limit=limit)
        assert len(contents) + len(prefixes) <= limit
        listed += contents
        rolled += prefixes

    assert listed == sorted(expected_keys)
    assert rolled == sorted(expected_prefixes)


def test_a_large_folder_is_passed_by_a_seek():
    scans = []
    keys = [f"folder/{number:06}" for number in range(20_000)] + ["last"]
    scan = scan_of(keys)

    def counted(lower, limit):
        scans.append(lower)
        return scan(lower, limit)

    found = listing.page(counted, prefix="", delimiter="/", after="", limit=1000)

    assert (found.common_prefixes, [item.key for item in found.contents]) == (["folder/"], ["last"])
    assert len(scans) == 2
