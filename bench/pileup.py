"""What a receiver that has been dead for long costs the others, and what forgetting the log costs the writer.

100,000 messages are owed to a receiver that nobody answers for. Beside it a queue is subscribed; how long its
messages take from publishing to arrival is measured without the pile and with it, while the dead receiver's
lane keeps failing. Then a week passes, and what is past its retention is forgotten, while a caller writes all
the time: its longest wait is the stall.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import text

from bench.server import percentile
from ebbtide.database import Database
from ebbtide.logs import LogStore
from ebbtide.migrations import migrate
from ebbtide.notifications import queues, subscriptions, topics
from ebbtide.notifications.deliveries import Deliveries
from ebbtide.notifications.signing import Signer
from ebbtide.notifications.subscriptions import Subscription
from ebbtide.notifications.topics import Topic
from ebbtide.settings import Settings

PILE = 100_000
ROUNDS = 200
WEEK_S = 7 * 86_400.0
ACCOUNT = "123456789012"
DEAD, ALIVE = (f"arn:aws:sns:us-east-1:{ACCOUNT}:{name}" for name in ("dead", "alive"))
QUEUE = queues.Queue(f"arn:aws:sqs:us-east-1:{ACCOUNT}:inbox", ACCOUNT, "inbox", {}, {}, 0.0, 0.0)
MESSAGE = "x" * 700


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    # A dead receiver is told of at each attempt, as it should be; not here.
    logging.getLogger("ebbtide.notifications").setLevel(logging.ERROR)
    yield from asyncio.run(_measure()).items()


async def _measure() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        database = Database(data / "ebbtide.db")
        migrate(database.engine)
        make = partial(Deliveries, Settings(data), database, Signer(data / "sns"), LogStore(data / "logs"))
        await _subscribe(database, DEAD, "http", "http://127.0.0.1:1/nobody")
        to_queue = await _subscribe(database, ALIVE, "sqs", QUEUE.arn)
        await database.write(lambda connection: queues.create(connection, QUEUE))
        now = time.time()
        async with _delivering(make()) as deliveries:
            alone = await _rounds(database, deliveries, to_queue)
        for n in range(0, PILE, 1_000):
            texts = [(MESSAGE, f"invocation-{m}") for m in range(n, n + 1_000)]
            await database.write(partial(topics.publish_many, topic_arn=DEAD, texts=texts, at=now))
        async with _delivering(make()) as deliveries:
            beside = await _rounds(database, deliveries, to_queue)
        size_bytes = (data / "ebbtide.db").stat().st_size
        # All are given up, so that they can be forgotten.
        await database.write(
            lambda connection: connection.execute(text("UPDATE sns_deliveries SET state = 'abandoned'"))
        )
        stalls, seconds = await _forget(database, make(), now + 2 * WEEK_S)
        database.close()
    return {
        "a message to its queue, nothing else owed": _shown(alone),
        f"the same beside {PILE:,} owed to a dead receiver": _shown(beside),
        "on disk for a message of 700 bytes and its delivery": f"{size_bytes / PILE:,.0f} bytes",
        f"forgetting {PILE:,} of them": f"{PILE / seconds:,.0f}/s",
        "a write beside the forgetting": _shown(stalls),
    }


async def _subscribe(database: Database, topic: str, protocol: str, endpoint: str) -> str:
    subscription = Subscription(
        arn=f"{topic}:subscription",
        topic_arn=topic,
        account=ACCOUNT,
        protocol=protocol,
        endpoint=endpoint,
        attributes={},
        base_url="http://127.0.0.1",
        confirmed=True,
        authenticated_unsubscribe=False,
        token="token",
        token_expires_at=0.0,
        created_at=0.0,
    )
    await database.write(lambda c: topics.create(c, Topic(topic, ACCOUNT, {}, {}, 0.0)))
    await database.write(lambda c: subscriptions.add(c, subscription))
    return subscription.arn


async def _rounds(database: Database, deliveries: Deliveries, arn: str) -> list[float]:
    """From publishing to the queue, one message after the other."""
    waits = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        await database.write(lambda c: topics.publish(c, ALIVE, MESSAGE, at=time.time()))
        deliveries.wake()
        while await database.read(lambda c: _pending(c, arn)):
            await asyncio.sleep(0.001)
        waits.append((time.perf_counter() - started) * 1000)
    return waits


def _pending(connection: Any, arn: str) -> int:
    query = text("SELECT COUNT(*) FROM sns_deliveries WHERE subscription_arn = :arn AND state = 'pending'")
    return int(connection.execute(query, {"arn": arn}).scalar())


@asynccontextmanager
async def _delivering(deliveries: Deliveries) -> AsyncIterator[Deliveries]:
    """The loop at work, on the pile too where there is one."""
    stop = asyncio.Event()
    running = asyncio.create_task(deliveries.run(stop))
    try:
        yield deliveries
    finally:
        stop.set()
        await running


async def _forget(database: Database, deliveries: Deliveries, now: float) -> tuple[list[float], float]:
    stalls: list[float] = []
    ended = asyncio.Event()

    async def write() -> None:
        while not ended.is_set():
            started = time.perf_counter()
            await database.write(lambda c: c.execute(text("UPDATE sns_topics SET created_at = created_at")))
            stalls.append((time.perf_counter() - started) * 1000)

    writer = asyncio.create_task(write())
    started = time.perf_counter()
    while await deliveries.sweep(now) == 0.0:
        pass
    seconds = time.perf_counter() - started
    ended.set()
    await writer
    return stalls, seconds


def _shown(milliseconds: list[float]) -> str:
    return f"p50 {percentile(milliseconds, 50):.1f} ms, p99 {percentile(milliseconds, 99):.1f} ms"
