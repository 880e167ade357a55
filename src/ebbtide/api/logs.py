"""CloudWatch Logs, 2014-03-28: groups, streams and their events.

Files are read in a thread; writing is a short append and stays on the event loop, where what model servers
print is written too.
"""

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import page
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn
from ebbtide.logs import MAX_MESSAGE_BYTES, Event, Group, LogStream, interleaved, matcher
from ebbtide.wire.json_text import parse_json

__all__ = [
    "create_log_group",
    "create_log_stream",
    "delete_log_group",
    "delete_log_stream",
    "delete_retention_policy",
    "describe_log_groups",
    "describe_log_streams",
    "filter_log_events",
    "get_log_events",
    "list_tags_for_resource",
    "list_tags_log_group",
    "put_log_events",
    "put_retention_policy",
    "tag_log_group",
    "tag_resource",
    "untag_log_group",
    "untag_resource",
]

PAGE = 50
MAX_EVENTS = 10_000
MAX_PAGE_BYTES = 1 << 20
"""Most text in one answer. Source: GetLogEvents."""

MAX_SEARCH_BYTES = 64 << 20
"""Most that one search reads; where matches are rare, a page may be empty and still have a next one."""

MAX_BATCH_BYTES = 1 << 20
EVENT_OVERHEAD_BYTES = 26
"""What an event counts beside its message. Source: PutLogEvents."""

DAY_MS = 86_400_000
OLDEST_EVENT_MS = 14 * DAY_MS
NEWEST_EVENT_MS = 2 * 3_600_000

RETENTION_DAYS = frozenset(
    (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653)
)


MAX_TAGS = 50


class InvalidParameter(ServiceError):
    """A parameter is not specified correctly."""

    code = "InvalidParameterException"


class TooManyTags(ServiceError):
    """A log group would have more tags than it may."""

    code = "TooManyTagsException"


async def create_log_group(params: Params, call: Call) -> Result:
    """Raises AlreadyExists, InvalidParameter for what groups cannot have. Source: CreateLogGroup."""
    # Who asks for encryption or protection must not believe to have it.
    if "kmsKeyId" in params:
        raise InvalidParameter("kmsKeyId is not supported: log groups are not encrypted.")
    if (asked := params.get("logGroupClass", "STANDARD")) != "STANDARD":
        raise InvalidParameter(f"logGroupClass {asked} is not supported, STANDARD is.")
    if params.get("deletionProtectionEnabled"):
        raise InvalidParameter("deletionProtectionEnabled is not supported: log groups can be deleted.")
    call.logs.create_group(params["logGroupName"], params.get("tags", {}), now=call.now)
    return {}


async def tag_resource(params: Params, call: Call) -> Result:
    """Set tags of a log group. Raises GroupNotFound, TooManyTags. Source: TagResource."""
    return _tag(_name(params["resourceArn"]), params["tags"], call)


async def untag_resource(params: Params, call: Call) -> Result:
    """Raises GroupNotFound. Source: UntagResource."""
    return _untag(_name(params["resourceArn"]), params["tagKeys"], call)


async def list_tags_for_resource(params: Params, call: Call) -> Result:
    """Raises GroupNotFound. Source: ListTagsForResource."""
    return {"tags": call.logs.group(_name(params["resourceArn"])).tags}


async def tag_log_group(params: Params, call: Call) -> Result:
    """As TagResource, for clients from before it. Source: TagLogGroup."""
    return _tag(params["logGroupName"], params["tags"], call)


async def untag_log_group(params: Params, call: Call) -> Result:
    """As UntagResource. Source: UntagLogGroup."""
    return _untag(params["logGroupName"], params["tags"], call)


async def list_tags_log_group(params: Params, call: Call) -> Result:
    """As ListTagsForResource. Source: ListTagsLogGroup."""
    return {"tags": call.logs.group(params["logGroupName"]).tags}


async def create_log_stream(params: Params, call: Call) -> Result:
    """Raises GroupNotFound, AlreadyExists. Source: CreateLogStream."""
    call.logs.create_stream(params["logGroupName"], params["logStreamName"])
    return {}


