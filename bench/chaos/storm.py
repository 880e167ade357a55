"""One storm from its empty directory to its report."""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tests.foreign_store import VARIABLES, ForeignS3, Gateway, foreign_s3, gateway_to, outside_file

from bench.chaos import plan
from bench.chaos.clients import (
    CHANNELS,
    NOT_NOW,
    OUTSIDE_BUCKET,
    Asking,
    Clients,
    Following,
    Receiver,
    check_cut,
    deploy,
)
from bench.chaos.databases import PrivatePostgreSQL, SQLiteFile
from bench.chaos.faults import Faults
from bench.chaos.observation import Observations
from bench.chaos.server import Server, SmallDisk, Unavailable, WallClock
from bench.chaos.verdict import Verdict, judge, recoveries_s, settled

STANDSTILL_S = 300.0
"""For how long after the last fault nothing may be accepted, told or read while anything is still to be."""

QUIET_S = 2.0
MAX_CLAIM_COUNT = 4
LEASE_S = 4
LOOK_EVERY_S = 0.2
DISK_SPARE_BYTES = 256 * plan.MB
SECONDS = frozenset({"kill the second server", "stop the second server"})
LEAD_MOVES = ("stop the server", "stop the second server", "kill the database")


def storm(
    *,
    seed: int,
    seconds: float,
    rate_per_s: float,
    log: Path,
    database: str = "sqlite",
    parked: bool = True,
    largest_bytes: int = 64 * plan.MB,
    without: frozenset[str] = frozenset(),
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run one and account for it; the report, whose `violations` are to be empty.

    log: where the server's log goes. without: faults to leave out. Raises TimeoutError when the server does
    not come up.
    """
    asks = plan.asks(seed, seconds=seconds, rate_per_s=rate_per_s, parked=parked, largest_bytes=largest_bytes)
    seen = Observations()
    with tempfile.TemporaryDirectory(prefix="ebbtide-chaos-") as place, ExitStack() as stack:
        # Each payload and each result at once, and room for the database.
        used_bytes = 2 * sum(ask.size_bytes for ask in asks) + DISK_SPARE_BYTES
        scene = _scene(stack, Path(place), log, database, used_bytes, dict.fromkeys(without, "not asked for"))
        tries = Path(place) / "tries"
        tries.touch()
        receiver = Receiver(seen)
        stack.callback(receiver.close)
        first = scene.servers[0]
        clients = Clients.of(first.running)
        queue_url = deploy(clients, first.running, receiver, tries)
        faults = scene.faults(clients, receiver, seen)
        with closing(Following(clients, scene.outside, queue_url, seen)):
            say(f"{database}, seed {seed}: {len(asks)} requests, {seconds:.0f} s of faults")
            began_at = time.monotonic()
            asking = Asking([Clients.of(each.running) for each in scene.servers], asks, seed, seen)
            faults.carry_out(plan.blows(seed, possible=faults.possible), seconds=seconds)
            calm_at = time.monotonic()
            say(f"the faults are over; {len(seen.accepted)} accepted so far")
            _progress(lambda: len(seen.accepted), asking.is_done)
            asking.give_up()
            _settle(seen)
            settled_at = time.monotonic()
        _at_last(lambda: check_cut(clients, faults.cut_keys, seen))
        for each in scene.servers:
            each.close()
            seen.broken += each.broken
        seen.broken += [f"{each.pid} was left: {each.info['cmdline']}" for each in first.model_servers()]
        seen.tries.update(tries.read_text().split())
        # The end of the server that leads puts what its models hold back without blaming it, and so does
        # another's leading in its place.
        changes = sum(each.ends for each in scene.servers) + sum(seen.struck[name] for name in LEAD_MOVES)
        verdict = judge(seen, CHANNELS, most_tries=MAX_CLAIM_COUNT + changes)
        return {
            "database": database,
            "seed": seed,
            **_report(seen, verdict, scene.left_out),
            "storm_s": round(calm_at - began_at, 1),
            "settling_s": round(settled_at - calm_at, 1),
            "servers": [{"ends": each.ends, "failed_starts": each.failed_starts} for each in scene.servers],
            "planned": len(asks),
        }


@dataclass
class _Scene:
    """What a storm breaks. servers: one, or beside a database that several may share two.

    outside: the foreign store; gateway: what stands before it. left_out: each fault that cannot be had here,
    and why.
    """

    servers: list[Server]
    database: SQLiteFile | PrivatePostgreSQL
    disk: SmallDisk | None
    clock: WallClock | None
    outside: ForeignS3
    gateway: Gateway
    left_out: dict[str, str]

    def faults(self, clients: Clients, receiver: Receiver, seen: Observations) -> Faults:
        return Faults(
            self.servers[0],
            clients,
            receiver,
            seen,
            disk=self.disk,
            clock=self.clock,
            database=self.database,
            outside=self.gateway,
            second=self.servers[1] if len(self.servers) > 1 else None,
            left_out=self.left_out,
        )


def _scene(
    stack: ExitStack, place: Path, log: Path, database: str, used_bytes: int, left_out: dict[str, str]
) -> _Scene:
    """Build it, its servers up; the stack takes it down. used_bytes: what the disk has to hold."""
    data = place / "data"
    disk, clock = _disk(data, used_bytes, left_out), _clock(place, left_out)
    if disk is not None:
        stack.callback(disk.close)
    enter = disk.enter if disk else []
    tormented = PrivatePostgreSQL() if database == "postgresql" else SQLiteFile(data / "ebbtide.db", enter)
    stack.callback(tormented.close)
    left_out |= tormented.left_out
    outside = stack.enter_context(foreign_s3())
    outside.empty()  # moto keeps what it has as long as the process lives: the last storm's
    gateway = stack.enter_context(gateway_to(outside))
    file = outside_file(place / "outside.toml", gateway.url, name=OUTSIDE_BUCKET)
    start = partial(
        Server,
        enter=enter,
        environment={
            "EBBTIDE_LEASE_S": str(LEASE_S),
            "EBBTIDE_MAX_CLAIM_COUNT": str(MAX_CLAIM_COUNT),
            "EBBTIDE_DRAIN_TIMEOUT_S": "5",
            "EBBTIDE_OBJECTS": str(data / "objects"),
            "EBBTIDE_OUTSIDE_STORES_FILE": str(file),
            **VARIABLES,
            **(clock.environment if clock else {}),
        },
        options=tormented.options,
    )
    first = start(data, log)
    stack.callback(first.close)
    first.await_up()
    servers = [first]
    if tormented.shared and not left_out.keys() >= SECONDS:
        second = start(data / "second", log.with_suffix(".second.log"), beside=first)
        stack.callback(second.close)
        second.await_up()
        servers.append(second)
    return _Scene(servers, tormented, disk, clock, outside, gateway, left_out)


def _disk(data: Path, used_bytes: int, left_out: dict[str, str]) -> SmallDisk | None:
    if "fill the disk" in left_out:
        return None
    try:
        return SmallDisk(data, used_bytes)
    except Unavailable as reason:
        left_out["fill the disk"] = str(reason)
        return None


def _clock(place: Path, left_out: dict[str, str]) -> WallClock | None:
    if "set the wall clock" in left_out:
        return None
    try:
        return WallClock(place)
    except Unavailable as reason:
        left_out["set the wall clock"] = str(reason)
        return None


def _settle(seen: Observations) -> None:
    """Wait until every outcome is told and read, and nothing more comes: what was never acknowledged, say."""

    def is_quiet() -> bool:
        told = len(seen.told)
        time.sleep(QUIET_S)
        return settled(seen, CHANNELS) and len(seen.told) == told

    _progress(lambda: seen.progress, is_quiet)


def _progress(count: Callable[[], int], is_done: Callable[[], bool]) -> None:
    """Wait until it is done, or nothing has been counted for too long: a slow machine is none that stands."""
    counted, deadline = count(), time.monotonic() + STANDSTILL_S
    while not is_done() and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY_S)
        if count() != counted:
            counted, deadline = count(), time.monotonic() + STANDSTILL_S


def _at_last(look: Callable[[], None]) -> None:
    """Look once the wall clock, which is read by the second, lets signatures through again."""
    for _ in range(50):
        try:
            return look()
        except NOT_NOW:
            time.sleep(LOOK_EVERY_S)
    return look()


def _report(seen: Observations, verdict: Verdict, left_out: dict[str, str]) -> dict[str, Any]:
    repeats = len(seen.told) - len({(each.channel, each.message_id) for each in seen.told})
    redone = [count for count in seen.tries.values() if count > 1]
    accepting = recoveries_s(seen.ended, seen.accepted_at)
    telling = recoveries_s(seen.ended, seen.told_at)
    return {
        "accepted": len(seen.accepted),
        "refused": _counted(seen.refused.values()),
        "unanswered": _counted(seen.unanswered.values()),
        "outcomes": dict(sorted(verdict.outcomes.items())),
        "unacknowledged_outcomes": verdict.unacknowledged,
        "lost": len(verdict.lost),
        "duplicates": len(verdict.duplicates),
        "unnotified": len(verdict.unnotified),
        "notifications": {
            **{channel: sum(each.channel == channel for each in seen.told) for channel in CHANNELS},
            "repeats": repeats,
        },
        "redone": {"invocations": len(redone), "most_tries": max(redone, default=1)},
        "faults": dict(sorted(seen.struck.items())),
        "faults_left_out": left_out,
        "recovery": {
            name: {
                "next_202": _percentiles(accepting.get(name, [])),
                "next_outcome": _percentiles(telling.get(name, [])),
            }
            for name in sorted(seen.struck)
        },
        "violations": verdict.lost + verdict.duplicates + verdict.unnotified + verdict.broken,
    }


def _counted(answers: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for answer in answers:
        counts[answer] = counts.get(answer, 0) + 1
    return counts


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    if len(values) == 1:
        values = values * 2
    cut = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50_s": round(cut[49], 3), "p99_s": round(cut[98], 3)}
