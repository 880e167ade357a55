"""From a request to an operation's parameters, for every protocol.

What is malformed raises ServiceError with the protocol's own code; whether the values are allowed is
`validate`'s question. Members that the model does not know are ignored, as AWS ignores them.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from ebbtide.errors import ServiceError
from ebbtide.wire.models import Member, Operation, Shape
from ebbtide.wire.numbers import whole_number
from ebbtide.wire.request import Request

Params = dict[str, Any]


def parse(operation: Operation, protocol: str, request: Request, labels: dict[str, str]) -> Params:
    """The parameters of `operation` in a request of that protocol.

    labels: the decoded path labels of a REST request. A streamed payload is left out.
    Raises ServiceError (SerializationException, MalformedQueryString, MalformedXML or InvalidArgument).
    """
    if operation.input is None:
        return {}
    match protocol:
        case "json":
            return _json_document(operation.input, request.body)
        case "query":
            return _query_structure(operation.input, _query_tree(request))
        case "smithy-rpc-v2-cbor":
            return _cbor_document(operation.input, request.body)
        case "rest-json" | "rest-xml":
            return _rest(operation, protocol, request, labels)
    raise ValueError(f"{protocol} is not a protocol of this module")


class _Unreadable(Exception):
    """A value that its type does not allow; the message says which."""


# JSON and CBOR


def _json_document(shape: Shape, body: bytes) -> Params:
    try:
        document = json.loads(body) if body else {}
        if b"\\ud" in body or b"\\uD" in body:
            # Half of a surrogate pair is valid JSON but no text: it could be neither stored nor answered.
            json.dumps(document, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ServiceError("The request body is not valid JSON.", code="SerializationException") from error
    return _document_root(shape, document)


def _cbor_document(shape: Shape, body: bytes) -> Params:
    import cbor2

    try:
        document = cbor2.loads(body) if body else {}
    except (cbor2.CBORDecodeError, ValueError, RecursionError) as error:
        raise ServiceError("The request body is not valid CBOR.", code="SerializationException") from error
    return _document_root(shape, document)


def _document_root(shape: Shape, document: Any) -> Params:
    if not isinstance(document, dict):
        raise ServiceError(
            f"{_token(document)} can not be converted to a structure", code="SerializationException"
        )
    try:
        return _document_structure(shape, document)
    except _Unreadable as error:
        raise ServiceError(str(error), code="SerializationException") from error


def _document_structure(shape: Shape, node: dict[str, Any]) -> Params:
    found: Params = {}
    for name, member in shape.members.items():
        value = node.get(member.wire_name)
        if value is not None and member.location is None:
            found[name] = _document_value(member, value)
    return found


def _document_value(member: Member, value: Any) -> Any:
    shape = member.shape
    kind = shape.kind
    if kind == "string":
        if isinstance(value, str):
            return value
    elif kind == "structure":
        if isinstance(value, dict):
            return _document_structure(shape, value)
    elif kind == "list":
        if isinstance(value, list):
            return [None if item is None else _document_value(shape.element, item) for item in value]
    elif kind == "map":
        if isinstance(value, dict):
            return {
                str(key): None if item is None else _document_value(shape.value, item)
                for key, item in value.items()
            }
    elif kind in ("integer", "long"):
        # 5.0 is the integer 5: clients in languages with one kind of number write it so.
        whole = value.is_integer() if isinstance(value, float) else isinstance(value, int)
        if whole and not isinstance(value, bool):
            return int(value)
    elif kind in ("double", "float"):
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _double(value)
        if value in ("NaN", "Infinity", "-Infinity"):
            return float(value)
    elif kind == "boolean":
        if isinstance(value, bool):
            return value
    elif kind == "timestamp":
        return _document_timestamp(value)
    elif kind == "blob":
        if isinstance(value, bytes):
            return value
        if isinstance(value, str):
            return _base64(value)
    else:
        return value
    raise _Unreadable(f"{_token(value)} can not be converted to {_article(kind)}")


def _document_timestamp(value: Any) -> float:
    if isinstance(value, datetime):
        return value.timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _epoch_s(_double(value))
    if isinstance(value, str):
        return timestamp(value)
    raise _Unreadable(f"{_token(value)} can not be converted to a timestamp")


def _token(value: Any) -> str:
    """The kind of a document's value as AWS's messages call it."""
    if isinstance(value, bool):
        return "TRUE_VALUE" if value else "FALSE_VALUE"
    if isinstance(value, str):
        return "STRING_VALUE"
    if isinstance(value, int | float):
        return "NUMBER_VALUE"
    if isinstance(value, dict):
        return "START_OBJECT"
    return "START_ARRAY" if isinstance(value, list) else "VALUE"


def _article(kind: str) -> str:
    return f"an {kind.capitalize()}" if kind[0] in "aeiou" else f"a {kind.capitalize()}"


# Query: a tree of the parameters' dotted names


def _query_tree(request: Request) -> dict[str, Any]:
    try:
        pairs = parse_qsl(
            request.body.decode(), keep_blank_values=True, encoding="utf-8", errors="strict"
        ) + parse_qsl(request.query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        raise ServiceError("The parameters are not UTF-8.", code="MalformedQueryString") from error
    tree: dict[str, Any] = {}
    for name, value in pairs:
        node = tree
        for step in name.split("."):
            node = node.setdefault(step, {})
        node[""] = value
    return tree


def _query_structure(shape: Shape, tree: dict[str, Any]) -> Params:
    try:
        return dict(_query_members(shape, tree))
    except _Unreadable as error:
        raise ServiceError(str(error), code="MalformedInput") from error


def _query_members(shape: Shape, tree: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, member in shape.members.items():
        node = tree.get(member.xml_name)
        if node is not None:
            yield name, _query_value(member, node)


def _query_value(member: Member, node: dict[str, Any]) -> Any:
    shape = member.shape
    if shape.kind == "structure":
        return dict(_query_members(shape, node))
    if shape.kind == "list":
        items = node if member.flattened else node.get(shape.element.xml_name, {})
        return [_query_value(shape.element, item) for item in _numbered(items)]
    if shape.kind == "map":
        entries = node if member.flattened else node.get("entry", {})
        return {
            _text(entry.get(shape.key.xml_name, {})): _query_value(
                shape.value, entry.get(shape.value.xml_name, {})
            )
            for entry in _numbered(entries)
        }
    return from_text(member, _text(node))


def _numbered(node: dict[str, Any]) -> list[dict[str, Any]]:
    numbered = {n: item for name, item in node.items() if (n := whole_number(name)) is not None}
    return [numbered[n] for n in sorted(numbered)]


def _text(node: dict[str, Any]) -> str:
    text: str = node.get("", "")
    return text


# REST: path, query string, headers and payload


def _rest(operation: Operation, protocol: str, request: Request, labels: dict[str, str]) -> Params:
    shape = operation.input
    assert shape is not None
    found: Params = {}
    bare = False
    try:
        for name, member in shape.members.items():
            match member.location:
                case "header":
                    text = request.headers.get(member.wire_name)
                    # To S3 an empty header says nothing: s3fs of 2021 sends such an x-amz-acl.
                    if text is not None and (text or protocol != "rest-xml"):
                        found[name] = _header_value(member, text)
                case "uri":
                    if member.wire_name in labels:
                        found[name] = from_text(member, labels[member.wire_name])
                case "querystring":
                    texts = request.arguments.get(member.wire_name)
                    if texts is not None:
                        found[name] = _argument(member, texts)
                case "headers":
                    if values := _prefixed(request.headers, member.wire_name):
                        found[name] = values
                case None:
                    bare = True
    except _Unreadable as error:
        raise ServiceError(str(error), code=_malformed(protocol)) from error
    if shape.payload:
        payload = shape.members[shape.payload]
        if request.body and not payload.streaming:
            found[shape.payload] = _payload(payload, protocol, request.body)
    elif bare and request.body:
        found.update(_body_members(shape, protocol, request.body))
    return found


def _malformed(protocol: str) -> str:
    return "InvalidArgument" if protocol == "rest-xml" else "SerializationException"


_IN_CAPITALS = frozenset(("x-amz-checksum-mode",))
"""Headers whose value the SDK for C++, which Arrow reads by, writes in lower case against its own model."""


def _header_value(member: Member, text: str) -> Any:
    if member.wire_name in _IN_CAPITALS:
        text = text.upper()
    if member.shape.kind == "list":
        return [from_text(member.shape.element, item) for item in _header_items(text)]
    if member.shape.kind == "timestamp" and member.timestamp_format is None:
        return timestamp(text)
    return from_text(member, text)


def _prefixed(headers: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name[len(prefix) :]: value for name, value in headers.items() if name.startswith(prefix)}


def _header_items(text: str) -> Iterator[str]:
    """The elements of a header's list; one with a comma or a quote inside is in double quotes."""
    item, quoted, escaped = "", False, False
    for character in text:
        if escaped:
            item, escaped = item + character, False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif character == "," and not quoted:
            yield item.strip()
            item = ""
        else:
            item += character
    yield item.strip()