async def delete_log_group(params: Params, call: Call) -> Result:
    """Raises GroupNotFound. Source: DeleteLogGroup."""
    call.logs.delete_group(params["logGroupName"])
    return {}


async def delete_log_stream(params: Params, call: Call) -> Result:
    """Raises GroupNotFound, StreamNotFound. Source: DeleteLogStream."""
    call.logs.delete_stream(params["logGroupName"], params["logStreamName"])
    return {}


async def put_retention_policy(params: Params, call: Call) -> Result:
    """Keep a group's streams for some days after their last event. Raises GroupNotFound, InvalidParameter."""
    days = params["retentionInDays"]
    if days not in RETENTION_DAYS:
        raise InvalidParameter(f"retentionInDays must be one of {sorted(RETENTION_DAYS)}.")
    call.logs.set_retention(params["logGroupName"], days)
    return {}


async def delete_retention_policy(params: Params, call: Call) -> Result:
    """Keep a group's streams for ever. Raises GroupNotFound. Source: DeleteRetentionPolicy."""
    call.logs.set_retention(params["logGroupName"], None)
    return {}


async def put_log_events(params: Params, call: Call) -> Result:
    """Append a batch to a stream; events too old or too new are left out and the answer says which.

    Raises GroupNotFound, StreamNotFound, InvalidParameter. Source: PutLogEvents.
    """
    group, name, events = params["logGroupName"], params["logStreamName"], params["logEvents"]
    call.logs.existing_stream(group, name)
    times = [event["timestamp"] for event in events]
    if times != sorted(times):
        raise InvalidParameter("Log events in a single PutLogEvents request must be in chronological order.")
    if times[-1] - times[0] > DAY_MS:
        raise InvalidParameter("A batch of log events in a request cannot span more than 24 hours.")
    sizes = [len(event["message"].encode()) for event in events]
    if max(sizes) > MAX_MESSAGE_BYTES:
        raise InvalidParameter(
            f"Log event too large: {max(sizes)} bytes exceeds limit of {MAX_MESSAGE_BYTES}"
        )
    if sum(sizes) + EVENT_OVERHEAD_BYTES * len(sizes) > MAX_BATCH_BYTES:
        raise InvalidParameter(f"Upload too large: the batch exceeds {MAX_BATCH_BYTES} bytes")
    now_ms = call.now * 1000
    old = sum(at_ms < now_ms - OLDEST_EVENT_MS for at_ms in times)
    new = sum(at_ms > now_ms + NEWEST_EVENT_MS for at_ms in times)
    accepted = events[old : len(events) - new]
    call.logs.stream(group, name).append(
        ((event["timestamp"], event["message"]) for event in accepted), call.now
    )
    rejected = ({"tooOldLogEventEndIndex": old} if old else {}) | (
        {"tooNewLogEventStartIndex": len(events) - new} if new else {}
    )
    # Sequence tokens are obsolete, and old clients still want one to hand back.
    return {"nextSequenceToken": f"{int(now_ms):056d}"} | (
        {"rejectedLogEventsInfo": rejected} if rejected else {}
    )


async def describe_log_groups(params: Params, call: Call) -> Result:
    """The log groups by name. Raises InvalidParameter for a token that was not returned."""
    prefix, pattern = params.get("logGroupNamePrefix", ""), params.get("logGroupNamePattern", "")
    if prefix and pattern:
        raise InvalidParameter(
            "LogGroup name prefix and LogGroup name pattern are mutually exclusive parameters."
        )
    named = {_name(identifier) for identifier in params.get("logGroupIdentifiers", ())}

    def describe() -> Result:
        groups, token = page(
            [
                group
                for group in call.logs.groups()
                if group.name.startswith(prefix)
                and pattern.lower() in group.name.lower()
                and (not named or group.name in named)
            ],
            lambda group: (group.name,),
            limit=params.get("limit", PAGE),
            token=params.get("nextToken"),
            error_code=InvalidParameter.code,
        )
        return {"logGroups": [_describe_group(group, call) for group in groups]} | _next(token)

    return await asyncio.to_thread(describe)


