"""Makes the articles that tests read: PDFs by reportlab, Word documents by python-docx."""

import io
from collections.abc import Sequence
from typing import Any

WORDS = ("tide", "moon", "gauge", "harbour", "record", "storm", "level", "ocean", "coast", "wind", "trend")


def prose(number: int, *, sentences: int = 6) -> str:
    """Different sentences for each number, each of which begins in a word of its own."""
    made = []
    for n in range(sentences):
        chosen = [WORDS[(number * 7 + n * 3 + k * (number + 2)) % len(WORDS)] for k in range(9)]
        made.append(f"Sentence{number}x{n} says that the {' and the '.join(chosen)} were observed.")
    return " ".join(made)


def pdf(
    sections: Sequence[tuple[str, Sequence[str]]],
    *,
    columns: int = 1,
    running_head: str = "Journal of Tides",
    title: str | None = None,
    password: str | None = None,
) -> bytes:
    """Sections of a heading and paragraphs, set in columns, with a head and a number on each page."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.lib.units import mm
    from reportlab.platypus import BaseDocTemplate, Frame, PageTemplate, Paragraph

    width, height = A4
    column = (width - 40 * mm - (columns - 1) * 8 * mm) / columns

    def decorate(canvas: Any, page: Any) -> None:
        canvas.drawString(20 * mm, height - 12 * mm, running_head)
        canvas.drawCentredString(width / 2, 10 * mm, str(page.page))

    styles = getSampleStyleSheet()
    story = [Paragraph(title, styles["Title"])] if title else []
    for heading, paragraphs in sections:
        story.append(Paragraph(heading, styles["Heading2"]))
        story += [Paragraph(paragraph, styles["BodyText"]) for paragraph in paragraphs]
    file = io.BytesIO()
    document = BaseDocTemplate(file, pagesize=A4, title=title, author="Ann Writer", encrypt=password)
    frames = [
        Frame(20 * mm + n * (column + 8 * mm), 20 * mm, column, height - 40 * mm) for n in range(columns)
    ]
    document.addPageTemplates(PageTemplate(frames=frames, onPage=decorate))
    document.build(story)
    return file.getvalue()


def docx(blocks: Sequence[tuple[str, str]], *, title: str = "", author: str = "") -> bytes:
    """Paragraphs as (style, text); the style `table` makes a table of one row of the text's words."""
    import docx as library

    document = library.Document()
    for style, text in blocks:
        if style == "table":
            words = text.split()
            row = document.add_table(rows=1, cols=len(words)).rows[0]
            for cell, word in zip(row.cells, words, strict=True):
                cell.text = word
        else:
            document.add_paragraph(text, style=style)
    document.core_properties.title, document.core_properties.author = title, author
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()
