"""Who is served next: accounts share an endpoint's slots in proportion to their weights. Pure.

Start-time fair queueing: each account's turns are 1/weight apart in the endpoint's virtual time, which is the
turn served last, and the earliest turn is served first. One that had nothing queued takes its next turn now:
it neither waits behind another's thousands nor is paid back for what it did not ask for.
Source: Goyal, Vin and Cheng 1996, "Start-time Fair Queueing", 3.
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """An account with `queued` invocations (0: its last turn still counts), served last at `turn`."""

    account: str
    queued: int
    turn: float
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Share:
    """How many of an account's invocations to claim, and its turn after that."""

    account: str
    count: int
    turn: float


def share(waiting: Sequence[Waiting], slots: int) -> list[Share]:
    """Hand `slots` out one after the other; accounts that get none are absent."""
    now = max((each.turn for each in waiting), default=0.0)
    # Of equals, the one served longer ago comes first.
    turns = [
        (max(each.turn + 1 / each.weight, now), each.turn, each.account, each)
        for each in waiting
        if each.queued
    ]
    heapq.heapify(turns)
    counts: dict[str, int] = {}
    last: dict[str, float] = {}
    while turns and slots:
        turn, _, account, each = turns[0]
        counts[account] = counts.get(account, 0) + 1
        last[account] = turn
        slots -= 1
        if counts[account] < each.queued:
            heapq.heapreplace(turns, (turn + 1 / each.weight, turn, account, each))
        else:
            heapq.heappop(turns)
    return [Share(account, count, last[account]) for account, count in counts.items()]
