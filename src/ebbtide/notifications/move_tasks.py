"""Tasks that move what lies in a dead-letter queue back to where it came from, or elsewhere.

A task is a row, and each batch of its messages moves in one transaction with the task's count, so that a
server that dies moves nothing twice and another goes on. Source: StartMessageMoveTask, SQS 2012-11-05.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Float,
    ForeignKey,
    Integer,
    String,
    Table,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from ebbtide import loops
from ebbtide.database import Database, metadata
from ebbtide.errors import ServiceError
from ebbtide.identifiers import random_id
from ebbtide.notifications.arrivals import Arrivals
from ebbtide.notifications.queues import Queue, find_arn, messages, queues

BATCH = 500
"""Moved in one transaction, which is not to hold up other writers."""

IDLE_S = 60.0
"""Between looks while nothing is to be moved; a task that starts wakes the loop."""

KEPT = 10
"""Of each source the newest tasks are listed, and remembered. Source: ListMessageMoveTasks, MaxResults."""

RUNNING, COMPLETED, CANCELLED, FAILED = "RUNNING", "COMPLETED", "CANCELLED", "FAILED"

tasks = Table(
    "sqs_move_tasks",
    metadata,
    Column("id", String, primary_key=True),
    Column("source_arn", String, ForeignKey(queues.c.arn, ondelete="CASCADE"), nullable=False, index=True),
    # NULL: each message goes back to the queue whose dead letter it is.
    Column("destination_arn", String),
    Column("most_per_s", Integer),
    Column("state", String, nullable=False),
    Column("moved_count", Integer, nullable=False),
    # Visible when the task began. It ends after as many: what fails again must not keep it going for ever.
    Column("wanted_count", Integer, nullable=False),
    Column("failure_reason", String),
    Column("started_at", Float, nullable=False),
)


class TaskNotFound(ServiceError):
    """No such task was started, or it is forgotten."""

    code = "ResourceNotFoundException"
    http_status = 404


@dataclass(frozen=True, slots=True)
class MoveTask:
    """A row of `sqs_move_tasks`."""

    id: str
    source_arn: str
    destination_arn: str | None
    most_per_s: int | None
    state: str
    moved_count: int
    wanted_count: int
    failure_reason: str | None
    started_at: float


def start(
    connection: Connection, source: Queue, destination_arn: str | None, most_per_s: int | None, now: float
) -> MoveTask:
    """Begin a task. Wake `MoveTasks` after the commit. Raises ServiceError while the source has another."""
    earlier = listed(connection, source.arn)
    if any(task.state == RUNNING for task in earlier):
        raise ServiceError(
            "There is already a task running. Only one active task is allowed for a source queue arn at a "
            "given time.",
            code="InvalidParameterValue",
        )
    old = [task.id for task in earlier[KEPT - 1 :]]
    connection.execute(delete(tasks).where(tasks.c.id.in_(old)))
    wanted = connection.execute(select(func.count()).where(*_movable(source, now))).scalar_one()
    task = MoveTask(
        random_id(), source.arn, destination_arn, most_per_s, RUNNING, 0, wanted, None, started_at=now
    )
    connection.execute(insert(tasks).values(**{name: getattr(task, name) for name in MoveTask.__slots__}))
    return task


def listed(connection: Connection, source_arn: str) -> list[MoveTask]:
    """The tasks of a source, newest first."""
    query = select(tasks).where(tasks.c.source_arn == source_arn)
    return [MoveTask(*row) for row in connection.execute(query.order_by(tasks.c.started_at.desc()))]


def cancel(connection: Connection, task_id: str, source_arn: str) -> MoveTask:
    """End a task; what it has moved stays moved. Raises TaskNotFound, ServiceError where it has ended."""
    found = _find(connection, task_id)
    if found is None or found.source_arn != source_arn:
        raise TaskNotFound("Task does not exist.")
    if found.state != RUNNING:
        raise ServiceError("Only active tasks can be cancelled.", code="UnsupportedOperation")
    return _put(connection, replace(found, state=CANCELLED))


def move(connection: Connection, task_id: str, limit: int, now: float) -> tuple[MoveTask | None, set[str]]:
    """Move up to `limit` messages of a task that runs; it, and the ARNs of queues that got some.

    None where it does not run any more.
    """
    task = _find(connection, task_id)
    source = None if task is None else find_arn(connection, task.source_arn)
    if task is None or source is None or task.state != RUNNING:
        return None, set()
    # What it was to move when it began it moves, also by a clock that is behind, or of an earlier step.
    now = max(now, task.started_at)
    limit = min(limit, task.wanted_count - task.moved_count)
    query = select(messages.c.id, messages.c.dead_letter_source).where(*_movable(source, now))
    found = connection.execute(query.order_by(messages.c.visible_at, messages.c.id).limit(limit)).all()
    by_target: dict[str | None, list[str]] = defaultdict(list)
    for message_id, came_from in found:
        by_target[task.destination_arn or came_from].append(message_id)
    for target, ids in by_target.items():
        if target is None or find_arn(connection, target) is None:
            reason = "CouldNotDetermineMessageSource" if target is None else "NonExistentQueue"
            task = replace(task, state=FAILED, failure_reason=f"AWS.SimpleQueueService.{reason}")
            continue
        connection.execute(_MOVE, {"ids": ids, "target": target, "at": now})
        task = replace(task, moved_count=task.moved_count + len(ids))
    if task.state == RUNNING and (len(found) < limit or task.moved_count == task.wanted_count):
        task = replace(task, state=COMPLETED)
    return _put(connection, task), {target for target in by_target if target is not None}


class MoveTasks:
    """Carries out the tasks that run, batch by batch."""

    def __init__(self, database: Database, arrivals: Arrivals) -> None:
        self._database = database
        self._arrivals = arrivals
        self._woken = asyncio.Event()
        # Task -> when its next messages may go, for those that are bounded by the second.
        self._next_at: dict[str, float] = {}

    def wake(self) -> None:
        """Look for tasks now; called on the event loop after the commit of one."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        await loops.run("move tasks", self.step, stop, self._woken)

    async def step(self, now: float) -> float:
        """Move a batch of each task that runs; the delay before the next step, in s."""
        running = await self._database.read(_running)
        self._next_at = {task.id: self._next_at.get(task.id, now) for task in running}
        waits = [IDLE_S]
        for task in running:
            if now < self._next_at[task.id]:
                waits.append(self._next_at[task.id] - now)
                continue
            limit = min(BATCH, task.most_per_s or BATCH)
            _, told = await self._database.write(partial(move, task_id=task.id, limit=limit, now=now))
            for arn in told:
                self._arrivals.notify(arn)
            self._next_at[task.id] = now + (1.0 if task.most_per_s else 0.0)
            waits.append(self._next_at[task.id] - now)
        return min(waits)