async def describe_log_streams(params: Params, call: Call) -> Result:
    """A group's streams by name or by their last event. Raises GroupNotFound, InvalidParameter."""
    group = _group(params)
    by_time = params.get("orderBy") == "LastEventTime"
    if by_time and "logStreamNamePrefix" in params:
        raise InvalidParameter("Cannot order by LastEventTime with a logStreamNamePrefix.")

    def describe() -> Result:
        streams, token = page(
            [
                _describe_stream(stream, call)
                for stream in call.logs.streams(group)
                if stream.name.startswith(params.get("logStreamNamePrefix", ""))
            ],
            lambda stream: (
                (stream.get("lastEventTimestamp", 0), stream["logStreamName"])
                if by_time
                else (stream["logStreamName"],)
            ),
            limit=params.get("limit", PAGE),
            token=params.get("nextToken"),
            descending=params.get("descending", False),
            error_code=InvalidParameter.code,
        )
        return {"logStreams": streams} | _next(token)

    return await asyncio.to_thread(describe)


async def get_log_events(params: Params, call: Call) -> Result:
    """A page of a stream's events, oldest first; the same token back means that there are no more yet.

    Tokens are `f/POSITION`, on from there, and `b/POSITION`, back from there.
    Raises GroupNotFound, StreamNotFound, InvalidParameter. Source: GetLogEvents.
    """
    stream = call.logs.existing_stream(_group(params), params["logStreamName"])
    token = params.get("nextToken")
    parsed = re.fullmatch(r"([fb])/(\d{1,18})", token) if token is not None else None
    if token is not None and parsed is None:
        raise InvalidParameter("The specified nextToken is invalid.")
    limit = params.get("limit", MAX_EVENTS)

    def read() -> Result:
        backward = parsed[1] == "b" if parsed else not params.get("startFromHead", False)
        if backward:
            events = list(
                _bounded(_within(stream.backward(int(parsed[2]) if parsed else None), params), limit)
            )
            events.reverse()
        else:
            position = int(parsed[2]) if parsed else 0
            since_ms = params.get("startTime", 0)
            events = list(_bounded(_within(stream.forward(position, since_ms), params), limit))
        here = int(parsed[2]) if parsed else 0
        return {
            "events": [
                {"timestamp": event.at_ms, "message": event.message, "ingestionTime": event.ingested_at_ms}
                for event in events
            ],
            "nextForwardToken": f"f/{events[-1].end if events else here}",
            "nextBackwardToken": f"b/{events[0].position if events else here}",
        }

    return await asyncio.to_thread(read)


async def filter_log_events(params: Params, call: Call) -> Result:
    """A page of the events of a group that match a pattern, from all or some of its streams, by time.

    The token holds how far each stream was read. Raises GroupNotFound, StreamNotFound, InvalidParameter.
    Source: FilterLogEvents.
    """
    group = _group(params)
    if "logStreamNames" in params and "logStreamNamePrefix" in params:
        raise InvalidParameter("Only one of logStreamNames and logStreamNamePrefix can be specified.")
    if not params.get("startFromHead", True):
        raise InvalidParameter("A search with startFromHead false is not supported.")
    try:
        matches = matcher(params.get("filterPattern", ""))
    except ValueError as error:
        raise InvalidParameter(str(error)) from error
    positions = _positions(params.get("nextToken"))
    limit = params.get("limit", MAX_EVENTS)

    def read() -> Result:
        if names := params.get("logStreamNames"):
            streams = [call.logs.existing_stream(group, name) for name in names]
        else:
            prefix = params.get("logStreamNamePrefix", "")
            streams = [found for found in call.logs.streams(group) if found.name.startswith(prefix)]
        return _filtered(streams, positions, matches, params, limit)

    return await asyncio.to_thread(read)


