"""What was put is told from what is read, by whatever digest is known."""

import base64
import hashlib
import zlib

import pytest

from ebbtide.objects.contents import Piece
from ebbtide.objects.errors import ContentLost
from ebbtide.objects.records import ObjectRecord
from ebbtide.objects.seals import Seal

PARTS = [b"first" * 1000, b"second" * 1000]


def md5(data):
    return hashlib.md5(data, usedforsecurity=False).digest()


def crc32(data):
    return zlib.crc32(data).to_bytes(4, "big")


def text(digest):
    return base64.b64encode(digest).decode()


def composite(digest):
    return digest(b"".join(digest(part) for part in PARTS))


WHOLE = b"".join(PARTS)
OF_PARTS = f"{composite(md5).hex()}-2"
KNOWN = [
    pytest.param(md5(WHOLE).hex(), {}, id="an entity tag"),
    pytest.param(OF_PARTS, {}, id="an entity tag of parts"),
    pytest.param("of no use", {"CRC32": text(crc32(WHOLE))}, id="a CRC32"),
    pytest.param(OF_PARTS, {"CRC32": text(crc32(WHOLE))}, id="a CRC32 of the whole of parts"),
    pytest.param("of no use", {"CRC32": f"{text(composite(crc32))}-2"}, id="a CRC32 of parts"),
    pytest.param(md5(WHOLE).hex(), {"CRC64NVME": "of no use"}, id="an entity tag beside another checksum"),
]


def sealed(etag, checksums, *, pieces=PARTS):
    record = ObjectRecord("b", "k", "c", len(WHOLE), etag, "text/plain", 0.0, checksums=checksums)
    return Seal.of(record, [Piece(len(piece), None, piece) for piece in pieces])


def check(seal, parts):
    for part in parts:
        seal.update(part[:10])
        seal.update(part[10:])
        seal.end_piece()
    seal.check()


@pytest.mark.parametrize(("etag", "checksums"), KNOWN)
def test_what_was_put_passes_and_what_has_changed_by_a_bit_does_not(etag, checksums):
    check(sealed(etag, checksums), PARTS)

    with pytest.raises(ContentLost, match="when they were stored, and is"):
        check(sealed(etag, checksums), [PARTS[0], b"S" + PARTS[1][1:]])


@pytest.mark.parametrize(
    ("count", "pieces"),
    [
        pytest.param(1, PARTS, id="fewer"),
        pytest.param(2, [WHOLE, b""], id="one of them empty, which is never read"),
    ],
)
def test_digests_of_parts_that_are_not_the_pieces_read_tell_nothing(count, pieces):
    assert sealed(f"{md5(WHOLE).hex()}-{count}", {}, pieces=pieces) is None
