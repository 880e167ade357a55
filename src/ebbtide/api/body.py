"""A request's body as it arrives: bounded and whole for most operations, streamed for S3's objects."""

import asyncio
import hashlib
import zlib
from collections.abc import AsyncIterator

from ebbtide.errors import ServiceError
from ebbtide.http_server.exchange import Receive
from ebbtide.wire.chunked import ChunkedDecoder, incomplete_body
from ebbtide.wire.request import Request
from ebbtide.wire.sigv4 import payload_mismatch

MAX_BODY_BYTES = 4 * 1024 * 1024
"""For what is read whole and has no limit in its model: 1 MiB of SQS message, form-encoded, fits."""

BLOCK_BYTES = 512 * 1024
"""The size in which a stream hands on what arrives in pieces of a few kilobytes: fewer, larger writes."""

THREAD_HASH_BYTES = 64 * 1024
"""From here a hash takes longer (0.4 to 2 GB/s) than the way to a thread and back: it leaves the loop."""


class TooLarge(Exception):
    """The body is longer than the operation takes."""


class Body:
    """One request's body. Iterate it, or `read` it, once."""

    def __init__(self, receive: Receive, *, length_bytes: int | None) -> None:
        """length_bytes: the declared length of the data, after decoding, where it is declared."""
        self.trailers: dict[str, str] = {}
        """Trailing headers of an aws-chunked body, names in lower case; complete at the body's end."""
        self._receive = receive
        self._length_bytes = length_bytes
        self._expected_sha256: str | None = None
        self._decoder: ChunkedDecoder | None = None
        self._ended = False

    def expect_sha256(self, digest: str) -> None:
        """Check the data against a hash in hex at its end."""
        self._expected_sha256 = digest.lower()

    def decode_with(self, decoder: ChunkedDecoder) -> None:
        """Take the body for aws-chunked."""
        self._decoder = decoder

    async def client_gone(self) -> None:
        """Return once the client has closed its side: who waits for something then waits for nobody.

        Only after the body has been read, and one at a time.
        """
        while (await self._receive())["type"] != "http.disconnect":
            pass  # an end that was known before it was told

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises TooLarge, and ServiceError as iterating does."""
        if self._length_bytes is not None and self._length_bytes > limit_bytes:
            raise TooLarge
        if self._decoder is None and self._expected_sha256 is None:
            return await self._read_plain(limit_bytes)
        blocks = []
        size = 0
        async for block in self:
            blocks.append(block)
            size += len(block)
            if size > limit_bytes:
                raise TooLarge
        return b"".join(blocks)

    async def _read_plain(self, limit_bytes: int) -> bytes:
        whole = await self._next()
        # The end of what has come in full is not waited for: it is told apart, a thread's hop later.
        if not self._ended and len(whole) != self._length_bytes:
            pieces = bytearray(whole)
            while not self._ended:
                pieces += await self._next()
                if len(pieces) > limit_bytes:
                    raise TooLarge
            whole = bytes(pieces)
        if len(whole) > limit_bytes:
            raise TooLarge
        return whole

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The data in blocks of about BLOCK_BYTES.

        Raises ServiceError when the body ends early, is not what was signed or is malformed: what was
        given by then must not be used.
        """
        digest = hashlib.sha256() if self._expected_sha256 is not None else None
        size = 0
        async for block in self._blocks():
            if digest is not None:
                if len(block) < THREAD_HASH_BYTES:
                    digest.update(block)
                else:
                    await asyncio.to_thread(digest.update, block)
            size += len(block)
            yield block
        if self._decoder is not None:
            self._decoder.finish()
            self.trailers.update(self._decoder.trailers)
        if self._length_bytes is not None and size != self._length_bytes:
            raise incomplete_body()
        if digest is not None and digest.hexdigest() != self._expected_sha256:
            raise payload_mismatch()

    async def _blocks(self) -> AsyncIterator[bytes]:
        pieces: list[bytes] = []
        size = 0
        while not self._ended:
            piece = await self._next()
            decoded = self._decoder.feed(piece) if self._decoder is not None else (piece,)
            for data in decoded:
                pieces.append(data)
                size += len(data)
            if size >= BLOCK_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        if size:
            yield b"".join(pieces)

    async def _next(self) -> bytes:
        try:
            message = await self._receive()
        except TimeoutError as error:
            self._ended = True
            raise ServiceError(
                "Your socket connection to the server was not read from or written to within the timeout "
                "period. Idle connections will be closed.",
                code="RequestTimeout",
            ) from error
        if message["type"] != "http.request":
            self._ended = True
            raise incomplete_body()
        self._ended = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece


def is_zipped(request: Request) -> bool:
    """Whether the body is said to be gzip; names of codings have no case (RFC 9110, 8.4.1)."""
    return request.headers.get("content-encoding", "").strip().lower() == "gzip"


def unzipped(body: bytes) -> bytes:
    """What clients compressed, large metric data, say. Raises TooLarge; ServiceError when it is not gzip."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        unpacked = unpacker.decompress(body, MAX_BODY_BYTES)
    except zlib.error as error:
        raise ServiceError("The body is not valid gzip.", code="SerializationException") from error
    if unpacker.unconsumed_tail:
        raise TooLarge
    if not unpacker.eof:
        raise ServiceError("The gzipped body is not complete.", code="SerializationException")
    return unpacked
