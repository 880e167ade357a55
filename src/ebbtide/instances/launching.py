"""Model servers started, and their models prepared, from what an endpoint's variants say."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from ebbtide.endpoints import Deployment, Endpoint, Variant
from ebbtide.instances import admission, machine, model_server
from ebbtide.instances.concurrency import MOST
from ebbtide.instances.fork_server import ForkServer
from ebbtide.instances.model_files import ModelFiles, size_bytes_of
from ebbtide.instances.model_server import Launch, ModelServer
from ebbtide.instances.processes import passed_on
from ebbtide.instances.running import RunningInstance
from ebbtide.instances.types import InstanceType, InstanceTypes
from ebbtide.logs import LogStore, LogStream
from ebbtide.objects.store import ObjectStore
from ebbtide.settings import Settings


class Launcher:
    """Has a model's files here and its model servers' processes started. `cache` is what those share."""

    def __init__(
        self, settings: Settings, types: InstanceTypes, objects: ObjectStore, logs: LogStore
    ) -> None:
        self.cache = settings.data / "runtime"
        self._fork_server = ForkServer(passed_on(os.environ), settings.data)
        self._files = ModelFiles(settings.data / "models", objects)
        self._settings = settings
        self._types = types
        self._logs = logs

    async def clear_left_over(self, now: float) -> None:
        """End and remove what a killed server left. Only for one that has the data directory to itself."""
        await asyncio.to_thread(model_server.clear_left_over, self.cache)
        await asyncio.to_thread(self._files.sweep, now)

    async def warm(self) -> None:
        """Have the process there that model servers are forked from: it takes most of a small one's start."""
        with suppress(OSError):  # what needs it tries again, and says what it waits for
            await self._fork_server.start()

    async def close(self) -> None:
        """End that process, and whatever it has forked."""
        await self._fork_server.close()

    async def prepare(self, endpoint: Endpoint, deployment: Deployment, variant: Variant) -> int | None:
        """Do what the variant's model needs before its first instance starts: download, conversion.

        Returns the size of the model's files in bytes; None when they are not on this machine under a path
        that we know. Raises ModelUnavailable, ModelFailed, and Unavailable on a full disk.
        """
        launch = await self._launch(
            endpoint,
            variant,
            concurrency=1,
            threads=machine.cores(),
            memory_limit_bytes=self._capacity_bytes(),
        )
        log_stream = self._log_stream(endpoint, f"{variant.name}/preparation-{deployment.generation}")
        await model_server.prepare(launch, log_stream, self._fork_server)
        return await asyncio.to_thread(
            _model_bytes, launch.environment.get("HF_MODEL_ID"), launch.model_directory
        )

    async def start(
        self, running: RunningInstance, variant: Variant, *, expected_instances: int
    ) -> ModelServer:
        """Start the instance's model server.

        expected_instances: of all endpoints; they share the machine's cores. Raises ModelUnavailable, and
        Unavailable on a full disk.
        """
        instance_type = self._types.get(variant.instance_type)
        count = admission.threads(
            cores=machine.cores(), vcpus=instance_type.vcpus, expected_instances=expected_instances
        )
        async_config = running.endpoint.async_config
        asked = async_config and async_config.max_concurrent_invocations_per_instance
        launch = await self._launch(
            running.endpoint,
            variant,
            # An agent finds out how many of them are best; what comes in real time passes none.
            concurrency=asked or (max(2, count) if async_config is None else MOST),
            threads=count,
            gpus=running.gpus,
            memory_limit_bytes=self._memory_limit_bytes(instance_type),
        )
        log_stream = self._log_stream(running.endpoint, f"{variant.name}/{running.id}")
        return await ModelServer.start(launch, log_stream, self._fork_server)

    async def _launch(
        self,
        endpoint: Endpoint,
        variant: Variant,
        *,
        concurrency: int,
        threads: int,
        memory_limit_bytes: int | None,
        gpus: tuple[int, ...] = (),
    ) -> Launch:
        container = variant.container
        return Launch(
            image=container.get("Image", ""),
            model_directory=await self._files.fetch(container, endpoint.account),
            cache=self.cache,
            cache_bytes=self._settings.model_cache_bytes,
            environment=container.get("Environment", {}),
            region=self._settings.region,
            concurrency=concurrency,
            threads=threads,
            gpus=gpus,
            memory_limit_bytes=memory_limit_bytes,
        )

    def _memory_limit_bytes(self, instance_type: InstanceType) -> int | None:
        """What a model may take before its allocations fail, and not another's."""
        if instance_type.gpus:
            return None  # CUDA maps far more than it uses
        capacity = self._capacity_bytes()
        return min(capacity, instance_type.memory_bytes or capacity)

    def _capacity_bytes(self) -> int:
        return admission.capacity_bytes(
            total_bytes=machine.memory().total_bytes, limit_bytes=self._settings.memory_limit_bytes
        )

    def _log_stream(self, endpoint: Endpoint, name: str) -> LogStream:
        return self._logs.of(endpoint.account).stream(f"/aws/sagemaker/Endpoints/{endpoint.name}", name)


def _model_bytes(model_id: str | None, directory: Path | None) -> int | None:
    if model_id:
        if model_id.startswith("ebbtide/"):
            return 0  # built in
        directory = Path(model_id)
    return size_bytes_of(directory) if directory is not None and directory.is_dir() else None
