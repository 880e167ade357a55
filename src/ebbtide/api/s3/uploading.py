"""A request's body on its way into the store: hashed as it passes, compared with what the client said."""

import base64
from collections.abc import Mapping
from urllib.parse import parse_qsl

from ebbtide.api.call import Call, Params
from ebbtide.errors import ServiceError
from ebbtide.objects import checksums
from ebbtide.objects.contents import Staged
from ebbtide.objects.errors import BadDigest, InvalidArgument, InvalidRequest, NotOffered
from ebbtide.wire.numbers import whole_number

LARGEST_PUT_BYTES = 5 << 30
LARGEST_METADATA_BYTES = 2048
LARGEST_KEY_BYTES = 1024
MOST_TAGS = 10

_STORED_HEADERS = (
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "Expires",
)

_HEADER = "x-amz-checksum-"
_KNOWN_NAMES = {algorithm.lower(): algorithm for algorithm in checksums.ALGORITHMS}


async def receive(params: Params, call: Call, *, algorithm: str | None = None) -> Staged:
    """Stage the body, checked against its Content-MD5 and its checksum in a header or trailer.

    algorithm: a checksum to compute though the client states none. Raises BadDigest, InvalidDigest,
    InvalidRequest, EntityTooLarge, MissingContentLength, NotImplemented for an algorithm that we lack, and
    what reading the body raises; nothing is kept then.
    """
    _check_size(call.headers)
    md5 = _md5(call.headers)
    stated = stated_checksums(params)
    trailing = _trailing_algorithms(call.headers)
    wanted = params.get("ChecksumAlgorithm")
    if wanted and not stated and not trailing:
        raise InvalidRequest(
            "x-amz-sdk-checksum-algorithm specified, but no corresponding x-amz-checksum-* or x-amz-trailer "
            "headers were found."
        )
    body = params["Body"]
    algorithms = {*stated, *trailing} | ({algorithm} if algorithm else set())
    staged = await call.parts.objects.stage(body, checksum_algorithms=algorithms)
    try:
        stated |= {name: _trailer(body.trailers, name) for name in trailing}
        for name, value in stated.items():
            if staged.checksums[name] != value:
                raise BadDigest(name)
        if md5 is not None and staged.etag != md5:
            raise BadDigest("Content-MD5")
    except ServiceError:
        await call.parts.objects.discard(staged)
        raise
    return staged


def stated_checksums(params: Params) -> dict[str, str]:
    """The checksums that the request's own parameters state: algorithm -> base64.

    Raises NotImplemented for an algorithm that we lack, InvalidRequest for a value that is no digest of it.
    """
    stated = {}
    for member, value in params.items():
        name = member.removeprefix("Checksum")
        if name == member or name in ("Algorithm", "Mode", "Type"):
            continue
        if name not in checksums.ALGORITHMS:
            raise _unknown_algorithm(name)
        stated[name] = value
    return stated


def known_algorithm(params: Params) -> str | None:
    """The ChecksumAlgorithm asked for. Raises NotImplemented for one that we lack."""
    name: str | None = params.get("ChecksumAlgorithm")
    if name is not None and name not in checksums.ALGORITHMS:
        raise _unknown_algorithm(name)
    return name


def stored_headers(params: Params) -> dict[str, str]:
    """The headers that are kept with the object and given back with it.

    `aws-chunked` is how a request travels and no encoding of the object, also where a plain body says so.
    """
    headers = {name: params[name] for name in _STORED_HEADERS if name in params}
    if "aws-chunked" in headers.get("ContentEncoding", ""):
        encodings = [each.strip() for each in headers.pop("ContentEncoding").split(",")]
        if kept := [each for each in encodings if each != "aws-chunked"]:
            headers["ContentEncoding"] = ", ".join(kept)
    return headers


def checked_metadata(params: Params) -> dict[str, str]:
    """The user's metadata. Raises MetadataTooLarge."""
    metadata: dict[str, str] = params.get("Metadata", {})
    size_bytes = sum(len(name.encode()) + len(value.encode()) for name, value in metadata.items())
    if size_bytes > LARGEST_METADATA_BYTES:
        raise ServiceError(
            "Your metadata headers exceed the maximum allowed metadata size",
            code="MetadataTooLarge",
            members={"Size": str(size_bytes), "MaxSizeAllowed": str(LARGEST_METADATA_BYTES)},
        )
    return metadata