def _argument(member: Member, texts: list[str]) -> Any:
    if member.shape.kind == "list":
        return [from_text(member.shape.element, text) for text in texts]
    return from_text(member, texts[0])


def _payload(member: Member, protocol: str, body: bytes) -> Any:
    if member.shape.kind == "blob":
        return body
    if member.shape.kind == "string":
        return body.decode(errors="replace")
    return _body_members(member.shape, protocol, body, root=member.xml_name)


def _body_members(shape: Shape, protocol: str, body: bytes, *, root: str | None = None) -> Params:
    if protocol == "rest-json":
        return _json_document(shape, body)
    return _xml_document(shape, body, root)


# XML


class _ShallowTree(TreeBuilder):
    """Gives up where elements nest deeper than any document of S3's: the time to parse grows faster."""

    MOST_LEVELS = 100

    def __init__(self) -> None:
        super().__init__()
        self._level = 0

    def start(self, tag: str, attributes: dict[str, str], /) -> Element:
        self._level += 1
        if self._level > self.MOST_LEVELS:
            raise _Unreadable("elements are nested too deep")
        return super().start(tag, attributes)

    def end(self, tag: str, /) -> Element:
        self._level -= 1
        return super().end(tag)


def _xml_document(shape: Shape, body: bytes, root: str | None) -> Params:
    """root: the name of the document's element, None for any."""
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import DefusedXMLParser

    parser = DefusedXMLParser(target=_ShallowTree(), forbid_dtd=True)
    try:
        parser.feed(body)
        document = parser.close()
        if root is not None and _local(document.tag) != root:
            raise _Unreadable(f"{_local(document.tag)} is not {root}")
        return _xml_structure(shape, document)
    except (ParseError, DefusedXmlException, LookupError, ValueError, _Unreadable) as error:
        raise ServiceError(
            "The XML you provided was not well-formed or did not validate against our published schema",
            code="MalformedXML",
        ) from error


