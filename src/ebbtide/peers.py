"""Servers beside one PostgreSQL database: which of them leads, and what they tell each other.

All of them answer requests. One, the leader, runs the loops and the instances: it holds an advisory lock on a
connection of its own, which PostgreSQL gives up with the connection, and with one that is silent, so that a
leader that dies or hangs is followed within seconds. Who led last stays written: after an interruption of
that connection the former leader goes on with its instances, and learns so if another has led since.

What happens on one server and concerns others travels by NOTIFY after its commit. It may be lost on the way,
so whoever waits also looks from time to time: `look` is heard then, and at each new connection.
"""

import asyncio
import json
import logging
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import BigInteger, Column, Connection, Float, Integer, String, Table, text

from ebbtide import clock
from ebbtide.database import Database, metadata, postgresql_url
from ebbtide.errors import Unavailable

if TYPE_CHECKING:
    from psycopg import AsyncConnection

log = logging.getLogger(__name__)

CHANNEL = "ebbtide"

LEADER_LOCK = 0x656262_03
"""PostgreSQL's advisory lock of the leader."""

BEAT_S = 0.5
"""How often a follower tries to lead, and the leader makes sure that it does."""

PACE_S = 0.01
"""Between messages: what happens meanwhile goes into the next one."""

BEAT_TIMEOUT_S = 4.0
"""A beat that takes longer means that PostgreSQL is out of reach."""

SILENT = "6s"
"""PostgreSQL ends a connection that has not beaten for so long, and gives its lock up: its server was
stopped, or hangs. The server learns it when it goes on."""

FORMER_LEADER_S = 2.0
"""How long others wait after they have reached PostgreSQL again: the former leader, whose instances run, is
first."""

LOOK_EVERY_S = 5.0

MESSAGE_BYTES = 7000
"""Most bytes told at once. Source: NOTIFY, PostgreSQL documentation: shorter than 8000."""

LOOK, QUEUE, ARRIVALS, CHANGES = "look", "queue", "arrivals", "changes"
"""What is told: something changed (no value), an endpoint's queue (its id), a queue of messages (its ARN), a
change of an invocation's state (its fields)."""

