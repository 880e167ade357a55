"""SQS's message move tasks: what lies in a dead-letter queue goes back."""

import base64
import json
from typing import Any

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.notifications import move_tasks, queues
from ebbtide.notifications.move_tasks import KEPT, RUNNING, MoveTask
from ebbtide.notifications.queue_messages import check_range, invalid_value
from ebbtide.notifications.queues import Queue
from ebbtide.wire.json_text import parse_json

MOST_PER_S = 500


async def start_message_move_task(params: Params, call: Call) -> Result:
    """Begin to move a dead-letter queue's messages to DestinationArn, or each back to where it came from.

    Raises ServiceError for queues that there are not, for a source that is nobody's dead-letter queue, and
    while another task moves its messages. Source: StartMessageMoveTask.
    """
    most_per_s = params.get("MaxNumberOfMessagesPerSecond")
    if most_per_s is not None:
        check_range("MaxNumberOfMessagesPerSecond", most_per_s, 1, MOST_PER_S)
    destination_arn = params.get("DestinationArn")
    if destination_arn == params["SourceArn"]:
        raise invalid_value("Source queue arn and destination queue arn cannot be the same.")

    def start(connection: Connection) -> MoveTask:
        source = _queue(connection, "SourceArn", params, call)
        if not queues.dead_letter_sources(connection, source):
            raise invalid_value("Source queue must be configured as a Dead Letter Queue.")
        if destination_arn is not None:
            _queue(connection, "DestinationArn", params, call)
        return move_tasks.start(connection, source, destination_arn, most_per_s, call.now)

    task = await call.parts.database.write(start)
    call.parts.move_tasks.wake()
    return {"TaskHandle": _handle(task)}


async def list_message_move_tasks(params: Params, call: Call) -> Result:
    """A source's tasks, newest first, up to MaxResults. Source: ListMessageMoveTasks."""
    limit = params.get("MaxResults", 1)
    check_range("MaxResults", limit, 1, KEPT)
    found = await call.parts.database.read(
        lambda c: move_tasks.listed(c, _queue(c, "SourceArn", params, call).arn)
    )
    return {"Results": [_shown(task) for task in found[:limit]]}


async def cancel_message_move_task(params: Params, call: Call) -> Result:
    """End a task that runs; what it has moved stays moved. Raises TaskNotFound. Source:
    CancelMessageMoveTask.
    """
    given = _read_handle(params["TaskHandle"])

    def cancel(connection: Connection) -> MoveTask:
        source = _queue(connection, "SourceArn", {"SourceArn": given.get("sourceArn")}, call)
        return move_tasks.cancel(connection, str(given.get("taskId")), source.arn)

    task = await call.parts.database.write(cancel)
    return {"ApproximateNumberOfMessagesMoved": task.moved_count}


def _queue(connection: Connection, name: str, params: Params, call: Call) -> Queue:
    """The account's queue whose ARN the parameter is."""
    arn = params[name]
    if not isinstance(arn, str) or not arn.startswith("arn:aws:sqs:"):
        raise invalid_value(
            f"You must use this format to specify the {name}: arn:aws:sqs:REGION:ACCOUNT:NAME"
        )
    queue = queues.find_arn(connection, arn)
    if queue is None or queue.account != call.account:
        raise move_tasks.TaskNotFound(
            f"The resource that you specified for the {name} parameter doesn't exist."
        )
    return queue


def _handle(task: MoveTask) -> str:
    return base64.b64encode(json.dumps({"taskId": task.id, "sourceArn": task.source_arn}).encode()).decode()


def _read_handle(handle: str) -> dict[str, Any]:
    try:
        given = parse_json(base64.b64decode(handle, validate=True))
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise invalid_value("Value for parameter TaskHandle is invalid.")
    return given


def _shown(task: MoveTask) -> Result:
    return {
        "TaskHandle": _handle(task) if task.state == RUNNING else None,
        "Status": task.state,
        "SourceArn": task.source_arn,
        "DestinationArn": task.destination_arn,
        "MaxNumberOfMessagesPerSecond": task.most_per_s,
        "ApproximateNumberOfMessagesMoved": task.moved_count,
        "ApproximateNumberOfMessagesToMove": task.wanted_count,
        "FailureReason": task.failure_reason,
        "StartedTimestamp": int(task.started_at * 1_000),
    }
