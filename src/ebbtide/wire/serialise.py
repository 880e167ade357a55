"""From an operation's result, or its failure, to an answer, for every protocol."""

import base64
import json
import math
import re
from collections.abc import AsyncIterable
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Any
from xml.sax.saxutils import escape

from ebbtide.errors import ServiceError
from ebbtide.wire.models import Member, Operation, Service, Shape
from ebbtide.wire.names import ERROR_NAMESPACES, ROOT_ELEMENTS
from ebbtide.wire.request import Response

Result = dict[str, Any]

CONTENT_TYPES = {
    "rest-json": "application/json",
    "rest-xml": "application/xml",
    "query": "text/xml",
    "smithy-rpc-v2-cbor": "application/cbor",
}
"""Of documents; the json protocol's type bears its version."""


def serialise(operation: Operation, protocol: str, result: Result | None, request_id: str) -> Response:
    """The answer that carries `result` to a client of that protocol.

    Raises ServiceError for a header that HTTP cannot hold; KeyError for a member that the model does not
    have, which is the operation's defect.
    """
    result = dict(result or {})
    metadata = result.pop("ResponseMetadata", {})
    response = Response(operation.status, _request_id_headers(protocol, request_id))
    match protocol:
        case "json":
            _set_document(response, protocol, operation.service, _json_body(operation.output, result))
        case "smithy-rpc-v2-cbor":
            _set_document(response, protocol, operation.service, _cbor_body(operation.output, result))
        case "query":
            _set_document(response, protocol, operation.service, _query_body(operation, result, request_id))
        case _:
            _rest(operation, protocol, result, response)
    response.status = metadata.get("HTTPStatusCode", response.status)
    for name, value in metadata.get("HTTPHeaders", {}).items():
        response.headers[name.lower()] = str(value)
    return response


def serialise_error(
    error: ServiceError, protocol: str, request_id: str, *, service: Service | None = None, resource: str = ""
) -> Response:
    """The answer that carries a failure: code, message and further members, in the service's own form.

    resource: what S3 names as the failure's subject, the path asked for.
    """
    shape = service.error(error.code) if service is not None else None
    status = shape.error_status if shape is not None and shape.error_status else error.http_status
    response = Response(status, _request_id_headers(protocol, request_id))
    code = shape.name if shape is not None else error.code
    query_code = (shape.error_code if shape is not None else None) or error.code
    match protocol:
        case "query":
            document = _query_error(service, query_code, error, status, request_id)
        case "rest-xml":
            document = _s3_error(query_code, error, request_id, resource)
        case "smithy-rpc-v2-cbor":
            document = _cbor_dumps({"__type": code, **_cbor_structure(shape, _error_members(shape, error))})
        case _:
            kind = ERROR_NAMESPACES.get(service.name if service is not None else "", "") + code
            response.headers["x-amzn-errortype"] = kind
            document = _json_dumps({"__type": kind, **_json_structure(shape, _error_members(shape, error))})
    _set_document(response, protocol, service, document)
    if service is not None and service.query_compatible and protocol != "query":
        response.headers["x-amzn-query-error"] = f"{query_code};{_fault(status)}"
    return response


def _request_id_headers(protocol: str, request_id: str) -> dict[str, str]:
    if protocol == "rest-xml":
        return {"x-amz-request-id": request_id, "x-amz-id-2": request_id}
    return {"x-amzn-requestid": request_id}


def _set_document(response: Response, protocol: str, service: Service | None, document: bytes) -> None:
    response.body = document
    if protocol == "json":
        version = service.json_version if service is not None else "1.1"
        response.headers["content-type"] = f"application/x-amz-json-{version}"
    else:
        response.headers["content-type"] = CONTENT_TYPES[protocol]
    if protocol == "smithy-rpc-v2-cbor":
        response.headers["smithy-protocol"] = "rpc-v2-cbor"


def _fault(status: int) -> str:
    return "Sender" if status < 500 else "Receiver"


def _error_members(shape: Shape | None, error: ServiceError) -> Result:
    known = shape.members if shape is not None else {}
    name = next((member for member in known if member.lower() == "message"), "message")
    return {name: error.message, **error.members}


# JSON


def _json_body(shape: Shape | None, result: Result) -> bytes:
    return b"{}" if shape is None else _json_dumps(_json_structure(shape, result))


_encode_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def _json_dumps(document: Any) -> bytes:
    return _encode_json(document).encode()


def _json_structure(shape: Shape | None, result: Result) -> dict[str, Any]:
    members = shape.members if shape is not None else {}
    document = {}
    for name, value in result.items():
        if value is not None:
            # An error's message may go where its shape lists no member for it.
            member = members[name] if shape is not None and name != "message" else members.get(name)
            document[member.wire_name if member else name] = _json_value(member, value) if member else value
    return document


