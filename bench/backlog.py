"""What the queue costs with 1,000 and with 1,000,000 invocations in it: accepting, claiming, counting,
listing, its size on disk and in memory; then how long others wait while finished ones are forgotten.

The queue itself, without HTTP: what grows with its length is in the database.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, text

from ebbtide import clock, endpoints, migrations
from ebbtide.database import Database
from ebbtide.endpoints import EndpointConfig, Model, catalogue
from ebbtide.identifiers import ACCOUNT, time_ordered_id
from ebbtide.queue import invocations, listing
from ebbtide.queue.invocations import Claim, Ending, Invocation, Phases
from ebbtide.queue.retention import Retention

SHORT, LONG = 1_000, 1_000_000
GROUP = 32
"""Requests or claims in a transaction, as under load."""
BODY = b'{"inputs": "' + b"x" * 200 + b'"}'
REPEATS = 60
FORGOTTEN_FOR_S = 20.0


@dataclass
class Queue:
    """A database with one endpoint."""

    database: Database
    endpoint_id: str

    def fill(self, count: int) -> None:
        with self.database.engine.connect() as connection:
            for begin in range(0, count, 1000):
                with connection.begin():
                    invocations.accept(connection, self.requests(min(1000, count - begin)))

    def requests(self, count: int) -> list[Invocation]:
        now = clock.now()
        ids = [time_ordered_id(now) for _ in range(count)]
        return [
            Invocation(
                id=id_,
                inference_id=id_,
                account=ACCOUNT,
                endpoint_id=self.endpoint_id,
                accepted_at=now,
                expires_at=now + 86_400,
                timeout_s=900,
                input_uri=None,
                content_type="application/json",
                accept=None,
                custom_attributes=None,
                output_uri=f"s3://out/results/{id_}.out",
                failure_uri=None,
                body=BODY,
            )
            for id_ in ids
        ]

    async def time_s(self, work: Callable[[Connection], Any], *, writes: bool) -> float:
        """Wall time of a transaction with its commit."""
        run = self.database.write if writes else self.database.read
        began_at = time.perf_counter()
        await run(work)
        return time.perf_counter() - began_at


class Costs:
    """What each operation takes at queues of several lengths, in turns: the machine is never equally busy for
    long, and what one measures in a minute cannot be compared with another minute's.
    """

    def __init__(self, queues: Sequence[Queue]) -> None:
        self._queues = queues
        self._taken: dict[str, list[Claim]] = {queue.endpoint_id: [] for queue in queues}

    async def measure(self) -> dict[str, list[float]]:
        """Operation -> its median wall time at each queue, in us; for each invocation where it is of many."""
        found = {
            f"accept, {GROUP} in a transaction": await self._medians_us(
                self._accept, writes=True, each=GROUP
            ),
            f"claim, {GROUP} in a transaction": await self._medians_us(self._claim, writes=True, each=GROUP),
        }
        for queue in self._queues:
            taken = self._taken[queue.endpoint_id]
            endings = [Ending(held, "succeeded", None, Phases(), clock.now()) for held in taken]
            await queue.database.write(lambda connection: invocations.finish(connection, endings))  # noqa: B023
        found["backlog count"] = await self._medians_us(
            lambda _, connection: invocations.backlogs(connection)
        )
        found["list page of 100"] = await self._medians_us(self._list)
        return found

    async def _medians_us(
        self, work: Callable[[Queue, Connection], Any], *, writes: bool = False, each: int = 1
    ) -> list[float]:
        times: list[list[float]] = [[] for _ in self._queues]
        for _ in range(REPEATS):
            for queue, taken in zip(self._queues, times, strict=True):
                taken.append(await queue.time_s(partial(work, queue), writes=writes))
        return [statistics.median(taken) / each * 1e6 for taken in times]

    def _accept(self, queue: Queue, connection: Connection) -> None:
        invocations.accept(connection, queue.requests(GROUP))

    def _claim(self, queue: Queue, connection: Connection) -> None:
        self._taken[queue.endpoint_id] += invocations.claim(
            connection,
            endpoint_id=queue.endpoint_id,
            instance_id="i",
            limit=GROUP,
            lease_s=30,
            now=clock.now(),
        )

    def _list(self, queue: Queue, connection: Connection) -> None:
        seen = listing.seen_by(connection, ACCOUNT, ACCOUNT)
        wanted = listing.Filter(endpoint_id=queue.endpoint_id)
        listing.page(connection, seen, wanted, limit=100, after=None)


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as directory:
        paths = [Path(directory) / f"{name}.db" for name in ("short", "long")]
        short, long = map(_queue, paths)
        process = psutil.Process()
        short.fill(SHORT)
        memory_before = process.memory_info().rss
        long.fill(LONG)
        sizes = [_size(path) for path in paths]
        for what, (short_us, long_us) in asyncio.run(Costs([short, long]).measure()).items():
            yield (
                f"queue of {SHORT:,} and of {LONG:,}: {what}",
                f"{short_us:,.0f} us and {long_us:,.0f} us, x {long_us / short_us:.2f}",
            )
        yield (
            f"queue of {LONG:,}: on disk",
            f"{(sizes[1] - sizes[0]) / (LONG - SHORT):,.0f} bytes each, with an inline body of {len(BODY)}",
        )
        grown = process.memory_info().rss - memory_before
        yield f"queue of {LONG:,}: memory beside that of {SHORT:,}", f"{grown / 1e6:+.0f} MB"
        yield asyncio.run(_forget(long))
        short.database.close()
        long.database.close()


async def _forget(queue: Queue) -> tuple[str, str]:
    """How long a small write waits while finished invocations are forgotten."""

    def end_all(connection: Connection) -> None:
        connection.execute(
            text("UPDATE invocations SET state = 'succeeded', finished_at = accepted_at, body = NULL")
        )

    def small(connection: Connection) -> None:
        invocations.accept(connection, queue.requests(1))

    async def wait_s() -> float:
        began_at = time.perf_counter()
        await queue.database.write(small)
        return time.perf_counter() - began_at

    with queue.database.engine.begin() as connection:
        end_all(connection)
    count = _count_all(queue)
    alone = [await wait_s() for _ in range(500)]
    retention = Retention(queue.database, retention_s=0.001)
    stop = asyncio.get_running_loop().time() + FORGOTTEN_FOR_S

    async def forget() -> None:
        while asyncio.get_running_loop().time() < stop:
            await asyncio.sleep(await retention.step(clock.now()))

    forgetting = asyncio.create_task(forget())
    beside = []
    while not forgetting.done():
        beside.append(await wait_s())
        await asyncio.sleep(0.005)
    await forgetting
    gone = count - _count_all(queue) + len(beside)
    what = f"a write while {gone / FORGOTTEN_FOR_S:,.0f} finished invocations a second are forgotten"
    median_ms, alone_ms = statistics.median(beside) * 1e3, statistics.median(alone) * 1e3
    figure = f"longest {max(beside) * 1e3:.1f} ms, median {median_ms:.2f} ms ({alone_ms:.2f} ms without)"
    return what, figure


def _queue(path: Path) -> Queue:
    database = Database(path)
    migrations.migrate(database.engine)
    model = Model(ACCOUNT, "m", "m", {"ModelName": "m", "PrimaryContainer": {"Image": "x"}}, 0.0)
    given = {
        "EndpointConfigName": "c",
        "ProductionVariants": [{"VariantName": "v", "ModelName": "m", "InstanceType": "ml.m5.xlarge"}],
        "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://out/results"}},
    }
    config = EndpointConfig(ACCOUNT, "c", "c", given, 0.0)
    with database.engine.begin() as connection:
        catalogue.create_model(connection, model)
        catalogue.create_endpoint_config(connection, config)
        endpoint = endpoints.create_endpoint(connection, config, "e", region="us-east-1", at=clock.now())
    return Queue(database, endpoint.id)


def _count_all(queue: Queue) -> int:
    with queue.database.engine.begin() as connection:
        return int(connection.execute(text("SELECT count(*) FROM invocations")).scalar_one())


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*") if each.suffix != ".db-shm")


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
