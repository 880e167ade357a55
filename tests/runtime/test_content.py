"""Bodies in and out, by content type."""

import base64
import datetime
import io
import json
from typing import Any

import numpy
import pytest
from PIL import Image

from ebbtide.runtime import content
from ebbtide.runtime.errors import BadRequest


def png(*, size: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (size, size), "teal").save(file, format="PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("body", "content_type", "decoded"),
    [
        pytest.param(b'{"inputs": "x"}', "application/json", {"inputs": "x"}, id="JSON"),
        pytest.param(b'{"inputs": "x"}', "application/json; charset=utf-8", {"inputs": "x"}, id="charset"),
        pytest.param(b"An article.", "text/plain", {"inputs": "An article."}, id="plain text is the input"),
        pytest.param(b"inputs,n\na,1\nb,2\n", "text/csv", {"inputs": ["a", "b"]}, id="CSV column"),
        pytest.param(
            b"inputs\n" + b"x" * 200_000,
            "text/csv",
            {"inputs": ["x" * 200_000]},
            id="a CSV field of an article",
        ),
        pytest.param(
            b"question,context\nq,c\n",
            "text/csv",
            {"inputs": [{"question": "q", "context": "c"}]},
            id="CSV rows",
        ),
        pytest.param(b"Inputs\na\n", "text/csv", {"inputs": [{"Inputs": "a"}]}, id="columns in capitals"),
        pytest.param(b"RIFF\x00", "audio/wave", {"inputs": b"RIFF\x00"}, id="a recording"),
        pytest.param(b'{"inputs": "x"}', "binary/octet-stream", {"inputs": "x"}, id="an untyped JSON object"),
        pytest.param(b"An article.", "", {"inputs": "An article."}, id="an untyped text"),
        pytest.param("\ufeffé".encode(), "text/plain", {"inputs": "é"}, id="a byte order mark is no text"),
    ],
)
def test_a_body_is_read_by_its_type(body: bytes, content_type: str, decoded: Any):
    assert content.decode(body, content_type) == decoded