def _movable(source: Queue, now: float) -> Sequence[ColumnElement[bool]]:
    """Which of a source's messages can be moved: those that could be received."""
    return (
        messages.c.queue_arn == source.arn,
        messages.c.visible_at <= now,
        messages.c.sent_at > now - source.seconds("MessageRetentionPeriod"),
    )


def _find(connection: Connection, task_id: str) -> MoveTask | None:
    row = connection.execute(select(tasks).where(tasks.c.id == task_id)).one_or_none()
    return None if row is None else MoveTask(*row)


def _running(connection: Connection) -> list[MoveTask]:
    return [MoveTask(*row) for row in connection.execute(select(tasks).where(tasks.c.state == RUNNING))]


def _put(connection: Connection, task: MoveTask) -> MoveTask:
    values = {name: getattr(task, name) for name in ("state", "moved_count", "failure_reason")}
    connection.execute(update(tasks).where(tasks.c.id == task.id).values(**values))
    return task


# What is moved is as if it had been sent anew, but for its id.
_MOVE = (
    update(messages)
    .where(messages.c.id.in_(bindparam("ids", expanding=True)))
    .values(
        queue_arn=bindparam("target"),
        sent_at=bindparam("at"),
        visible_at=bindparam("at"),
        receive_count=0,
        earlier_receive_count=0,
        first_received_at=None,
        receipt=None,
        dead_letter_source=None,
    )
)
