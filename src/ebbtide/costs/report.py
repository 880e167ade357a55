"""Costs of an account's endpoints over some days, added up by what is asked: day, endpoint, account, tag or
invocation.

The unit is an endpoint's day (UTC). Beside what its instances took stand two figures for the same day:

always on: as many instances as ran at most at a time, from when the endpoint first wanted one to its end.
minimum: the least that any schedule could have used for what was worked on that day (minimum.py), each day by
itself; slots and starting time are the most and the least that were seen.

Both go to rows as the working time does, so that every way to add up comes to the same sums.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from itertools import groupby

import numpy as np
from sqlalchemy import Connection

from ebbtide.costs import records
from ebbtide.costs.attribution import Span, share, span
from ebbtide.costs.minimum import minimum_s
from ebbtide.costs.records import Hold, Ran
from ebbtide.instances.types import InstanceTypes

DIMENSIONS = ("day", "endpoint", "account", "invocation")
TAG = "tag:"
"""What begins the dimension of a tag: tag:project."""

DAY_S = 86_400.0

Key = tuple[str | None, ...]
"""A row's value of each dimension; None where it has none: nobody's time, or no such tag."""


@dataclass(slots=True)
class Amount:
    """Time in instance-seconds and money in USD; `cost` and its like are None where a type has no price.

    invocations: how many came to their end. instance_s is starting_s + busy_s + idle_s.
    """

    invocations: int = 0
    starting_s: float = 0.0
    busy_s: float = 0.0
    idle_s: float = 0.0
    always_on_s: float = 0.0
    minimum_s: float = 0.0
    cost: float | None = 0.0
    always_on_cost: float | None = 0.0
    minimum_cost: float | None = 0.0

    @property
    def instance_s(self) -> float:
        return self.starting_s + self.busy_s + self.idle_s

    @property
    def cold_start_share(self) -> float:
        """The part of the time that went into starts."""
        return self.starting_s / self.instance_s if self.instance_s else 0.0

    @property
    def idle_share(self) -> float:
        """The part of the time in which instances held nothing."""
        return self.idle_s / self.instance_s if self.instance_s else 0.0

    def add(self, other: "Amount") -> None:
        """Add another; money that is not known makes the sum so."""
        for field in _FIELDS:
            mine, theirs = getattr(self, field), getattr(other, field)
            setattr(self, field, None if mine is None or theirs is None else mine + theirs)


_FIELDS = [field.name for field in fields(Amount)]


@dataclass(frozen=True, slots=True)
class Report:
    """Rows in the order of their keys, and all of them together."""

    by: Sequence[str]
    rows: Mapping[Key, Amount]
    total: Amount


def report(
    connection: Connection,
    types: InstanceTypes,
    account: str,
    *,
    since: date,
    until: date,
    by: Sequence[str],
    now: float,
    endpoint: str | None = None,
    submitter: str | None = None,
) -> Report:
    """Costs of the days since..until, the last one included, as far as it has come.

    by: what makes a row, of `DIMENSIONS` and tags. endpoint, submitter: only the endpoint of that name, only
    what that account's keys submitted.
    """
    rows: dict[Key, Amount] = {}
    total = Amount()
    first_wanted = records.first_wanted_at(connection)
    existing = frozenset(records.exist(connection))
    for day in _days(since, until):
        begin = _midnight(day)
        end = min(begin + DAY_S, now)
        if begin >= end:
            break
        tags = {
            each: records.tagged(connection, each.removeprefix(TAG), since=begin, until=end)
            for each in by
            if each.startswith(TAG)
        }
        for endpoint_id, instances in _by_endpoint(records.ran(connection, account, since=begin, until=end)):
            if endpoint not in (None, instances[0].endpoint):
                continue
            gone_at = None if endpoint_id in existing else max(one.ended_at or now for one in instances)
            of_day = _of_day(
                instances,
                records.held(connection, endpoint_id, since=begin, until=end, now=now),
                types,
                _key_of(by, day, instances[0].endpoint, tags),
                exists=(max(begin, first_wanted[endpoint_id]), min(end, gone_at or end)),
                bounds=(begin, end),
                now=now,
                submitter=submitter,
            )
            for key, amount in of_day:
                rows.setdefault(key, Amount()).add(amount)
                total.add(amount)
    ordered = dict(sorted(rows.items(), key=lambda row: [(part is None, part or "") for part in row[0]]))
    return Report(tuple(by), ordered, total)


def _of_day(
    instances: Sequence[Ran],
    held: Mapping[str, Sequence[Hold]],
    types: InstanceTypes,
    key_of: Callable[[Hold | None], Key],
    *,
    exists: tuple[float, float],
    bounds: tuple[float, float],
    now: float,
    submitter: str | None,
) -> Iterator[tuple[Key, Amount]]:
    """What an endpoint's instances took in a day, for whom.

    exists, bounds: from and until when the endpoint was there that day, and the day itself; epoch seconds.
    """
    spans = {one.id: found for one in instances if (found := _span(one, *bounds, now=now)) is not None}
    shares = {id_: share([(hold.begin, hold.end) for hold in held.get(id_, ())]) for id_ in spans}
    prices = {one.id: _price_per_s(types, one) for one in instances}
    took_s = sum(each.total_s for each in spans.values())
    # What was not run has the mean price of what was.
    paid = [_product(prices[id_], each.total_s / took_s) for id_, each in spans.items()]
    mean_price = None if None in paid else sum(each or 0.0 for each in paid)
    holds = [hold for id_ in spans for hold in held.get(id_, ())]
    slots = max((each.most_held for each in shares.values()), default=0)
    always_on_s = _peak(spans.values()) * max(0.0, exists[1] - exists[0])
    least_s = min(took_s, _minimum_s(holds, instances, slots))
    busy_s = sum(float(each.busy_s.sum()) for each in shares.values())
    for id_, ran in spans.items():
        own_s = float(shares[id_].busy_s.sum())
        idle_s = max(0.0, ran.total_s - ran.starting_s - own_s)
        chosen = [
            (hold, part_s)
            for hold, part_s in zip(held.get(id_, ()), shares[id_].busy_s.tolist(), strict=True)
            if submitter in (None, hold.account)
        ]
        # Holds too short to be measured have equal parts.
        for key, part in _parts(chosen, key_of).items():
            of_own = part.busy_s / own_s if own_s else part.holds / len(held[id_])
            of_all = part.busy_s / busy_s if busy_s else part.holds / len(holds)
            amount = Amount(
                part.invocations,
                ran.starting_s * of_own,
                part.busy_s,
                idle_s * of_own,
                always_on_s * of_all,
                least_s * of_all,
            )
            yield key, _priced(amount, prices[id_], mean_price)
        if not held.get(id_) and submitter is None:
            unshared_s = 0.0 if holds else always_on_s * ran.total_s / took_s
            nobodys = Amount(0, ran.starting_s, 0.0, idle_s, unshared_s, 0.0)
            yield key_of(None), _priced(nobodys, prices[id_], mean_price)


@dataclass(slots=True)
class _Part:
    """What one row's invocations have of an instance's day."""

    holds: int = 0
    invocations: int = 0
    busy_s: float = 0.0


def _parts(holds: Iterable[tuple[Hold, float]], key_of: Callable[[Hold | None], Key]) -> dict[Key, _Part]:
    """What each row has. With each hold: its part of the time that the instance was busy, in s."""
    parts: dict[Key, _Part] = {}
    for hold, part_s in holds:
        part = parts.setdefault(key_of(hold), _Part())
        part.holds += 1
        part.invocations += hold.outcome
        part.busy_s += part_s
    return parts


def _priced(amount: Amount, price_per_s: float | None, mean_price_per_s: float | None) -> Amount:
    amount.cost = _product(price_per_s, amount.instance_s)
    amount.always_on_cost = _product(mean_price_per_s, amount.always_on_s)
    amount.minimum_cost = _product(mean_price_per_s, amount.minimum_s)
    return amount


def _product(price_per_s: float | None, seconds: float) -> float | None:
    return None if price_per_s is None else price_per_s * seconds


def _price_per_s(types: InstanceTypes, one: Ran) -> float | None:
    hourly = types.get(one.instance_type or "").price_per_hour
    return None if hourly is None else hourly / 3600


def _minimum_s(holds: Sequence[Hold], instances: Sequence[Ran], slots: int) -> float:
    if not holds:
        return 0.0
    began = np.array([hold.begin for hold in holds])
    starts = [one.in_service_at - one.starting_at for one in instances if one.in_service_at is not None]
    return minimum_s(
        np.minimum([hold.accepted_at for hold in holds], began),
        np.maximum([hold.expires_at for hold in holds], began),
        np.array([hold.end - hold.begin for hold in holds]),
        slots=max(1, slots),
        starting_s=min(starts, default=0.0),
    )


def _peak(spans: Iterable[Span]) -> int:
    """How many ran at most at a time."""
    moments = sorted(moment for each in spans for moment in ((each.begin, 1), (each.end, -1)))
    running = peak = 0
    for _, change in moments:
        running += change
        peak = max(peak, running)
    return peak


def _span(one: Ran, since: float, until: float, *, now: float) -> Span | None:
    return span(
        starting_at=one.starting_at,
        in_service_at=one.in_service_at,
        ended_at=now if one.ended_at is None else one.ended_at,
        since=since,
        until=until,
    )


def _by_endpoint(instances: Sequence[Ran]) -> Iterator[tuple[str, list[Ran]]]:
    ordered = sorted(instances, key=lambda one: one.endpoint_id)
    for endpoint_id, group in groupby(ordered, key=lambda one: one.endpoint_id):
        yield endpoint_id, list(group)


def _key_of(
    by: Sequence[str], day: date, endpoint: str, tags: Mapping[str, Mapping[str, str]]
) -> Callable[[Hold | None], Key]:
    parts: list[Callable[[Hold | None], str | None]] = []
    for each in by:
        if each == "day":
            parts.append(lambda _: day.isoformat())
        elif each == "endpoint":
            parts.append(lambda _: endpoint)
        elif each == "account":
            parts.append(lambda hold: None if hold is None else hold.account)
        elif each == "invocation":
            parts.append(lambda hold: None if hold is None else hold.invocation_id)
        else:
            of_tag = tags[each]
            parts.append(lambda hold, of_tag=of_tag: hold and of_tag.get(hold.invocation_id))  # type: ignore[misc]
    return lambda hold: tuple(part(hold) for part in parts)


def _days(since: date, until: date) -> Iterator[date]:
    for number in range((until - since).days + 1):
        yield since + timedelta(days=number)


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
