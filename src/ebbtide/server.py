"""Builds the parts, starts the loops, stops them in order.

One process on one port: every AWS API, and the loops that make endpoints what was asked for. Each loop is a
part's `run`; all of them end when `stop` is set, the fleet last, when its instances have drained.

Of servers that share a PostgreSQL database only the leader (peers.py) runs the loops; the others answer
requests and tell it what they have committed. A leader that finds another in its place begins anew, as a
follower.
"""

import asyncio
import fcntl
import gc
import json
import logging
import resource
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from sqlalchemy import Connection
from sqlalchemy.exc import DatabaseError

from ebbtide import clock, loops, metrics, migrations
from ebbtide.accounts import Keyring
from ebbtide.api.application import Application
from ebbtide.api.call import Parts
from ebbtide.api.sagemaker_runtime import invocation
from ebbtide.database import Database, postgresql_url
from ebbtide.http_server import HTTPServer
from ebbtide.instances.fleet import Fleet
from ebbtide.instances.types import InstanceTypes
from ebbtide.logs import LogStore
from ebbtide.metrics import alarm_states, alarms
from ebbtide.notifications import bucket_configuration, topics
from ebbtide.notifications.arrivals import Arrivals
from ebbtide.notifications.deliveries import Deliveries
from ebbtide.notifications.move_tasks import MoveTasks
from ebbtide.notifications.object_events import Notifier
from ebbtide.notifications.signing import Signer
from ebbtide.objects.followers import Followers
from ebbtide.objects.lifecycle import Lifecycle
from ebbtide.objects.outside import Outside
from ebbtide.objects.outside_file import read_file
from ebbtide.objects.store import ObjectStore
from ebbtide.peers import ARRIVALS, CHANGES, LOOK, QUEUE, LeadershipLost, Peers
from ebbtide.queue import invocations, upload_rules
from ebbtide.queue.changes import Change, Changes
from ebbtide.queue.completion import Completion
from ebbtide.queue.intake import Intake
from ebbtide.queue.owed import Owed
from ebbtide.queue.reaper import Reaper
from ebbtide.queue.retention import Retention
from ebbtide.queue.steering import Steering
from ebbtide.queue.wakeups import Wakeups
from ebbtide.scaling.scaler import Scaler
from ebbtide.settings import CREDENTIALS_FILE, Credentials, Settings, credentials, keep_credentials
from ebbtide.shared_secrets import share

log = logging.getLogger(__name__)

HOUSEKEEPING_S = 300.0
CLOCK_KEPT_EVERY_S = 2.0

MOST_FILES, OWN_FILES = 65_536, 512
"""Files that the server wants to have open at most, and how many of them it leaves to all but connections."""

COLLECT_AFTER = (10_000, 10, 10)
"""After how many more objects cycles that nobody reaches are looked for, and how often among older ones. What
was imported is left out for good (`gc.freeze`, here and where service models are loaded): else every search
takes 90 ms, one in each second of a burst, and finds nothing.
"""


class StartError(Exception):
    """The server cannot start; the message says why in one line."""


async def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Run until SIGINT or SIGTERM, then drain; a second signal ends the drain.

    `on_ready` gets the URL once requests are answered. Raises StartError.
    """
    _make_data_directory(settings.data)
    with _sole_holder(settings.data):
        clock.resume(settings.data)
        # Bound as long as we are here, and not listening: nobody else gets the port before we listen on it,
        # or while we begin anew.
        with _bound(settings) as place:
            settings = replace(settings, port=place.getsockname()[1])
            while True:
                try:
                    await _serve(settings, on_ready)
                    return
                except LeadershipLost as error:
                    log.warning("%s: this server begins anew as a follower", error)


async def _serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """`serve`, with the data directory held. Raises LeadershipLost, with nothing left running."""
    with closing(await asyncio.to_thread(_open_database, settings)) as database:
        key = _credentials(settings, database)
        url = f"http://{_authority(settings.host, settings.port)}"
        peers = None
        if settings.database is not None:
            peers = Peers(settings.database, database, settings.address or url)
        try:
            parts = _build(settings, database, key, peers)
        except ValueError as error:  # a setting whose value a part cannot use
            raise StartError(str(error)) from error
        stop, hurry = _signals()
        term = _Term(parts)
        own_loops = [asyncio.create_task(loop) for loop in _own_loops(parts, stop)]
        await parts.keyring.refresh()
        leaving = asyncio.Event()
        if peers is None:
            await term.begin()
            following = asyncio.create_task(_until(stop))
        else:
            following = asyncio.create_task(peers.run(leaving))
            term.begin_when(peers.leads)
        application = Application(parts)
        http = HTTPServer(application, most_connections=_connection_count())
        await http.listen(_bound(settings))
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)
        on_ready(url)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, following], return_when=asyncio.FIRST_COMPLETED)
        asked_to_stop = stop.is_set()
        if following.done() and not asked_to_stop:
            hurry.set()  # whoever leads now has taken over what runs here
        stop.set()
        parts.stopping.set()
        parts.deliveries.arrivals.close()
        await _finish(http.close(), settings.drain_timeout_s, hurry)
        await application.close()
        await term.end(hurry)
        await asyncio.gather(stopping, *own_loops)
        parts.logs.close()
        # Only now may another server lead: what ran here has drained.
        leaving.set()
        try:
            await following
        except LeadershipLost:
            if not asked_to_stop:
                raise


class _Term:
    """The time in which this server runs the loops and the instances: all of it, or while it leads."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stop = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._beginning: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Do what a start does, and start the loops."""
        # Whoever held a claim was the former server, and that is gone.
        await loops.until_available(
            lambda: self._parts.database.write(
                lambda connection: invocations.release_all(connection, now=clock.now())
            )
        )
        self._loops = [asyncio.create_task(loop) for loop in _loops(self._parts, self._stop)]

    def begin_when(self, leads: asyncio.Event) -> None:
        """Begin as soon as this server leads."""
        self._beginning = asyncio.create_task(self._begin_when(leads))

    async def _begin_when(self, leads: asyncio.Event) -> None:
        await leads.wait()
        await self.begin()

    async def end(self, hurry: asyncio.Event) -> None:
        """Stop the loops, and drain the instances; once hurried, hand back what they have in work."""
        self._stop.set()
        if self._beginning is not None:
            self._beginning.cancel()
            with suppress(asyncio.CancelledError):
                await self._beginning
        await _finish(self._parts.fleet.drain(), self._parts.settings.drain_timeout_s, hurry)
        await self._parts.fleet.close()
        await asyncio.gather(*self._loops)


