"""AWS's service models, as botocore ships them, in the form the other modules walk.

A model is read at its service's first request. Its documentation, four fifths of it, is dropped, and
a shape becomes objects when an operation that uses it is first called.
"""

import gc
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ebbtide.wire.names import MINIMUMS, QUERY_ERROR_CODES, QUERY_NAMES, VALIDATION_CODES, XML_NAMESPACES


@dataclass(slots=True, eq=False)
class Shape:
    """A type of the model. `kind` is structure, list, map or the name of a scalar type."""

    name: str
    kind: str
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    enum: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    members: "dict[str, Member]" = field(default_factory=dict)
    element: "Member" = field(init=False)
    """Of a list only; a map has `key` and `value`."""
    key: "Member" = field(init=False)
    value: "Member" = field(init=False)
    payload: str | None = None
    """The member that is the body by itself, in REST."""
    error_code: str | None = None
    error_status: int | None = None


@dataclass(slots=True, eq=False)
class Member:
    """A shape in its place: as a member of a structure, or as the element of a list or map."""

    name: str
    """The model's name, which parameters and results use."""
    shape: Shape
    wire_name: str
    """The name on the wire; for a header its lower case."""
    xml_name: str
    """The name in XML documents and in the query protocol's parameters."""
    location: str | None = None
    """header, headers (a prefix), querystring, uri, statusCode; None is the body."""
    flattened: bool = False
    timestamp_format: str | None = None
    xml_attribute: bool = False
    xml_namespace: tuple[str | None, str] | None = None
    streaming: bool = False


@dataclass(slots=True, eq=False)
class Operation:
    """One operation of a service."""

    service: "Service"
    name: str
    python_name: str
    """The name as boto3 has it, in snake case."""
    status: int
    input: Shape | None
    output: Shape | None
    result_wrapper: str
    accepts_gzip: bool
    streamed: str | None
    """The member of the input, its payload, that the operation reads by itself as it arrives."""


class UnknownOperation(LookupError):
    """The service has no such operation."""


