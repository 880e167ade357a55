"""How fast articles are read from files, and in how much memory: PDF, HTML and DOCX of 1 to 1,000 pages.

The files are made here: pages of 500 words, a PDF's in two columns. A folder of real PDFs may be named
instead: `python -m bench.documents FOLDER`. Each file is read as servers do it, in a process apart, by whose
processor time and peak of memory it is judged. Starting that one's parent, once for each server, is left out.
Needs the extra `documents` and the test group.
"""

import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PAGES = (1, 10, 100, 1_000)
PARAGRAPHS, SENTENCES, WORDS = 5, 5, 20
"""Of a page, a paragraph, a sentence."""

MB = 1e6
TYPES = {
    "PDF": "application/pdf",
    "HTML": "text/html",
    "DOCX": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}
READINGS = 20
"""Of files so short that one would be lost in the noise."""

READ = """
import json, resource, sys
from pathlib import Path
from ebbtide.runtime.documents import apart, formats
path, kind, small, times = sys.argv[1:]
def taken(times):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # The last is read for what came before it to be over and counted.
    for file in (small, *[path] * times, small):
        formats.read(Path(file).read_bytes(), kind)
    apart.close()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, after.ru_maxrss
started_s, _ = taken(0)
all_s, peak_kb = taken(int(times))
pages = formats.read(Path(path).read_bytes(), kind).pages
s = (all_s - started_s) / int(times)
print(json.dumps({"s": s, "peak_bytes": peak_kb * 1024, "pages": pages}))
"""


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as scratch:
        for name, write in (("PDF", pdf), ("HTML", html), ("DOCX", docx)):
            files = []
            for pages in PAGES:
                file = Path(scratch) / f"{pages}.{name}"
                file.write_bytes(write(pages))
                files.append(file)
                read = _read(file, TYPES[name], files[0], times=max(1, READINGS // pages))
                yield (
                    f"{name} of {pages:,} pages, {file.stat().st_size / MB:.1f} MB",
                    f"{pages / read['s']:,.0f} pages/s of one core; peak {read['peak_bytes'] / MB:.0f} MB",
                )


def real(folder: Path) -> Iterator[tuple[str, str]]:
    """The same of the PDFs in a folder, together."""
    pages, taken_s, peak_bytes = 0, 0.0, 0
    for file in sorted(folder.rglob("*.pdf")):
        read = _read(file, TYPES["PDF"], file, times=1)
        pages, taken_s = pages + read["pages"], taken_s + read["s"]
        peak_bytes = max(peak_bytes, read["peak_bytes"])
    yield (
        f"PDFs in {folder}, {pages:,} pages",
        f"{pages / taken_s:,.0f} pages/s; peak {peak_bytes / MB:.0f} MB",
    )


def paragraph(page: int, number: int) -> str:
    return " ".join(
        " ".join(
            [
                f"Page{page}",
                *(f"word{(page * 31 + number * 17 + sentence * 7 + n) % 997}" for n in range(WORDS - 1)),
            ]
        )
        + "."
        for sentence in range(SENTENCES)
    )


def pdf(pages: int) -> bytes:
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    file = io.BytesIO()
    canvas = Canvas(file, pagesize=A4)
    for page in range(pages):
        canvas.setFont("Times-Roman", 9)
        canvas.drawString(60, 810, f"Journal of Benches {page + 1}")
        words = " ".join(paragraph(page, number) for number in range(PARAGRAPHS)).split()
        lines = [" ".join(words[at : at + 5]) for at in range(0, len(words), 5)]
        for number, line in enumerate(lines):
            column, row = divmod(number, len(lines) // 2)
            canvas.drawString(60 + 250 * column, 780 - 13 * row, line)
        canvas.showPage()
    canvas.save()
    return file.getvalue()


def html(pages: int) -> bytes:
    body = "".join(
        f"<h2>Part {page}</h2>" + "".join(f"<p>{paragraph(page, number)}</p>" for number in range(PARAGRAPHS))
        for page in range(pages)
    )
    head = "<title>A long page</title><meta charset='utf-8'>"
    return f"<html><head>{head}</head><body><article>{body}</article></body></html>".encode()


def docx(pages: int) -> bytes:
    import docx as library

    document: Any = library.Document()
    add: Callable[..., Any] = document.element.body.add_p
    for page in range(pages):
        for number in range(PARAGRAPHS):
            add().add_r().text = paragraph(page, number)
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def _read(file: Path, kind: str, small: Path, *, times: int) -> dict[str, Any]:
    command = [sys.executable, "-c", READ, str(file), kind, str(small), str(times)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    read: dict[str, Any] = json.loads(done.stdout)
    return read


if __name__ == "__main__":
    for what, figure in real(Path(sys.argv[1])) if sys.argv[1:] else measure():
        print(f"{what}: {figure}")
