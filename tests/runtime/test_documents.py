"""Articles are read from the files that people have; what cannot be read is refused with its cause."""

import io
import re
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import pytest
from tests.runtime import documents
from tests.runtime.documents import prose

from ebbtide.runtime.documents import formats
from ebbtide.runtime.documents.document import written_date
from ebbtide.runtime.errors import BadRequest

HTML_PAGE = """<!DOCTYPE html><html><head><title>On tides</title>
<meta name="author" content="Ann Writer"><meta property="article:published_time" content="2020-05-01">
</head><body><nav><a href="/">Home</a> <a href="/about">About us</a></nav><article><h1>On tides</h1>
<p>The tide rises and falls with the moon, and it has done so for a very long time indeed.</p>
<h2>Methods</h2><p>We measured the tide at Brest for two centuries, by hand and then by machine.</p>
<h2>References</h2><p>Someone, A. 1999. A work that is cited in this article about tides.</p></article>
<footer>Copyright, all rights reserved</footer></body></html>"""


def sentence_order(text: str) -> list[str]:
    return re.findall(r"Sentence\d+x\d+", text)


@pytest.mark.parametrize("columns", [1, 2, 3])
def test_a_pdf_is_read_column_by_column_with_every_sentence_in_its_order(columns: int) -> None:
    headings = ["Introduction", "Data", "Methods", "Results", "Discussion", "Outlook", "Thanks", "Appendix"]
    sections = [
        (heading, [prose(2 * n, sentences=8), prose(2 * n + 1, sentences=8)])
        for n, heading in enumerate(headings)
    ]
    document = formats.read(documents.pdf(sections, columns=columns, title="On tides"), formats.PDF)
    expected = sentence_order(" ".join(text for _, paragraphs in sections for text in paragraphs))
    assert sentence_order(document.text) == expected
    assert re.findall(r"(?m)^# (.+)$", document.text) == ["On tides", *headings]
    assert (document.title, document.authors) == ("On tides", "Ann Writer")
    assert document.pages
    assert document.pages > 1


def test_a_pdf_s_paragraphs_stay_apart() -> None:
    document = formats.read(documents.pdf([("Data", [prose(1), prose(2)])]), formats.PDF)
    assert document.text.split("\n\n")[-3:] == ["# Data", prose(1), prose(2)]


def test_running_heads_and_page_numbers_of_a_pdf_are_set_aside() -> None:
    body = documents.pdf([("Data", [prose(n) for n in range(40)])], running_head="Vol. 7 of the Journal")
    document = formats.read(body, formats.PDF)
    assert document.pages
    assert document.pages >= 3
    assert "Journal" not in document.text
    assert document.set_aside["running_heads"] == 2 * document.pages


def test_a_word_that_a_line_s_end_divided_is_mended_and_a_compound_keeps_its_hyphen() -> None:
    text = "We saw the meas-<br/>urement of a long-<br/>term trend. A long-term trend is rare."
    document = formats.read(documents.pdf([("Data", [text])]), formats.PDF)
    assert "measurement of a long-term trend." in document.text


def test_the_list_of_references_is_set_aside_and_what_follows_it_is_not() -> None:
    body = documents.pdf(
        [("Data", [prose(1)]), ("References", ["Someone, A. 1999.", "Other, B."]), ("Appendix", [prose(2)])]
    )
    document = formats.read(body, formats.PDF)
    assert "Someone" not in document.text
    assert sentence_order(document.text) == sentence_order(prose(1) + prose(2))
    assert document.set_aside["references"] >= 2


def drawn(draw: Callable[[Any], None]) -> bytes:
    """A PDF of one page on which `draw` has drawn."""
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    canvas = Canvas(file)
    draw(canvas)
    canvas.save()
    return file.getvalue()


def test_columns_below_a_title_and_authors_across_them_are_read_one_after_the_other() -> None:
    """As on a paper's first page. The columns are drawn line by line, left and right in turn."""

    def first_page(canvas: Any) -> None:
        for row, line in enumerate(("Tides at Brest", "Ann Writer and Bo Other", "University of Tides")):
            canvas.drawCentredString(300, 780 - 14 * row, line)
        for row in range(20):
            for column, left in enumerate((50, 310)):
                canvas.drawString(
                    left, 700 - 12 * row, f"Sentence{column}x{row} is of the tide and the moon."
                )

    text = formats.read(drawn(first_page), formats.PDF).text
    expected = [f"Sentence{column}x{row}" for column in range(2) for row in range(20)]
    assert sentence_order(text) == expected


