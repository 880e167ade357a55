"""Messages published: each is owed to its topic's subscribers once the answer has left."""

from collections.abc import Callable

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.sns.resources import get_topic
from ebbtide.errors import ServiceError
from ebbtide.notifications import parameters, topics
from ebbtide.notifications.parameters import invalid

MAX_BATCH_ENTRIES = 10


async def publish(params: Params, call: Call) -> Result:
    """Send a message to a topic's subscribers: it is owed to each of them once this answers.

    Raises TopicNotFound, or ServiceError InvalidParameter for a message that breaks a rule.
    """
    topic_arn = _target(params)
    send = _publication(params, topic_arn, call)
    message_id = await call.parts.database.write(send)
    call.parts.deliveries.wake()
    return {"MessageId": message_id}


async def publish_batch(params: Params, call: Call) -> Result:
    """Send up to ten messages; each succeeds or fails for itself. Raises TopicNotFound."""
    topic_arn, entries = params["TopicArn"], params["PublishBatchRequestEntries"]
    _check_batch(entries)

    def send(connection: Connection) -> tuple[list[Result], list[Result]]:
        get_topic(connection, topic_arn, call)
        successful, failed = [], []
        for entry in entries:
            try:
                message_id = _publication(entry, topic_arn, call)(connection)
            except ServiceError as error:
                # An entry's code is as errors have it on the wire, where the shapes' suffix is left out.
                code = error.code.removesuffix("Exception")
                failed.append(
                    {"Id": entry["Id"], "Code": code, "Message": error.message, "SenderFault": True}
                )
            else:
                successful.append({"Id": entry["Id"], "MessageId": message_id})
        return successful, failed

    successful, failed = await call.parts.database.write(send)
    call.parts.deliveries.wake()
    return {"Successful": successful, "Failed": failed}


def _target(params: Params) -> str:
    if "PhoneNumber" in params:
        raise invalid("PhoneNumber Reason: text messages are not supported; publish to a topic")
    given = [params[name] for name in ("TopicArn", "TargetArn") if name in params]
    if len(given) != 1:
        raise invalid("TopicArn or TargetArn Reason: exactly one of them is needed")
    return str(given[0])


def _publication(params: Params, topic_arn: str, call: Call) -> Callable[[Connection], str]:
    """The work that publishes one message, after its parameters were checked."""
    attributes = parameters.envelope_attributes(params.get("MessageAttributes", {}))
    message, subject, structure = params["Message"], params.get("Subject"), params.get("MessageStructure")
    if "MessageDeduplicationId" in params:
        raise invalid("MessageDeduplicationId Reason: only FIFO topics take it, which are not supported")

    def send(connection: Connection) -> str:
        topic = get_topic(connection, topic_arn, call)
        limit = int(topic.attributes.get("MaximumMessageSize", parameters.MAX_MESSAGE_BYTES))
        parameters.check_message(
            message, subject=subject, structure=structure, attributes=attributes, limit_bytes=limit
        )
        return topics.publish(
            connection,
            topic_arn,
            message,
            subject=subject,
            attributes=attributes,
            structure=structure,
            at=call.now,
        )

    return send


def _check_batch(entries: list[Params]) -> None:
    if not entries:
        raise ServiceError(
            "The batch request doesn't contain any entries.", code="EmptyBatchRequestException"
        )
    if len(entries) > MAX_BATCH_ENTRIES:
        raise ServiceError(
            "The batch request contains more entries than permissible.",
            code="TooManyEntriesInBatchRequestException",
        )
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise ServiceError(
            "Two or more batch entries in the request have the same Id.",
            code="BatchEntryIdsNotDistinctException",
        )
    size_bytes = sum(len(entry["Message"].encode()) for entry in entries)
    if size_bytes > parameters.MAX_MESSAGE_BYTES:
        raise ServiceError(
            f"The messages of the batch take {size_bytes} bytes, of {parameters.MAX_MESSAGE_BYTES} at most.",
            code="BatchRequestTooLongException",
        )
