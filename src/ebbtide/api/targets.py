"""Which service and operation a request is for, before anything of its body is understood."""

import re
from collections.abc import Mapping
from urllib.parse import parse_qs, unquote

from ebbtide.api.body import is_zipped, unzipped
from ebbtide.errors import ServiceError
from ebbtide.values import value
from ebbtide.wire import models
from ebbtide.wire.request import Request
from ebbtide.wire.routing import route

TARGETS = {
    "SageMaker": "sagemaker",
    "AmazonSQS": "sqs",
    "AnyScaleFrontendService": "application-autoscaling",
    "GraniteServiceVersion20100801": "cloudwatch",
    "Logs_20140328": "logs",
}
"""Target prefixes, which the json and CBOR protocols send, -> services."""

SIGNING_NAMES = {"sagemaker-runtime": "sagemaker", "cloudwatch": "monitoring"}
"""Services whose signatures are scoped to another name."""

QUERY_SERVICES = {"sns": "sns", "sqs": "sqs", "monitoring": "cloudwatch", "sts": "sts", "iam": "iam"}
"""Signing names -> services that speak the query protocol."""

UNSIGNED_ACTIONS = frozenset(("ConfirmSubscription", "Unsubscribe"))
"""SNS's links in messages, which people and programs follow without credentials."""


@value
class Target:
    """What a request is for.

    `service` is None for one that we do not have, `operation` where the path or the body tells (REST, query).
    """

    service: str | None
    protocol: str
    operation: str | None = None
    signed: bool = True


def identify(request: Request) -> Target:
    """The service meant: by the target header, the path of an RPC or the credential's scope.

    What bears no credentials is SNS's when it is a link of SNS, else what its path and method allow.
    """
    prefix, _, operation = request.headers.get("x-amz-target", "").rpartition(".")
    if prefix:
        return Target(TARGETS.get(prefix), "json", operation)
    if request.path.startswith("/service/"):
        steps = request.path.split("/")
        if len(steps) == 5 and steps[3] == "operation":
            return Target(TARGETS.get(steps[2]), "smithy-rpc-v2-cbor", steps[4])
    match _signing_name(request):
        case "s3":
            return Target("s3", "rest-xml")
        case "sagemaker":
            return Target("sagemaker-runtime", "rest-json")
        case None:
            return _identify_anonymous(request)
        case name:
            return Target(QUERY_SERVICES.get(name), "query")


def place_of(request: Request) -> tuple[str, str]:
    """The bucket and the key that a request to S3 is about; "" for none."""
    bucket, _, key = unquote(path_with_bucket(request)).removeprefix("/").partition("/")
    return bucket, key


def form_bucket(request: Request) -> str | None:
    """The bucket that a browser's form is posted to; None for any other request."""
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    if request.method != "POST" or request.query or not is_form or "authorization" in request.headers:
        return None
    bucket = unquote(path_with_bucket(request)).strip("/")
    return bucket if bucket and "/" not in bucket else None


def _identify_anonymous(request: Request) -> Target:
    if form_bucket(request) is not None:
        return Target("s3", "rest-xml", signed=False)
    if request.arguments.get("Action", [""])[0] in UNSIGNED_ACTIONS:
        return Target("sns", "query", signed=False)
    # No POST of S3 goes to these paths.
    if request.method == "POST" and request.path.startswith("/endpoints/"):
        return Target("sagemaker-runtime", "rest-json")
    if request.method == "POST" and request.path == "/":
        return Target(None, "query")
    return Target("s3", "rest-xml")


def _signing_name(request: Request) -> str | None:
    """The service in the credential's scope, in whatever state the rest of the signature is."""
    text = request.headers.get("authorization") or unquote(request.query)
    _, found, scope = text.partition("Credential=")
    steps = scope.partition("/aws4_request")[0].rsplit("/", 3)
    return steps[3] if found and len(steps) == 4 else None


def find_operation(target: Target, request: Request) -> tuple[models.Operation, dict[str, str]]:
    """The operation meant and its path labels. Raises ServiceError when the service has no such."""
    name = target.operation or (action(request) if target.protocol == "query" else "")
    if target.service is None:
        raise unknown_operation(name, target.protocol)
    service = models.load(target.service)
    if target.protocol in ("rest-json", "rest-xml"):
        path = path_with_bucket(request) if target.protocol == "rest-xml" else request.path
        routed = route(service, request, path)
        if routed is None:
            raise _no_route(request, target.protocol)
        return routed
    try:
        return service.operation(name), {}
    except models.UnknownOperation:
        raise unknown_operation(name, target.protocol) from None


def action(request: Request) -> str:
    """The Action of a query request, in its query string or its form.

    Raises TooLarge, and ServiceError for a form that is said to be gzip and is not.
    """
    # boto3 1.38 and older compress the forms of PutMetricData.
    body = unzipped(request.body) if is_zipped(request) else request.body
    form: Mapping[str, list[str]] = parse_qs(body.decode("latin-1")) if body else {}
    return (request.arguments.get("Action") or form.get("Action") or [""])[0]


_VIRTUAL_HOST = re.compile(r"(?P<bucket>[a-z0-9.-]{3,63})\.(s3[.-].+|s3|localhost)(:\d+)?")


def path_with_bucket(request: Request) -> str:
    """S3's path with the bucket in front, also where the client has put it into the host's name."""
    found = _VIRTUAL_HOST.fullmatch(request.headers.get("host", "").lower())
    return request.path if found is None else f"/{found['bucket']}{request.path}"


def unknown_operation(name: str, protocol: str) -> ServiceError:
    """The error of a service for an operation that it does not have, or that we do not."""
    message = f"{name} is not an operation that ebbtide has." if name else "The request names no operation."
    match protocol:
        case "rest-xml":
            return ServiceError(message, code="NotImplemented", http_status=501)
        case "query":
            return ServiceError(message, code="InvalidAction" if name else "MissingAction")
        case "json":
            return ServiceError(message, code="UnknownOperationException")
    return ServiceError(message, code="UnknownOperationException", http_status=404)


def _no_route(request: Request, protocol: str) -> ServiceError:
    if protocol == "rest-xml":
        return ServiceError(
            "The specified method is not allowed against this resource.",
            code="MethodNotAllowed",
            http_status=405,
        )
    return unknown_operation(f"{request.method} {request.path}", protocol)
