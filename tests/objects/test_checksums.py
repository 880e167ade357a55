"""S3's checksums."""

import base64
import hashlib
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.objects import checksums

# Of "123456789". Source: the catalogue of parametrised CRC algorithms; hashlib for the rest.
KNOWN = {
    "CRC32": "cbf43926",
    "CRC32C": "e3069283",
    "CRC64NVME": "ae8b14860a799888",
    "SHA1": hashlib.sha1(b"123456789").hexdigest(),
    "SHA256": hashlib.sha256(b"123456789").hexdigest(),
}


def digest(algorithm, *pieces):
    checksum = checksums.new(algorithm)
    for piece in pieces:
        checksum.update(piece)
    return checksum.digest()


@pytest.mark.parametrize(("algorithm", "expected"), KNOWN.items())
def test_the_check_value_is_the_published_one(algorithm, expected):
    assert digest(algorithm, b"123456789").hex() == expected


@pytest.mark.parametrize("algorithm", sorted(checksums.ALGORITHMS))
@given(seed=st.binary(max_size=9), size=st.integers(0, 5000), cut=st.integers(0, 5000))
def test_it_does_not_matter_how_the_bytes_are_cut(algorithm, seed, size, cut):
    body = (seed or b"x") * (size // max(1, len(seed)) + 1)

    assert digest(algorithm, body[:cut], body[cut:]) == digest(algorithm, body)


@given(st.binary(max_size=3000))
def test_the_lanes_agree_with_plain_division(body):
    state = 0xFFFFFFFF
    for byte in body:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)

    assert digest("CRC32C", body) == (state ^ 0xFFFFFFFF).to_bytes(4, "big")


@pytest.mark.parametrize("algorithm", sorted(checksums.POLYNOMIALS))
@given(parts=st.lists(st.binary(max_size=600), min_size=1, max_size=5))
def test_crcs_of_parts_combine_into_that_of_the_whole(algorithm, parts):
    digests = [(checksums.encode(digest(algorithm, part)), len(part)) for part in parts]

    assert checksums.combine(algorithm, digests) == checksums.encode(digest(algorithm, b"".join(parts)))


def test_a_composite_checksum_is_of_the_parts_checksums():
    crcs = [zlib.crc32(part).to_bytes(4, "big") for part in (b"one", b"two")]
    encoded = [base64.b64encode(crc).decode() for crc in crcs]

    whole = zlib.crc32(b"".join(crcs)).to_bytes(4, "big")
    assert checksums.composite("CRC32", encoded) == f"{base64.b64encode(whole).decode()}-2"
