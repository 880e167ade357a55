"""CloudWatch's metric math: an expression over time series, evaluated as it is parsed. Pure.

A value is a number, a time series or several series. Operators and functions of one series apply to each of
several; two series meet at the times that both have; a point whose result does not exist (division by zero)
is left out, and a number that does not exist (the average of nothing) is NaN.
Source: CloudWatch user guide, metric math syntax and functions.
"""

import math
import operator
import re
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise


class ExpressionError(ValueError):
    """The expression does not parse, or asks for what its operands cannot give."""


@dataclass(frozen=True, slots=True)
class Series:
    """A value for each of some times, ascending; the times are starts of periods."""

    label: str
    period_s: int
    points: Mapping[int, float]


Value = float | Series | list[Series]


@dataclass(frozen=True, slots=True)
class Scope:
    """What an expression may refer to.

    `lookup` gives the value of another query's id and raises KeyError for unknown ones; `metrics` are the
    series by id that METRICS() means; `times` gives every period's start in the range asked for.
    """

    lookup: Callable[[str], Value]
    metrics: Mapping[str, Series]
    times: Callable[[int], Sequence[int]]


def evaluate(expression: str, scope: Scope) -> Value:
    """The value of an expression. Raises ExpressionError."""
    try:
        return _Parser(expression, scope).whole()
    except RecursionError as error:
        raise ExpressionError("it is nested too deeply") from error


_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+)|(?P<name>[A-Za-z_]\w*)"
    r"|\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)'|(?P<symbol><=|>=|==|!=|&&|\|\||[-+*/^<>()\[\],]))"
)


def _truth(result: bool) -> float:
    return 1.0 if result else 0.0


_OPERATORS: list[dict[str, Callable[[float, float], float]]] = [
    {"||": lambda a, b: _truth(bool(a or b)), "OR": lambda a, b: _truth(bool(a or b))},
    {"&&": lambda a, b: _truth(bool(a and b)), "AND": lambda a, b: _truth(bool(a and b))},
    {
        "<": lambda a, b: _truth(a < b),
        ">": lambda a, b: _truth(a > b),
        "<=": lambda a, b: _truth(a <= b),
        ">=": lambda a, b: _truth(a >= b),
        "==": lambda a, b: _truth(a == b),
        "!=": lambda a, b: _truth(a != b),
    },
    {"+": operator.add, "-": operator.sub},
    {"*": operator.mul, "/": operator.truediv},
]
"""Binary operators, those that bind most loosely first."""