def test_letters_that_reach_into_each_other_are_read_once() -> None:
    """As LaTeX sets its name: a raised A over the L's foot, a lowered E."""

    def logo(canvas: Any) -> None:
        for left, bottom, size, letters in (
            (50, 700, 12, "Set in L"),
            (86, 703, 8, "A"),
            (91, 700, 12, "T"),
            (97, 697, 12, "E"),
            (104, 700, 12, "X by hand."),
        ):
            canvas.setFont("Times-Roman", size)
            canvas.drawString(left, bottom, letters)

    assert formats.read(drawn(logo), formats.PDF).text == "Set in LATEX by hand."


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_a_page_that_lies_on_its_side_is_read_as_it_is_turned(degrees: int) -> None:
    def turned(canvas: Any) -> None:
        canvas.translate(300, 400)
        canvas.rotate(degrees)
        canvas.drawString(-100, 10, "The first line stands above.")
        canvas.drawString(-100, -10, "The second stands below.")

    document = formats.read(drawn(turned), formats.PDF)
    assert document.text == "The first line stands above. The second stands below."


def test_stamps_in_the_margin_and_slanted_marks_are_set_aside() -> None:
    def stamped(canvas: Any) -> None:
        canvas.drawString(100, 400, "The tide rises and falls with the moon.")
        for degrees, mark in ((90, "arXiv 1706"), (45, "DRAFT")):
            canvas.saveState()
            canvas.translate(30, 300)
            canvas.rotate(degrees)
            canvas.drawString(0, 0, mark)
            canvas.restoreState()

    document = formats.read(drawn(stamped), formats.PDF)
    assert document.text == "The tide rises and falls with the moon."
    assert document.set_aside["sideways_words"] >= 3


def test_pages_that_are_all_alike_are_no_running_heads() -> None:
    body = documents.pdf([("Data", [prose(1)])], running_head="")
    alike = drawn(
        lambda canvas: [(canvas.drawString(50, 700, "Nothing else."), canvas.showPage()) for _ in range(4)]
    )
    assert formats.read(alike, formats.PDF).text.count("Nothing else.") == 4
    assert prose(1) in formats.read(body, formats.PDF).text


def test_files_are_read_on_when_the_process_that_reads_them_was_killed() -> None:
    body = documents.pdf([("Data", [prose(1)])])
    formats.read(body, formats.PDF)
    (reader,) = readers()
    reader.kill()
    assert prose(1) in formats.read(body, formats.PDF).text
    assert not reader.is_running()


