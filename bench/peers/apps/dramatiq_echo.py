"""An echo on Dramatiq: Redis for its broker and its results."""

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from redis import Redis

broker_url, results_url = f"{os.environ['REDIS_URL']}/0", f"{os.environ['REDIS_URL']}/1"

broker = RedisBroker(url=broker_url)
broker.add_middleware(Results(backend=RedisBackend(url=results_url)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def echo(payload: dict) -> dict:
    return payload


def submit(payload: dict) -> dramatiq.Message:
    return echo.send(payload)


def result(submitted: dramatiq.Message) -> dict:
    return submitted.get_result(block=True, timeout=60_000)


def stored() -> int:
    return Redis.from_url(results_url).dbsize()
