"""When a scheduled action is due: `at`, `rate` and `cron` expressions in a time zone. Pure.

A cron expression has AWS's six fields: minutes, hours, day of month, month, day of week, year. Those of the
days may hold `?` (any), `L` (the last), `W` (the weekday nearest to a day) and `#` (the n-th such weekday);
one of the two must be `?`. Days of the week are 1 to 7 or SUN to SAT.
Sources: PutScheduledAction, Schedule; Application Auto Scaling user guide, cron expressions.
"""

import calendar
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import lru_cache
from itertools import product
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400

UNITS_S = {"minute": MINUTE_S, "hour": HOUR_S, "day": DAY_S}

LAST_YEAR = 2199
"""Source: the values of cron's year field."""

_MONTHS = {name.upper(): number for number, name in enumerate(calendar.month_abbr) if name}
_WEEKDAYS = {name: number for number, name in enumerate(("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"), 1)}


@dataclass(frozen=True, slots=True)
class Schedule:
    """An expression that was understood. `next_local` gives the first local time after one, or None."""

    expression: str
    zone: ZoneInfo
    next_local: Callable[[datetime], datetime | None] | None
    rate_s: int | None = None


@lru_cache(maxsize=1024)
def parse(expression: str, timezone: str | None = None) -> Schedule:
    """Raises ValueError, naming what is wrong, for an expression or time zone that does not exist."""
    try:
        zone = ZoneInfo(timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"{timezone} is not a time zone of the IANA database") from error
    match = re.fullmatch(r"(at|rate|cron)\((.*)\)", expression.strip())
    if match is None:
        raise ValueError(f"{expression} is neither at(...), rate(...) nor cron(...)")
    kind, inner = match.groups()
    if kind == "at":
        return Schedule(expression, zone, _at(inner))
    if kind == "rate":
        return Schedule(expression, zone, None, _rate_s(inner))
    return Schedule(expression, zone, _cron(inner))