def readers() -> list[psutil.Process]:
    """The process that reads files for this one, among others that this one may have started."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has ended
            if "ebbtide.runtime.documents.apart" in child.cmdline():
                found.append(child)
    return found


def test_an_encrypted_pdf_is_refused_by_name() -> None:
    with pytest.raises(BadRequest, match="needs a password"):
        formats.read(documents.pdf([("Data", ["Secret."])], password="secret"), formats.PDF)


def test_a_broken_pdf_is_refused() -> None:
    with pytest.raises(BadRequest, match="The PDF cannot be read"):
        formats.read(documents.pdf([("Data", ["Text."])])[:200], formats.PDF)


def test_a_pdf_of_scanned_pages_is_refused_with_what_it_needs() -> None:
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    canvas = Canvas(file)
    canvas.rect(10, 10, 100, 100, fill=1)
    canvas.showPage()
    canvas.save()
    with pytest.raises(BadRequest, match=r"no text on any of its pages \(1\): scanned"):
        formats.read(file.getvalue(), formats.PDF)


def test_the_main_text_of_a_web_page_is_read_with_its_headings_and_who_wrote_it() -> None:
    document = formats.read(HTML_PAGE.encode(), "text/html")
    assert "The tide rises and falls" in document.text
    assert "## Methods" in document.text
    for absent in ("Home", "Copyright", "Someone"):
        assert absent not in document.text
    assert (document.title, document.authors, document.date) == ("On tides", "Ann Writer", "2020-05-01")


def test_headings_that_link_to_themselves_are_read_without_their_signs_and_no_date_is_guessed() -> None:
    """As Sphinx and DocBook write them, in pages that name no article."""
    paragraph = f"<p>{prose(1)} In 1 2 2011 it rose.</p>"
    page = (
        "<html><body><div class='nav'><a href='/'>Home</a></div><div class='section'>"
        "<h1>On tides<a class='headerlink' href='#tides'>¶</a></h1>" + paragraph + "<div class='section'>"
        "<div class='titlepage'><div><h2 class='title'><a id='m'></a>Methods</h2></div></div>"
        + paragraph
        + "</div>"
        "<div class='section'><h2><a href='#r'>Results</a></h2>" + paragraph + "</div></div></body></html>"
    )
    document = formats.read(page.encode(), "text/html")
    assert re.findall(r"(?m)^#+ .*$", document.text) == ["# On tides", "## Methods", "## Results"]
    assert document.date is None


def test_a_web_page_s_own_charset_is_honoured() -> None:
    page = HTML_PAGE.replace("<head>", '<head><meta charset="iso-8859-1">').replace("the moon", "la fenêtre")
    assert "fenêtre" in formats.read(page.encode("iso-8859-1"), "text/html").text


def test_a_web_page_without_text_is_refused() -> None:
    with pytest.raises(BadRequest, match="no main text"):
        formats.read(b"<html><body></body></html>", "text/html")


def test_a_word_document_is_read_with_headings_lists_and_tables_in_order() -> None:
    body = documents.docx(
        [
            ("Title", "On tides"),
            ("Heading 1", "Data"),
            ("Normal", prose(1)),
            ("List Bullet", "one thing"),
            ("table", "a b"),
            ("Heading 1", "References"),
            ("Normal", "Someone, A. 1999."),
        ],
        author="Ann Writer",
    )
    document = formats.read(body, formats.DOCX)
    assert document.text.split("\n\n") == ["# On tides", "# Data", prose(1), "- one thing", "a | b"]
    assert (document.title, document.authors) == ("On tides", "Ann Writer")
    assert document.set_aside == {"references": 2, "footnotes": 0}


def test_footnotes_of_a_word_document_are_set_aside_and_counted() -> None:
    noted = "<w:p><w:r><w:t>Said</w:t></w:r><w:r><w:footnoteReference/></w:r><w:r><w:t> so.</w:t></w:r></w:p>"
    document = formats.read(word_document(noted), formats.DOCX)
    assert (document.text, document.set_aside["footnotes"]) == ("Said so.", 1)


def word_document(body: str) -> bytes:
    """A Word document whose body is the given XML."""
    whole, file = documents.docx([]), io.BytesIO()
    space = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    xml = f'<w:document xmlns:w="{space}"><w:body>{body}</w:body></w:document>'
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, xml if name == "word/document.xml" else old.read(name))
    return file.getvalue()


def said(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(
            f"<w:tbl><w:tr><w:tc><w:tbl><w:tr><w:tc>{said('in')}</w:tc></w:tr></w:tbl></w:tc></w:tr></w:tbl>",
            "in",
            id="a table in a table",
        ),
        pytest.param(f"<w:sdt><w:sdtContent>{said('held')}</w:sdtContent></w:sdt>", "held", id="a control"),
        pytest.param(
            "<w:p><w:ins><w:r><w:t>new</w:t></w:r></w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"
            "<w:moveFrom><w:r><w:t>gone</w:t></w:r></w:moveFrom></w:p>",
            "new",
            id="tracked changes",
        ),
        pytest.param(
            f"<w:p><w:r><w:t>before</w:t><w:pict><w:txbxContent>{said('boxed')}</w:txbxContent></w:pict></w:r></w:p>",
            "before\n\nboxed",
            id="a text box, once",
        ),
        pytest.param("<w:p><w:r><w:t>a</w:t><w:tab/><w:t>b</w:t></w:r></w:p>", "a b", id="a tabulator"),
    ],
)
def test_text_is_found_wherever_word_puts_it(body: str, text: str) -> None:
    assert formats.read(word_document(body), formats.DOCX).text == text


def test_a_word_document_of_too_much_xml_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(BadRequest, match="bytes of XML, over"):
        formats.read(word_document(said("x" * (1 << 26))), formats.DOCX)


@pytest.mark.parametrize("entity", ["&l;", "&x;"])
def test_entities_neither_grow_nor_read_files(entity: str) -> None:
    text = "The tide rises and falls with the moon."
    whole = word_document(said(text + entity))
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        xml = archive.read("word/document.xml").decode()
    grown = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    types = f'<!DOCTYPE d [<!ENTITY l0 "l">{grown}<!ENTITY l "&l9;"><!ENTITY x SYSTEM "file:///etc/passwd">]>'
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, types + xml if name == "word/document.xml" else old.read(name))
    try:
        assert formats.read(file.getvalue(), formats.DOCX).text == text
    except BadRequest as refusal:
        assert "cannot be read" in str(refusal)  # noqa: PT017 either is right


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "encrypted, or of the old .doc kind"),
        (b"PK\x03\x04 and no more", "cannot be read"),
        (b"no archive at all", "cannot be read"),
    ],
    ids=["ole", "cut-off", "no-archive"],
)
def test_a_word_document_that_cannot_be_read_is_refused(body: bytes, cause: str) -> None:
    with pytest.raises(BadRequest, match=cause):
        formats.read(body, formats.DOCX)


def test_a_word_document_that_unpacks_to_gigabytes_is_refused_before_it_is() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("word/x", "w") as member:
        for _ in range(300):
            member.write(bytes(1 << 20))
    with pytest.raises(BadRequest, match="unpacks to"):
        formats.read(file.getvalue(), formats.DOCX)


TEXT = "Œuvre d’été : « naïve façade » à l’île, où l’on a mesuré la marée pendant cent années."


@pytest.mark.parametrize(
    ("charset", "named"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", None),
        ("utf-32", None),
        ("cp1252", "windows-1252"),
        ("utf-16-le", "UTF-16LE"),
        ("utf-16-le", None),
        ("utf-16-be", None),
        ("cp1252", None),
        ("koi8-r", "koi8-r"),
    ],
)
def test_text_is_read_in_any_common_charset(charset: str, named: str | None) -> None:
    text = "Уровень моря измеряли сто лет." if charset == "koi8-r" else TEXT
    assert formats.read(text.encode(charset), formats.TEXT, named).text == text


@pytest.mark.parametrize(
    ("body", "charset", "cause"),
    [
        (b"\xff\xfa", "utf-8", "not UTF-8 text: byte 0 is 0xff"),
        (b"text", "klingon", "charset klingon is unknown"),
        (b"a\0b\0\0c", None, "character 1 is NUL"),
        (b"\x1f\x8b\x08", None, "gzip-compressed"),
    ],
)
def test_a_text_that_is_not_in_its_charset_is_refused(body: bytes, charset: str | None, cause: str) -> None:
    with pytest.raises(BadRequest, match=cause):
        formats.read(body, formats.TEXT, charset)


def test_markdown_keeps_its_headings_without_its_references() -> None:
    document = formats.read(b"# On tides\n\nText.\n\n## References\n\nSomeone.\n", "text/markdown")
    assert (document.text, document.title) == ("# On tides\n\nText.", "On tides")


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"%PDF-1.7 ...", formats.PDF),
        (b"\n<!DOCTYPE HTML><html>", "text/html"),
        (b"plain", None),
    ],
)
def test_a_body_without_a_type_is_known_by_its_beginning(body: bytes, kind: str | None) -> None:
    assert formats.sniffed(body) == kind


def test_a_word_document_without_a_type_is_known_too() -> None:
    assert formats.sniffed(documents.docx([("Normal", "x")])) == formats.DOCX


@pytest.mark.parametrize(
    ("written", "day"),
    [("D:20200501120000Z", "2020-05-01"), ("2020-05", "2020-05"), ("May", None), (None, None)],
)
def test_dates_are_given_as_far_as_they_are_known(written: str | None, day: str | None) -> None:
    assert written_date(written) == day


@pytest.mark.parametrize(
    ("kind", "library"),
    [(formats.PDF, "pypdfium2"), (formats.DOCX, "docx"), ("text/html", "trafilatura")],
)
def test_a_format_whose_library_is_not_installed_is_refused_with_the_extra_to_install(
    kind: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(BadRequest, match=rf"needs {library} on the server: install ebbtide\[documents\]"):
        formats.read(b"x", kind)
