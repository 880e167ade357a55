"""Messages: sent, received (long polling), deleted, and hidden for longer or shorter."""

import asyncio
import base64
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from functools import partial
from typing import Any

from sqlalchemy import Connection

from ebbtide import clock
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.sqs.resources import queue_of
from ebbtide.errors import ServiceError
from ebbtide.notifications import queue_messages, queues
from ebbtide.notifications.queue_messages import check_range, invalid_value
from ebbtide.notifications.queues import Draft, Queue, Received

MAX_BATCH_BYTES = 1_048_576


async def send_message(params: Params, call: Call) -> Result:
    """Put a message into a queue. Raises QueueDoesNotExist."""

    def send(connection: Connection) -> tuple[Queue, str]:
        queue = queue_of(connection, params, call)
        [message_id] = queues.send(connection, queue, [_draft(params, queue, call)], call.now)
        return queue, message_id

    queue, message_id = await call.parts.database.write(send)
    call.parts.deliveries.arrivals.notify(queue.arn)
    return {"MessageId": message_id, **_digests(params)}


async def send_message_batch(params: Params, call: Call) -> Result:
    """Put up to ten messages into a queue; each succeeds or fails for itself. Raises QueueDoesNotExist."""
    entries = params["Entries"]
    queue_messages.check_batch(entries, "SendMessageBatchRequestEntry")
    size_bytes = sum(
        queue_messages.message_bytes(entry["MessageBody"], entry.get("MessageAttributes", {}))
        for entry in entries
    )
    if size_bytes > MAX_BATCH_BYTES:
        raise ServiceError(
            f"Batch requests cannot be longer than {MAX_BATCH_BYTES} bytes. "
            f"You have sent {size_bytes} bytes.",
            code="BatchRequestTooLong",
        )

    def send_entry(connection: Connection, queue: Queue, entry: Params) -> Result:
        [message_id] = queues.send(connection, queue, [_draft(entry, queue, call)], call.now)
        return {"MessageId": message_id, **_digests(entry)}

    queue, answer = await call.parts.database.write(lambda c: _each_entry(c, params, call, send_entry))
    call.parts.deliveries.arrivals.notify(queue.arn)
    return answer


async def receive_message(params: Params, call: Call) -> Result:
    """Take up to ten messages; with WaitTimeSeconds, wait that long for the first, or until the client goes.

    Raises QueueDoesNotExist.
    """
    limit = params.get("MaxNumberOfMessages", 1)
    check_range("MaxNumberOfMessages", limit, 1, 10)
    asked = {*params.get("AttributeNames", []), *params.get("MessageSystemAttributeNames", [])}
    queue_messages.check_attribute_names(asked, queue_messages.RECEIVED_ATTRIBUTES)
    queue = await call.parts.database.read(lambda c: queue_of(c, params, call))
    wait_s = params.get("WaitTimeSeconds", queue.seconds("ReceiveMessageWaitTimeSeconds"))
    check_range("WaitTimeSeconds", wait_s, 0, 20)
    visibility_s = params.get("VisibilityTimeout", queue.seconds("VisibilityTimeout"))
    check_range("VisibilityTimeout", visibility_s, 0, 43_200)

    taken = await _take(queue, call, limit=limit, visibility_s=visibility_s, until=call.now + wait_s)
    # SQS leaves the member out when there is nothing.
    wanted = params.get("MessageAttributeNames", [])
    return {"Messages": [_shown(message, asked, wanted) for message in taken]} if taken else {}


async def delete_message(params: Params, call: Call) -> Result:
    """Remove a message that was received. Raises QueueDoesNotExist."""
    handle = params["ReceiptHandle"]
    await call.parts.database.write(lambda c: queues.delete_message(c, queue_of(c, params, call), handle))
    return {}


async def delete_message_batch(params: Params, call: Call) -> Result:
    """Remove up to ten messages that were received; each for itself. Raises QueueDoesNotExist."""
    queue_messages.check_batch(params["Entries"], "DeleteMessageBatchRequestEntry")

    def delete_entry(connection: Connection, queue: Queue, entry: Params) -> Result:
        queues.delete_message(connection, queue, entry["ReceiptHandle"])
        return {}

    _, answer = await call.parts.database.write(lambda c: _each_entry(c, params, call, delete_entry))
    return answer


async def change_message_visibility(params: Params, call: Call) -> Result:
    """Hide a received message longer, or with 0 s no longer. Raises QueueDoesNotExist."""

    def change(connection: Connection) -> Queue:
        queue = queue_of(connection, params, call)
        _change_visibility(connection, queue, params, call)
        return queue

    queue = await call.parts.database.write(change)
    call.parts.deliveries.arrivals.notify(queue.arn)
    return {}


async def change_message_visibility_batch(params: Params, call: Call) -> Result:
    """Change up to ten messages' visibility; each for itself. Raises QueueDoesNotExist."""
    queue_messages.check_batch(params["Entries"], "ChangeMessageVisibilityBatchRequestEntry")

    def change_entry(connection: Connection, queue: Queue, entry: Params) -> Result:
        _change_visibility(connection, queue, entry, call)
        return {}

    queue, answer = await call.parts.database.write(lambda c: _each_entry(c, params, call, change_entry))
    call.parts.deliveries.arrivals.notify(queue.arn)
    return answer


