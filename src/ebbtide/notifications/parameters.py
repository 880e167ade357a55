"""What SNS asks of parameters beyond its service model. Pure; everything refused is InvalidParameter."""

import base64
import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from ebbtide.errors import ServiceError
from ebbtide.notifications import filters
from ebbtide.notifications.addresses import refusal
from ebbtide.notifications.retries import parse_delivery_policy
from ebbtide.wire.json_text import parse_json
from ebbtide.wire.numbers import whole_number

PROTOCOLS = ("http", "https", "sqs", "email", "email-json")
"""How subscribers can be reached; SNS's sms, lambda, application and firehose need other AWS services."""

MAX_MESSAGE_BYTES = 262_144
MAX_SUBJECT_CHARACTERS = 100

_TOPIC_NAME = re.compile(r"[A-Za-z0-9_-]{1,256}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_QUEUE_ARN = re.compile(r"arn:aws:sqs:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]{1,80}")
_SUBJECT = re.compile(r"[!-~][ -~]*")
_DISPLAY_NAME = re.compile(r"[^\x00-\x1f\x7f]{0,100}")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ATTRIBUTE_TYPE = re.compile(r"(String|Number|Binary)(\..+)?")


def invalid(reason: str) -> ServiceError:
    """The error of a parameter that breaks a rule."""
    return ServiceError(f"Invalid parameter: {reason}", code="InvalidParameterException")


def check_topic_name(name: str) -> None:
    """Raises ServiceError for a name that no standard topic can have."""
    if name.endswith(".fifo"):
        raise invalid("Topic Name: FIFO topics are not supported")
    if not _TOPIC_NAME.fullmatch(name):
        raise invalid("Topic Name")


def check_topic_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes a topic keeps: those given, without empty ones and FifoTopic=false."""
    for name, value in attributes.items():
        if name == "FifoTopic" and value != "false":
            raise invalid("Attributes Reason: FIFO topics are not supported")
        if name not in _TOPIC_ATTRIBUTES:
            raise invalid(f"Attributes Reason: Unknown attribute {name}")
        if value:
            _TOPIC_ATTRIBUTES[name](value)
    return {name: value for name, value in attributes.items() if value and name != "FifoTopic"}


def check_subscription_attributes(protocol: str, attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes a subscription keeps: those given, without empty ones."""
    kept = {name: value for name, value in attributes.items() if value}
    for name, value in attributes.items():
        if name not in _SUBSCRIPTION_ATTRIBUTES:
            raise invalid(f"Attributes Reason: Unknown attribute {name}")
        if value:
            _SUBSCRIPTION_ATTRIBUTES[name](value)
    if "FilterPolicy" in kept:
        filters.parse(kept["FilterPolicy"], kept.get("FilterPolicyScope", "MessageAttributes"))
    if kept.get("RawMessageDelivery", "").lower() == "true" and protocol.startswith("email"):
        raise invalid(
            f"Attributes Reason: Delivery protocol [{protocol}] does not support raw message delivery."
        )
    return kept


def check_dead_letter_queue(attributes: Mapping[str, str], topic_arn: str) -> None:
    """Raises ServiceError for a RedrivePolicy whose queue is not of the topic's region and account."""
    if policy := attributes.get("RedrivePolicy"):
        target = parse_json(policy)["deadLetterTargetArn"]
        if target.split(":")[3:5] != topic_arn.split(":")[3:5]:
            raise invalid(
                "RedrivePolicy: deadLetterTargetArn must be a queue of the subscription's region and account"
            )


def check_receiver(protocol: str, endpoint: str, *, private_delivery: bool, mail: bool) -> None:
    """Raises ServiceError for an endpoint that messages cannot or must not be delivered to.

    mail: whether the server has a mail server to send through.
    """
    if protocol not in PROTOCOLS:
        raise invalid(
            f"Does not support this protocol string: {protocol}; supported are {', '.join(PROTOCOLS)}"
        )
    if protocol in ("http", "https"):
        _check_url(protocol, endpoint, private_delivery=private_delivery)
    elif protocol == "sqs":
        if endpoint.endswith(".fifo"):
            raise invalid("Endpoint Reason: FIFO queues are not supported")
        if not _QUEUE_ARN.fullmatch(endpoint):
            raise invalid("SQS endpoint ARN")
    elif not _EMAIL.fullmatch(endpoint):
        raise invalid("Email address")
    elif not mail:
        raise invalid(
            "Protocol Reason: this server cannot send mail: it was started without EBBTIDE_SMTP_URL"
        )


def _check_url(protocol: str, endpoint: str, *, private_delivery: bool) -> None:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise invalid(f"Endpoint Reason: {error}") from error
    if parts.scheme != protocol:
        raise invalid("Endpoint must match the specified protocol")
    if not host or port == 0:
        raise invalid("Endpoint Reason: the URL names no host and port to connect to")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return  # a name: what it resolves to is checked when it is connected to
    if reason := refusal(host, private_delivery=private_delivery):
        raise invalid(f"Endpoint Reason: {reason}")


