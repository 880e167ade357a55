"""What the queue costs with 1,000 and with 1,000,000 invocations in it: accepting, claiming, counting,
listing, its size on disk and in memory; then how long others wait while finished ones are forgotten.

The queue itself, without HTTP: what grows with its length is in the database.
"""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import Connection, text

from ebbtide import clock, endpoints, migrations
from ebbtide.database import Database
from ebbtide.endpoints import EndpointConfig, Model, catalogue
from ebbtide.identifiers import ACCOUNT, time_ordered_id
from ebbtide.queue import invocations, listing
from ebbtide.queue.invocations import Ending, Invocation, Phases
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

    async def median_us(self, work: Callable[[Connection], Any], *, writes: bool, each: int = 1) -> float:
        """Median wall time of a transaction with its commit, in us for each of `each`."""
        run = self.database.write if writes else self.database.read
        times = []
        for _ in range(REPEATS):
            began_at = time.perf_counter()
            await run(work)
            times.append(time.perf_counter() - began_at)
        return statistics.median(times) / each * 1e6

    async def costs(self) -> dict[str, float]:
        def claim(connection: Connection) -> None:
            held = invocations.claim(
                connection,
                endpoint_id=self.endpoint_id,
                instance_id="i",
                limit=GROUP,
                lease_s=30,
                now=clock.now(),
            )
            taken.extend(held)

        taken: list[Any] = []
        seen = await self.database.read(lambda connection: listing.seen_by(connection, ACCOUNT, ACCOUNT))
        wanted = listing.Filter(endpoint_id=self.endpoint_id)
        accepted = await self.median_us(
            lambda connection: invocations.accept(connection, self.requests(GROUP)), writes=True, each=GROUP
        )
        claimed = await self.median_us(claim, writes=True, each=GROUP)
        await self.database.write(
            lambda connection: invocations.finish(
                connection, [Ending(held, "succeeded", None, Phases(), clock.now()) for held in taken]
            )
        )
        return {
            f"accept, {GROUP} in a transaction": accepted,
            f"claim, {GROUP} in a transaction": claimed,
            "backlog count": await self.median_us(invocations.backlogs, writes=False),
            "list page of 100": await self.median_us(
                lambda connection: listing.page(connection, seen, wanted, limit=100, after=None),
                writes=False,
            ),
        }


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    with tempfile.TemporaryDirectory(prefix="ebbtide-bench-") as directory:
        path = Path(directory) / "ebbtide.db"
        queue = _queue(path)
        process = psutil.Process()
        queue.fill(SHORT)
        short = asyncio.run(queue.costs())
        memory_before = process.memory_info().rss
        size_before, before = _size(path), _count(queue)
        queue.fill(LONG - before)
        size, count = _size(path), _count(queue)
        long = asyncio.run(queue.costs())
        for what, us in short.items():
            yield (
                f"queue of {SHORT:,} and of {LONG:,}: {what}",
                f"{us:,.0f} us and {long[what]:,.0f} us, x {long[what] / us:.2f}",
            )
        yield (
            f"queue of {LONG:,}: on disk",
            f"{(size - size_before) / (count - before):,.0f} bytes each, with an inline body of {len(BODY)}",
        )
        grown = process.memory_info().rss - memory_before
        yield f"queue of {LONG:,}: memory beside that of {SHORT:,}", f"{grown / 1e6:+.0f} MB"
        yield asyncio.run(_forget(queue))
        queue.database.close()


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


def _count(queue: Queue) -> int:
    with queue.database.engine.begin() as connection:
        return invocations.backlog(connection, queue.endpoint_id).queued


def _count_all(queue: Queue) -> int:
    with queue.database.engine.begin() as connection:
        return int(connection.execute(text("SELECT count(*) FROM invocations")).scalar_one())


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*") if each.suffix != ".db-shm")


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