def _xml_structure(shape: Shape, node: Element) -> Params:
    children: dict[str, list[Element]] = {}
    for child in node:
        children.setdefault(_local(child.tag), []).append(child)
    found: Params = {}
    for name, member in shape.members.items():
        if member.location is not None:
            continue
        if member.xml_attribute:
            wanted = member.xml_name.rpartition(":")[2]
            text = next((v for key, v in node.attrib.items() if _local(key) == wanted), None)
            if text is not None:
                found[name] = from_text(member, text)
        elif elements := children.get(member.xml_name):
            found[name] = _xml_value(member, elements)
    return found


def _xml_value(member: Member, elements: list[Element]) -> Any:
    shape = member.shape
    first = elements[0]
    if shape.kind == "structure":
        return _xml_structure(shape, first)
    if shape.kind == "list":
        items = (
            elements
            if member.flattened
            else [child for child in first if _local(child.tag) == shape.element.xml_name]
        )
        return [_xml_value(shape.element, [item]) for item in items]
    if shape.kind == "map":
        entries = elements if member.flattened else list(first)
        pairs = ({_local(child.tag): child for child in entry} for entry in entries)
        return {
            (pair[shape.key.xml_name].text or ""): _xml_value(shape.value, [pair[shape.value.xml_name]])
            for pair in pairs
        }
    return from_text(member, first.text or "")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


# Scalars


def from_text(member: Member, text: str) -> Any:
    """A scalar that came as text. Raises _Unreadable."""
    kind = member.shape.kind
    if kind == "string":
        return text
    try:
        if kind in ("integer", "long"):
            return int(text)
        if kind in ("double", "float"):
            return float(text)
        if kind == "timestamp":
            return timestamp(text)
    except ValueError:
        raise _Unreadable(f"{text!r} is not {_article(kind)}") from None
    if kind == "boolean":
        if text.lower() not in ("true", "false"):
            raise _Unreadable(f"{text!r} is not a Boolean")
        return text.lower() == "true"
    return _base64(text)


def timestamp(text: str) -> float:
    """Epoch seconds from a timestamp in any form that clients send: ISO 8601, RFC 822 or a number.

    A time without a zone is UTC. Raises _Unreadable.
    """
    try:
        if text[:1].isalpha():
            moment = parsedate_to_datetime(text)
        elif "-" in text[1:]:
            moment = datetime.fromisoformat(text)
        else:
            return _epoch_s(float(text))
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise _Unreadable(f"{text!r} is not a timestamp") from None


_YEAR_1_S, _YEAR_10000_S = -62_135_596_800, 253_402_300_800


def _epoch_s(value: float) -> float:
    # Milliseconds sent for seconds, most of all.
    if not _YEAR_1_S <= value < _YEAR_10000_S:
        raise _Unreadable(f"{value} is not a timestamp in seconds of the years 1 to 9999")
    return value


def _double(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise _Unreadable("A number is too large for a Double") from None


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise _Unreadable("A blob is not valid base64") from None