def checked_key(params: Params) -> str:
    """The key under which something is to be stored. Raises KeyTooLongError."""
    key: str = params["Key"]
    size_bytes = len(key.encode())
    if size_bytes > LARGEST_KEY_BYTES:
        raise ServiceError(
            "Your key is too long",
            code="KeyTooLongError",
            members={"Size": str(size_bytes), "MaxSizeAllowed": str(LARGEST_KEY_BYTES)},
        )
    return key


def tags_of_header(params: Params) -> dict[str, str]:
    """The tags in a Tagging header, a query string; a key alone has an empty value.

    Raises InvalidArgument, InvalidTag, BadRequest.
    """
    text = params.get("Tagging")
    if not text:
        return {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise InvalidArgument(
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters "
            "without tag name duplicates.",
            "x-amz-tagging",
            text,
        ) from error
    return checked_tags(pairs)


def checked_tags(
    pairs: list[tuple[str, str]], *, most: int = MOST_TAGS, whose: str = "Object"
) -> dict[str, str]:
    """Tags as a mapping. Raises InvalidTag, BadRequest."""
    if len(pairs) > most:
        raise ServiceError(f"{whose} tags cannot be greater than {most}", code="BadRequest")
    tags = dict(pairs)
    if len(tags) < len(pairs):
        raise ServiceError("Cannot provide multiple Tags with the same key", code="InvalidTag")
    for key, value in pairs:
        if not 1 <= len(key) <= 128:
            raise ServiceError("The TagKey you have provided is invalid", code="InvalidTag")
        if len(value) > 256:
            raise ServiceError("The TagValue you have provided is invalid", code="InvalidTag")
    return tags


def _check_size(headers: Mapping[str, str]) -> None:
    """Before the body is taken in: one of unknown length could fill the disk. Raises MissingContentLength,
    EntityTooLarge.
    """
    size = headers.get("x-amz-decoded-content-length") or headers.get("content-length")
    if size is None and "transfer-encoding" in headers:
        raise ServiceError(
            "You must provide the Content-Length HTTP header.", code="MissingContentLength", http_status=411
        )
    size = size or "0"
    if (whole_number(size) or 0) > LARGEST_PUT_BYTES:
        raise ServiceError(
            "Your proposed upload exceeds the maximum allowed size",
            code="EntityTooLarge",
            members={"ProposedSize": size, "MaxSizeAllowed": str(LARGEST_PUT_BYTES)},
        )


def _md5(headers: Mapping[str, str]) -> str | None:
    """The Content-MD5 in hex. Raises InvalidDigest."""
    stated = headers.get("content-md5")
    if stated is None:
        return None
    try:
        digest = base64.b64decode(stated, validate=True)
    except ValueError:
        digest = b""
    if len(digest) != 16:
        raise ServiceError("The Content-MD5 you specified was invalid.", code="InvalidDigest")
    return digest.hex()


def _trailing_algorithms(headers: Mapping[str, str]) -> list[str]:
    """The algorithms whose checksums follow the body."""
    announced = [name.strip().lower() for name in headers.get("x-amz-trailer", "").split(",")]
    names = [name.removeprefix(_HEADER) for name in announced if name.startswith(_HEADER)]
    for name in names:
        if name not in _KNOWN_NAMES:
            raise _unknown_algorithm(name)
    return [_KNOWN_NAMES[name] for name in names]


def _trailer(trailers: Mapping[str, str], algorithm: str) -> str:
    name = f"{_HEADER}{algorithm.lower()}"
    if name not in trailers:
        raise ServiceError(
            f"The trailer {name} was announced but did not follow the body.", code="MalformedTrailerError"
        )
    return trailers[name]


def _unknown_algorithm(name: str) -> NotOffered:
    return NotOffered(
        f"The checksum algorithm {name} is not implemented.",
    )
