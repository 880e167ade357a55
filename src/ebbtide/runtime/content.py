"""Content types in and out, as the Hugging Face inference toolkit reads and writes them. No I/O.

More is accepted than there: articles as PDF, HTML, DOCX, Markdown and text in any charset, JSON lines of
many; any image/* and audio/* is an image or a recording; and a body without a type, or with the one that S3
gives objects uploaded without any (binary/octet-stream), is taken for what it begins as: an article in a
file, a JSON object, else text.
"""

import base64
import csv
import datetime
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from email.message import Message
from typing import Any

from ebbtide.runtime.documents import charset, formats
from ebbtide.runtime.errors import BadRequest

JSON = "application/json"
CSV = "text/csv"
NPY = "application/x-npy"
JSON_LINES = ("application/jsonlines", "application/jsonl", "application/x-ndjson")

DOCUMENT = "document"
"""The member beside `inputs` that says what the file of an article says about itself."""

TEXT_MEMBERS = ("inputs", "text", "article", "document")
"""Where the text stands in a line of JSON lines."""
FAULTS_NAMED = 5
"""Of JSON lines that are refused."""

UNTYPED = ("", "application/octet-stream", "binary/octet-stream")

IMAGE_FORMATS = {
    "image/jpeg": "JPEG",
    "image/png": "PNG",
    "image/tiff": "TIFF",
    "image/bmp": "BMP",
    "image/gif": "GIF",
    "image/webp": "WEBP",
    "image/x-image": "PNG",
}
"""The types that an answer that is an image can be written as -> Pillow's name of the format."""

TEXTUAL = (JSON, CSV)
"""Types whose bodies user handlers get as text; others they get as bytes."""

CSV_MARKS = ("question", "context", "inputs")

csv.field_size_limit(2**31 - 1)  # a field is a whole article, and Python's own limit is 128 KiB