def _filtered(
    streams: list[LogStream],
    positions: dict[str, int],
    matches: Callable[[str], bool],
    params: Params,
    limit: int,
) -> Result:
    until_ms = params.get("endTime")
    events: list[Result] = []
    page_bytes = searched_bytes = 0
    for stream, event in interleaved(streams, positions, params.get("startTime", 0)):
        within = until_ms is None or event.at_ms <= until_ms
        if within and matches(event.message):
            page_bytes += event.end - event.position
            if len(events) == limit or (events and page_bytes > MAX_PAGE_BYTES):
                break
            events.append(
                {
                    "logStreamName": stream.name,
                    "timestamp": event.at_ms,
                    "message": event.message,
                    "ingestionTime": event.ingested_at_ms,
                    # Unique and of AWS's form: 56 decimal digits.
                    "eventId": f"{int(stream.directory.name[:15], 16):028d}{event.position:028d}",
                }
            )
        positions[stream.directory.name] = event.end
        searched_bytes += event.end - event.position
        if searched_bytes > MAX_SEARCH_BYTES:
            break
    else:
        return {"events": events, "searchedLogStreams": []}
    return {"events": events, "searchedLogStreams": []} | _next(_positions_token(positions))


def _positions(token: str | None) -> dict[str, int]:
    if token is None:
        return {}
    try:
        positions = parse_json(base64.urlsafe_b64decode(token))
        if all(0 <= position < 1 << 63 for position in positions.values()):
            return {name: int(position) for name, position in positions.items()}
    except (ValueError, AttributeError, TypeError):
        pass
    raise InvalidParameter("The specified nextToken is invalid.")


def _positions_token(positions: Mapping[str, int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(positions).encode()).decode()


def _group(params: Params) -> str:
    """The group by logGroupName or by logGroupIdentifier, a name or ARN."""
    name, identifier = params.get("logGroupName"), params.get("logGroupIdentifier")
    if (name is None) == (identifier is None):
        raise InvalidParameter("Exactly one of logGroupName and logGroupIdentifier must be specified.")
    return name if name is not None else _name(str(identifier))


def _tag(group: str, given: Mapping[str, str], call: Call) -> Result:
    tags = {**call.logs.group(group).tags, **given}
    if len(tags) > MAX_TAGS:
        raise TooManyTags(f"A log group can have at most {MAX_TAGS} tags.")
    call.logs.set_tags(group, tags)
    return {}


def _untag(group: str, keys: Iterable[str], call: Call) -> Result:
    gone = set(keys)
    tags = call.logs.group(group).tags
    call.logs.set_tags(group, {key: value for key, value in tags.items() if key not in gone})
    return {}


def _name(identifier: str) -> str:
    return identifier.partition(":log-group:")[2].removesuffix(":*") or identifier


def _within(events: Iterable[Event], params: Params) -> Iterator[Event]:
    """Those from startTime to before endTime."""
    since_ms, until_ms = params.get("startTime", 0), params.get("endTime")
    return (
        event for event in events if since_ms <= event.at_ms and (until_ms is None or event.at_ms < until_ms)
    )


def _bounded(events: Iterable[Event], limit: int) -> Iterator[Event]:
    """The first events that one answer may hold."""
    size_bytes = 0
    for count, event in enumerate(events):
        size_bytes += event.end - event.position
        if count == limit or (count and size_bytes > MAX_PAGE_BYTES):
            return
        yield event


def _next(token: str | None) -> Result:
    return {"nextToken": token} if token else {}


def _describe_group(group: Group, call: Call) -> Result:
    group_arn = arn("logs", call.region, call.account, f"log-group:{group.name}")
    described: dict[str, Any] = {
        "logGroupName": group.name,
        "creationTime": group.created_at_ms,
        "metricFilterCount": 0,
        "arn": f"{group_arn}:*",
        "logGroupArn": group_arn,
        "storedBytes": sum(stream.stored_bytes() for stream in call.logs.streams(group.name)),
        "logGroupClass": "STANDARD",
        "deletionProtectionEnabled": False,
    }
    return described | ({"retentionInDays": group.retention_days} if group.retention_days else {})


def _describe_stream(stream: LogStream, call: Call) -> Result:
    resource = f"log-group:{stream.group}:log-stream:{stream.name}"
    described: dict[str, Any] = {
        "logStreamName": stream.name,
        "creationTime": stream.created_at_ms(),
        "arn": arn("logs", call.region, call.account, resource),
        "storedBytes": stream.stored_bytes(),
    }
    first, last = stream.first(), stream.last()
    if first and last:
        described |= {
            "firstEventTimestamp": first.at_ms,
            "lastEventTimestamp": last.at_ms,
            "lastIngestionTime": last.ingested_at_ms,
        }
    return described
