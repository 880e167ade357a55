"""Articles as people have them (PDF, HTML, DOCX, Markdown, text in any charset) as text with headings."""
