"""Queues: made, listed, described, tagged, purged and deleted."""

import json
from collections.abc import Mapping

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.sqs.resources import queue_of
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn
from ebbtide.notifications import queue_messages, queues
from ebbtide.notifications.queue_messages import check_range, invalid_value
from ebbtide.notifications.queues import Queue

MAX_PAGE = 1_000
MAX_TAGS = 50


async def create_queue(params: Params, call: Call) -> Result:
    """Make a queue, or find the one that was made with the same name and attributes."""
    name = params["QueueName"]
    queue_messages.check_queue_name(name)
    attributes = queue_messages.check_queue_attributes(params.get("Attributes", {}))
    wanted = Queue(
        arn=arn("sqs", call.region, call.account, name),
        account=call.account,
        name=name,
        attributes=attributes,
        tags=_checked_tags(name, params.get("tags", {})),
        created_at=call.now,
        modified_at=call.now,
    )

    def create(connection: Connection) -> None:
        found = queues.find(connection, call.account, name)
        if found is None:
            _check_dead_letter_queue(connection, attributes)
            queues.create(connection, wanted)
            return
        has = {**queues.DEFAULTS, **found.attributes}
        if different := sorted(name for name, value in attributes.items() if has.get(name) != value):
            raise ServiceError(
                "A queue already exists with the same name and a different value for attribute "
                f"{different[0]}",
                code="QueueNameExists",
            )

    await call.parts.database.write(create)
    return {"QueueUrl": _url(wanted, call)}


async def get_queue_url(params: Params, call: Call) -> Result:
    """A queue's URL by its name. Raises QueueDoesNotExist."""
    account = params.get("QueueOwnerAWSAccountId", call.account)
    if account != call.account:
        raise queues.QueueDoesNotExist("The specified queue does not exist.")
    queue = await call.parts.database.read(lambda c: queues.get(c, account, params["QueueName"]))
    return {"QueueUrl": _url(queue, call)}


async def list_queues(params: Params, call: Call) -> Result:
    """An account's queues by name, a page of MaxResults or else up to a thousand without a token."""
    limit = params.get("MaxResults", MAX_PAGE)
    check_range("MaxResults", limit, 1, MAX_PAGE)
    prefix, after = params.get("QueueNamePrefix", ""), params.get("NextToken", "")
    found = await call.parts.database.read(lambda c: queues.listed(c, call.account, prefix, after, limit + 1))
    answer: Result = {"QueueUrls": [_url(queue, call) for queue in found[:limit]]}
    # Without MaxResults SQS gives the first thousand and no token.
    if len(found) > limit and "MaxResults" in params:
        answer["NextToken"] = found[limit - 1].name
    return answer


async def list_dead_letter_source_queues(params: Params, call: Call) -> Result:
    """The queues whose dead letters this one takes. Raises QueueDoesNotExist."""
    sources = await call.parts.database.read(
        lambda c: queues.dead_letter_sources(c, queue_of(c, params, call))
    )
    return {"queueUrls": [_url(queue, call) for queue in sources]}


async def get_queue_attributes(params: Params, call: Call) -> Result:
    """The attributes asked for, "All" for every one. Raises QueueDoesNotExist."""
    asked = params.get("AttributeNames", [])
    queue_messages.check_attribute_names(asked, queue_messages.QUEUE_ATTRIBUTES)

    def get(connection: Connection) -> tuple[Queue, queues.Counts]:
        queue = queue_of(connection, params, call)
        return queue, queues.counts(connection, queue, call.now)

    queue, counts = await call.parts.database.read(get)
    has = {
        **queues.DEFAULTS,
        **queue.attributes,
        "QueueArn": queue.arn,
        "CreatedTimestamp": str(int(queue.created_at)),
        "LastModifiedTimestamp": str(int(queue.modified_at)),
        "ApproximateNumberOfMessages": str(counts.visible),
        "ApproximateNumberOfMessagesNotVisible": str(counts.in_flight),
        "ApproximateNumberOfMessagesDelayed": str(counts.delayed),
    }
    shown = {name: value for name, value in has.items() if name in asked or "All" in asked}
    # SQS leaves the member out when there is nothing to show.
    return {"Attributes": shown} if shown else {}


async def set_queue_attributes(params: Params, call: Call) -> Result:
    """Set attributes of a queue; an empty value takes one back to its default. Raises QueueDoesNotExist."""
    given = params["Attributes"]
    checked = queue_messages.check_queue_attributes(given)

    def change(connection: Connection) -> None:
        queue = queue_of(connection, params, call)
        kept = {name: value for name, value in queue.attributes.items() if name not in given}
        _check_dead_letter_queue(connection, checked)
        queues.set_attributes(connection, queue.arn, kept | checked, call.now)

    await call.parts.database.write(change)
    return {}


async def delete_queue(params: Params, call: Call) -> Result:
    """Remove a queue with its messages. Raises QueueDoesNotExist."""
    await call.parts.database.write(lambda c: queues.remove(c, queue_of(c, params, call).arn))
    return {}


async def purge_queue(params: Params, call: Call) -> Result:
    """Remove all messages of a queue, at once. Raises QueueDoesNotExist."""
    await call.parts.database.write(lambda c: queues.purge(c, queue_of(c, params, call).arn))
    return {}


async def tag_queue(params: Params, call: Call) -> Result:
    """Add tags to a queue, replacing values of keys it has. Raises QueueDoesNotExist."""

    def tag(connection: Connection) -> None:
        queue = queue_of(connection, params, call)
        if not params["Tags"]:
            raise ServiceError("The request must contain the parameter Tags.", code="MissingParameter")
        queues.set_tags(connection, queue.arn, _checked_tags(queue.name, {**queue.tags, **params["Tags"]}))

    await call.parts.database.write(tag)
    return {}


async def untag_queue(params: Params, call: Call) -> Result:
    """Remove tags of a queue by their keys. Raises QueueDoesNotExist."""

    def untag(connection: Connection) -> None:
        queue = queue_of(connection, params, call)
        if not params["TagKeys"]:
            raise invalid_value("Tag keys must be between 1 and 128 characters in length.")
        kept = {key: value for key, value in queue.tags.items() if key not in params["TagKeys"]}
        queues.set_tags(connection, queue.arn, kept)

    await call.parts.database.write(untag)
    return {}


async def list_queue_tags(params: Params, call: Call) -> Result:
    """A queue's tags. Raises QueueDoesNotExist."""
    queue = await call.parts.database.read(lambda c: queue_of(c, params, call))
    return {"Tags": dict(queue.tags)} if queue.tags else {}


def _check_dead_letter_queue(connection: Connection, attributes: Mapping[str, str]) -> None:
    """Raises ServiceError when the attributes' redrive policy names a queue that there is not."""
    policy = attributes.get("RedrivePolicy")
    if policy and queues.find_arn(connection, json.loads(policy)["deadLetterTargetArn"]) is None:
        raise queue_messages.invalid_redrive_policy(policy, "Dead letter target does not exist.")


def _checked_tags(name: str, tags: Mapping[str, str]) -> dict[str, str]:
    """The tags a queue of that name may have. Raises ServiceError for more than SQS allows."""
    if len(tags) > MAX_TAGS:
        raise invalid_value(f"Too many tags added for queue {name}.")
    return dict(tags)


def _url(queue: Queue, call: Call) -> str:
    return f"{call.base_url}/{queue.account}/{queue.name}"
