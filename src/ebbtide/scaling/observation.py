"""What the scaler sees of every endpoint in one snapshot, and the gauges that CloudWatch clients see."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, text

from ebbtide import endpoints, queue
from ebbtide.endpoints import Endpoint, Variant
from ebbtide.identifiers import first_id
from ebbtide.metrics import Point, alarms, data
from ebbtide.metrics.alarm_states import Alarm, is_scaling_policy
from ebbtide.metrics.points import DAY_S
from ebbtide.metrics.query import Metric, statistics
from ebbtide.queue import Backlog, listing
from ebbtide.scaling import activities, configurations, endpoint_goals, goals, targets
from ebbtide.scaling.activities import Activity
from ebbtide.scaling.configurations import PERIOD_S
from ebbtide.scaling.goals import Budget, Forecast, Goals, Measured
from ebbtide.scaling.policies import (
    LOW_PERIODS,
    Observation,
    Peaks,
    Reading,
    StepScaling,
    TargetTracking,
    aggregate,
    read_backlog,
    read_datapoints,
    steps_out,
)
from ebbtide.scaling.targets import Policy, ScalableTarget, ScheduledAction
from ebbtide.scaling.utilisation import Running

NAMESPACE = "AWS/SageMaker"

OWN_NAMESPACE, ARRIVALS = "Ebbtide", "Arrivals"
"""How many invocations an endpoint has accepted: CloudWatch has no metric of that."""

SAMPLE = 100
"""Latest successes whose mean time tells an instance's pace."""

STARTS = 5
"""Latest starts whose mean time tells how long one takes."""

DEFAULT_SLOTS = 2
"""Invocations at a time of an instance that has not come up yet. As few as the fleet starts with."""

# The instances' own module builds upon this one, so their table is read by its name.
IN_SERVICE = text("""
SELECT instances.endpoint_id, endpoints.account, endpoints.name AS endpoint_name, instances.variant,
       instances.pid
  FROM instances JOIN endpoints ON endpoints.id = instances.endpoint_id
 WHERE instances.state = 'InService' AND instances.ended_at IS NULL
""")

STARTED = text("""
SELECT in_service_at - created_at FROM instances
 WHERE endpoint_id = :endpoint_id AND in_service_at IS NOT NULL
 ORDER BY created_at DESC LIMIT :limit
""")

SLOTS = text("""
SELECT concurrency FROM instances
 WHERE endpoint_id = :endpoint_id AND concurrency IS NOT NULL
 ORDER BY created_at DESC LIMIT 1
""")

SPENT = text("""
SELECT SUM(COALESCE(ended_at, :now) - CASE WHEN starting_at > :since THEN starting_at ELSE :since END)
  FROM instances
 WHERE endpoint_id = :endpoint_id AND starting_at IS NOT NULL AND (ended_at IS NULL OR ended_at > :since)
""")

ARRIVED = text("""
SELECT endpoint_id, count(*) FROM invocations WHERE id >= :first AND id < :last GROUP BY endpoint_id
""")


@dataclass(frozen=True, slots=True)
class Seen:
    """Endpoints and targets, policies by target id, scheduled actions, backlogs and goals by endpoint id, the
    instances in service, the scaling activities under way, and the alarms in ALARM that scale.
    """

    endpoints: list[Endpoint]
    targets: list[ScalableTarget]
    policies: Mapping[str, list[Policy]]
    scheduled_actions: list[ScheduledAction]
    backlogs: Mapping[str, Backlog]
    goals: Mapping[str, Goals]
    in_service: list[Running]
    under_way: list[Activity]
    lasting: list[Alarm]

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
    """Everything, in one snapshot; variants that scale without a scalable target have one here."""
    known = endpoints.all_endpoints(connection)
    all_targets = targets.all_targets(connection)
    policies = targets.all_policies(connection)
    registered = {(target.account, target.endpoint_name, target.variant) for target in all_targets}
    for endpoint in known:
        for variant in endpoint.variants:
            if (endpoint.account, endpoint.name, variant.name) in registered:
                continue
            if (scaled := _managed(connection, endpoint, variant)) is not None:
                target, policy = scaled
                all_targets.append(target)
                policies[target.id] = [policy]
    stepping = any(policy.type == "StepScaling" for each in policies.values() for policy in each)
    return Seen(
        endpoints=known,
        targets=all_targets,
        policies=policies,
        scheduled_actions=targets.all_scheduled_actions(connection),
        backlogs=queue.backlogs(connection),
        goals=endpoint_goals.all_goals(connection),
        in_service=[Running(*row) for row in connection.execute(IN_SERVICE)],
        under_way=activities.under_way(connection),
        lasting=alarms.lasting_of_policies(connection) if stepping else [],
    )


