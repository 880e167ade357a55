"""The aws-chunked content encoding: bodies that come in chunks, each signed or not, with trailers.

    SIZE[;chunk-signature=HEX]CRLF data CRLF ... 0[;chunk-signature=HEX]CRLF
    [name:value CRLF ...] [x-amz-trailer-signature:HEX CRLF] CRLF

Source: Signature calculations for the authorization header: multiple chunks, Amazon S3 API Reference.
"""

import hashlib
import hmac
from collections.abc import Iterator
from dataclasses import dataclass

from ebbtide.errors import ServiceError
from ebbtide.wire.sigv4 import EMPTY_SHA256, sign

MAX_LINE_BYTES = 16 * 1024
MAX_TRAILERS_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ChunkSigner:
    """What the chunks' signatures are made with: the request's signing key, time and scope."""

    key: bytes
    timestamp: str
    scope: str
    seed: str
    """The signature of the request's headers, with which the first chunk's begins."""


class ChunkedDecoder:
    """Takes a body in pieces of any size and gives its data.

    Data is given before its chunk's signature is checked, so a consumer must not use what it got until
    `finish` has returned. `trailers` is filled by then, with names in lower case.
    """

    def __init__(self, signer: ChunkSigner | None) -> None:
        self.trailers: dict[str, str] = {}
        self._signer = signer
        self._previous = signer.seed if signer is not None else ""
        self._buffer = bytearray()
        self._state = "size"
        self._remaining = 0
        self._claimed = ""
        self._hash = hashlib.sha256()
        self._trailer_lines: list[str] = []
        self._trailers_bytes = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data that `piece` completes. Raises ServiceError on a malformed body or a wrong signature."""
        if self._state == "data" and not self._buffer and len(piece) <= self._remaining:
            yield self._data(piece)  # nearly all of a long body comes by here, uncopied
            return
        self._buffer += piece
        while self._buffer:
            if self._state == "data":
                yield self._take_data()
            else:
                line = self._take_line()
                if line is None:
                    return
                self._take(line)

    def finish(self) -> None:
        """Tell that the body has ended. Raises ServiceError when it had not."""
        if self._state != "end":
            raise incomplete_body()

    def _take_data(self) -> bytes:
        data = bytes(self._buffer[: self._remaining])
        del self._buffer[: self._remaining]
        return self._data(data)

    def _data(self, data: bytes) -> bytes:
        self._remaining -= len(data)
        if self._signer is not None:
            self._hash.update(data)
        if not self._remaining:
            self._state = "data end"
        return data

    def _take_line(self) -> str | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > MAX_LINE_BYTES:
                raise _malformed("a line is too long")
            return None
        line = self._buffer[:end].decode("latin-1")
        del self._buffer[: end + 2]
        return line

    def _take(self, line: str) -> None:
        match self._state:
            case "size":
                self._begin_chunk(line)
            case "data end":
                if line:
                    raise _malformed("a chunk is longer than its size says")
                self._check_chunk()
                self._state = "size"
            case "trailers" if line:
                self._trailers_bytes += len(line)
                if self._trailers_bytes > MAX_TRAILERS_BYTES:
                    raise _malformed("the trailers are too long")
                self._trailer_lines.append(line)
            case "trailers":
                self._end()
            case _:
                raise _malformed("data follows its end")

    def _begin_chunk(self, line: str) -> None:
        size, _, extension = line.partition(";")
        try:
            self._remaining = int(size, 16)
        except ValueError:
            raise _malformed(f"{size[:32]!r} is not a chunk size") from None
        if self._remaining < 0:
            raise _malformed(f"{size[:32]!r} is not a chunk size")
        name, _, value = extension.partition("=")
        self._claimed = value if name == "chunk-signature" else ""
        self._hash = hashlib.sha256()
        self._state = "data"
        if not self._remaining:
            self._check_chunk()
            self._state = "trailers"

    def _check_chunk(self) -> None:
        if self._signer is None:
            return
        self._check_signature(
            "AWS4-HMAC-SHA256-PAYLOAD", f"{EMPTY_SHA256}\n{self._hash.hexdigest()}", self._claimed
        )

    def _end(self) -> None:
        claimed = None
        signed = ""
        for line in self._trailer_lines:
            name, _, value = line.partition(":")
            name, value = name.strip().lower(), value.strip()
            if name == "x-amz-trailer-signature":
                claimed = value
            else:
                self.trailers[name] = value
                signed += f"{name}:{value}\n"
        if self._signer is not None and signed:
            digest = hashlib.sha256(signed.encode()).hexdigest()
            self._check_signature("AWS4-HMAC-SHA256-TRAILER", digest, claimed or "")
        self._state = "end"

    def _check_signature(self, algorithm: str, digest: str, claimed: str) -> None:
        assert self._signer is not None
        text = f"{algorithm}\n{self._signer.timestamp}\n{self._signer.scope}\n{self._previous}\n{digest}"
        computed = sign(self._signer.key, text)
        if not hmac.compare_digest(computed.encode(), claimed.encode()):
            raise ServiceError(
                "The signature of a chunk does not match the signature we calculated.",
                code="SignatureDoesNotMatch",
                http_status=403,
            )
        self._previous = computed


def incomplete_body() -> ServiceError:
    """The body ended before its declared length."""
    return ServiceError(
        "You did not provide the number of bytes specified by the Content-Length HTTP header",
        code="IncompleteBody",
    )


def _malformed(detail: str) -> ServiceError:
    return ServiceError(f"The aws-chunked body is malformed: {detail}.", code="InvalidRequest")