# One row, of who has led last.
leadership = Table(
    "leadership",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("holder", String, nullable=False),
    Column("term", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("url", String, nullable=False),
    Column("since", Float, nullable=False),
)

_LEAD = text("""
INSERT INTO leadership (id, holder, term, url, since) VALUES (1, :holder, 1, :url, :now)
ON CONFLICT (id) DO UPDATE
SET holder = excluded.holder, term = leadership.term + 1, url = excluded.url, since = excluded.since
""")
_LEADER = text("SELECT holder, url FROM leadership WHERE id = 1")
_NOTIFY = text("SELECT pg_notify(:channel, :message)")


class LeadershipLost(Unavailable):
    """Another server leads now."""


@dataclass(frozen=True, slots=True)
class Leader:
    """The server that led last: its id, and where other servers reach it."""

    holder: str
    url: str


class Peers:
    """This server among those beside its database. Used on the event loop only.

    url: the database's; address: where other servers reach this one.
    """

    def __init__(self, url: str, database: Database, address: str) -> None:
        self.id = uuid.uuid4().hex
        self.leads = asyncio.Event()
        self._url = postgresql_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._database = database
        self._address = address
        self._hearers: dict[str, list[Callable[[Any], None]]] = defaultdict(list)
        self._untold: dict[tuple[str, str], None] = {}
        self._telling: asyncio.Task[None] | None = None
        self._others = True
        self._looked_at = 0.0

    def hear(self, what: str, hearer: Callable[[Any], None]) -> None:
        """Have `hearer` called with each value that other servers tell of `what`."""
        self._hearers[what].append(hearer)

    def tell(self, what: str, value: Any = None) -> None:
        """Tell the others, soon; the same said twice meanwhile is told once."""
        if not self._others:
            return
        self._untold[what, json.dumps(value)] = None
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell())

    def tell_leader(self, what: str, value: Any = None) -> None:
        """`tell`, unless this is the leader."""
        if not self.leads.is_set():
            self.tell(what, value)

    async def leader(self) -> Leader | None:
        """The server that leads, as far as the database knows; None before there was any."""
        return await self._database.read(_leader)

    def check_leading(self, connection: Connection) -> None:
        """For the leader's own transactions: what it decided may be outdated. Raises LeadershipLost."""
        if (found := _leader(connection)) is None or found.holder != self.id:
            raise LeadershipLost("Another server beside this database leads now")

    async def run(self, stop: asyncio.Event) -> None:
        """Follow, and lead when it is our turn (`leads` is set from then on), until told to stop.

        Raises LeadershipLost when we led and another server does now.
        """
        from psycopg import Error

        while not stop.is_set():
            try:
                connection = await self._connect()
                try:
                    await self._attend(connection, stop)
                finally:
                    with suppress(Error, TimeoutError):
                        await connection.close()
            except (Error, OSError, TimeoutError) as error:
                log.warning("PostgreSQL is out of reach: %s", " ".join(str(error).split()) or "no answer")
                with suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), BEAT_S)

    async def _connect(self) -> "AsyncConnection[Any]":
        from psycopg import AsyncConnection

        connection = await AsyncConnection.connect(
            self._url,
            autocommit=True,
            connect_timeout=5,
            keepalives_idle=2,
            keepalives_interval=1,
            keepalives_count=3,
            tcp_user_timeout=4000,
            application_name=CHANNEL,
        )
        try:
            async with asyncio.timeout(BEAT_TIMEOUT_S):
                # PostgreSQL, too, is to notice within seconds that our machine is gone, and give the lock up.
                await connection.execute(
                    "SET tcp_keepalives_idle = 2; SET tcp_keepalives_interval = 1; "
                    "SET tcp_keepalives_count = 3; SET tcp_user_timeout = 4000; "
                    f"SET idle_session_timeout = '{SILENT}'"
                )
                await connection.execute(f"LISTEN {CHANNEL}")
        except BaseException:
            await connection.close()
            raise
        return connection

    async def _attend(self, connection: "AsyncConnection[Any]", stop: asyncio.Event) -> None:
        """Beat until told to stop or the connection breaks."""
        reached_at = time.monotonic()
        # At the very start nobody has led before us, or it is dead or connected.
        patient = self._looked_at > 0
        self._heard(LOOK, None)
        while not stop.is_set():
            async with asyncio.timeout(BEAT_TIMEOUT_S):
                held = await self._beat(connection, may_lead=self.leads.is_set() or not patient)
            patient = patient and time.monotonic() - reached_at < FORMER_LEADER_S
            if held and not self.leads.is_set():
                await self._lead()
            elif not held and self.leads.is_set():
                # Ours, it may be, that PostgreSQL has not given up yet; or another server's.
                found = await self._look_for_leader()
                if found is not None and found.holder != self.id:
                    raise LeadershipLost("Another server beside this database leads now")
            if time.monotonic() - self._looked_at > LOOK_EVERY_S:
                self._heard(LOOK, None)
            await self._listen(connection, stop)

    async def _beat(self, connection: "AsyncConnection[Any]", *, may_lead: bool) -> bool:
        """Count the others, and try to hold the lock; whether we do."""
        cursor = await connection.execute(
            # What is held already is not taken once more.
            "SELECT count(*) FILTER (WHERE pid <> pg_backend_pid()), %s AND (EXISTS ("
            "  SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted"
            "  ) OR pg_try_advisory_lock(%s))"
            "  FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s",
            (may_lead, LEADER_LOCK, CHANNEL),
        )
        row = await cursor.fetchone()
        assert row is not None
        self._others = row[0] > 0
        return bool(row[1])

    async def _lead(self) -> None:
        values = {"holder": self.id, "url": self._address}
        try:
            await self._database.write(lambda c: c.execute(_LEAD, values | {"now": clock.now()}))
        except Unavailable as error:
            log.warning("This server cannot lead yet: %s", error)
            return
        log.info("This server leads")
        self.leads.set()

    async def _look_for_leader(self) -> Leader | None:
        try:
            return await self.leader()
        except Unavailable:
            return None

    async def _listen(self, connection: "AsyncConnection[Any]", stop: asyncio.Event) -> None:
        """Hear what is told until the next beat."""
        own = connection.info.backend_pid
        async for notification in connection.notifies(timeout=BEAT_S):
            if notification.pid == own:
                continue
            for sender, what, value in json.loads(notification.payload):
                if sender != self.id:
                    self._heard(what, value)
            if stop.is_set():
                return

    def _heard(self, what: str, value: Any) -> None:
        if what == LOOK:
            self._looked_at = time.monotonic()
        for hearer in self._hearers[what]:
            hearer(value)

    async def _tell(self) -> None:
        """Tell what has gathered until nothing has."""
        try:
            while self._untold:
                untold, self._untold = list(self._untold), {}
                messages = list(_packed(self.id, untold))
                # Not the writer's: it would wait for others' commits, and there is nothing to flush.
                await self._database.read(lambda connection: _notify(connection, messages))  # noqa: B023
                await asyncio.sleep(PACE_S)
        except Unavailable as error:
            log.warning("Other servers were not told, and look by themselves: %s", error)
        finally:
            self._telling = None


def _packed(sender: str, untold: Iterable[tuple[str, str]]) -> Iterable[str]:
    """The things to tell as messages, each as full as it may be."""
    gathered: list[str] = []
    size = 0
    for what, value in untold:
        item = f"[{json.dumps(sender)},{json.dumps(what)},{value}]"
        if gathered and size + len(item) > MESSAGE_BYTES:
            yield f"[{','.join(gathered)}]"
            gathered, size = [], 0
        gathered.append(item)
        size += len(item) + 1
    if gathered:
        yield f"[{','.join(gathered)}]"


def _notify(connection: Connection, messages: Iterable[str]) -> None:
    for message in messages:
        connection.execute(_NOTIFY, {"channel": CHANNEL, "message": message})


def _leader(connection: Connection) -> Leader | None:
    row = connection.execute(_LEADER).one_or_none()
    return None if row is None else Leader(row.holder, row.url)
