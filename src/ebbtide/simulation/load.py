"""What arrives: when, whose, how urgent, and how long each holds a slot."""

import csv
import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

TTL_S = 21_600.0
"""Source: InvokeEndpointAsync, RequestTTLSeconds' default."""

SERVICE_S = 1.0
"""Of an arrival that nobody knows a service time of."""

MAX_PRIORITY = 100


class LoadError(Exception):
    """A file or a history holds no load; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request. at: epoch seconds, or seconds from any beginning. service_s: how long it holds a slot;
    None where that is not known. ttl_s: how long it may wait.
    """

    at: float
    service_s: float | None = None
    priority: int = 0
    account: str = ""
    ttl_s: float = TTL_S


@dataclass(frozen=True, slots=True)
class Load:
    """Arrivals in their order, column by column: all of equal length, `service_s` known of each."""

    at: Sequence[float]
    service_s: Sequence[float]
    priority: Sequence[int]
    account: Sequence[str]
    ttl_s: Sequence[float]

    def __len__(self) -> int:
        return len(self.at)


def load(arrivals: Iterable[Arrival], *, service_s: float | None = None, seed: int = 0) -> Load:
    """Bring arrivals into order. Those without a service time have one of the others', drawn at random, or
    `SERVICE_S` if there are none. service_s: of all, whatever is known of each.

    Raises LoadError for no arrivals at all.
    """
    ordered = sorted(arrivals, key=lambda each: each.at)
    if not ordered:
        raise LoadError("There are no arrivals to simulate.")
    known = [each.service_s for each in ordered if each.service_s is not None] or [SERVICE_S]
    draw = random.Random(seed)  # noqa: S311 - no secret
    took = (draw.choice(known) if each.service_s is None else each.service_s for each in ordered)
    return Load(
        at=[each.at for each in ordered],
        service_s=list(took) if service_s is None else [service_s] * len(ordered),
        priority=[each.priority for each in ordered],
        account=[each.account for each in ordered],
        ttl_s=[each.ttl_s for each in ordered],
    )


def storm(count: int, *, over_s: float, seed: int = 0) -> list[Arrival]:
    """So many arrivals at random moments of the time given: a Poisson process of which the count is known."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    return [Arrival(draw.random() * over_s) for _ in range(count)]


def read(path: Path) -> list[Arrival]:
    """Arrivals of a file: CSV with a line of names, or JSON objects a line (.jsonl, .ndjson).

    Names as of `Arrival`, `at` being needed: seconds, or a time such as 2026-01-31T12:00:00Z. Raises
    LoadError, naming the line.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            if path.suffix in (".jsonl", ".ndjson"):
                return [
                    _arrival(_parsed(line, path, number), path, number)
                    for number, line in enumerate(file, 1)
                    if line.strip()
                ]
            return [_arrival(row, path, number) for number, row in enumerate(csv.DictReader(file), 2)]
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error


def of_history(invocations: Iterable[Mapping[str, Any]]) -> list[Arrival]:
    """Arrivals of invocations as the server's own API lists them; service times of those that succeeded."""
    found = []
    for each in invocations:
        at = _moment(each["accepted_at"])
        took = None
        if each["state"] == "succeeded" and each["claimed_at"] and each["finished_at"]:
            took = _moment(each["finished_at"]) - _moment(each["claimed_at"])
        ttl_s = _moment(each["expires_at"]) - at
        found.append(Arrival(at, took, each["priority"], each["account"], ttl_s))
    return found


def _parsed(line: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise LoadError(f"{path}, line {number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise LoadError(f"{path}, line {number}: not a JSON object")
    return row


def _arrival(row: Mapping[str, Any], path: Path, number: int) -> Arrival:
    given = {name: value for name, value in row.items() if value not in (None, "")}
    unknown = given.keys() - {"at", "service_s", "priority", "account", "ttl_s"}
    try:
        if unknown:
            raise ValueError(f"{min(map(str, unknown))} is not known")
        arrival = Arrival(
            _moment(given["at"]),
            float(given["service_s"]) if "service_s" in given else None,
            int(given.get("priority", 0)),
            str(given.get("account", "")),
            float(given.get("ttl_s", TTL_S)),
        )
        _check(arrival)
    except KeyError as error:
        raise LoadError(f"{path}, line {number}: {error.args[0]} is missing") from error
    except (TypeError, ValueError) as error:
        raise LoadError(f"{path}, line {number}: {error}") from error
    return arrival


def _check(arrival: Arrival) -> None:
    numbers = (arrival.at, arrival.ttl_s, arrival.service_s or 0.0)
    if not all(map(math.isfinite, numbers)) or (arrival.service_s or 0.0) < 0 or arrival.ttl_s <= 0:
        raise ValueError("times must be finite, service_s not below 0 and ttl_s above it")
    if abs(arrival.priority) > MAX_PRIORITY:
        raise ValueError(f"priority must be from -{MAX_PRIORITY} to {MAX_PRIORITY}")


def _moment(value: object) -> float:
    """Seconds, from a number or a time as RFC 3339 has it. Raises ValueError."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return datetime.fromisoformat(str(value)).timestamp()