def _build(settings: Settings, database: Database, key: Credentials, peers: Peers | None) -> Parts:
    if peers is None:
        wakeups, changes, arrivals = Wakeups(), Changes(), Arrivals()
    else:
        wakeups = Wakeups(partial(peers.tell_leader, QUEUE))
        changes = Changes(lambda change: peers.tell(CHANGES, asdict(change)))
        arrivals = Arrivals(partial(peers.tell, ARRIVALS))
    objects = ObjectStore(settings.objects or settings.data / "objects", database, _outside(settings))
    logs = LogStore(settings.data / "logs")
    signer = Signer(settings.data / "sns", None if peers is None else partial(share, database.engine, "sns"))
    deliveries = Deliveries(settings, database, signer, logs, arrivals)
    fence = None if peers is None else peers.check_leading
    completion = Completion(database, changes, deliveries.wake, lease_s=settings.lease_s)
    fleet = Fleet(settings, database, objects, logs, wakeups, changes, completion, fence)
    types = InstanceTypes(settings.instance_types_file)
    scaler = Scaler(database, wakeups, fleet.wake, types.price_per_s)
    intake = Intake(database, wakeups, changes, lease_s=settings.lease_s)
    parts = Parts(
        settings=settings,
        peers=peers,
        stopping=asyncio.Event(),
        database=database,
        keyring=Keyring(key, database, shared=peers is not None),
        objects=objects,
        wakeups=wakeups,
        changes=changes,
        intake=intake,
        steering=Steering(database, objects, changes, wakeups, deliveries.wake, region=settings.region),
        deliveries=deliveries,
        move_tasks=MoveTasks(database, arrivals),
        followers=_followers(database, deliveries, intake),
        logs=logs,
        fleet=fleet,
        scaler=scaler,
    )
    if peers is not None:
        _hear(parts, peers)
    return parts


def _hear(parts: Parts, peers: Peers) -> None:
    """Have the parts told of what other servers tell."""

    def look(_: None) -> None:
        parts.wakeups.wake_all()
        for part in (parts.deliveries, parts.move_tasks, parts.followers, parts.fleet, parts.scaler):
            part.wake()

    peers.hear(LOOK, look)
    peers.hear(QUEUE, parts.wakeups.wake)
    peers.hear(ARRIVALS, parts.deliveries.arrivals.wake)
    peers.hear(CHANGES, lambda change: parts.changes.pass_on(Change(**change)))


def _followers(database: Database, deliveries: Deliveries, intake: Intake) -> Followers:
    """Who acts on what happens to objects of watched buckets."""
    handlers = {
        bucket_configuration.CONSUMER: Notifier(deliveries).tell,
        upload_rules.CONSUMER: upload_rules.Uploads(intake, invocation).invoke,
    }
    return Followers(database, handlers)


def _outside(settings: Settings) -> dict[str, Outside]:
    if settings.outside_stores_file is None:
        return {}
    return {name: Outside(bucket) for name, bucket in read_file(settings.outside_stores_file).items()}


def _loops(parts: Parts, stop: asyncio.Event) -> Iterator[Coroutine[None, None, None]]:
    reaper = Reaper(
        parts.settings,
        parts.database,
        parts.objects,
        parts.wakeups,
        parts.changes,
        parts.deliveries.wake,
        parts.fleet,
    )
    owed = Owed(parts.database, parts.objects, parts.deliveries.wake, region=parts.settings.region)
    retention = Retention(parts.database, retention_s=parts.settings.retention_s)
    for part in (
        parts.fleet,
        parts.scaler,
        parts.deliveries,
        parts.move_tasks,
        parts.followers,
        parts.objects,
    ):
        yield part.run(stop)
    yield loops.run("reaper", reaper.step, stop)
    yield loops.run("owed outcomes", owed.step, stop)
    yield loops.run("retention", retention.step, stop)
    yield alarms.Alarms(parts.database, _alarm_action(parts)).run(stop)
    yield loops.run("housekeeping", _housekeeping(parts), stop)
    yield Lifecycle(parts.database).run(stop)