class Lines(list[Any]):
    """The inputs of JSON lines: strings, or what objects have as one of TEXT_MEMBERS."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[int] = []
        """Which line each came from, counted from 1: those without anything are none."""
        self.faults: dict[int, str] = {}
        """By position, why a line has none; None stands there."""

    def refuse_faults(self) -> None:
        """Raises BadRequest that names the first bad lines, if there are any."""
        if not self.faults:
            return
        named = [self.faults[position] for position in sorted(self.faults)[:FAULTS_NAMED]]
        more = len(self.faults) - len(named)
        raise BadRequest("; ".join([*named, f"and {more} more lines"] if more else named))


def media_type(header: str | None) -> str:
    """The type in a Content-Type header, without its parameters; empty when there is none."""
    return (header or "").partition(";")[0].strip().lower()


def chosen_accept(header: str | None) -> str:
    """The first type of an Accept header that answers can have; JSON when any will do.

    Raises BadRequest when none of them can be had.
    """
    wanted = [media_type(item) for item in (header or "").split(",")]
    for accept in wanted:
        if accept in ("", "*/*", "application/*"):
            return JSON
        if accept in (JSON, CSV, NPY, *JSON_LINES) or accept in IMAGE_FORMATS:
            return accept
    raise BadRequest(_unsupported(header))


def text_of(body: bytes) -> str:
    """Decode UTF-8. Raises BadRequest when the bytes are something else, or no text at all."""
    return charset.text_of(body, "utf-8-sig")


def decode(body: bytes, content_type: str | None) -> Any:
    """Read a request's body; objects and texts come as {"inputs": ...}, arrays as they are.

    An image comes as {"inputs": <RGB image of Pillow>}, a recording as {"inputs": <the file's bytes>}, JSON
    lines as {"inputs": <Lines>}, some of which may be bad.
    Raises BadRequest, naming the type or the fault in the body.
    """
    kind = media_type(content_type)
    if kind == JSON:
        return _json(text_of(body))
    if kind == CSV:
        return _csv(text_of(body))
    if kind == NPY:
        return _array(body)
    if kind in JSON_LINES:
        return {"inputs": _json_lines(text_of(body))}
    if kind in formats.TYPES:
        return _article(body, kind, _charset(content_type))
    if kind.startswith("image/"):
        return {"inputs": _image(body, kind)}
    if kind.startswith("audio/"):
        return {"inputs": body}
    if kind in UNTYPED:
        if body.lstrip().startswith(b"{"):
            return _json(text_of(body))
        return _article(body, formats.sniffed(body) or formats.TEXT, None)
    raise BadRequest(_unsupported(content_type))


def encode(prediction: Any, accept: str) -> bytes:
    """Write an answer: compact JSON, or of a list's items a line each, or CSV with a header from the rows'
    names, or an .npy array, or an image as it is.

    Raises ValueError for NaN and infinity in JSON, BadRequest for an answer that the type cannot hold.
    """
    if accept in IMAGE_FORMATS:
        return _image_bytes(prediction, accept)
    if accept == CSV:
        return _csv_bytes(prediction)
    if accept == NPY:
        import numpy

        file = io.BytesIO()
        numpy.save(file, numpy.asarray(prediction))
        return file.getvalue()
    if accept in JSON_LINES:
        rows = prediction if isinstance(prediction, list) else [prediction]
        return b"".join(_json_bytes(row) + b"\n" for row in rows)
    return _json_bytes(prediction)


def _json_bytes(value: Any) -> bytes:
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain
    ).encode()


def _json(text: str, what: str = "The body") -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also of a number too long, of arrays nested too deeply
        raise BadRequest(f"{what} is not JSON: {error}") from error


def _json_lines(text: str) -> "Lines":
    lines = Lines()
    # Not splitlines: JSON's strings may have line separators of other kinds as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        lines.numbers.append(number)
        try:
            lines.append(_json_line(line, f"Line {number}"))
        except BadRequest as fault:
            lines.append(None)
            lines.faults[len(lines) - 1] = str(fault)
    if len(lines.faults) == len(lines):
        lines.refuse_faults()
    return lines


def _json_line(line: str, what: str) -> Any:
    row = _json(line, what)
    member = next((name for name in TEXT_MEMBERS if name in row), None) if isinstance(row, dict) else None
    if member is None and not isinstance(row, str):
        raise BadRequest(f"{what} is neither a string nor has {' or '.join(TEXT_MEMBERS)}")
    return row if member is None else row[member]


def _article(body: bytes, kind: str, named_charset: str | None) -> dict[str, Any]:
    document = formats.read(body, kind, named_charset)
    about = {name: value for name, value in asdict(document).items() if name != "text" and value}
    return {"inputs": document.text} | ({DOCUMENT: about} if about else {})


def _charset(header: str | None) -> str | None:
    """The charset in a Content-Type header, if it names one."""
    message = Message()
    message["Content-Type"] = header or ""
    return message.get_content_charset()


def _csv(text: str) -> dict[str, Any]:
    first_line = text.partition("\n")[0]
    if not any(mark in first_line.lower() for mark in CSV_MARKS):
        raise BadRequest(
            f"The first line of a CSV body must name its columns, one of {', '.join(CSV_MARKS)} among them"
        )
    try:
        rows = list(csv.DictReader(io.StringIO(text)))
    except csv.Error as error:
        raise BadRequest(f"The body is not CSV: {error}") from error
    if rows and "inputs" in rows[0]:
        return {"inputs": [row["inputs"] for row in rows]}
    return {"inputs": rows}


def _csv_bytes(prediction: Any) -> bytes:
    rows = prediction if isinstance(prediction, Sequence) else [prediction]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise BadRequest("Only a list of objects can be written as CSV")
    file = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(file, fieldnames=names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def _array(body: bytes) -> Any:
    import numpy

    try:
        return numpy.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise BadRequest(f"The body is not an .npy array: {error}") from error


def _image(body: bytes, kind: str) -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise BadRequest(_unsupported(kind)) from error
    try:
        return Image.open(io.BytesIO(body)).convert("RGB")
    # Pillow's decoders raise whatever a damaged file makes them trip over; too large a picture is one too.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise BadRequest(f"The body is not an image that can be read: {error}") from error


def _image_bytes(prediction: Any, accept: str) -> bytes:
    if not is_image(prediction):
        raise BadRequest(f"The answer is no image and cannot be written as {accept}")
    file = io.BytesIO()
    prediction.save(file, format=IMAGE_FORMATS[accept])
    return file.getvalue()


def is_image(value: Any) -> bool:
    # By its name: whoever has no Pillow has no image to ask about.
    return type(value).__module__.partition(".")[0] == "PIL"


def _plain(value: Any) -> Any:
    """numpy's and torch's numbers and arrays as Python's own, times and images (base64 of PNG) as text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, datetime.datetime):
        return str(value)
    if is_image(value):
        return base64.b64encode(_image_bytes(value, "image/png")).decode()
    raise TypeError(f"A {type(value).__name__} cannot be written as JSON")


def _unsupported(content_type: str | None) -> str:
    # The toolkit's own sentence, its doubled word aside: clients search logs for it.
    return (
        f"Content type {content_type or '(none)'} is not supported by this framework. Please implement "
        "input_fn to deserialize the request data or an output_fn to serialize the response."
    )
