"""The metrics of a simulated endpoint, and the alarms that watch them, in virtual time.

What the queue itself produces is recorded as the server records it; alarms are evaluated by the server's own
rules (`metrics.alarm_states`), and say which actions are due. Only metrics that somebody asks for are kept,
and only for as long as anybody looks back.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

from ebbtide.identifiers import ACCOUNT
from ebbtide.metrics import Point, alarm_states, data
from ebbtide.metrics.alarm_states import Alarm
from ebbtide.metrics.evaluation import ALARM, EXTRA_PERIODS
from ebbtide.metrics.points import bucket
from ebbtide.metrics.query import Metric
from ebbtide.metrics.statistics import Samples, parse
from ebbtide.queue import Backlog
from ebbtide.scaling import observation
from ebbtide.scaling.configurations import PERIOD_S, Resource
from ebbtide.scaling.observation import ARRIVALS, NAMESPACE, OWN_NAMESPACE
from ebbtide.scaling.policies import LOW_PERIODS

OF_ENDPOINT = (
    "ApproximateBacklogSize",
    "ApproximateBacklogSizePerInstance",
    "ApproximateAgeOfOldestRequest",
    "HasBacklogWithoutCapacity",
)
OF_VARIANT = (
    "InvocationsPerInstance",
    "InvocationsProcessed",
    "InvocationFailures",
    "ExpiredRequests",
    "TimeInBacklog",
    "TotalProcessingTime",
)


class NotSimulated(Exception):
    """A policy or alarm follows a metric that arrivals and service times do not tell, as the message says."""


def check(whose: str, queries: Iterable[data.Query], resource: Resource) -> None:
    """Raises NotSimulated, naming whose metric it is, for the first that no simulation produces."""
    told = _produced(resource)
    for query in queries:
        if "MetricStat" not in query:
            continue
        metric = data.metric_of(query["MetricStat"])
        if metric not in told:
            where = ", ".join(f"{name}={value}" for name, value in metric.dimensions)
            raise NotSimulated(
                f"{whose} follows the metric {metric.namespace} {metric.name} ({where}), which arrivals and "
                "service times do not tell"
            )


def _produced(resource: Resource) -> frozenset[Metric]:
    endpoint, variant = ("EndpointName", resource.endpoint), ("VariantName", resource.variant)
    return frozenset(
        [
            Metric(OWN_NAMESPACE, ARRIVALS, (endpoint,)),
            *(Metric(NAMESPACE, name, (endpoint,)) for name in OF_ENDPOINT),
            *(Metric(NAMESPACE, name, (endpoint, variant)) for name in OF_VARIANT),
        ]
    )


class Watch:
    """What is recorded of one endpoint, and its alarms in their states."""

    def __init__(
        self, resource: Resource, alarms: Iterable[Alarm], followed: Iterable[Sequence[data.Query]]
    ) -> None:
        """followed: the metrics of target-tracking policies."""
        self._resource = resource
        self._alarms = {alarm.name: alarm for alarm in alarms}
        self._evaluated: dict[str, float] = {}
        self._looked_back_s = max(
            [
                (LOW_PERIODS + 1) * PERIOD_S,
                *(
                    (alarm.definition["EvaluationPeriods"] + EXTRA_PERIODS + 1) * alarm.period_s
                    for alarm in self._alarms.values()
                ),
            ]
        )
        asked = [query for queries in followed for query in queries]
        asked += [query for alarm in self._alarms.values() for query in alarm.queries]
        self._series = {
            data.metric_of(query["MetricStat"]): _Series(self._looked_back_s)
            for query in asked
            if "MetricStat" in query
        }
        self._asks_for_ends = any(metric.name in OF_VARIANT[1:] for metric in self._series)

    def rest(self, until: float, in_service: int) -> None:
        """Record an endpoint at rest up to then, and let its alarms come to the states they have of it."""
        if not self._series:
            return
        for minutes in range(int(self._looked_back_s // 60), 0, -1):
            self.gauge(Backlog(0, 0, None), in_service, at=until - minutes * 60)
        for alarm in self._alarms.values():
            self._evaluate(alarm, until)
        self._alarms = {
            name: replace(alarm, actions_due_at=until if alarm.repeats_actions else None)
            for name, alarm in self._alarms.items()
        }

    def gauge(self, backlog: Backlog, in_service: int, *, at: float) -> None:
        """The gauges of a moment."""
        if self._series:
            self._record(observation.gauges(ACCOUNT, self._resource.endpoint, backlog, in_service, at=at))

    def accepted(self, count: int, in_service: int, *, at: float) -> None:
        """So many invocations since they were last counted."""
        if self._series:
            name, variant = self._resource.endpoint, self._resource.variant
            self._record(observation.arrivals(ACCOUNT, name, [variant], count, in_service, at=at))

    def ended(self, accepted_at: float, claimed_at: float | None, at: float) -> None:
        """An invocation was done, or expired where it was never claimed."""
        if not self._asks_for_ends:
            return
        waited_s = (at if claimed_at is None else claimed_at) - accepted_at
        values = {"TimeInBacklog": waited_s * 1e3, "TotalProcessingTime": (at - accepted_at) * 1e3}
        values |= {"InvocationsProcessed": 1.0} if claimed_at is not None else {}
        values |= {"ExpiredRequests": 1.0, "InvocationFailures": 1.0} if claimed_at is None else {}
        dimensions = ("EndpointName", self._resource.endpoint), ("VariantName", self._resource.variant)
        units = {"TimeInBacklog": "Milliseconds", "TotalProcessingTime": "Milliseconds"}
        self._record(
            Point(ACCOUNT, NAMESPACE, name, dimensions, value, units.get(name, "Count"), at)
            for name, value in values.items()
        )

    def statistics(
        self,
        metric: Metric,
        statistic: str,
        *,
        period_s: int,
        start: float,
        end: float,
        unit: str | None = None,
    ) -> dict[int, float]:
        """As `metrics.query.statistics` answers."""
        return self._series[metric].statistics(statistic, period_s, int(start), end, unit)

    def next_at(self, now: float) -> float:
        """When an alarm is to be evaluated or to act next."""
        due = [alarm.actions_due_at for alarm in self._alarms.values() if alarm.actions_due_at is not None]
        evaluations = (alarm_states.next_evaluation_at(alarm, now) for alarm in self._alarms.values())
        return min([*due, *evaluations], default=float("inf"))

    def step(self, now: float) -> list[tuple[Alarm, str]]:
        """Evaluate the alarms that are due; the actions to carry out, each with its alarm."""
        for alarm in list(self._alarms.values()):
            self._evaluate(alarm, now)
        acts = []
        for alarm in list(self._alarms.values()):
            if alarm.actions_due_at is not None and alarm.actions_due_at <= now:
                acts += [(alarm, action) for action in alarm_states.actions_due(alarm)]
                again_at = alarm_states.due_again_at(alarm, now)
                self._alarms[alarm.name] = replace(alarm, actions_due_at=again_at)
        return acts

    def lasting(self) -> list[Alarm]:
        """The alarms in ALARM whose actions are carried out."""
        return [alarm for alarm in self._alarms.values() if alarm.state == ALARM and alarm.acts]

    def _evaluate(self, alarm: Alarm, now: float) -> None:
        end = alarm_states.newest_end(alarm, now)
        if self._evaluated.get(alarm.name) == end:
            return
        self._evaluated[alarm.name] = end
        values = alarm_states.datapoints(self.statistics, alarm, end)
        changed = alarm_states.evaluated(alarm, values, end=end, now=now)
        if changed is not None:
            self._alarms[alarm.name] = changed

    def _record(self, points: Iterable[Point]) -> None:
        for point in points:
            series = self._series.get(Metric(point.namespace, point.name, point.dimensions))
            if series is not None:
                series.add(point)


class _Series:
    """One metric's samples by the second and size of value, as `metrics.points` keeps them."""

    def __init__(self, kept_s: float) -> None:
        self._kept_s = kept_s
        self._unit: str | None = None
        self._at: list[int] = []
        self._samples: list[dict[int, Samples]] = []

    def add(self, point: Point) -> None:
        second, size = int(point.at), bucket(point.value)
        if not self._at or self._at[-1] != second:
            self._forget(second)
            self._at.append(second)
            self._samples.append({})
        self._unit = point.unit
        known = self._samples[-1].get(size)
        count, total, least, most = point.count, point.count * point.value, point.value, point.value
        if known is not None:
            count, total = known.count + count, known.total + total
            least, most = min(known.minimum, least), max(known.maximum, most)
        self._samples[-1][size] = Samples(count, total, least, most)

    def statistics(
        self, statistic: str, period_s: int, start: int, end: float, unit: str | None
    ) -> dict[int, float]:
        wanted = parse(statistic)
        if unit not in (None, self._unit):
            return {}
        first, last = bisect_left(self._at, start), bisect_left(self._at, end)
        return {
            start + slot * period_s: wanted.of(_merged(self._samples[index] for index in indexes))
            for slot, indexes in groupby(
                range(first, last), key=lambda index: (self._at[index] - start) // period_s
            )
        }

    def _forget(self, now: int) -> None:
        # All at once now and then: a list is slow to shorten at its beginning.
        old = bisect_left(self._at, now - self._kept_s)
        if old > self._kept_s:
            del self._at[:old], self._samples[:old]


def _merged(seconds: Iterable[dict[int, Samples]]) -> list[Samples]:
    """The samples of a period in ascending order of their values."""
    found = [(size, sample) for second in seconds for size, sample in second.items()]
    return [sample for _, sample in sorted(found, key=lambda each: each[0])]