class _Parser:
    """Recursive descent over the tokens; each method returns the value of what it has read."""

    def __init__(self, expression: str, scope: Scope) -> None:
        self._scope = scope
        self._tokens: list[tuple[str, str]] = []
        position = 0
        text = expression.rstrip()
        while position < len(text):
            token = _TOKEN.match(text, position)
            if token is None:
                raise ExpressionError(f"unexpected character at position {position}: {text[position:]}")
            kind = str(token.lastgroup)
            self._tokens.append(("string" if kind in ("double", "single") else kind, token[kind]))
            position = token.end()
        self._next = 0

    def whole(self) -> Value:
        value = self._binary(0)
        if self._next < len(self._tokens):
            raise ExpressionError(f"unexpected {self._tokens[self._next][1]}")
        return value

    def _take(self, *symbols: str) -> str | None:
        """The next token if it is one of these."""
        if self._next < len(self._tokens):
            kind, text = self._tokens[self._next]
            if kind in ("symbol", "name") and text in symbols:
                self._next += 1
                return text
        return None

    def _expect(self, symbol: str) -> None:
        if not self._take(symbol):
            raise ExpressionError(f"expected {symbol}")

    def _binary(self, level: int) -> Value:
        if level == len(_OPERATORS):
            return self._unary()
        value = self._binary(level + 1)
        while symbol := self._take(*_OPERATORS[level]):
            value = _broadcast(_OPERATORS[level][symbol], value, self._binary(level + 1))
        return value

    def _unary(self) -> Value:
        if self._take("-"):
            return _broadcast(operator.neg, self._unary())
        base = self._primary()
        return _broadcast(_power, base, self._unary()) if self._take("^") else base

    def _primary(self) -> Value:
        if self._take("("):
            value = self._binary(0)
            self._expect(")")
            return value
        if self._take("["):
            return [series for value in self._listed("]") for series in _series(value)]
        if self._next == len(self._tokens):
            raise ExpressionError("unexpected end")
        kind, text = self._tokens[self._next]
        self._next += 1
        if kind == "number":
            return float(text)
        if kind != "name":
            raise ExpressionError(f"unexpected {text}")
        return self._call(text) if self._take("(") else self._reference(text)

    def _reference(self, name: str) -> Value:
        try:
            return self._scope.lookup(name)
        except KeyError as error:
            raise ExpressionError(f"undefined variable {name}") from error

    def _call(self, name: str) -> Value:
        if name == "METRICS":
            return self._metrics()
        if name == "FILL":
            return self._fill()
        if name == "TIME_SERIES":
            return self._time_series()
        function = FUNCTIONS.get(name)
        if function is None:
            raise ExpressionError(f"the function {name} is not supported")
        arguments = self._listed(")")
        try:
            return function(*arguments)
        except TypeError as error:
            raise ExpressionError(f"{name} does not take these arguments") from error
        except (ZeroDivisionError, IndexError, ValueError) as error:
            raise ExpressionError(f"{name} has no value here: {error}") from error

    def _listed(self, end: str) -> list[Value]:
        values: list[Value] = []
        while not self._take(end):
            if values:
                self._expect(",")
            values.append(self._binary(0))
        return values

    def _metrics(self) -> Value:
        """METRICS() or METRICS("part of the ids")."""
        part = ""
        if self._next < len(self._tokens) and self._tokens[self._next][0] == "string":
            part = self._tokens[self._next][1]
            self._next += 1
        self._expect(")")
        return [series for key, series in self._scope.metrics.items() if part in key]

    def _fill(self) -> Value:
        """FILL(series, number | series | REPEAT | LINEAR)."""
        value = self._binary(0)
        self._expect(",")
        by: Value | str = self._take("REPEAT", "LINEAR") or self._binary(0)
        self._expect(")")
        if isinstance(value, float):
            raise ExpressionError("FILL needs a time series")
        filled = [self._fill_one(series, by) for series in _series(value)]
        return filled if isinstance(value, list) else filled[0]

    def _fill_one(self, series: Series, by: Value | str) -> Series:
        times = self._scope.times(series.period_s)
        points = series.points
        match by:
            case "REPEAT":
                filled = _repeated(points, times)
            case "LINEAR":
                filled = _interpolated(points, times)
            case float():
                filled = {at: points.get(at, by) for at in times}
            case Series():
                filled = {
                    at: points[at] if at in points else by.points[at]
                    for at in times
                    if at in points or at in by.points
                }
            case _:
                raise ExpressionError("FILL takes a number, a time series, REPEAT or LINEAR")
        return replace(series, points=filled)

    def _time_series(self) -> Value:
        (number,) = self._listed(")")
        if not isinstance(number, float):
            raise ExpressionError("TIME_SERIES needs a number")
        period_s = max((series.period_s for series in self._scope.metrics.values()), default=60)
        return Series("TIME_SERIES", period_s, dict.fromkeys(self._scope.times(period_s), number))


def _power(base: float, exponent: float) -> float:
    result = base**exponent
    # A negative number's fractional power is complex in Python; metric math knows no such value.
    return result if isinstance(result, float) else math.nan


def _series(value: Value) -> list[Series]:
    if isinstance(value, float):
        raise ExpressionError("a number stands where a time series must")
    return value if isinstance(value, list) else [value]


def _broadcast(function: Callable[..., float], *values: Value) -> Value:
    """Apply a function of numbers point by point to numbers, series and lists of series."""
    if lists := [value for value in values if isinstance(value, list)]:
        if len({len(value) for value in lists}) > 1:
            raise ExpressionError("several time series of different number cannot be combined")
        rows = [
            [value[index] if isinstance(value, list) else value for value in values]
            for index in range(len(lists[0]))
        ]
        return [series for row in rows for series in _series(_broadcast(function, *row))]
    given = [value for value in values if isinstance(value, Series)]
    if not given:
        result = _defined(function, *values)
        return math.nan if result is None else result
    shared = [at for at in given[0].points if all(at in series.points for series in given[1:])]
    points = {}
    for at in shared:
        numbers = [value.points[at] if isinstance(value, Series) else value for value in values]
        result = _defined(function, *numbers)
        if result is not None:
            points[at] = result
    return Series(given[0].label, max(series.period_s for series in given), points)


def _defined(function: Callable[..., float], *numbers: object) -> float | None:
    """The function's value; None where there is none that is finite, or an operand has none."""
    if any(number != number for number in numbers):
        return None
    try:
        result = function(*numbers)
    except (ZeroDivisionError, OverflowError, ValueError):
        return None
    return float(result) if math.isfinite(result) else None


def _repeated(points: Mapping[int, float], times: Sequence[int]) -> dict[int, float]:
    filled: dict[int, float] = {}
    last: float | None = None
    for at in times:
        last = points.get(at, last)
        if last is not None:
            filled[at] = last
    return filled


