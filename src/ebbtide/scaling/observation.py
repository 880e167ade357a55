"""What the scaler sees of every endpoint in one snapshot, and the gauges that CloudWatch clients see."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from ebbtide import endpoints, queue
from ebbtide.endpoints import Endpoint, Variant
from ebbtide.metrics import Point, data
from ebbtide.queue import Backlog
from ebbtide.scaling import configurations, targets
from ebbtide.scaling.configurations import PERIOD_S
from ebbtide.scaling.policies import (
    LOW_PERIODS,
    Observation,
    Reading,
    TargetTracking,
    read_backlog,
    read_datapoints,
)
from ebbtide.scaling.targets import Activity, Policy, ScalableTarget
from ebbtide.scaling.utilisation import Running

NAMESPACE = "AWS/SageMaker"

# The instances' own module builds upon this one, so their table is read by its name.
IN_SERVICE = text("""
SELECT instances.endpoint_id, endpoints.name AS endpoint_name, instances.variant, instances.pid
  FROM instances JOIN endpoints ON endpoints.id = instances.endpoint_id
 WHERE instances.state = 'InService' AND instances.ended_at IS NULL
""")


@dataclass(frozen=True, slots=True)
class Seen:
    """Endpoints and targets, policies by target id, backlogs by endpoint id, the instances in service and the
    scaling activities under way.
    """

    endpoints: list[Endpoint]
    targets: list[ScalableTarget]
    policies: Mapping[str, list[Policy]]
    backlogs: Mapping[str, Backlog]
    in_service: list[Running]
    under_way: list[Activity]

    def backlog(self, endpoint: Endpoint) -> Backlog:
        return self.backlogs.get(endpoint.id, Backlog(0, 0, None))

    def in_service_count(self, endpoint: Endpoint) -> int:
        return sum(instance.endpoint_id == endpoint.id for instance in self.in_service)

    def active(self, endpoint: Endpoint) -> bool:
        """Whether the endpoint has anything that may change from one second to the next."""
        return bool(
            self.backlog(endpoint).size
            or self.in_service_count(endpoint)
            or any(variant.desired_instance_count for variant in endpoint.variants)
        )


def look(connection: Connection) -> Seen:
    """Everything, in one snapshot."""
    return Seen(
        endpoints=endpoints.all_endpoints(connection),
        targets=targets.all_targets(connection),
        policies=targets.all_policies(connection),
        backlogs=queue.backlogs(connection),
        in_service=[Running(*row) for row in connection.execute(IN_SERVICE)],
        under_way=targets.activities_under_way(connection),
    )


def observe(
    target: ScalableTarget, endpoint: Endpoint, variant: Variant, backlog: Backlog, *, at: float
) -> Observation:
    others = (each.desired_instance_count for each in endpoint.variants if each.name != variant.name)
    return Observation(
        at=at,
        desired=variant.desired_instance_count,
        others=sum(others),
        backlog=backlog.size,
        last_scaled_at=target.last_scaled_at,
        last_scale_out_at=target.last_scale_out_at,
        before_scale_out=target.before_scale_out,
    )


def readings(
    connection: Connection, target: ScalableTarget, policies: Iterable[Policy], seen: Observation
) -> list[tuple[TargetTracking, Reading | None]]:
    """What the target-tracking policies' metrics say: the live queue, or the last minutes of a stored one."""
    resource = configurations.Resource(target.endpoint_name, target.variant)
    read: list[tuple[TargetTracking, Reading | None]] = []
    for put in policies:
        if put.type != "TargetTrackingScaling":
            continue
        policy = configurations.target_tracking(put.name, put.configuration, since=put.put_at)
        if configurations.follows_backlog(put.configuration, resource):
            read.append((policy, read_backlog(policy, seen)))
        else:
            followed = configurations.queries(put.configuration, resource)
            minutes = _last_minutes(connection, followed, seen.at)
            read.append((policy, read_datapoints(policy, minutes, seen)))
    return read


def _last_minutes(connection: Connection, followed: Sequence[data.Query], now: float) -> list[float | None]:
    """The last whole minutes' values, oldest first."""
    end = int(now // PERIOD_S) * PERIOD_S
    start = end - LOW_PERIODS * PERIOD_S
    answers = data.answer(connection, followed, start=start, end=end, now=now)
    points = answers[0].points if answers else {}
    return [points.get(minute) for minute in range(start, end, PERIOD_S)]


def gauges(endpoint: Endpoint, backlog: Backlog, in_service: int, *, at: float) -> list[Point]:
    """An asynchronous endpoint's backlog as CloudWatch names it.

    ApproximateBacklogSizePerInstance is undefined, so absent, without instances; the age of the oldest
    request is 0 without any. Source: reference metrics-and-notifications.md, 2.
    """
    oldest = backlog.oldest_accepted_at
    values = [
        ("ApproximateBacklogSize", float(backlog.size), "Count"),
        ("ApproximateAgeOfOldestRequest", 0.0 if oldest is None else max(0.0, at - oldest), "Seconds"),
        ("HasBacklogWithoutCapacity", float(backlog.size > 0 and in_service == 0), "Count"),
    ]
    if in_service:
        values.append(("ApproximateBacklogSizePerInstance", backlog.size / in_service, "Count"))
    dimensions = (("EndpointName", endpoint.name),)
    return [Point(NAMESPACE, name, dimensions, value, unit, at) for name, value, unit in values]
