"""What PutBucketNotificationConfiguration asks for: checked, kept as watches, shown again. Pure.

Source: "Configuring event notifications" and "Filtering", Amazon S3 user guide; S3 2006-03-01.
"""

import itertools
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ebbtide.objects.errors import InvalidArgument, NotOffered
from ebbtide.objects.events import CREATED, REMOVED, Watch

CONSUMER = "notification"
"""The watches' consumer for `ebbtide.objects.followers`."""

MOST_CONFIGURATIONS = 100
LONGEST_FILTER_VALUE = 1024

EVENTS = {
    f"s3:{kind}:{action}": f"{kind}:{action}"
    for kind, actions in {
        CREATED: ("*", "Put", "Post", "Copy", "CompleteMultipartUpload"),
        REMOVED: ("*", "Delete", "DeleteMarkerCreated"),
    }.items()
    for action in actions
}
"""Events that can be asked for -> their names in watches."""

_DESTINATIONS = {
    "TopicConfigurations": ("TopicArn", "sns"),
    "QueueConfigurations": ("QueueArn", "sqs"),
}
_ARN = re.compile(r"arn:aws:(?P<service>[a-z0-9-]+):(?P<region>[a-z0-9-]*):(?P<account>\d{12}):(?P<name>.+)")


def parse(given: Mapping[str, Any], *, region: str) -> list[Watch]:
    """The watches of a configuration for a bucket of that region. Whether destinations exist is not asked.

    Raises NotImplemented for destinations and events that we lack, InvalidArgument for what breaks S3's
    rules.
    """
    for member in ("LambdaFunctionConfigurations", "EventBridgeConfiguration"):
        if given.get(member) is not None and given[member] != []:
            raise NotOffered(
                f"Notifications can go to topics and queues; {member} is not implemented.",
            )
    watches = [
        _watch(each, each[member], service, region)
        for list_name, (member, service) in _DESTINATIONS.items()
        for each in given.get(list_name, ())
    ]
    if len(watches) > MOST_CONFIGURATIONS:
        raise InvalidArgument(
            f"A bucket can have at most {MOST_CONFIGURATIONS} notification configurations",
            "NotificationConfiguration",
            str(len(watches)),
        )
    ids = [watch.id for watch in watches]
    for each in ids:
        if ids.count(each) > 1:
            raise InvalidArgument("Same ID used for multiple configurations. IDs must be unique", "Id", each)
    for one, other in itertools.combinations(watches, 2):
        if _overlap(one, other):
            raise InvalidArgument(
                "Configuration is ambiguously defined. Cannot have overlapping suffixes in two rules if the "
                "prefixes are overlapping for the same event type.",
                "Id",
                other.id,
            )
    return watches


def shown(watches: Sequence[Watch]) -> dict[str, Any]:
    """The configuration of a bucket's watches, as GetBucketNotificationConfiguration answers it."""
    answer: dict[str, Any] = {}
    for list_name, (member, service) in _DESTINATIONS.items():
        of_service = [watch for watch in watches if watch.target.split(":")[2] == service]
        if of_service:
            answer[list_name] = [_shown(watch, member) for watch in of_service]
    return answer


def _watch(given: Mapping[str, Any], arn: str, service: str, region: str) -> Watch:
    found = _ARN.fullmatch(arn)
    if found is None or found["service"] != service:
        raise InvalidArgument("The ARN is not well formed", "Topic" if service == "sns" else "Queue", arn)
    if found["name"].endswith(".fifo"):
        raise InvalidArgument("FIFO topics and queues are not supported as destinations", "Destination", arn)
    if found["region"] != region:
        raise InvalidArgument(
            "The notification destination service region is not valid for the bucket location constraint",
            "Destination",
            arn,
        )
    prefix, suffix = _filter(given.get("Filter", {}).get("Key", {}).get("FilterRules", ()))
    return Watch(
        id=given.get("Id") or secrets.token_urlsafe(24),
        consumer=CONSUMER,
        target=arn,
        events=tuple(dict.fromkeys(_event(name) for name in given["Events"])),
        prefix=prefix,
        suffix=suffix,
    )


def _event(name: str) -> str:
    if name in EVENTS:
        return EVENTS[name]
    if name.startswith("s3:"):
        raise NotOffered(
            f"The event {name} is not implemented; there are {', '.join(EVENTS)}.",
        )
    raise InvalidArgument("A specified event is not supported for notifications.", "Event", name)


def _filter(rules: Sequence[Mapping[str, str]]) -> tuple[str, str]:
    values: dict[str, str] = {}
    for rule in rules:
        name, value = rule.get("Name", "").lower(), rule.get("Value", "")
        if name not in ("prefix", "suffix"):
            raise InvalidArgument(
                "filter rule name must be either prefix or suffix", "FilterRule.Name", rule.get("Name", "")
            )
        if name in values:
            raise InvalidArgument(
                f"Cannot specify more than one {name} rule in a filter.", "FilterRule.Name", name
            )
        if len(value.encode()) > LONGEST_FILTER_VALUE:
            raise InvalidArgument(
                "Size of filter rule value cannot exceed 1024 bytes in UTF-8 representation",
                "FilterRule.Value",
                value,
            )
        values[name] = value
    return values.get("prefix", ""), values.get("suffix", "")


def _overlap(one: Watch, other: Watch) -> bool:
    """Whether one object's event can match both."""
    return (
        _one_begins_other(one.prefix, other.prefix)
        and _one_begins_other(one.suffix[::-1], other.suffix[::-1])
        and any(_same_event(a, b) for a, b in itertools.product(one.events, other.events))
    )


def _one_begins_other(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


def _same_event(one: str, other: str) -> bool:
    (kind, action), (other_kind, other_action) = one.split(":"), other.split(":")
    return kind == other_kind and (action == other_action or "*" in (action, other_action))


def _shown(watch: Watch, member: str) -> dict[str, Any]:
    rules = list(_rules(watch))
    answer = {"Id": watch.id, member: watch.target, "Events": [f"s3:{name}" for name in watch.events]}
    return answer | ({"Filter": {"Key": {"FilterRules": rules}}} if rules else {})


def _rules(watch: Watch) -> Iterator[dict[str, str]]:
    if watch.prefix:
        yield {"Name": "Prefix", "Value": watch.prefix}
    if watch.suffix:
        yield {"Name": "Suffix", "Value": watch.suffix}
