"""What SQS asks of messages and queues beyond its service model, and their digests. Pure."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from ebbtide.errors import ServiceError
from ebbtide.wire.json_text import parse_json
from ebbtide.wire.numbers import whole_number

MAX_ATTRIBUTES = 10

_QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_BATCH_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
_UNSENDABLE = re.compile("[^\\x09\\x0a\\x0d\\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ATTRIBUTE_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_ATTRIBUTE_TYPE = re.compile(r"(String|Number|Binary)(\..+)?")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

RANGES = {
    "VisibilityTimeout": (0, 43_200),
    "DelaySeconds": (0, 900),
    "MaximumMessageSize": (1_024, 1_048_576),
    "MessageRetentionPeriod": (60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": (0, 20),
}
"""Numeric attributes of queues -> their least and greatest value; all but the size in s."""

UNUSED = (
    "Policy",
    "KmsMasterKeyId",
    "KmsDataKeyReusePeriodSeconds",
    "SqsManagedSseEnabled",
    "RedriveAllowPolicy",
)
"""Attributes kept and shown as given: nothing here depends on them."""

FIFO = ("FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit")

READ_ONLY = (
    "QueueArn",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
"""Attributes of queues that nobody sets."""

QUEUE_ATTRIBUTES = frozenset(("All", "RedrivePolicy", *RANGES, *UNUSED, *FIFO, *READ_ONLY))
"""What may be asked of a queue."""

RECEIVED_ATTRIBUTES = frozenset(
    (
        "All",
        "SenderId",
        "SentTimestamp",
        "ApproximateReceiveCount",
        "ApproximateFirstReceiveTimestamp",
        "SequenceNumber",
        "MessageDeduplicationId",
        "MessageGroupId",
        "AWSTraceHeader",
        "DeadLetterQueueSourceArn",
    )
)
"""What may be asked of a message besides its own attributes."""


def check_queue_name(name: str) -> None:
    """Raises ServiceError for a name that no standard queue can have."""
    if name.endswith(".fifo"):
        raise _unsupported_fifo()
    if not _QUEUE_NAME.fullmatch(name):
        raise invalid_value(
            "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length"
        )


def check_attribute_names(asked: Iterable[str], known: frozenset[str]) -> None:
    """Raises ServiceError for the first name that is not known."""
    for name in asked:
        if name not in known:
            raise _unknown_attribute(name)


def check_queue_attributes(attributes: Mapping[str, str]) -> dict[str, str]:
    """The attributes a queue keeps: those given, without empty ones and FifoQueue=false."""
    kept = {}
    for name, value in attributes.items():
        if name in FIFO:
            if value != "false":
                raise _unsupported_fifo()
            continue
        if name not in RANGES and name not in UNUSED and name != "RedrivePolicy":
            raise _unknown_attribute(name)
        if not value:
            continue
        if name in RANGES:
            number = whole_number(value)
            if number is None or not RANGES[name][0] <= number <= RANGES[name][1]:
                raise _invalid_attribute(name)
        if name == "RedrivePolicy":
            value = _redrive_policy(value)
        kept[name] = value
    return kept


def _redrive_policy(value: str) -> str:
    """The policy as it is kept: a count that was given as text becomes a number, as SQS shows it."""
    try:
        policy = parse_json(value)
    except ValueError as error:
        raise invalid_redrive_policy(value, "Redrive policy is not a valid JSON map.") from error
    if not isinstance(policy, dict):
        raise invalid_redrive_policy(value, "Redrive policy is not a valid JSON map.")
    for name in ("deadLetterTargetArn", "maxReceiveCount"):
        if name not in policy:
            raise invalid_redrive_policy(
                value, f"Redrive policy does not contain mandatory attribute: {name}."
            )
    target, most = policy["deadLetterTargetArn"], whole_number(str(policy["maxReceiveCount"]))
    if not isinstance(target, str) or not target.startswith("arn:aws:sqs:") or target.endswith(".fifo"):
        raise invalid_redrive_policy(value, "Invalid value for deadLetterTargetArn.")
    if most is None or not 1 <= most <= 1_000:
        raise invalid_redrive_policy(
            value,
            f"Invalid value for maxReceiveCount: {policy['maxReceiveCount']}, "
            "valid values are from 1 to 1000 both inclusive.",
        )
    if isinstance(policy["maxReceiveCount"], str):
        return json.dumps(policy | {"maxReceiveCount": most}, separators=(",", ":"))
    return value


def check_range(name: str, value: int, least: int, greatest: int) -> None:
    """Raises ServiceError for a number outside its range."""
    if not least <= value <= greatest:
        raise invalid_value(
            f"Value {value} for parameter {name} is invalid. "
            f"Reason: Must be between {least} and {greatest}, if provided."
        )


def check_message(body: str, attributes: Mapping[str, Mapping[str, Any]], limit_bytes: int) -> None:
    """Raises ServiceError for a message that a queue with this size limit does not take."""
    if not body:
        raise ServiceError(
            "The request must contain the parameter MessageBody.",
            code="MissingParameter",
        )
    _check_characters(body)
    if message_bytes(body, attributes) > limit_bytes:
        raise invalid_value(
            f"One or more parameters are invalid. Reason: Message must be shorter than {limit_bytes} bytes."
        )


def _check_characters(value: str) -> None:
    if _UNSENDABLE.search(value):
        raise ServiceError(
            "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | "
            "#xE000 to #xFFFD | #x10000 to #x10FFFF",
            code="InvalidMessageContents",
        )


def check_attributes(attributes: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ServiceError for message attributes that no message can have."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise invalid_value(
            f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum "
            f"[{MAX_ATTRIBUTES}]."
        )
    for name, attribute in attributes.items():
        _check_attribute(name, attribute)


def _check_attribute(name: str, attribute: Mapping[str, Any]) -> None:
    kind = attribute["DataType"]
    if not _ATTRIBUTE_NAME.fullmatch(name):
        raise invalid_value(f"Invalid message attribute name '{name}'.")
    if not _ATTRIBUTE_TYPE.fullmatch(kind):
        raise invalid_value(
            f"The type of message (user) attribute '{name}' is invalid. "
            "You must use only the following supported type prefixes: Binary, Number, String."
        )
    if not attribute.get("BinaryValue" if kind.startswith("Binary") else "StringValue"):
        raise invalid_value(
            f"Message (user) attribute '{name}' must contain a non-empty value of type '{kind}'."
        )
    _check_characters(attribute.get("StringValue", ""))
    if kind.startswith("Number") and not _NUMBER.fullmatch(attribute["StringValue"]):
        raise invalid_value(f"Can't cast the value of message (user) attribute '{name}' to a number.")


def message_bytes(body: str, attributes: Mapping[str, Mapping[str, Any]]) -> int:
    """How much of the size limit a message takes: its body, and its attributes' names, types and values."""
    return len(_encoded(body)) + sum(
        len(_encoded(name)) + len(_encoded(each["DataType"])) + len(_value(each))
        for name, each in attributes.items()
    )


