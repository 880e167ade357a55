"""multipart/form-data as browsers send it: fields, and then one file, which may be long. No I/O.

Source: RFC 7578.
"""

import re
from collections.abc import AsyncIterator
from email.message import Message

from ebbtide.errors import ServiceError

MAX_FIELDS_BYTES = 20 * 1024
"""Of everything before the file. Source: POST Object, Amazon S3 API Reference."""

_BOUNDARY = re.compile(r"""[0-9A-Za-z'()+_,./:=? -]{1,70}""")


class Form:
    """Reads a form from the blocks in which it arrives: first `read_fields`, then iterate over the file."""

    def __init__(self, content_type: str, blocks: AsyncIterator[bytes]) -> None:
        """Raises ServiceError where the content type names no boundary."""
        boundary = _header("content-type", content_type).get_boundary()
        if boundary is None or not _BOUNDARY.fullmatch(boundary):
            raise _malformed()
        self._blocks = blocks
        self._delimiter = b"\r\n--" + boundary.encode()
        # As if a line had ended before, so that the first delimiter looks like the others.
        self._buffer = bytearray(b"\r\n")
        self.fields: dict[str, str] = {}
        """Names in lower case; of several fields of one name, the first."""
        self.filename = ""

    async def read_fields(self) -> bool:
        """Read the fields in front of the file; whether there is a file.

        Raises ServiceError for what is malformed, or longer than fields may be.
        """
        left = MAX_FIELDS_BYTES
        left -= len(await self._through(self._delimiter, left))
        while not await self._at_end():
            headers = await self._through(b"\r\n\r\n", left)
            left -= len(headers)
            disposition = _disposition(headers.decode(errors="replace"))
            name = disposition.get_param("name", header="content-disposition")
            if not isinstance(name, str):
                raise _malformed()
            if name.lower() == "file":
                self.filename = disposition.get_filename("")
                return True
            content = await self._through(self._delimiter, left)
            left -= len(content)
            try:
                self.fields.setdefault(name.lower(), content.decode())
            except UnicodeDecodeError:
                raise _malformed() from None
        return False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The file's bytes. Raises ServiceError where the form ends before the file does."""
        kept = len(self._delimiter) - 1
        searched = 0
        while (end := self._buffer.find(self._delimiter, searched)) < 0:
            # The last bytes may be the first of a delimiter that is still to come.
            if (sure := len(self._buffer) - kept) > 0:
                yield bytes(self._buffer[:sure])
                del self._buffer[:sure]
            searched = 0
            await self._more()
        if end:
            yield bytes(self._buffer[:end])

    async def _through(self, mark: bytes, limit: int) -> bytes:
        """What comes before the mark, which is left behind."""
        while (end := self._buffer.find(mark)) < 0:
            if len(self._buffer) > limit:
                raise _too_long()
            await self._more()
        if end > limit:
            raise _too_long()
        found = bytes(self._buffer[:end])
        del self._buffer[: end + len(mark)]
        return found

    async def _at_end(self) -> bool:
        """Whether the delimiter that was just read is the last; else its line is left behind."""
        while len(self._buffer) < 2:
            await self._more()
        if self._buffer.startswith(b"--"):
            return True
        if (await self._through(b"\r\n", MAX_FIELDS_BYTES)).strip():
            raise _malformed()
        return False

    async def _more(self) -> None:
        try:
            self._buffer += await anext(self._blocks)
        except StopAsyncIteration:
            raise _malformed() from None


def _disposition(headers: str) -> Message:
    for line in headers.split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            return _header("content-disposition", value.strip())
    raise _malformed()


def _header(name: str, value: str) -> Message:
    message = Message()
    message[name] = value
    return message


def _malformed() -> ServiceError:
    return ServiceError(
        "The body of your POST request is not well-formed multipart/form-data.", code="MalformedPOSTRequest"
    )


def _too_long() -> ServiceError:
    return ServiceError(
        "Your POST request fields preceding the upload file were too large.",
        code="MaxPostPreDataLengthExceededError",
        members={"MaxPostPreDataLengthBytes": str(MAX_FIELDS_BYTES)},
    )
