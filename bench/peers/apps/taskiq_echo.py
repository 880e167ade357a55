"""An echo on Taskiq: a Redis stream for its broker, the one of its Redis brokers that acknowledges, and Redis
for its results.
"""

import os

from redis.asyncio import Redis
from taskiq import AsyncTaskiqTask
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

broker_url, results_url = f"{os.environ['REDIS_URL']}/0", f"{os.environ['REDIS_URL']}/1"

broker = RedisStreamBroker(broker_url).with_result_backend(RedisAsyncResultBackend(results_url))


@broker.task
async def echo(payload: dict) -> dict:
    return payload


async def connect() -> None:
    await broker.startup()


async def submit(payload: dict) -> AsyncTaskiqTask:
    return await echo.kiq(payload)


async def result(submitted: AsyncTaskiqTask) -> dict:
    # It looks every 200 ms unless told otherwise.
    return (await submitted.wait_result(check_interval=0.001, timeout=60)).return_value


async def stored() -> int:
    async with Redis.from_url(results_url) as results:
        return await results.dbsize()