def next_after(schedule: Schedule, after: float, *, origin: float) -> float | None:
    """The first time after `after` at which the schedule is due, or None when there is no more.

    origin: from when a rate counts. A local time that a change of clocks leaves out is due when the clocks
    have changed, one that it repeats the first time. All in epoch seconds.
    """
    if schedule.rate_s is not None:
        passed = max(0, int((after - origin) // schedule.rate_s) + 1) if after >= origin else 0
        return origin + passed * schedule.rate_s
    assert schedule.next_local is not None
    local = datetime.fromtimestamp(after, schedule.zone).replace(tzinfo=None, microsecond=0)
    # Local times go back an hour once a year: those that were there already are passed over.
    local -= timedelta(hours=2)
    while (due := schedule.next_local(local)) is not None:
        at = due.replace(tzinfo=schedule.zone).timestamp()
        if at > after:
            return at
        local = due
    return None


def _at(inner: str) -> Callable[[datetime], datetime | None]:
    try:
        due = datetime.strptime(inner.strip(), "%Y-%m-%dT%H:%M:%S")  # noqa: DTZ007  local by intent
    except ValueError as error:
        raise ValueError(f"at({inner}) is not of the form at(yyyy-mm-ddThh:mm:ss)") from error
    return lambda after: due if due > after else None


def _rate_s(inner: str) -> int:
    match = re.fullmatch(r"\s*(\d{1,9})\s+(minute|hour|day)s?\s*", inner)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"rate({inner}) is not a positive number of minutes, hours or days")
    return int(match[1]) * UNITS_S[match[2]]


def _cron(inner: str) -> Callable[[datetime], datetime | None]:
    fields = inner.split()
    if len(fields) != 6:
        raise ValueError(f"cron({inner}) must have six fields, not {len(fields)}")
    if (fields[2] == "?") == (fields[4] == "?"):
        raise ValueError(f"cron({inner}): one of day of month and day of week must be ?, and only one")
    minutes = sorted(_values(fields[0], 0, 59, {}))
    hours = sorted(_values(fields[1], 0, 23, {}))
    months = _values(fields[3], 1, 12, _MONTHS)
    years = sorted(_values(fields[5], 1970, LAST_YEAR, {}))
    days = _days_of_week(fields[4]) if fields[2] == "?" else _days_of_month(fields[2])
    times = [time(hour, minute) for hour, minute in product(hours, minutes)]

    def next_local(after: datetime) -> datetime | None:
        for day in _dates(after.date(), years, months, days):
            for moment in times:
                due = datetime.combine(day, moment)
                if due > after:
                    return due
        return None

    return next_local


Days = Callable[[int, int], set[int]]
"""The days of a month that a field names, by year and month."""


def _dates(since: date, years: list[int], months: set[int], days: Days) -> Iterator[date]:
    """The dates from `since` on, in order; an end of it when 40 years in a row have none (a 30 February)."""
    empty_years = 0
    for year in years:
        if year < since.year:
            continue
        found = [
            date(year, month, day)
            for month in sorted(months)
            for day in sorted(days(year, month))
            if date(year, month, day) >= since
        ]
        yield from found
        empty_years = 0 if found else empty_years + 1
        if empty_years > 40:
            return


def _values(field: str, low: int, high: int, names: dict[str, int]) -> set[int]:
    """What `*`, values, ranges, lists and steps name between `low` and `high`."""
    values: set[int] = set()
    for part in field.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        if span == "*":
            begin, end = low, high
        else:
            begin = _value(first, field, names)
            end = _value(last, field, names) if dash else high if slash else begin
        every = int(step) if slash and step.isascii() and step.isdigit() and int(step) else 1
        if (slash and str(every) != step.lstrip("0")) or not low <= begin <= end <= high:
            raise ValueError(f"{field} is not a list of values, ranges and steps from {low} to {high}")
        values.update(range(begin, end + 1, every))
    return values


def _value(text: str, field: str, names: dict[str, int]) -> int:
    if text.upper() in names:
        return names[text.upper()]
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{field} holds {text or 'nothing'} where a number belongs")
    return int(text)


def _days_of_month(field: str) -> Days:
    if field == "L":
        return lambda year, month: {calendar.monthrange(year, month)[1]}
    if field == "LW":
        return lambda year, month: {_nearest_weekday(year, month, 31)}
    if match := re.fullmatch(r"(\d{1,2})W", field):
        wanted = int(match[1])
        if not 1 <= wanted <= 31:
            raise ValueError(f"{field} names no day of a month")
        return lambda year, month: {_nearest_weekday(year, month, wanted)}
    values = _values(field, 1, 31, {})
    return lambda year, month: {day for day in values if day <= calendar.monthrange(year, month)[1]}


def _nearest_weekday(year: int, month: int, day: int) -> int:
    """The day from Monday to Friday nearest to it, within its month."""
    last = calendar.monthrange(year, month)[1]
    day = min(day, last)
    weekday = date(year, month, day).weekday()
    if weekday == 5:
        return day - 1 if day > 1 else day + 2
    if weekday == 6:
        return day + 1 if day < last else day - 2
    return day


def _days_of_week(field: str) -> Days:
    if field == "L":
        field = "7"
    if match := re.fullmatch(r"(\w{1,3})L", field):
        weekday = _value(match[1], field, _WEEKDAYS)
        return lambda year, month: set(_weekdays(year, month, {weekday})[-1:])
    if match := re.fullmatch(r"(\w{1,3})#([1-5])", field):
        weekday, number = _value(match[1], field, _WEEKDAYS), int(match[2])
        return lambda year, month: set(_weekdays(year, month, {weekday})[number - 1 : number])
    values = _values(field, 1, 7, _WEEKDAYS)
    return lambda year, month: set(_weekdays(year, month, values))


def _weekdays(year: int, month: int, wanted: set[int]) -> list[int]:
    """The days of the month that are such days of the week, 1 for Sunday."""
    last = calendar.monthrange(year, month)[1]
    return [day for day in range(1, last + 1) if date(year, month, day).isoweekday() % 7 + 1 in wanted]