def check_batch(entries: list[dict[str, Any]], kind: str) -> None:
    """Raises ServiceError for a batch that fails as a whole. kind: what its entries are in the model."""
    if not entries:
        raise ServiceError(f"There should be at least one {kind} in the request.", code="EmptyBatchRequest")
    if len(entries) > 10:
        raise ServiceError(
            f"Maximum number of entries per request are 10. You have sent {len(entries)}.",
            code="TooManyEntriesInBatchRequest",
        )
    seen: set[str] = set()
    for entry_id in (entry["Id"] for entry in entries):
        if not _BATCH_ENTRY_ID.fullmatch(entry_id):
            raise ServiceError(
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. "
                "It can be at most 80 letters long.",
                code="InvalidBatchEntryId",
            )
        if entry_id in seen:
            raise ServiceError(f"Id {entry_id} repeated.", code="BatchEntryIdsNotDistinct")
        seen.add(entry_id)


def body_md5(body: str) -> str:
    """MD5OfMessageBody, which clients compare with their own."""
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


def attributes_md5(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """MD5OfMessageAttributes, of the attributes in order of their names.

    Source: Amazon SQS developer guide, "Calculating the MD5 message digest for message attributes".
    """
    digest = hashlib.md5(usedforsecurity=False)
    for name in sorted(attributes):
        attribute = attributes[name]
        transport = b"\x02" if attribute["DataType"].startswith("Binary") else b"\x01"
        for part in (name.encode(), attribute["DataType"].encode()):
            digest.update(len(part).to_bytes(4) + part)
        value = _value(attribute)
        digest.update(transport + len(value).to_bytes(4) + value)
    return digest.hexdigest()


def wanted_attributes(
    attributes: Mapping[str, Mapping[str, Any]], names: list[str]
) -> dict[str, Mapping[str, Any]]:
    """The attributes a receiver asked for: by name, by prefix with ".*", or with "All" or ".*" all."""
    if "All" in names or ".*" in names:
        return dict(attributes)
    prefixes = tuple(name.removesuffix(".*") for name in names if name.endswith(".*"))
    return {name: each for name, each in attributes.items() if name in names or name.startswith(prefixes)}


def invalid_redrive_policy(value: str, reason: str) -> ServiceError:
    """The error of a RedrivePolicy that a queue cannot have."""
    return invalid_value(f"Value {value} for parameter RedrivePolicy is invalid. Reason: {reason}")


def invalid_value(message: str) -> ServiceError:
    """The error of a parameter outside its rules."""
    return ServiceError(message, code="InvalidParameterValue")


def _value(attribute: Mapping[str, Any]) -> bytes:
    if attribute["DataType"].startswith("Binary"):
        return bytes(attribute.get("BinaryValue") or b"")
    return _encoded(attribute.get("StringValue") or "")


def _encoded(value: str) -> bytes:
    # Sizes are asked of what is not checked yet, which JSON's escapes may have given half a character.
    return value.encode(errors="surrogatepass")


def _unknown_attribute(name: str) -> ServiceError:
    return ServiceError(f"Unknown Attribute {name}.", code="InvalidAttributeName")


def _invalid_attribute(name: str) -> ServiceError:
    return ServiceError(f"Invalid value for the parameter {name}.", code="InvalidAttributeValue")


def _unsupported_fifo() -> ServiceError:
    return ServiceError("FIFO queues are not supported.", code="UnsupportedOperation")