class Service:
    """One service's model."""

    def __init__(self, name: str, model: dict[str, Any]) -> None:
        metadata = model["metadata"]
        self.name = name
        self.json_version: str = metadata.get("jsonVersion", "1.1")
        self.xml_namespace: str | None = metadata.get("xmlNamespace", XML_NAMESPACES.get(name))
        self.validation_code = VALIDATION_CODES.get(name, "ValidationError")
        self.query_compatible = "awsQueryCompatible" in metadata
        self.operations: dict[str, dict[str, Any]] = model["operations"]
        self._raw_shapes: dict[str, dict[str, Any]] = model["shapes"]
        self._minimums = MINIMUMS.get(name, {})
        self._query_names = QUERY_NAMES.get(name, {})
        self._shapes: dict[str, Shape] = {}
        self._operations: dict[str, Operation] = {}
        self._error_codes = QUERY_ERROR_CODES.get(name, {}) | {
            shape_name: raw["error"]["code"]
            for shape_name, raw in self._raw_shapes.items()
            if raw.get("exception") and "code" in raw.get("error", {})
        }
        self._errors_by_code = {code: shape_name for shape_name, code in self._error_codes.items()}

    def operation(self, name: str) -> Operation:
        """The operation of that name. Raises UnknownOperation."""
        known = self._operations.get(name)
        if known is None:
            if name not in self.operations:
                raise UnknownOperation(name)
            known = self._operations[name] = self._build_operation(name)
        return known

    def error(self, code: str) -> Shape | None:
        """The error shape of that name or wire code, None where the model has none."""
        name = self._errors_by_code.get(code, code) if code not in self._raw_shapes else code
        raw = self._raw_shapes.get(name)
        return self._shape(name) if raw is not None and raw.get("exception") else None

    def required_members(self, shape_name: str) -> list[dict[str, Any]]:
        """The required members of a structure as the model writes them, without building its shapes."""
        raw = self._raw_shapes[shape_name]
        return [raw["members"][name] for name in raw.get("required", ())]

    def _build_operation(self, name: str) -> Operation:
        from botocore import xform_name

        raw = self.operations[name]
        given, answered = raw.get("input"), raw.get("output")
        shape = self._shape(given["shape"]) if given else None
        payload = shape.members[shape.payload] if shape is not None and shape.payload else None
        return Operation(
            service=self,
            name=name,
            python_name=xform_name(name),
            status=raw["http"].get("responseCode", 200),
            input=shape,
            output=self._shape(answered["shape"]) if answered else None,
            result_wrapper=(answered or {}).get("resultWrapper", f"{name}Result"),
            accepts_gzip="gzip" in raw.get("requestcompression", {}).get("encodings", ()),
            streamed=payload.name if payload is not None and payload.streaming else None,
        )

    def _shape(self, name: str) -> Shape:
        known = self._shapes.get(name)
        if known is not None:
            return known
        raw = self._raw_shapes[name]
        error = raw.get("error", {})
        # Registered before its members are built: shapes may contain themselves.
        shape = self._shapes[name] = Shape(
            name=name,
            kind="document" if raw.get("document") else raw["type"],
            minimum=self._minimums.get(name, raw.get("min")),
            maximum=raw.get("max"),
            pattern=raw.get("pattern"),
            enum=tuple(raw.get("enum", ())),
            required=tuple(raw.get("required", ())),
            payload=raw.get("payload"),
            error_code=self._error_codes.get(name),
            error_status=error.get("httpStatusCode", 500 if raw.get("fault") else None),
        )
        if "key" in raw:
            shape.key = self._member("key", raw["key"], owner=name)
            shape.value = self._member("value", raw["value"], owner=name)
        if "member" in raw:
            shape.element = self._member("member", raw["member"], owner=name)
        shape.members.update(
            (member, self._member(member, reference, owner=name))
            for member, reference in raw.get("members", {}).items()
        )
        return shape

    def _member(self, name: str, reference: dict[str, Any], *, owner: str) -> Member:
        shape = self._shape(reference["shape"])
        traits = {**self._raw_shapes[reference["shape"]], **reference}
        location = traits.get("location")
        flattened = bool(traits.get("flattened"))
        wire_name = traits.get("locationName", name)
        xml_name = self._query_names.get((owner, name), wire_name)
        if flattened and shape.kind == "list" and shape.element.xml_name != "member":
            xml_name = shape.element.xml_name
        if location in ("header", "headers"):
            wire_name = wire_name.lower()
        namespace = traits.get("xmlNamespace")
        if isinstance(namespace, dict):
            namespace = (namespace.get("prefix"), namespace["uri"])
        elif namespace is not None:
            namespace = (None, namespace)
        return Member(
            name=name,
            shape=shape,
            wire_name=wire_name,
            xml_name=xml_name,
            location=location,
            flattened=flattened,
            timestamp_format=traits.get("timestampFormat"),
            xml_attribute=bool(traits.get("xmlAttribute")),
            xml_namespace=namespace,
            streaming=bool(traits.get("streaming")),
        )


@cache
def load(name: str) -> Service:
    """The service of botocore's name. Raises botocore's UnknownServiceError when there is none."""
    import botocore
    from botocore.loaders import Loader

    # Only what botocore ships: a user's ~/.aws/models must not change what the server understands.
    shipped = Path(botocore.__file__).with_name("data")
    loader = Loader(extra_search_paths=[str(shipped)], include_default_search_paths=False)
    model = loader.load_service_model(name, "service-2")
    service = Service(name, _without_documentation(model))
    del model, loader
    # The rest of the document is returned to the system; the service stays, and is never searched again.
    gc.collect()
    gc.freeze()
    return service


def _without_documentation(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            name: _without_documentation(value)
            for name, value in node.items()
            # A member may bear the name as well: that one is no text.
            if not (name in ("documentation", "deprecatedMessage") and isinstance(value, str))
        }
    if isinstance(node, list):
        return [_without_documentation(value) for value in node]
    return node