def _managed(
    connection: Connection, endpoint: Endpoint, variant: Variant
) -> tuple[ScalableTarget, Policy] | None:
    """The target and policy that a variant's own configuration stands for, in no table."""
    asynchronous = endpoint.async_config is not None
    if "ManagedInstanceScaling" not in variant.config and not asynchronous:
        return None
    asked = configurations.managed(
        variant.config, asynchronous=asynchronous, slots=slots(connection, endpoint)
    )
    if asked is None:
        return None
    resource_id = f"endpoint/{endpoint.name}/variant/{variant.name}"
    last_at = activities.last_scaled_at(connection, endpoint.account, resource_id, endpoint.id)
    target = ScalableTarget(
        id=f"managed/{endpoint.id}/{variant.name}",
        account=endpoint.account,
        resource_id=resource_id,
        arn="",
        endpoint_name=endpoint.name,
        variant=variant.name,
        min_capacity=asked.min_capacity,
        max_capacity=asked.max_capacity,
        role_arn="",
        suspended={},
        tags={},
        created_at=endpoint.created_at,
        last_scaled_at=last_at,
        last_scale_out_at=last_at,
    )
    policy = Policy(
        arn="",
        target_id=target.id,
        name=asked.name,
        type="TargetTrackingScaling",
        configuration=asked.policy,
        created_at=endpoint.created_at,
        put_at=endpoint.live.started_at,
    )
    return target, policy


def arrived(connection: Connection, *, since: float, until: float) -> dict[str, int]:
    """How many invocations each endpoint has accepted from `since` to before `until`, by its id."""
    rows = connection.execute(ARRIVED, {"first": first_id(since), "last": first_id(until)})
    return {row[0]: row[1] for row in rows}


def observe(
    target: ScalableTarget,
    endpoint: Endpoint,
    variant: Variant,
    backlog: Backlog,
    *,
    at: float,
    peaks: Peaks | None = None,
) -> Observation:
    """What policies are asked with. at: epoch seconds; peaks: None where the backlog has not been watched."""
    others = (each.desired_instance_count for each in endpoint.variants if each.name != variant.name)
    return Observation(
        at=at,
        desired=variant.desired_instance_count,
        others=sum(others),
        backlog=backlog.size,
        last_scaled_at=target.last_scaled_at,
        last_scale_out_at=target.last_scale_out_at,
        before_scale_out=target.before_scale_out,
        peaks=() if peaks is None else peaks.steps,
        watched_since=None if peaks is None else peaks.since,
    )


def readings(
    connection: Connection,
    target: ScalableTarget,
    policies: Iterable[Policy],
    seen: Observation,
    *,
    asynchronous: bool,
) -> list[tuple[TargetTracking, Reading | None]]:
    """What the target-tracking policies' metrics say: the live queue, or the last minutes of a stored one."""
    resource = configurations.Resource(target.endpoint_name, target.variant)
    read: list[tuple[TargetTracking, Reading | None]] = []
    for put in policies:
        if put.type != "TargetTrackingScaling":
            continue
        policy = configurations.target_tracking(put.name, put.configuration, since=put.put_at)
        if configurations.follows_backlog(put.configuration, resource, asynchronous=asynchronous):
            read.append((policy, read_backlog(policy, seen)))
        else:
            followed = configurations.queries(put.configuration, resource, asynchronous=asynchronous)
            minutes = last_minutes(partial(statistics, connection, target.account), followed, seen.at)
            read.append((policy, read_datapoints(policy, minutes, seen)))
    return read


def stepping_out(policies: Iterable[Policy], lasting: Iterable[Alarm], desired: int) -> list[str]:
    """The names of the step policies that an alarm which lasts calls to more than the desired count."""
    called = {action: alarm for alarm in lasting for action in alarm.actions if is_scaling_policy(action)}
    names = []
    for put in policies:
        alarm = called.get(put.arn)
        if put.type != "StepScaling" or alarm is None:
            continue
        policy = configurations.step_scaling(put.name, put.configuration)
        distance = distance_of(alarm, policy)
        if distance is not None and steps_out(policy, distance, desired):
            names.append(put.name)
    return names


def distance_of(alarm: Alarm, policy: StepScaling) -> float | None:
    """How far the alarm's metric is from its threshold, as the policy counts it; None without a value."""
    if not alarm.datapoints:
        return None
    return aggregate(policy, alarm.datapoints) - float(alarm.definition["Threshold"])


def slots(connection: Connection, endpoint: Endpoint) -> int:
    """Invocations that one of the endpoint's instances works on at a time: asked for, found, or a guess."""
    config = endpoint.async_config
    asked = config.max_concurrent_invocations_per_instance if config else None
    found = asked or connection.scalar(SLOTS, {"endpoint_id": endpoint.id})
    return int(found or DEFAULT_SLOTS)


