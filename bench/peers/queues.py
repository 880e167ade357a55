"""The task queues that are measured, each as its documentation sets it up with two worker processes."""

from dataclasses import replace
from functools import partial

from bench.peers import services
from bench.peers.peer import COROUTINES, THREADS, Peer

SNAPSHOTS = "Redis as it comes, snapshots only: a crash takes what came since the last"
ALWAYS = "Redis with appendfsync always: on disk before the answer"
COMMITTED = "PostgreSQL as it comes: on disk before the answer"

CELERY = Peer(
    name="Celery",
    durability=SNAPSHOTS,
    app="celery_echo",
    requirements="requirements.txt",
    workers=("celery -A celery_echo worker --pool prefork --concurrency 2 --loglevel WARNING",),
    concurrency="prefork, 2 processes",
    submitters=THREADS,
    backend=services.redis,
    url_in="REDIS_URL",
)
DRAMATIQ = replace(
    CELERY,
    name="Dramatiq",
    app="dramatiq_echo",
    workers=("dramatiq --processes 2 --threads 8 dramatiq_echo",),
    concurrency="2 processes with 8 threads",
)
TASKIQ = replace(
    CELERY,
    name="Taskiq",
    app="taskiq_echo",
    workers=("taskiq worker --workers 2 --log-level WARNING taskiq_echo:broker",),
    concurrency="2 processes with up to 100 coroutines",
    submitters=COROUTINES,
)
PROCRASTINATE = Peer(
    name="Procrastinate",
    durability=COMMITTED,
    app="procrastinate_echo",
    requirements="requirements.txt",
    workers=("procrastinate --app procrastinate_echo.app worker --concurrency 4",) * 2,
    concurrency="2 processes with up to 4 coroutines",
    submitters=COROUTINES,
    backend=services.postgres,
    url_in="POSTGRES_URL",
    prepare="python procrastinate_echo.py",
)
RAY = replace(
    CELERY,
    name="Ray Serve",
    app="ray_echo",
    requirements="requirements-ray.txt",
    workers=("python ray_echo.py",),
    concurrency="2 replicas with 5 threads",
)


def durable(peer: Peer) -> Peer:
    """The same on a Redis that loses nothing it has acknowledged, as ebbtide does."""
    options = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
    return replace(
        peer,
        name=f"{peer.name}, durable",
        durability=ALWAYS,
        backend=partial(services.redis, options=options),
    )


PEERS = [
    *(CELERY, durable(CELERY)),
    *(DRAMATIQ, durable(DRAMATIQ)),
    *(TASKIQ, durable(TASKIQ)),
    PROCRASTINATE,
]
PEERS_ON_RAY = [RAY, durable(RAY)]
