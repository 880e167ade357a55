"""Whether an object's bytes are still those that were put: a disk may change some and not say so."""

from collections.abc import Sequence

from ebbtide.objects import checksums
from ebbtide.objects.contents import Piece
from ebbtide.objects.errors import ContentLost
from ebbtide.objects.records import ObjectRecord


class Seal:
    """What an object's bytes were when they were put, against what is read of them."""

    @classmethod
    def of(cls, record: ObjectRecord, pieces: Sequence[Piece]) -> "Seal | None":
        """By the CRC32 where the client has stated one, as SDKs do unless told otherwise: an eighth of the
        cost of the entity tag's MD5. None where what is known is of parts that are not the pieces any more.
        """
        crc32 = record.checksums.get("CRC32")
        seal = cls("CRC32", crc32) if crc32 is not None else cls("MD5", record.etag)
        parts = sum(piece.size_bytes > 0 for piece in pieces)
        return seal if seal._count in (None, parts) else None

    def __init__(self, algorithm: str, stated: str) -> None:
        """stated: of all bytes, or of the digests of parts and their count behind a hyphen."""
        self._algorithm = algorithm
        self._stated = stated
        _, _, count = stated.partition("-")
        self._count = int(count) if count else None
        self._running = checksums.new(algorithm)
        self._digests: list[bytes] = []

    def update(self, block: bytes) -> None:
        self._running.update(block)

    def end_piece(self) -> None:
        if self._count is not None:
            self._digests.append(self._running.digest())
            self._running = checksums.new(self._algorithm)

    def check(self) -> None:
        """Raises ContentLost when what was read is not what was put."""
        if self._count is not None:
            self._running.update(b"".join(self._digests))
        digest = self._running.digest()
        found = checksums.encode(digest) if self._algorithm == "CRC32" else digest.hex()
        stated = self._stated.partition("-")[0]
        if found != stated:
            raise ContentLost(f"their {self._algorithm} was {stated} when they were stored, and is {found}")
