"""What is asked and what strikes, and when: drawn from a seed, so that a storm can be repeated. Pure."""

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

KB, MB = 1 << 10, 1 << 20

REVERSE, BARE, ECHO, OUTSIDE, PARKED = "reverse", "bare", "echo", "outside", "parked"
"""The endpoints: user code that reverses bytes, the same without a failure path, echo, the first again with
all its objects in an outside store, and one without instances, where whatever is asked expires."""

INLINE_LIMIT_BYTES = 100_000
POISONOUS_SHARE, SLOW_SHARE, PARKED_SHARE = 0.006, 0.004, 0.01
ECHO_SHARE, BARE_SHARE, OUTSIDE_SHARE = 0.25, 0.15, 0.15

SIZES = (
    (0.80, 1 * KB, 16 * KB),
    (0.17, 16 * KB, 1 * MB),
    (0.025, 1 * MB, 8 * MB),
    (0.005, 16 * MB, 64 * MB),
)
"""Share of the requests, smallest and largest size; the last class begins with one of the very largest."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: plain, poisonous (kills its model server), slow (never answers) or parked (expires).

    inline: its payload travels in the request instead of through S3.
    """

    number: int
    at_s: float
    kind: str
    endpoint: str
    size_bytes: int
    inline: bool

    def body(self, seed: int) -> bytes:
        """Its payload, which tells the model what to do with it."""
        head = f"{self.kind} {self.number}\n".encode()
        return head + random.Random(f"{seed} {self.number}").randbytes(self.size_bytes - len(head))


@dataclass(frozen=True, slots=True)
class Fault:
    """One that may strike. `target` bears one at a time; weight: how often, beside the others."""

    name: str
    target: str
    weight: int
    shortest_s: float = 0.0
    longest_s: float = 0.0


FAULTS = (
    Fault("kill a model server", "model servers", 30),
    Fault("stop a model server", "model servers", 10, 0.5, 6.0),
    Fault("kill the process that writes", "process that writes", 10),
    Fault("stop the process that writes", "process that writes", 3, 0.5, 6.0),
    Fault("kill the server", "server", 6),
    Fault("stop the server", "server", 5, 0.5, 6.0),
    Fault("drain the server", "server", 3),
    Fault("drain the server, then hurry it", "server", 2),
    Fault("kill the second server", "second server", 5),
    Fault("stop the second server", "second server", 4, 2.0, 12.0),
    Fault("fill the disk", "disk", 5, 1.0, 6.0),
    Fault("lock the database", "database", 6, 1.0, 9.0),
    Fault("kill the database", "database", 6),
    Fault("set the wall clock", "clock", 6, 1.0, 6.0),
    Fault("cut uploads", "uploads", 8),
    Fault("have the outside store answer 500", "outside store", 6, 1.0, 8.0),
    Fault("have the outside store hang", "outside store", 6, 1.0, 8.0),
    Fault("refuse notifications", "receiver", 6, 1.0, 5.0),
)


@dataclass(frozen=True, slots=True)
class Blow:
    """A fault, `after_s` the one before, for `hold_s`; `pick` in [0, 1) chooses among what it can fall on."""

    after_s: float
    fault: Fault
    hold_s: float
    pick: float


def asks(seed: int, *, seconds: float, rate_per_s: float, parked: bool, largest_bytes: int) -> list[Ask]:
    """The requests, evenly in time. parked: with some that expire, which takes a minute."""
    chance = random.Random(f"asks {seed}")
    count = round(seconds * rate_per_s)
    drawn = [_ask(chance, number, number / rate_per_s, parked, largest_bytes) for number in range(count)]
    return [*drawn, Ask(count, 0.0, "plain", ECHO, largest_bytes, inline=False)]


def _ask(chance: random.Random, number: int, at_s: float, parked: bool, largest_bytes: int) -> Ask:
    kind, endpoint = "plain", REVERSE
    lot, place, size_bytes = chance.random(), chance.random(), _size(chance)
    inline = size_bytes <= INLINE_LIMIT_BYTES and chance.random() < 0.5
    if lot < POISONOUS_SHARE:
        kind = "poisonous"
    elif lot < POISONOUS_SHARE + SLOW_SHARE:
        kind = "slow"
    elif parked and lot < POISONOUS_SHARE + SLOW_SHARE + PARKED_SHARE:
        return Ask(number, at_s, "parked", PARKED, KB, inline=True)
    if place < BARE_SHARE:
        endpoint = BARE
    elif place < BARE_SHARE + OUTSIDE_SHARE:
        endpoint = OUTSIDE
    elif kind == "plain" and place < BARE_SHARE + OUTSIDE_SHARE + ECHO_SHARE:
        endpoint = ECHO
    return Ask(number, at_s, kind, endpoint, min(size_bytes, largest_bytes), inline)


def _size(chance: random.Random) -> int:
    [(_, smallest, largest)] = chance.choices(SIZES, [share for share, _, _ in SIZES])
    return int(smallest * (largest / smallest) ** chance.random())


def blows(seed: int, *, possible: Collection[str]) -> Iterator[Blow]:
    """Without end, one about every second; `possible` names the faults that can be had on this machine.

    The first of each kind come early and in turn, so that a short storm has them all.
    """
    chance = random.Random(f"blows {seed}")
    faults = [fault for fault in FAULTS if fault.name in possible]
    first = chance.sample(faults, len(faults))
    while True:
        fault = first.pop() if first else chance.choices(faults, [each.weight for each in faults])[0]
        hold_s = chance.uniform(fault.shortest_s, fault.longest_s)
        yield Blow(chance.uniform(0.5, 1.5), fault, hold_s, chance.random())