def check_message(
    message: str,
    *,
    subject: str | None,
    structure: str | None,
    attributes: Mapping[str, Mapping[str, str]],
    limit_bytes: int = MAX_MESSAGE_BYTES,
) -> None:
    """Raises ServiceError for what cannot be published."""
    if not message:
        raise invalid("Empty message")
    if message_bytes(message, attributes) > limit_bytes:
        raise invalid("Message too long")
    if subject is not None and (len(subject) > MAX_SUBJECT_CHARACTERS or not _SUBJECT.fullmatch(subject)):
        raise invalid("Subject")
    if structure is not None:
        _check_structure(message, structure)


def message_bytes(message: str, attributes: Mapping[str, Mapping[str, str]]) -> int:
    """How much of the size limit a message takes: its text, and its attributes' names, types and values."""
    sizes = (
        len(text.encode())
        for name, each in attributes.items()
        for text in (name, each["Type"], each["Value"])
    )
    return len(message.encode()) + sum(sizes)


def _check_structure(message: str, structure: str) -> None:
    if structure != "json":
        raise invalid("MessageStructure")
    try:
        texts = parse_json(message)
    except ValueError as error:
        raise invalid("Message Structure - JSON message body failed to parse") from error
    if not isinstance(texts, dict) or not isinstance(texts.get("default"), str):
        raise invalid("Message Structure - No default entry in JSON message body")
    if any(isinstance(text, str) and _LONE_SURROGATE.search(text) for text in texts.values()):
        raise invalid("Message Structure - A text holds half a character")


def envelope_attributes(given: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """MessageAttributes in the form of the envelope: name -> Type and Value, binary values in base64."""
    return {name: _envelope_attribute(name, each) for name, each in given.items()}


def _envelope_attribute(name: str, given: Mapping[str, Any]) -> dict[str, str]:
    kind = given["DataType"]
    if not _ATTRIBUTE_NAME.fullmatch(name):
        raise ServiceError(f"Invalid message attribute name: {name}", code="InvalidParameterValueException")
    if not _ATTRIBUTE_TYPE.fullmatch(kind):
        raise _bad_attribute(name, f"has an invalid message attribute type {kind}")
    if kind.startswith("Binary"):
        value = base64.b64encode(given.get("BinaryValue") or b"").decode()
    else:
        value = given.get("StringValue") or ""
    if not value:
        raise _bad_attribute(name, f"must contain a non-empty value of type {kind}")
    if kind.startswith("Number"):
        try:
            float(value)
        except ValueError as error:
            raise _bad_attribute(name, f"is of type {kind} and {value} is no number") from error
    return {"Type": kind, "Value": value}


def _bad_attribute(name: str, fact: str) -> ServiceError:
    return ServiceError(f"The message attribute '{name}' {fact}.", code="InvalidParameterValueException")


def _any(_value: str) -> None:
    """Kept and shown as given: nothing here depends on it."""


def _one_of(name: str, *allowed: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value.lower() not in {each.lower() for each in allowed}:
            raise invalid(f"Attributes Reason: {name} must be one of {', '.join(allowed)}")

    return check


def _check_display_name(value: str) -> None:
    if not _DISPLAY_NAME.fullmatch(value):
        raise invalid("Attributes Reason: DisplayName must be at most 100 characters on one line")


def _check_size_limit(value: str) -> None:
    if not 1_024 <= (whole_number(value) or 0) <= 1_048_576:
        raise invalid("Attributes Reason: MaximumMessageSize must be from 1024 to 1048576")


def _check_sample_rate(value: str) -> None:
    rate = whole_number(value)
    if rate is None or rate > 100:
        raise invalid("Attributes Reason: a feedback sample rate is a percentage from 0 to 100")


def _check_delivery_policy(value: str) -> None:
    parse_delivery_policy(value)


def _check_redrive_policy(value: str) -> None:
    try:
        target = parse_json(value)["deadLetterTargetArn"]
    except (ValueError, KeyError, TypeError) as error:
        raise invalid("RedrivePolicy: must be a JSON object with deadLetterTargetArn") from error
    if not isinstance(target, str) or not _QUEUE_ARN.fullmatch(target):
        raise invalid("RedrivePolicy: deadLetterTargetArn must be the ARN of a standard queue")


_TOPIC_ATTRIBUTES: dict[str, Callable[[str], None]] = {
    "DisplayName": _check_display_name,
    "DeliveryPolicy": _check_delivery_policy,
    "SignatureVersion": _one_of("SignatureVersion", "1", "2"),
    "MaximumMessageSize": _check_size_limit,
    "FifoTopic": _any,
    "Policy": _any,
    "KmsMasterKeyId": _any,
    "TracingConfig": _any,
} | {
    f"{receiver}{feedback}": check
    for receiver in ("HTTP", "Firehose", "Lambda", "Application", "SQS")
    for feedback, check in {
        "SuccessFeedbackRoleArn": _any,
        "SuccessFeedbackSampleRate": _check_sample_rate,
        "FailureFeedbackRoleArn": _any,
    }.items()
}

_SUBSCRIPTION_ATTRIBUTES: dict[str, Callable[[str], None]] = {
    "DeliveryPolicy": _check_delivery_policy,
    "FilterPolicy": _any,  # checked with its scope
    "FilterPolicyScope": _one_of("FilterPolicyScope", "MessageAttributes", "MessageBody"),
    "RawMessageDelivery": _one_of("RawMessageDelivery", "true", "false"),
    "RedrivePolicy": _check_redrive_policy,
}