def _own_loops(parts: Parts, stop: asyncio.Event) -> Iterator[Coroutine[None, None, None]]:
    """What every server does, whether it leads or not."""
    yield loops.run("keys", parts.keyring.step, stop)
    yield loops.run("clock", _clock_keeping(parts.settings.data), stop)


def _alarm_action(parts: Parts) -> Callable[[alarm_states.Alarm, str], Awaitable[None]]:
    """What an alarm's action does: carry out a scaling policy, or tell a topic."""

    async def act(alarm: alarm_states.Alarm, action_arn: str) -> None:
        if alarm_states.is_scaling_policy(action_arn):
            await parts.scaler.execute_policy(action_arn, alarm)
            return
        subject, message = alarm_states.notification(alarm)

        def publish(connection: Connection) -> None:
            topics.publish(connection, action_arn, message, subject=subject, at=clock.now())

        await parts.database.write(publish)
        parts.deliveries.wake()

    return act


def _housekeeping(parts: Parts) -> Callable[[float], Awaitable[float]]:
    async def step(now: float) -> float:
        await parts.database.write(lambda connection: metrics.roll_up(connection, now))
        await asyncio.to_thread(parts.logs.expire, now)
        return HOUSEKEEPING_S

    return step


def _clock_keeping(data: Path) -> Callable[[float], Awaitable[float]]:
    async def step(_now: float) -> float:
        await asyncio.to_thread(clock.keep, data)
        return CLOCK_KEPT_EVERY_S

    return step


async def _finish(work: Coroutine[None, None, None], timeout_s: float, hurry: asyncio.Event) -> None:
    """Have what is in work finished; cancelled once hurried, or after so long."""
    finishing, hurried = asyncio.create_task(work), asyncio.create_task(hurry.wait())
    await asyncio.wait([finishing, hurried], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    finishing.cancel()
    with suppress(asyncio.CancelledError):
        await finishing


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first SIGINT or SIGTERM, and by the second."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def received() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, received)
    return stop, hurry


def _connection_count() -> int:
    """How many connections may be open at a time; who says nothing on one keeps nobody else waiting.

    The limit of open files is raised as far as the system lets us.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft == resource.RLIM_INFINITY or soft > most:
        return MOST_FILES - OWN_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # Under a low limit a part of it: with none left over, nothing could be opened or started any more.
    return max(most // 2, most - OWN_FILES)


def _make_data_directory(data: Path) -> None:
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = data / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StartError(f"The data directory {data} is not writable: {error.strerror}") from error


@contextmanager
def _sole_holder(data: Path) -> Iterator[None]:
    """Hold the data directory's lock; two servers on one directory would both claim its work."""
    with (data / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartError(f"The data directory {data} is in use by another ebbtide server") from error
        yield


def _credentials(settings: Settings, database: Database) -> Credentials:
    """The operator's key: this data directory's, or that of the servers beside the same database."""
    try:
        own = credentials(settings.data)
    except ValueError as error:
        raise StartError(str(error)) from error
    if settings.database is None:
        return own
    shared = Credentials(**json.loads(share(database.engine, "operator", json.dumps(asdict(own)))))
    if shared != own:
        if (settings.data / CREDENTIALS_FILE).exists():
            # Commands on this machine find the key there.
            keep_credentials(settings.data, shared)
        else:
            raise StartError(
                "EBBTIDE_ACCESS_KEY_ID and EBBTIDE_SECRET_ACCESS_KEY are not the key of the servers beside "
                "this database"
            )
    return shared


def _open_database(settings: Settings) -> Database:
    where: Path | str = settings.database or settings.data / "ebbtide.db"
    try:
        shown = where if isinstance(where, Path) else postgresql_url(where)  # hides the password
        database = Database(where)
    except ImportError as error:
        raise StartError("PostgreSQL needs its driver: pip install 'ebbtide[postgresql]'") from error
    except ValueError as error:
        raise StartError(str(error)) from error
    except DatabaseError as error:
        raise StartError(f"The database {shown} cannot be used: {error.orig}") from error
    try:
        migrations.migrate(database.engine)
    except (migrations.NewerDatabase, DatabaseError) as error:
        database.close()
        cause = error.orig if isinstance(error, DatabaseError) else error
        raise StartError(f"The database {shown} cannot be used: {cause}") from error
    return database


def _bound(settings: Settings) -> socket.socket:
    """A socket at the server's address. Raises StartError."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # By its protocol asyncio knows that small answers need not wait for company.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        where = _authority(settings.host, settings.port)
        raise StartError(f"Cannot listen on {where}: {error.strerror}") from error
    return listener


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
