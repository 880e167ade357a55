"""A request and an answer as they cross the wire, whatever carries them."""

from collections.abc import AsyncIterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl


@dataclass(eq=False, slots=True)
class Request:
    """One HTTP request. `path` and `query` are as sent, not decoded; header names are in lower case and
    a header sent several times is joined by commas. `arguments` are the query's, decoded; a name without "="
    has the value "". `body` is filled when it was read; where the operation streams its payload it stays
    empty."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes = b""
    arguments: dict[str, list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.arguments = {}
        if self.query:
            for name, value in parse_qsl(self.query, keep_blank_values=True):
                self.arguments.setdefault(name, []).append(value)


@dataclass(slots=True)
class Response:
    """One HTTP answer; `body` may be an asynchronous stream, whose length the headers then give if known."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | AsyncIterable[bytes] = b""

    def header_items(self) -> Iterator[tuple[bytes, bytes]]:
        """The headers as HTTP carries them: values beyond Latin-1 in UTF-8."""
        for name, value in self.headers.items():
            try:
                yield name.encode("ascii"), value.encode("latin-1")
            except UnicodeEncodeError:
                yield name.encode("ascii"), value.encode()
