"""An echo on Ray Serve's task consumer: its Celery adapter on Redis. As a program it serves two replicas."""

import os
import tempfile
import threading
import time

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before its import: a bench tells nobody

import ray
from ray import serve
from ray.serve.schema import CeleryAdapterConfig, TaskProcessorConfig, TaskResult
from ray.serve.task_consumer import instantiate_adapter_from_config, task_consumer, task_handler
from redis import Redis

broker, results = f"{os.environ['REDIS_URL']}/0", f"{os.environ['REDIS_URL']}/1"

LOOK_AGAIN_S = 0.001
OBJECT_STORE_BYTES = 100 * 1024**2

config = TaskProcessorConfig(
    queue_name="echoes", adapter_config=CeleryAdapterConfig(broker_url=broker, backend_url=results)
)
adapter = instantiate_adapter_from_config(config)


def submit(payload: dict) -> TaskResult:
    return adapter.enqueue_task_sync("echo", args=[payload])


def result(submitted: TaskResult) -> dict:
    while True:
        seen = adapter.get_task_status_sync(submitted.id)
        if seen.status == "SUCCESS":
            return seen.result
        time.sleep(LOOK_AGAIN_S)


def stored() -> int:
    return Redis.from_url(results).dbsize()


def serve_echo() -> None:
    """Serve until killed."""

    @serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.5})
    @task_consumer(task_processor_config=config)
    class Echo:
        @task_handler(name="echo")
        def echo(self, payload: dict) -> dict:
            return payload

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        _node_ip_address="127.0.0.1",
        _temp_dir=tempfile.gettempdir(),
    )
    serve.start(proxy_location="Disabled")
    serve.run(Echo.bind(), route_prefix=None)
    threading.Event().wait()


if __name__ == "__main__":
    serve_echo()
