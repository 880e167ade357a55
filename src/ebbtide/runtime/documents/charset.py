"""Bytes as text, in whatever charset they are."""

import codecs
from contextlib import suppress

from ebbtide.runtime.errors import BadRequest

EXTRA = "install ebbtide[documents]"

_BINARY = ((b"\x1f\x8b", "gzip-compressed"), (b"PK\x03\x04", "a ZIP archive"), (b"%PDF-", "a PDF"))
_SAMPLE_BYTES = 4096

_GROWN = {
    "iso8859-1": "cp1252",
    "iso8859-9": "cp1254",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
}
"""Python's names. Source: WHATWG, Encoding, 4.2 names and labels."""

_LATIN_1 = ("iso8859-1", "cp1252")

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def text_of(body: bytes, charset: str | None = None) -> str:
    """Decode text: as its charset says, else by its byte order mark, else UTF-8, else by what its bytes
    look like. Raises BadRequest for what is no text, or not in the charset that was named.
    """
    for magic, name in _BINARY:
        if body.startswith(magic):
            raise BadRequest(
                f"The body is {name}, not text: send the text itself, or the file under its own type"
            )
    encoding = charset or next((name for mark, name in _MARKS if body.startswith(mark)), None)
    encoding = encoding or _utf_16_without_mark(body)
    try:
        text = _decoded(body, encoding or "utf-8")
    except LookupError as error:
        raise BadRequest(f"The charset {charset} is unknown") from error
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{body[error.start]:02x}"
        if encoding is not None:
            raise BadRequest(
                f"The body is not {encoding.removesuffix('-sig').upper()} text: {found}"
            ) from error
        text = _guessed(body, found)
    if "\0" in text:
        raise BadRequest(f"The body is binary, not text: character {text.index(chr(0))} is NUL")
    return text.removeprefix("\ufeff")


def _decoded(body: bytes, encoding: str) -> str:
    """As web browsers do: an older charset's name mostly stands on text in the one that grew from it. And
    what is valid UTF-8 is that, where it is called Latin-1, as many programs call all text.
    """
    name = codecs.lookup(encoding).name
    for likelier in ("utf-8",) * (name in _LATIN_1) + (_GROWN.get(name, name),):
        with suppress(UnicodeDecodeError):
            return body.decode(likelier)
    return body.decode(encoding)


def _utf_16_without_mark(body: bytes) -> str | None:
    """Spaces, and Western letters, have a NUL in every second byte; text in another charset has none."""
    sample = body[:_SAMPLE_BYTES]
    for name, zeros, others in (
        ("utf-16-le", sample[1::2], sample[::2]),
        ("utf-16-be", sample[::2], sample[1::2]),
    ):
        if len(body) % 2 or 0 not in zeros or 0 in others:
            continue
        # What is no text has characters that nobody writes.
        text = sample.decode(name, errors="replace")
        if all(character.isprintable() or character.isspace() for character in text.replace("\ufeff", "")):
            return name
    return None


def _guessed(body: bytes, found: str) -> str:
    try:
        from charset_normalizer import from_bytes
    except ImportError as error:
        raise BadRequest(
            f"The body is not UTF-8 text: {found}; name its charset in the content type, or {EXTRA}"
        ) from error
    matches = from_bytes(body)
    best = matches.best()
    if best is None:
        raise BadRequest(f"The body is text in no charset that is known: {found}")
    # The Western charset is by far the commonest; a short text looks as clean in several of its neighbours.
    western = next((match for match in matches if match.encoding == "cp1252"), best)
    clean, likely = western.chaos <= best.chaos, western.coherence > best.coherence
    return str(western if clean or likely else best)