def measure(
    connection: Connection,
    endpoint: Endpoint,
    wanted: Goals,
    backlog: Backlog,
    *,
    price_per_s: float | None,
    now: float,
) -> Measured:
    """What the endpoint's goals are weighed by. price_per_s: USD of one instance of the variant."""
    count = slots(connection, endpoint)
    finished = listing.latest_finished(connection, endpoint.id, limit=SAMPLE)
    service_s = sum(end - start for _, start, end in finished) / len(finished) if finished else None
    starts = connection.execute(STARTED, {"endpoint_id": endpoint.id, "limit": STARTS}).scalars().all()
    in_usd = wanted.budget is not None and wanted.budget.instance_s_per_day is None
    return Measured(
        oldest_accepted_at=backlog.oldest_accepted_at,
        rate_per_s=None if service_s is None else count / max(service_s, 1e-3),
        starting_s=sum(starts) / len(starts) if starts else 0.0,
        slots=count,
        spent=_spent(connection, endpoint, wanted.budget, price_per_s if in_usd else 1.0, now),
        spent_per_instance_s=price_per_s if in_usd else 1.0,
        arrivals=_earlier_arrivals(connection, endpoint, wanted.forecast, now),
    )


def _spent(
    connection: Connection, endpoint: Endpoint, budget: Budget | None, per_s: float | None, now: float
) -> float:
    """What the endpoint's instances have taken since midnight UTC."""
    if budget is None or per_s is None:
        return 0.0
    midnight = now // DAY_S * DAY_S
    values = {"endpoint_id": endpoint.id, "since": midnight, "now": now}
    return per_s * float(connection.scalar(SPENT, values) or 0.0)


def _earlier_arrivals(
    connection: Connection, endpoint: Endpoint, forecast: Forecast | None, now: float
) -> list[float]:
    """What came in the window from this time of the week on, in each of the weeks since it was deployed."""
    if forecast is None:
        return []
    metric = Metric(OWN_NAMESPACE, ARRIVALS, (("EndpointName", endpoint.name),))
    window_s = int(goals.WINDOW_S)
    counts = []
    for week in range(1, forecast.weeks + 1):
        start = int(now - week * goals.WEEK_S) // PERIOD_S * PERIOD_S
        if start < endpoint.created_at:
            break
        found = statistics(
            connection, endpoint.account, metric, "Sum", period_s=window_s, start=start, end=start + window_s
        )
        counts.append(sum(found.values()))
    return counts


def last_minutes(read: data.Statistics, followed: Sequence[data.Query], now: float) -> list[float | None]:
    """The last whole minutes' values, oldest first."""
    end = int(now // PERIOD_S) * PERIOD_S
    start = end - LOW_PERIODS * PERIOD_S
    answers = data.answer_from(read, followed, start=start, end=end, now=now)
    points = answers[0].points if answers else {}
    return [points.get(minute) for minute in range(start, end, PERIOD_S)]


def gauges(account: str, endpoint_name: str, backlog: Backlog, in_service: int, *, at: float) -> list[Point]:
    """An asynchronous endpoint's backlog as CloudWatch names it.

    ApproximateBacklogSizePerInstance is undefined, so absent, without instances; the age of the oldest
    request is 0 without any. Source: SageMaker Developer Guide, async-inference-monitor.
    """
    oldest = backlog.oldest_accepted_at
    values = [
        ("ApproximateBacklogSize", float(backlog.size), "Count"),
        ("ApproximateAgeOfOldestRequest", 0.0 if oldest is None else max(0.0, at - oldest), "Seconds"),
        ("HasBacklogWithoutCapacity", float(backlog.size > 0 and in_service == 0), "Count"),
    ]
    if in_service:
        values.append(("ApproximateBacklogSizePerInstance", backlog.size / in_service, "Count"))
    dimensions = (("EndpointName", endpoint_name),)
    return [Point(account, NAMESPACE, name, dimensions, value, unit, at) for name, value, unit in values]


def arrivals(
    account: str, endpoint_name: str, variants: Iterable[str], count: int, in_service: int, *, at: float
) -> list[Point]:
    """What an asynchronous endpoint has accepted, and as InvocationsPerInstance of each variant.

    AWS publishes the latter for real-time endpoints only, and policies on it then do nothing, silently.
    """
    named = ("EndpointName", endpoint_name)
    points = [Point(account, OWN_NAMESPACE, ARRIVALS, (named,), float(count), "Count", at)]
    for variant in variants:
        share = count / max(1, in_service)
        dimensions = (named, ("VariantName", variant))
        points.append(Point(account, NAMESPACE, "InvocationsPerInstance", dimensions, share, "None", at))
    return points
