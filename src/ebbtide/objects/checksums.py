"""S3's object checksums: what hashlib and zlib have, and the two CRCs they lack. Pure, no I/O.

CRC32C and CRC64NVME are computed by numpy over many lanes of a block at once, so that they keep up with a
disk without a compiled extension. A CRC is linear: the lanes' remainders, each moved past the bytes that
follow its lane, add up to the block's.
"""

import base64
import hashlib
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    Words = np.ndarray[Any, np.dtype[Any]]

HASHES = {"SHA1": "sha1", "SHA256": "sha256", "SHA512": "sha512", "MD5": "md5"}
"""S3's name -> hashlib's."""

POLYNOMIALS = {
    "CRC32": (32, 0xEDB88320),
    "CRC32C": (32, 0x82F63B78),
    "CRC64NVME": (64, 0x9A6C9329AC4BC9B5),
}
"""Width in bits and reflected polynomial. Source: RFC 3720, B.4; NVM Express 2.0, 5.2.1.3.4."""

ALGORITHMS = frozenset(HASHES) | frozenset(POLYNOMIALS)

_LANE_BYTES = 256

_LARGEST_POWER = 42
"""S3's largest object, 5 TiB, is under 2**43 bytes."""


class Checksum(Protocol):
    """One running checksum; hashlib's objects are such."""

    def update(self, data: bytes | bytearray, /) -> None: ...

    def digest(self) -> bytes: ...


def new(algorithm: str) -> Checksum:
    """Begin a checksum of the empty string; `algorithm` is one of ALGORITHMS."""
    if algorithm in HASHES:
        return hashlib.new(HASHES[algorithm], usedforsecurity=False)
    return _Crc32() if algorithm == "CRC32" else _TableCrc(algorithm)


def encode(digest: bytes) -> str:
    """The form in which S3 states checksums: base64."""
    return base64.b64encode(digest).decode()


def composite(algorithm: str, digests: Sequence[str]) -> str:
    """The checksum of the parts' checksums, with their count: what S3 gives a multipart object by default."""
    checksum = new(algorithm)
    for digest in digests:
        checksum.update(base64.b64decode(digest))
    return f"{encode(checksum.digest())}-{len(digests)}"


def combine(algorithm: str, parts: Iterable[tuple[str, int]]) -> str:
    """The checksum of the whole from each part's own checksum and size in bytes, for the CRCs only."""
    crc = _crc(algorithm)
    whole = 0
    for digest, size_bytes in parts:
        whole = crc.shift(whole, size_bytes) ^ int.from_bytes(base64.b64decode(digest), "big")
    return encode(whole.to_bytes(crc.width // 8, "big"))


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | bytearray) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


class _TableCrc:
    def __init__(self, algorithm: str) -> None:
        self._crc = _crc(algorithm)
        self._state = self._crc.ones

    def update(self, data: bytes | bytearray) -> None:
        self._state = self._crc.advance(self._state, data)

    def digest(self) -> bytes:
        return (self._state ^ self._crc.ones).to_bytes(self._crc.width // 8, "big")


@cache
def _crc(algorithm: str) -> "_Crc":
    return _Crc(*POLYNOMIALS[algorithm])


class _Crc:
    """One reflected CRC's arithmetic on states: remainders without the customary inversion."""

    def __init__(self, width: int, polynomial: int) -> None:
        self.width = width
        self.ones = (1 << width) - 1
        self._by_byte = [_divide(byte, polynomial) for byte in range(256)]
        # By power: what each single bit of a state becomes when 2**power zero bytes follow.
        self._shifts = [[self._step(1 << bit, 0) for bit in range(width)]]
        for _ in range(_LARGEST_POWER):
            last = self._shifts[-1]
            self._shifts.append([_apply(last, image) for image in last])

    def advance(self, state: int, data: bytes | bytearray) -> int:
        """The state after `data`."""
        lanes = len(data) // _LANE_BYTES
        if lanes:
            state = self.shift(state, lanes * _LANE_BYTES) ^ self._remainder(data, lanes)
        for byte in memoryview(data)[lanes * _LANE_BYTES :]:
            state = self._step(state, byte)
        return state

    def shift(self, state: int, size_bytes: int) -> int:
        """The state after as many zero bytes."""
        for power in range(size_bytes.bit_length()):
            if size_bytes >> power & 1:
                state = _apply(self._shifts[power], state)
        return state

    def _step(self, state: int, byte: int) -> int:
        return self._by_byte[(state ^ byte) & 0xFF] ^ (state >> 8)

    def _remainder(self, data: bytes | bytearray, lanes: int) -> int:
        """The state after the first `lanes` lanes of `data`, from zero."""
        import numpy as np

        table = self._by_word()
        words = np.frombuffer(data, dtype="<u2", count=lanes * _LANE_BYTES // 2).reshape(lanes, -1)
        states = np.zeros(lanes, dtype=table.dtype)
        for column in np.ascontiguousarray(words.T):
            states = table[(states ^ column) & 0xFFFF] ^ (states >> 16)
        # Neighbours are added pairwise; zero lanes in front change nothing and make every pair whole.
        power = _LANE_BYTES.bit_length() - 1
        while len(states) > 1:
            if len(states) % 2:
                states = np.concatenate([np.zeros(1, dtype=states.dtype), states])
            states = self._shift_all(states[0::2], power) ^ states[1::2]
            power += 1
        return int(states[0])

    def _shift_all(self, states: "Words", power: int) -> "Words":
        import numpy as np

        moved = np.zeros_like(states)
        for bit, image in enumerate(self._shifts[power]):
            moved ^= (states >> bit & 1) * np.array(image, dtype=states.dtype)
        return moved

    @cache  # noqa: B019 - the three instances live as long as the process
    def _by_word(self) -> "Words":
        import numpy as np

        by_byte = np.array(self._by_byte, dtype=np.uint64 if self.width == 64 else np.uint32)
        words = np.arange(1 << 16, dtype=by_byte.dtype)
        after_one = by_byte[words & 0xFF] ^ (words >> 8)
        table: Words = by_byte[after_one & 0xFF] ^ (after_one >> 8)
        return table


def _divide(value: int, polynomial: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (polynomial if value & 1 else 0)
    return value


def _apply(images: list[int], state: int) -> int:
    """Apply a linear operator, given as the images of single bits."""
    result = 0
    for image in images:
        if not state:
            break
        if state & 1:
            result ^= image
        state >>= 1
    return result