def _json_value(member: Member, value: Any) -> Any:
    shape = member.shape
    kind = shape.kind
    if kind == "string":
        return value
    if kind == "structure":
        return _json_structure(shape, value)
    if kind == "list":
        element = shape.element
        return [_json_value(element, item) for item in value]
    if kind == "map":
        element = shape.value
        return {key: _json_value(element, item) for key, item in value.items() if item is not None}
    if kind == "timestamp":
        # Floating seconds, to the millisecond: what AWS sends.
        return round(_epoch_s(value), 3)
    if kind == "blob":
        return _base64(value)
    if kind in ("double", "float") and not math.isfinite(value):
        return _nonfinite(value)
    return value


# CBOR


def _cbor_body(shape: Shape | None, result: Result) -> bytes:
    return _cbor_dumps({} if shape is None else _cbor_structure(shape, result))


def _cbor_dumps(document: Any) -> bytes:
    import cbor2

    return cbor2.dumps(document)


def _cbor_structure(shape: Shape | None, result: Result) -> dict[str, Any]:
    members = shape.members if shape is not None else {}
    document = {}
    for name, value in result.items():
        if value is not None:
            member = members[name] if shape is not None and name != "message" else members.get(name)
            document[name] = _cbor_value(member.shape, value) if member else value
    return document


def _cbor_value(shape: Shape, value: Any) -> Any:
    kind = shape.kind
    if kind == "structure":
        return _cbor_structure(shape, value)
    if kind == "list":
        element = shape.element.shape
        return [_cbor_value(element, item) for item in value]
    if kind == "map":
        element = shape.value.shape
        return {key: _cbor_value(element, item) for key, item in value.items() if item is not None}
    if kind == "timestamp":
        import cbor2

        return cbor2.CBORTag(1, round(_epoch_s(value), 3))
    if kind in ("double", "float"):
        return float(value)
    if kind == "blob":
        return value.encode() if isinstance(value, str) else bytes(value)
    return value


# XML: query and REST


def _query_body(operation: Operation, result: Result, request_id: str) -> bytes:
    namespace = _attributes(operation.service.xml_namespace)
    inner = ""
    if operation.output is not None:
        members = _xml_members(operation.output, result)
        inner = f"<{operation.result_wrapper}>{members}</{operation.result_wrapper}>"
    return (
        f"<{operation.name}Response{namespace}>{inner}"
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation.name}Response>"
    ).encode()


