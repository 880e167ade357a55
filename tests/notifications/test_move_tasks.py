"""Which messages a move task moves, with time as an argument."""

from functools import partial

from ebbtide.notifications import move_tasks, queues
from ebbtide.notifications.queues import Draft, Queue

NOW = 1_700_000_000.0


def queue(name):
    return Queue(f"arn:aws:sqs:us-east-1:123456789012:{name}", "123456789012", name, {}, {}, NOW, NOW)


async def test_what_was_there_when_a_task_began_is_moved_also_by_a_clock_that_is_behind(database):
    """Another server's, or that of a step which began before the task did and came to it afterwards."""
    dead, other = queue("dead"), queue("other")
    for each in (dead, other):
        await database.write(partial(queues.create, queue=each))
    await database.write(
        lambda c: queues.send(c, dead, [Draft("a", {}, "sender"), Draft("b", {}, "sender")], NOW)
    )
    task = await database.write(lambda c: move_tasks.start(c, dead, other.arn, None, NOW))

    moved, told = await database.write(lambda c: move_tasks.move(c, task.id, limit=10, now=NOW - 0.02))

    assert (moved.state, moved.moved_count, told) == ("COMPLETED", 2, {other.arn})