@pytest.mark.parametrize(
    ("body", "content_type", "fact"),
    [
        pytest.param(b'{"inputs": ', "application/json", "not JSON", id="JSON that is not"),
        pytest.param(b"[" * 100_000, "application/json", "not JSON", id="JSON nested without end"),
        pytest.param(b'{"n": ' + b"1" * 5000 + b"}", "application/json", "not JSON", id="a number too long"),
        pytest.param(b"caf\xe9", "text/plain; charset=utf-8", "byte 3 is 0xe9", id="another charset"),
        pytest.param(b"text\x00", "text/plain", "binary", id="a NUL"),
        pytest.param(b"%PDF-1.7\x00", "text/plain", "a PDF", id="a file of another type"),
        pytest.param(b"a,b\n1,2\n", "text/csv", "first line", id="a CSV without the columns"),
        pytest.param(b"x", "video/mp4", "video/mp4 is not supported", id="a type nobody reads"),
        pytest.param(b"x", "image/png", "not an image", id="no image"),
        pytest.param(png(size=4)[:40], "image/png", "not an image", id="half an image"),
        pytest.param(b"x", "application/x-npy", "npy", id="no array"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_with_the_fact(body: bytes, content_type: str, fact: str):
    with pytest.raises(BadRequest, match=fact):
        content.decode(body, content_type)


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("text/csv", "text/csv"),
        ("application/x-protobuf, text/csv", "text/csv"),
        ("application/json;charset=utf-8", "application/json"),
        ("image/png", "image/png"),
    ],
)
def test_the_first_type_that_can_be_had_is_answered(accept: str | None, chosen: str):
    assert content.chosen_accept(accept) == chosen


def test_no_type_that_can_be_had_is_refused():
    with pytest.raises(BadRequest, match="video/mp4"):
        content.chosen_accept("video/mp4")


@pytest.mark.parametrize(
    ("prediction", "accept", "body"),
    [
        pytest.param([{"a": "é"}], "application/json", '[{"a":"é"}]'.encode(), id="compact"),
        pytest.param({"x": numpy.float32(0.5)}, "application/json", b'{"x":0.5}', id="numpy's numbers"),
        pytest.param(numpy.arange(3), "application/json", b"[0,1,2]", id="numpy's arrays"),
        pytest.param(
            [datetime.datetime(2026, 1, 2, 3, 4)],  # noqa: DTZ001 as a model may answer it
            "application/json",
            b'["2026-01-02 03:04:00"]',
            id="times",
        ),
        pytest.param([{"a": "x,y", "b": 1}], "text/csv", b'a,b\n"x,y",1\n', id="CSV"),
    ],
)
def test_an_answer_is_written_by_its_type(prediction: Any, accept: str, body: bytes):
    assert content.encode(prediction, accept) == body


def test_an_array_survives_the_round_trip():
    array = numpy.arange(6).reshape(2, 3)

    read = content.decode(content.encode(array, "application/x-npy"), "application/x-npy")

    assert (read == array).all()


def test_nan_is_no_json():
    with pytest.raises(ValueError, match="JSON compliant"):
        content.encode([float("nan")], "application/json")


def test_an_image_is_read_as_rgb_of_its_size():
    image = content.decode(png(size=4), "image/x-image")["inputs"]

    assert (image.mode, image.size) == ("RGB", (4, 4))


def test_an_image_in_an_answer_is_base64_of_png_or_the_image_itself():
    image = Image.new("RGB", (4, 4), "teal")

    text = content.encode({"mask": image}, "application/json")
    itself = content.encode(image, "image/png")

    assert text == b'{"mask":"%s"}' % base64.b64encode(itself)
    assert Image.open(io.BytesIO(itself)).getpixel((0, 0)) == image.getpixel((0, 0))


@pytest.mark.parametrize("accept", ["text/csv", "image/png"])
def test_an_answer_that_the_type_cannot_hold_is_refused(accept: str):
    with pytest.raises(BadRequest, match="written as"):
        content.encode(["x"], accept)


RUSSIAN = (
    "Прилив поднимается и опускается вместе с луной. В Бресте его измеряли два столетия. "
    "Записи показывают, что уровень моря растёт."
)
CHINESE = "潮汐随着月亮涨落，人们在布雷斯特测量了两个世纪。港口的水位记录显示海平面正在上升。"
FRENCH = (
    "La marée monte et descend avec la lune, où qu’on la mesure. "
    "Ç’a été mesuré à Brest pendant deux siècles – déjà."
)


@pytest.mark.parametrize(
    ("text", "encoding", "label"),
    [
        pytest.param(FRENCH, "cp1252", "iso-8859-1", id="Windows-1252 called Latin-1"),
        pytest.param(FRENCH, "utf-8", "iso-8859-1", id="UTF-8 called Latin-1"),
        pytest.param("鎔①", "cp932", "shift_jis", id="Windows' Shift-JIS"),
        pytest.param("鎔①", "gb18030", "gb2312", id="GB18030 called GB2312"),
        pytest.param(FRENCH, "cp1252", None, id="Windows-1252, guessed"),
        pytest.param(CHINESE, "gb18030", None, id="GB18030, guessed"),
        pytest.param(RUSSIAN, "koi8-r", None, id="KOI8-R, guessed"),
        pytest.param(RUSSIAN, "utf-16-be", None, id="UTF-16 without a mark, not Western"),
    ],
)
def test_a_text_is_read_in_the_charset_that_it_is_in(text: str, encoding: str, label: str | None):
    content_type = "text/plain" + (f"; charset={label}" if label else "")
    assert content.decode(text.encode(encoding), content_type) == {"inputs": text}


def test_a_text_that_is_not_in_the_charset_it_names_is_refused():
    with pytest.raises(BadRequest, match="not UTF-8 text: byte 2 is 0xe9"):
        content.decode("Brésil".encode("latin-1"), "text/plain; charset=utf-8")


def test_json_lines_that_are_all_bad_are_refused_and_the_first_named():
    with pytest.raises(
        BadRequest, match=r"^Line 1 is neither a string nor has inputs.*; and 993 more lines$"
    ):
        content.decode(b"7\n" * 998, "application/jsonlines")


def test_a_json_line_may_hold_line_separators_of_other_kinds():
    lines = json.dumps("One\u2028two\u0085three", ensure_ascii=False) + "\r\n" + json.dumps("Four")
    decoded = content.decode(lines.encode(), "application/jsonlines")
    assert decoded == {"inputs": ["One\u2028two\u0085three", "Four"]}
