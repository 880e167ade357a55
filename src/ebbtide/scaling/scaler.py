"""The loop that keeps instance counts where the policies want them.

An arrival at an endpoint without instances wakes it at once; otherwise it looks each second while anything
runs or waits, each minute while nothing does. It only says how many instances are desired: the fleet starts
and drains them.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from ebbtide import clock, endpoints, loops, metrics, queue
from ebbtide.database import Database
from ebbtide.endpoints import Endpoint
from ebbtide.endpoints.states import DELETING, IN_SERVICE, SERVING
from ebbtide.errors import ServiceError
from ebbtide.metrics.alarms import Alarm
from ebbtide.queue.wakeups import Wakeups
from ebbtide.scaling import configurations, observation, policies, targets
from ebbtide.scaling.policies import Decision
from ebbtide.scaling.targets import Activity, ScalableTarget
from ebbtide.scaling.utilisation import Meter
from ebbtide.settings import Settings

log = logging.getLogger(__name__)

ACTIVE_S, IDLE_S = 1.0, 60.0
"""Time between looks, and between gauges, at endpoints with and without anything to do."""

MEASURED_EVERY_S = 60.0

PACE_S = 0.1
"""Least time between looks: only the first arrival of a burst may find no instance."""


class Scaler:
    """Decides the desired instance counts of every scalable target, and records the endpoints' gauges."""

    def __init__(
        self, settings: Settings, database: Database, wakeups: Wakeups, fleet_wake: Callable[[], None]
    ) -> None:
        self._region = settings.region
        self._database = database
        self._fleet_wake = fleet_wake
        self._arrivals = wakeups.subscribe(None)
        self._gauged_at: dict[str, float] = {}
        self._meter = Meter()
        self._measured_at = 0.0

    def wake(self) -> None:
        """Look again now: a target, a policy or an endpoint changed."""
        self._arrivals.event.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Step until told to stop."""

        async def paced(now: float) -> float:
            delay_s = await self.step(now)
            await asyncio.sleep(PACE_S)
            return max(0.0, delay_s - PACE_S)

        await loops.run("scaler", paced, stop, wake=self._arrivals.event)

    async def step(self, now: float) -> float:
        """Look at everything once and act on it; the delay before the next look, in s."""
        seen, acts = await self._database.read(lambda connection: _decide(connection, now))
        gauged = self._due(seen, now)
        measured = self._measure(seen, now)
        if acts or gauged or measured or _ended(seen):
            scaled = await self._database.write(
                lambda connection: _carry_out(connection, gauged, measured, now)
            )
            if scaled:
                self._fleet_wake()
        # An arrival is news where nothing serves; where something does, the next look is soon enough.
        self._arrivals.ignored = frozenset(
            endpoint.id
            for endpoint in seen.endpoints
            if not acts and any(variant.desired_instance_count for variant in endpoint.variants)
        )
        every_s = ACTIVE_S if any(seen.active(endpoint) for endpoint in seen.endpoints) else IDLE_S
        # On the second: a delay counted from here would now and then skip one.
        return every_s - now % every_s

    async def execute_policy(self, policy_arn: str, alarm: Alarm) -> None:
        """Carry out a step policy that an alarm set off; a target-tracking policy looks at its own metric.

        Raises ServiceError when the policy is gone, its endpoint cannot be scaled now, or the alarm says no
        value that a step could answer: SetAlarmState without StateReasonData.
        """
        now = clock.now()
        scaled = await self._database.write(lambda connection: _execute(connection, policy_arn, alarm, now))
        if scaled:
            self._fleet_wake()

    def _due(self, seen: observation.Seen, now: float) -> set[str]:
        """Ids of the endpoints whose gauges are to be recorded now."""
        known = {endpoint.id for endpoint in seen.endpoints}
        self._gauged_at = {id_: at for id_, at in self._gauged_at.items() if id_ in known}
        due = set()
        for endpoint in seen.endpoints:
            every_s = ACTIVE_S if seen.active(endpoint) else IDLE_S
            # Looks that arrivals bring in between give no second point of the same second.
            if endpoint.async_config and now // every_s > self._gauged_at.get(endpoint.id, 0.0) // every_s:
                self._gauged_at[endpoint.id] = now
                due.add(endpoint.id)
        return due

    def _measure(self, seen: observation.Seen, now: float) -> list[metrics.Point]:
        """Each minute, what the instances in service use."""
        if now // MEASURED_EVERY_S == self._measured_at // MEASURED_EVERY_S:
            return []
        self._measured_at = now
        return self._meter.points(seen.in_service, now)


@dataclass(frozen=True, slots=True)
class _Act:
    """A decision to be carried out."""

    target: ScalableTarget
    endpoint: Endpoint
    decision: Decision


def _decide(connection: Connection, now: float) -> tuple[observation.Seen, list[_Act]]:
    seen = observation.look(connection)
    by_name = {(endpoint.account, endpoint.name): endpoint for endpoint in seen.endpoints}
    acts = []
    for target in seen.targets:
        endpoint = by_name.get((target.account, target.endpoint_name))
        if endpoint is None or not scalable(endpoint):
            continue
        variant = endpoint.live.variant(target.variant)
        if variant is None:
            continue
        observed = observation.observe(target, endpoint, variant, seen.backlog(endpoint), at=now)
        readings = observation.readings(connection, target, seen.policies.get(target.id, ()), observed)
        decision = policies.decide(target.limits, readings, observed)
        if decision.desired != observed.desired:
            acts.append(_Act(target, endpoint, decision))
    return seen, acts


def scalable(endpoint: Endpoint) -> bool:
    """Whether the counts may change now: it serves, and no other generation is being built."""
    return endpoint.status in SERVING and endpoint.target is None


def _carry_out(
    connection: Connection, gauged: Collection[str], measured: Sequence[metrics.Point], now: float
) -> bool:
    """Everything a step writes, in one transaction; whether a count changed. gauged: endpoint ids.

    Decided again in it: an arrival that was committed in between must not find its instance drained.
    """
    seen, acts = _decide(connection, now)
    for activity, status, message in _ended(seen):
        targets.end_activity(connection, activity, status=status, message=message, at=now)
    for act in acts:
        _scale(connection, act.target, act.endpoint, act.decision, now)
    gauges = [
        point
        for endpoint in seen.endpoints
        if endpoint.id in gauged
        for point in observation.gauges(
            endpoint, seen.backlog(endpoint), seen.in_service_count(endpoint), at=now
        )
    ]
    metrics.record(connection, [*gauges, *measured])
    return bool(acts)


def _ended(seen: observation.Seen) -> list[tuple[Activity, str, str]]:
    """The activities that have come to their end, with the status and message they end with."""
    by_id = {endpoint.id: endpoint for endpoint in seen.endpoints}
    ended = []
    for activity in seen.under_way:
        endpoint = by_id.get(activity.endpoint_id)
        if endpoint is None or endpoint.status == DELETING:
            ended.append((activity, "Failed", "The endpoint was deleted."))
        elif endpoint.failure_reason is not None:
            ended.append((activity, "Failed", endpoint.failure_reason))
        elif endpoint.status == IN_SERVICE and _fulfilled(activity, seen):
            message = f"Successfully set desired instance count to {activity.desired}. "
            ended.append((activity, "Successful", f"{message}Change successfully fulfilled by sagemaker."))
    return ended


def _fulfilled(activity: Activity, seen: observation.Seen) -> bool:
    # An endpoint is InService again with some of its instances while the machine has no room for the others.
    of_variant = (
        instance
        for instance in seen.in_service
        if instance.endpoint_id == activity.endpoint_id and instance.variant == activity.variant
    )
    return sum(1 for _ in of_variant) == activity.desired


def _scale(
    connection: Connection, target: ScalableTarget, endpoint: Endpoint, decision: Decision, now: float
) -> None:
    variant = endpoint.live.variant(target.variant)
    assert variant is not None
    endpoints.set_desired_instance_counts(connection, endpoint.id, {variant.name: decision.desired}, now)
    targets.scaled(
        connection,
        target,
        endpoint_id=endpoint.id,
        before=variant.desired_instance_count,
        desired=decision.desired,
        cause=decision.cause,
        at=now,
    )
    log.info("%s: %d instances desired: %s", target.resource_id, decision.desired, decision.cause)


def _execute(connection: Connection, policy_arn: str, alarm: Alarm, now: float) -> bool:
    """Whether the policy changed a count."""
    found = targets.find_policy(connection, policy_arn)
    if found is None:
        raise targets.ObjectNotFound(f"No scaling policy found: {policy_arn}")
    policy, target = found
    if policy.type != "StepScaling":
        return False
    if alarm.metric_value is None:
        raise ServiceError(f"Alarm {alarm.name} gives no metric value, which policy {policy.name} needs.")
    endpoint = endpoints.get_endpoint(connection, target.account, target.endpoint_name)
    variant = endpoint.live.variant(target.variant)
    if variant is None or not scalable(endpoint):
        raise ServiceError(f"{target.resource_id} cannot be scaled now: the endpoint is {endpoint.status}.")
    observed = observation.observe(target, endpoint, variant, queue.backlog(connection, endpoint.id), at=now)
    decision = policies.step(
        target.limits,
        configurations.step_scaling(policy.name, policy.configuration),
        alarm.metric_value - alarm.definition["Threshold"],
        observed,
    )
    if decision is None:
        return False
    cause = f"monitor alarm {alarm.name} in state ALARM triggered policy {policy.name}"
    _scale(connection, target, endpoint, Decision(decision.desired, cause), now)
    return True