def _query_error(
    service: Service | None, code: str, error: ServiceError, status: int, request_id: str
) -> bytes:
    namespace = _attributes(service.xml_namespace if service is not None else None)
    return (
        f"<ErrorResponse{namespace}><Error><Type>{_fault(status)}</Type><Code>{_escape(code)}</Code>"
        f"<Message>{_escape(error.message)}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    ).encode()


def _s3_error(code: str, error: ServiceError, request_id: str, resource: str) -> bytes:
    members = error.members.items()
    return (
        _XML_DECLARATION
        + f"<Error><Code>{_escape(code)}</Code><Message>{_escape(error.message)}</Message>"
        + "".join(f"<{name}>{_escape(str(value))}</{name}>" for name, value in members)
        + f"<Resource>{_escape(resource)}</Resource><RequestId>{request_id}</RequestId>"
        + f"<HostId>{request_id}</HostId></Error>"
    ).encode()


_XML_DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'


def _rest(operation: Operation, protocol: str, result: Result, response: Response) -> None:
    shape = operation.output
    if shape is None:
        return
    body: Result = {}
    for name, value in result.items():
        if value is None:
            continue
        member = shape.members[name]
        match member.location:
            case "header":
                response.headers[member.wire_name] = _header_text(member, value)
            case "headers":
                for suffix, text in value.items():
                    response.headers[f"{member.wire_name}{suffix.lower()}"] = text
            case "statusCode":
                response.status = value
            case _:
                body[name] = value
    if shape.payload is not None:
        payload = shape.members[shape.payload]
        if payload.shape.kind in ("blob", "string"):
            response.body = _payload_bytes(body.get(shape.payload))
        elif shape.payload in body:
            root = payload.wire_name if payload.wire_name != payload.name else payload.shape.name
            _set_rest_document(operation, protocol, root, payload.shape, body[shape.payload], response)
    elif protocol == "rest-json" or any(member.location is None for member in shape.members.values()):
        root = ROOT_ELEMENTS.get(shape.name, shape.name)
        _set_rest_document(operation, protocol, root, shape, body, response)


def _set_rest_document(
    operation: Operation, protocol: str, root: str, shape: Shape, content: Result, response: Response
) -> None:
    document = (
        _json_body(shape, content)
        if protocol == "rest-json"
        else _xml_document(operation.service, root, shape, content)
    )
    _set_document(response, protocol, operation.service, document)


def _payload_bytes(value: Any) -> bytes | AsyncIterable[bytes]:
    if value is None:
        return b""
    if isinstance(value, str):
        return value.encode()
    payload: bytes | AsyncIterable[bytes] = value
    return payload


def _xml_document(service: Service, root: str, shape: Shape, result: Result) -> bytes:
    namespace = _attributes(service.xml_namespace)
    if list(shape.members) == [root]:
        # GetBucketLocation: the root is its only member itself.
        content = _escape(_scalar_text(shape.members[root], result[root], "iso8601")) if result else ""
    else:
        content = _xml_members(shape, result)
    return f"{_XML_DECLARATION}<{root}{namespace}>{content}</{root}>".encode()


def _xml_members(shape: Shape, result: Result) -> str:
    return "".join(
        _xml_value(shape.members[name], shape.members[name].xml_name, value)
        for name, value in result.items()
        if value is not None and not shape.members[name].xml_attribute
    )


def _xml_value(member: Member, tag: str, value: Any) -> str:
    shape = member.shape
    namespace = _namespace(member)
    if shape.kind == "structure":
        attributes = "".join(
            f' {m.xml_name}="{_escape(str(value[name]))}"'
            for name, m in shape.members.items()
            if m.xml_attribute and value.get(name) is not None
        )
        return f"<{tag}{namespace}{attributes}>{_xml_members(shape, value)}</{tag}>"
    if shape.kind == "list":
        element = shape.element
        item_tag = tag if member.flattened else element.xml_name
        items = "".join(_xml_value(element, item_tag, item) for item in value)
        return items if member.flattened else f"<{tag}{namespace}>{items}</{tag}>"
    if shape.kind == "map":
        entry_tag = tag if member.flattened else "entry"
        entries = "".join(
            f"<{entry_tag}>{_xml_value(shape.key, shape.key.xml_name, key)}"
            f"{_xml_value(shape.value, shape.value.xml_name, item)}</{entry_tag}>"
            for key, item in value.items()
        )
        return entries if member.flattened else f"<{tag}{namespace}>{entries}</{tag}>"
    return f"<{tag}{namespace}>{_escape(_scalar_text(member, value, 'iso8601'))}</{tag}>"


def _namespace(member: Member) -> str:
    if member.xml_namespace is None:
        return ""
    prefix, uri = member.xml_namespace
    return f' xmlns:{prefix}="{uri}"' if prefix else f' xmlns="{uri}"'


def _attributes(namespace: str | None) -> str:
    return f' xmlns="{namespace}"' if namespace else ""


_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def _escape(text: str) -> str:
    """Text as XML 1.0 can hold it: what it cannot becomes U+FFFD."""
    return escape(_NOT_XML.sub("\ufffd", text), {'"': "&quot;", "\r": "&#13;"})


# Scalars


def _header_text(member: Member, value: Any) -> str:
    if member.shape.kind == "list":
        text = ",".join(_scalar_text(member.shape.element, item, "rfc822") for item in value)
    else:
        text = _scalar_text(member, value, "rfc822")
    if not text.isprintable() and _CONTROL.search(text):
        # A caller may name header values, response-content-type say: it must not add headers by them.
        raise ServiceError(
            f"The header {member.wire_name} cannot hold a control character.", code="InvalidArgument"
        )
    return text


_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def _scalar_text(member: Member, value: Any, timestamp_format: str) -> str:
    kind = member.shape.kind
    if kind == "string":
        return str(value)
    if kind == "timestamp":
        return timestamp_text(_epoch_s(value), member.timestamp_format or timestamp_format)
    if kind == "boolean":
        return "true" if value else "false"
    if kind == "blob":
        return _base64(value)
    if kind in ("double", "float") and not math.isfinite(value):
        return _nonfinite(value)
    return str(value)


def timestamp_text(epoch_s: float, form: str) -> str:
    """A moment as iso8601 (to the millisecond), rfc822 or unixTimestamp."""
    match form:
        case "iso8601":
            milliseconds = round(epoch_s * 1000)
            moment = datetime.fromtimestamp(milliseconds // 1000, UTC)
            return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z"
        case "rfc822":
            return formatdate(int(epoch_s), usegmt=True)
    return f"{epoch_s:.3f}"


def _epoch_s(value: datetime | float) -> float:
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float(value)


def _nonfinite(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _base64(value: bytes | str) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
