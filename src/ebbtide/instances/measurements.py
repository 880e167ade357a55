"""What instances were seen to take and to do: by it later ones are admitted, and given work at a time."""

import asyncio
from collections.abc import Collection, Mapping
from functools import partial

from sqlalchemy import Connection

from ebbtide.database import Database
from ebbtide.instances import machine, records
from ebbtide.instances.admission import (
    Machine,
    capacity_bytes,
    expected_bytes,
    free_memory_bytes,
    reserve_bytes,
)
from ebbtide.instances.concurrency import Concurrency, Search, room
from ebbtide.instances.running import RunningInstance


class Measurements:
    """The peaks of memory and the best concurrency of each model's instances; models by their digest."""

    def __init__(self, database: Database, memory_limit_bytes: int | None) -> None:
        """memory_limit_bytes: what all instances may take together; None for what the machine has free."""
        self._database = database
        self._memory_limit_bytes = memory_limit_bytes
        self._peaks: dict[str, int | None] = {}
        self._model_bytes: dict[str, int | None] = {}
        self._concurrencies: dict[str, int] = {}

    def note_size(self, model_digest: str, size_bytes: int | None) -> None:
        """Keep the size of a model's files, None where it is unknown: an estimate until one has run."""
        self._model_bytes[model_digest] = size_bytes

    async def needs(self, model_digests: set[str]) -> dict[str, int]:
        """The memory that an instance of each model takes, or is expected to, in bytes."""
        if unknown := model_digests - self._peaks.keys():
            self._peaks |= await self._database.read(
                lambda connection: {
                    digest: records.peak_memory_bytes(connection, digest) for digest in unknown
                }
            )
        return {
            digest: expected_bytes(peak_bytes=self._peaks[digest], model_bytes=self._model_bytes.get(digest))
            for digest in model_digests
        }

    def machine(self, running: Collection[RunningInstance]) -> Machine:
        """What this machine has for instances now, beside those that run."""
        memory = machine.memory()
        limit = self._memory_limit_bytes
        capacity = capacity_bytes(total_bytes=memory.total_bytes, limit_bytes=limit)
        available = memory.available_bytes - reserve_bytes(memory.total_bytes)
        gpus = machine.gpus()
        used = {gpu for instance in running for gpu in instance.gpus}
        return Machine(
            capacity_bytes=capacity,
            free_bytes=free_memory_bytes(
                capacity_bytes=capacity,
                available_bytes=available if limit is None else None,
                promised=[(i.memory_bytes, i.resident_bytes) for i in running],
            ),
            gpus=gpus,
            free_gpus=tuple(gpu for gpu in range(gpus) if gpu not in used),
        )

    async def take(self, running: Mapping[str, RunningInstance], now: float) -> None:
        """Measure each instance, and keep what was seen in its record.

        running: by id, as it changes while this looks: one that has ended has nothing to say any more.
        """
        peaks = {}
        for instance in list(running.values()):
            if peak := await asyncio.to_thread(instance.measure):
                peaks[instance.id] = peak
                digest = instance.model_digest
                self._peaks[digest] = max(peak, self._peaks.get(digest) or 0)
        serving = [instance for instance in running.values() if instance.serving]
        for instance in serving:
            concurrency = instance.agent.concurrency
            if isinstance(concurrency, Search) and concurrency.settled is not None:
                self._concurrencies[instance.model_digest] = concurrency.limit
        starts = {i.id: i.model_server.start_report() for i in serving}
        chosen = {i.id: (i.agent.concurrency.limit, i.agent.concurrency.cause) for i in serving}

        def keep(connection: Connection) -> None:
            records.see(connection, peaks, now)
            records.tell_starts(connection, starts)
            records.choose(connection, chosen)

        await self._database.write(keep)

    def concurrency(self, running: RunningInstance) -> Concurrency:
        """How many invocations it works on at a time: as many as asked for, or as it finds out."""
        async_config = running.endpoint.async_config
        asked = async_config and async_config.max_concurrent_invocations_per_instance
        if asked:
            return Concurrency(asked, "asked for: MaxConcurrentInvocationsPerInstance")
        launch = running.model_server.launch
        # With two, one request's payload moves while the other is computed.
        start = self._concurrencies.get(running.model_digest, max(2, launch.threads))
        return Search(start, partial(_room, running, launch.memory_limit_bytes), most=launch.concurrency)


def _room(running: RunningInstance, limit_bytes: int | None, limit: int, count: int) -> str | None:
    """Why the instance's memory does not hold `count` invocations at a time, where it holds `limit`."""
    return room(
        idle_bytes=running.idle_bytes,
        resident_bytes=running.resident_bytes,
        limit_bytes=limit_bytes,
        limit=limit,
        count=count,
    )
