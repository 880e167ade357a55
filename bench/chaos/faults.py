"""Carries out the blows: each fault is one method that strikes, holds and lets go."""

import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

import psutil
from tests.foreign_store import Gateway

from bench.chaos.clients import Clients, Receiver, cut_uploads
from bench.chaos.databases import NotLocked, PrivatePostgreSQL, SQLiteFile
from bench.chaos.observation import Observations
from bench.chaos.plan import FAULTS, Blow
from bench.chaos.server import Server, SmallDisk, WallClock

HURRY_AFTER_S = 0.3
REFILL_S = 0.02
LOOK_S = 0.1
LONGEST_WAIT_S = 10.0
CLOCK_OFFSETS_S = (600, -600, 7200, -7200, 3 * 86_400, -86_400)
"""Within what a signature may be off (15 min), and beyond."""


class Faults:
    """What can be struck. `left_out` says why some faults are not possible here."""

    def __init__(
        self,
        server: Server,
        clients: Clients,
        receiver: Receiver,
        seen: Observations,
        *,
        disk: SmallDisk | None,
        clock: WallClock | None,
        database: SQLiteFile | PrivatePostgreSQL,
        outside: Gateway,
        second: Server | None,
        left_out: dict[str, str],
    ) -> None:
        """outside: before the outside store. second: a server beside the same database."""
        self.cut_keys: list[str] = []
        self._server = server
        self._clients = clients
        self._receiver = receiver
        self._seen = seen
        self._disk = disk
        self._clock = clock
        self._database = database
        self._outside = outside
        self._second = second
        self._carry_out: dict[str, Callable[[Blow], None]] = {
            "kill a model server": partial(self._signal, server.model_servers, signal.SIGKILL),
            "stop a model server": partial(self._signal, server.model_servers, signal.SIGSTOP),
            "kill the process that writes": partial(self._signal, server.writer_processes, signal.SIGKILL),
            "stop the process that writes": partial(self._signal, server.writer_processes, signal.SIGSTOP),
            "kill the server": partial(self._kill_server, server),
            "stop the server": partial(self._stop_server, server),
            "kill the second server": partial(self._kill_server, second),
            "stop the second server": partial(self._stop_server, second),
            "drain the server": self._drain,
            "drain the server, then hurry it": self._hurry,
            "fill the disk": self._fill_disk,
            "lock the database": self._lock_database,
            "kill the database": self._kill_database,
            "set the wall clock": self._set_clock,
            "cut uploads": self._cut_uploads,
            "have the outside store answer 500": self._outside_refuses,
            "have the outside store hang": self._outside_hangs,
            "refuse notifications": self._refuse,
        }
        self.possible = [each.name for each in FAULTS if each.name in self._carry_out.keys() - left_out]

    def carry_out(self, blows: Iterable[Blow], *, seconds: float) -> None:
        """Strike for so long, several targets at once; returns when all is let go.

        A blow whose target still bears another waits for that, and those after it with it.
        """
        until = time.monotonic() + seconds
        busy: dict[str, threading.Lock] = defaultdict(threading.Lock)
        striking = []
        for blow in blows:
            time.sleep(blow.after_s)
            if time.monotonic() > until:
                break
            busy[blow.fault.target].acquire()
            thread = threading.Thread(target=self._strike, args=(blow, busy[blow.fault.target]))
            thread.start()
            striking.append(thread)
        for thread in striking:
            thread.join()

    def _strike(self, blow: Blow, busy: threading.Lock) -> None:
        try:
            self._carry_out[blow.fault.name](blow)
        except Exception as error:  # noqa: BLE001 - a thread's end would go unseen
            self._seen.violate(f"the storm could not {blow.fault.name}: {error!r}")
        finally:
            busy.release()

    def _over(self, blow: Blow) -> None:
        self._seen.strike_ended(blow.fault.name)

    def _signal(self, find: Callable[[], list[psutil.Process]], number: signal.Signals, blow: Blow) -> None:
        """Kill or stop one of those that there are."""
        until = time.monotonic() + LONGEST_WAIT_S
        while not (alive := sorted(find(), key=lambda process: process.pid)):
            if time.monotonic() > until:
                return
            time.sleep(LOOK_S)  # the server is down, or only coming up
        struck = alive[int(blow.pick * len(alive))]
        with suppress(psutil.NoSuchProcess):
            struck.send_signal(number)
            if number is signal.SIGSTOP:
                time.sleep(blow.hold_s)
                struck.send_signal(signal.SIGCONT)
        self._over(blow)

    def _kill_server(self, struck: Server | None, blow: Blow) -> None:
        assert struck is not None
        struck.await_up()
        struck.kill()
        self._over(blow)

    def _stop_server(self, struck: Server | None, blow: Blow) -> None:
        assert struck is not None
        struck.await_up()
        struck.send(signal.SIGSTOP)
        time.sleep(blow.hold_s)
        struck.send(signal.SIGCONT)
        self._over(blow)

    def _drain(self, blow: Blow) -> None:
        self._server.await_up()
        self._server.terminate()
        self._over(blow)

    def _hurry(self, blow: Blow) -> None:
        self._server.await_up()
        self._server.terminate(hurry_after_s=HURRY_AFTER_S)
        self._over(blow)

    def _fill_disk(self, blow: Blow) -> None:
        assert self._disk is not None
        until = time.monotonic() + blow.hold_s
        try:
            while time.monotonic() < until:
                self._disk.fill()
                time.sleep(REFILL_S)
        finally:
            self._disk.free()
        self._over(blow)

    def _lock_database(self, blow: Blow) -> None:
        with suppress(NotLocked):
            with self._database.locked():
                time.sleep(blow.hold_s)
            self._over(blow)

    def _kill_database(self, blow: Blow) -> None:
        assert isinstance(self._database, PrivatePostgreSQL)
        self._database.kill()
        self._over(blow)

    def _set_clock(self, blow: Blow) -> None:
        assert self._clock is not None
        self._clock.set(CLOCK_OFFSETS_S[int(blow.pick * len(CLOCK_OFFSETS_S))])
        time.sleep(blow.hold_s)
        self._clock.set(0)
        self._over(blow)

    def _cut_uploads(self, blow: Blow) -> None:
        self.cut_keys += cut_uploads(self._clients, self._server.running, len(self.cut_keys))
        self._over(blow)

    def _outside_refuses(self, blow: Blow) -> None:
        self._outside.status = 500
        time.sleep(blow.hold_s)
        self._outside.status = None
        self._over(blow)

    def _outside_hangs(self, blow: Blow) -> None:
        """Then half of the time what it took in is carried out after all, whoever waits for it by then."""
        self._outside.fall_silent(late=blow.pick < 0.5)
        time.sleep(blow.hold_s)
        self._outside.speak()
        self._over(blow)

    def _refuse(self, blow: Blow) -> None:
        self._receiver.refusing.set()
        time.sleep(blow.hold_s)
        self._receiver.refusing.clear()
        self._over(blow)