def _interpolated(points: Mapping[int, float], times: Sequence[int]) -> dict[int, float]:
    filled = dict(points)
    for (left, before), (right, after) in pairwise(points.items()):
        for at in times[bisect_right(times, left) : bisect_left(times, right)]:
            filled[at] = before + (after - before) * (at - left) / (right - left)
    return dict(sorted(filled.items()))


def _reduce(function: Callable[[list[float]], float]) -> Callable[[Value], Value]:
    """A function that makes a number of a series, and one series of several, at each time any of them has."""

    def apply(value: Value) -> Value:
        if isinstance(value, list):
            times = sorted({at for series in value for at in series.points})
            points = {
                at: function([series.points[at] for series in value if at in series.points]) for at in times
            }
            return Series("", max((series.period_s for series in value), default=60), points)
        if isinstance(value, float):
            return value
        return float(function(list(value.points.values()))) if value.points else math.nan

    return apply


def _each(function: Callable[[Series], Mapping[int, float]]) -> Callable[[Value], Value]:
    """A function from series to series."""

    def apply(value: Value) -> Value:
        made = [replace(series, points=function(series)) for series in _series(value)]
        return made if isinstance(value, list) else made[0]

    return apply


def _each_number(function: Callable[[float], float]) -> Callable[[Value], Value]:
    return lambda value: _broadcast(function, value)


def _of_time(function: Callable[[datetime], float]) -> Callable[[Value], Value]:
    return _each(lambda series: {at: function(datetime.fromtimestamp(at, UTC)) for at in series.points})


def _running_sum(series: Series) -> dict[int, float]:
    total = 0.0
    points = {}
    for at, value in series.points.items():
        total += value
        points[at] = total
    return points


def _differences(series: Series) -> dict[int, float]:
    return {right: after - before for (_, before), (right, after) in pairwise(series.points.items())}


def _rates(series: Series) -> dict[int, float]:
    return {
        right: (after - before) / (right - left)
        for (left, before), (right, after) in pairwise(series.points.items())
    }


def _if(condition: Value, then: Value, otherwise: Value = math.nan) -> Value:
    """Without an else, times at which the condition does not hold have no point."""
    if isinstance(condition, float):
        return then if condition else otherwise
    if not isinstance(condition, Series) or isinstance(then, list) or isinstance(otherwise, list):
        raise ExpressionError("IF chooses between numbers and single time series")
    points = {}
    for at, holds in condition.points.items():
        chosen = then if holds else otherwise
        value = chosen.points.get(at) if isinstance(chosen, Series) else chosen
        if value is not None and math.isfinite(value):
            points[at] = value
    return replace(condition, points=points)


def _one(value: Value) -> Series:
    if not isinstance(value, Series):
        raise TypeError
    return value


def _count_series(value: Value) -> Value:
    return float(len(_series(value)))


def _deviation(values: list[float]) -> float:
    return statistics.pstdev(values)


FUNCTIONS: dict[str, Callable[..., Value]] = {
    "ABS": _each_number(abs),
    "CEIL": _each_number(math.ceil),
    "FLOOR": _each_number(math.floor),
    "LOG": _each_number(math.log),
    "LOG10": _each_number(math.log10),
    "AVG": _reduce(statistics.fmean),
    "MAX": _reduce(max),
    "MIN": _reduce(min),
    "STDDEV": _reduce(_deviation),
    "SUM": _reduce(math.fsum),
    "DIFF": _each(_differences),
    "DIFF_TIME": _each(lambda s: {right: float(right - left) for left, right in pairwise(s.points)}),
    "RATE": _each(_rates),
    "RUNNING_SUM": _each(_running_sum),
    "IF": _if,
    "FIRST": lambda value: _series(value)[0],
    "LAST": lambda value: _series(value)[-1],
    "SLICE": lambda value, start, end=None: _series(value)[int(start) : None if end is None else int(end)],
    "REMOVE_EMPTY": lambda value: [series for series in _series(value) if series.points],
    "METRIC_COUNT": _count_series,
    "DATAPOINT_COUNT": _reduce(lambda values: float(len(values))),
    "PERIOD": lambda value: float(_one(value).period_s),
    "MINUTE": _of_time(lambda time: time.minute),
    "HOUR": _of_time(lambda time: time.hour),
    "DAY": _of_time(lambda time: time.isoweekday()),
    "DATE": _of_time(lambda time: time.day),
    "MONTH": _of_time(lambda time: time.month),
    "YEAR": _of_time(lambda time: time.year),
    "EPOCH": _of_time(lambda time: time.timestamp()),
}
