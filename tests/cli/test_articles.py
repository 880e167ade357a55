"""Articles: what a person reads of a package's description."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.cli.articles import MAX_WORDS, MIN_WORDS, from_files, from_packages, prose
from ebbtide.cli.errors import ArticleError

SENTENCE = "This sentence is long enough to be read."


@pytest.mark.parametrize(
    ("markup", "read"),
    [
        pytest.param(SENTENCE, SENTENCE, id="a sentence is kept"),
        pytest.param(f"# Heading\n{SENTENCE}", SENTENCE, id="headings are left out"),
        pytest.param(f"Heading\n=======\n{SENTENCE}", SENTENCE, id="underlined headings are left out"),
        pytest.param(
            f"{SENTENCE}\n\n```python\nprint('This is code, not prose at all.')\n```",
            SENTENCE,
            id="fenced code",
        ),
        pytest.param(
            f"{SENTENCE}\n\n    code.that(is, indented, by, four, blanks)", SENTENCE, id="indented code"
        ),
        pytest.param(
            f".. image:: x.png\n   :alt: A picture of this and of that.\n\n{SENTENCE}",
            SENTENCE,
            id="directives",
        ),
        pytest.param(f"![A badge that says passing.](https://b/x.svg)\n{SENTENCE}", SENTENCE, id="pictures"),
        pytest.param(f"| a | b |\n|---|---|\n\n{SENTENCE}", SENTENCE, id="tables"),
        pytest.param(
            "See [the long and full manual](https://m) for all of it.",
            "See the long and full manual for all of it.",
            id="a link leaves its text",
        ),
        pytest.param(
            "See `the long manual <https://m>`_ for all of the rest.",
            "See the long manual for all of the rest.",
            id="so does one in reStructuredText",
        ),
        pytest.param("* one\n* two", "", id="a list of names is no prose"),
        pytest.param(f"{SENTENCE}\n\n{SENTENCE}", f"{SENTENCE}\n\n{SENTENCE}", id="paragraphs stay apart"),
    ],
)
def test_prose_is_what_a_person_reads(markup, read):
    assert prose(markup) == read


@given(st.text(alphabet="ab `*_[]()<>|#=-.:!\n\t$>", max_size=200))
def test_any_text_has_prose_without_its_markup(markup):
    assert "`" not in prose(markup)


def test_installed_packages_have_articles_of_readable_length_with_their_authors_summaries():
    articles = from_packages()

    assert articles
    assert all(MIN_WORDS <= article.words <= MAX_WORDS for article in articles)
    assert any(article.summary for article in articles)


def test_a_file_that_is_no_text_is_named(tmp_path):
    binary = tmp_path / "picture.png"
    binary.write_bytes(b"\x89PNG\xff")

    with pytest.raises(ArticleError, match=r"picture\.png is not UTF-8 text"):
        from_files([binary])
