"""An echo on Celery: Redis for its broker and its results, everything else as Celery comes."""

import os

from celery import Celery
from celery.result import AsyncResult
from redis import Redis

broker, results = f"{os.environ['REDIS_URL']}/0", f"{os.environ['REDIS_URL']}/1"

app = Celery("celery_echo", broker=broker, backend=results)


@app.task
def echo(payload: dict) -> dict:
    return payload


def submit(payload: dict) -> AsyncResult:
    return echo.delay(payload)


def result(submitted: AsyncResult) -> dict:
    return submitted.get(timeout=60)


def stored() -> int:
    return Redis.from_url(results).dbsize()