async def _take(queue: Queue, call: Call, *, limit: int, visibility_s: float, until: float) -> list[Received]:
    """Receive, and when there is nothing wait for an arrival or for what is hidden to be visible again."""
    database, arrivals = call.parts.database, call.parts.deliveries.arrivals

    def receive(connection: Connection, *, now: float) -> tuple[list[Received], str | None, float | None]:
        taken, moved_to = queues.receive(connection, queue, limit, visibility_s, now)
        return taken, moved_to, None if taken else queues.next_visible_at(connection, queue, now)

    gone = asyncio.ensure_future(call.client_gone())
    try:
        with arrivals.watch(queue.arn) as arrived:
            gone.add_done_callback(lambda _: arrived.set())
            while True:
                arrived.clear()
                if gone.done():
                    return []  # a message that arrives must not be hidden for nobody
                now = clock.now()
                taken, moved_to, visible_at = await database.write(partial(receive, now=now))
                if moved_to is not None:
                    arrivals.notify(moved_to)
                if taken or now >= until or arrivals.closed:
                    return taken
                wait_until = until if visible_at is None else min(until, visible_at)
                with suppress(TimeoutError):
                    await asyncio.wait_for(arrived.wait(), max(0.0, wait_until - now))
    finally:
        gone.cancel()


def _each_entry(
    connection: Connection,
    params: Params,
    call: Call,
    work: Callable[[Connection, Queue, Params], Result],
) -> tuple[Queue, Result]:
    """Do the work of each entry of a batch; one that fails is told of and the others stand."""
    queue = queue_of(connection, params, call)
    successful: list[Result] = []
    failed: list[Result] = []
    for entry in params["Entries"]:
        try:
            done = work(connection, queue, entry)
        except ServiceError as error:
            failed.append(
                {"Id": entry["Id"], "Code": error.code, "Message": error.message, "SenderFault": True}
            )
        else:
            successful.append({"Id": entry["Id"], **done})
    return queue, {"Successful": successful, "Failed": failed}


def _draft(params: Params, queue: Queue, call: Call) -> Draft:
    """The message that SendMessage, or an entry of its batch, describes."""
    if "MessageDeduplicationId" in params:
        raise invalid_value(
            f"Value {params['MessageDeduplicationId']} for parameter MessageDeduplicationId is invalid. "
            "Reason: The request includes a parameter that is not valid for this queue type."
        )
    body, attributes = params["MessageBody"], params.get("MessageAttributes", {})
    system_attributes = params.get("MessageSystemAttributes", {})
    queue_messages.check_attributes(system_attributes)
    queue_messages.check_attributes(attributes)
    queue_messages.check_message(body, attributes, queue.max_message_bytes)
    delay_s = params.get("DelaySeconds")
    if delay_s is not None and not 0 <= delay_s <= 900:
        raise invalid_value(
            f"Value {delay_s} for parameter DelaySeconds is invalid. "
            "Reason: DelaySeconds must be >= 0 and <= 900."
        )
    return Draft(
        body=body,
        attributes={name: _stored(each) for name, each in attributes.items()},
        system_attributes={name: _stored(each) for name, each in system_attributes.items()},
        sender=call.access_key_id,
        delay_s=delay_s,
    )


def _digests(params: Params) -> Result:
    digests = {"MD5OfMessageBody": queue_messages.body_md5(params["MessageBody"])}
    if params.get("MessageAttributes"):
        digests["MD5OfMessageAttributes"] = queue_messages.attributes_md5(params["MessageAttributes"])
    if params.get("MessageSystemAttributes"):
        digests["MD5OfMessageSystemAttributes"] = queue_messages.attributes_md5(
            params["MessageSystemAttributes"]
        )
    return digests


def _change_visibility(connection: Connection, queue: Queue, params: Params, call: Call) -> None:
    visibility_s = params.get("VisibilityTimeout", 0)
    check_range("VisibilityTimeout", visibility_s, 0, 43_200)
    queues.change_visibility(connection, queue, params["ReceiptHandle"], visibility_s, call.now)


def _shown(message: Received, asked: Set[str], wanted: list[str]) -> Result:
    """A message with the attributes that its receiver asked for: SQS's among `asked`, its own in `wanted`."""
    system = {
        "SenderId": message.sender,
        "SentTimestamp": _milliseconds(message.sent_at),
        "ApproximateReceiveCount": str(message.receive_count),
        "ApproximateFirstReceiveTimestamp": _milliseconds(message.first_received_at),
    }
    if message.dead_letter_source is not None:
        system["DeadLetterQueueSourceArn"] = message.dead_letter_source
    system |= {name: each["StringValue"] for name, each in message.system_attributes.items()}
    shown: Result = {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt_handle,
        "MD5OfBody": queue_messages.body_md5(message.body),
        "Body": message.body,
    }
    if chosen := {name: value for name, value in system.items() if name in asked or "All" in asked}:
        shown["Attributes"] = chosen
    attributes = {name: _loaded(each) for name, each in message.attributes.items()}
    if own := queue_messages.wanted_attributes(attributes, wanted):
        shown["MessageAttributes"] = own
        shown["MD5OfMessageAttributes"] = queue_messages.attributes_md5(own)
    return shown


def _milliseconds(at: float) -> str:
    return str(int(at * 1_000))


def _stored(attribute: Mapping[str, Any]) -> dict[str, str]:
    """An attribute as the database keeps it: binary values in base64."""
    if attribute["DataType"].startswith("Binary"):
        return {
            "DataType": attribute["DataType"],
            "BinaryValue": base64.b64encode(attribute["BinaryValue"]).decode(),
        }
    return {"DataType": attribute["DataType"], "StringValue": attribute["StringValue"]}


def _loaded(attribute: Mapping[str, str]) -> dict[str, Any]:
    """An attribute as clients see it."""
    if "BinaryValue" in attribute:
        return {**attribute, "BinaryValue": base64.b64decode(attribute["BinaryValue"])}
    return dict(attribute)
