"""The loop that keeps instance counts where the policies want them.

An arrival at an endpoint without instances wakes it at once; otherwise it looks each second while anything
runs or waits, each minute while nothing does. It only says how many instances are desired: the fleet starts
and drains them.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from sqlalchemy import Connection

from ebbtide import clock, endpoints, loops, metrics, queue
from ebbtide.database import Database
from ebbtide.endpoints import Endpoint
from ebbtide.endpoints.states import DELETING, IN_SERVICE, SERVING
from ebbtide.errors import ServiceError
from ebbtide.metrics.alarm_states import Alarm
from ebbtide.queue.wakeups import Wakeups
from ebbtide.scaling import activities, configurations, goals, observation, policies, targets
from ebbtide.scaling.activities import Activity
from ebbtide.scaling.goals import NO_GOALS, Measured
from ebbtide.scaling.policies import Decision, Peaks
from ebbtide.scaling.targets import ScalableTarget, ScheduledAction
from ebbtide.scaling.utilisation import Meter

log = logging.getLogger(__name__)

ACTIVE_S, IDLE_S = 1.0, 60.0
"""Time between looks, and between gauges, at endpoints with and without anything to do."""

MEASURED_EVERY_S = 60.0

PACE_S = 0.1
"""Least time between looks: only the first arrival of a burst may find no instance."""

COUNTED_AFTER_S = 2.0
"""How long after its acceptance an invocation is counted: it must have been committed by then."""

NOT_SCALED_EVERY_S = 60.0
"""How often at most a target's activities tell that nothing was scaled, and only what they did not last."""

PricePerS = Callable[[str], float | None]
"""What an instance of a type costs a second, in USD; None where nobody told us."""


class Scaler:
    """Decides the desired instance counts of every scalable target, and records the endpoints' gauges."""

    def __init__(
        self,
        database: Database,
        wakeups: Wakeups,
        fleet_wake: Callable[[], None],
        price_per_s: PricePerS,
    ) -> None:
        self._database = database
        self._fleet_wake = fleet_wake
        self.price_per_s = price_per_s
        self._arrivals = wakeups.subscribe(None)
        self._peaks: dict[str, Peaks] = {}
        self._counted_until: float | None = None
        self._refusals: dict[str, _Refusal] = {}
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
        since, until = self._counting(now)

        def read(connection: Connection) -> tuple[observation.Seen, list[_Verdict], Mapping[str, int]]:
            return *self._decide(connection, now), observation.arrived(connection, since=since, until=until)

        seen, verdicts, arrived = await self._database.read(read)
        acts = [verdict for verdict in verdicts if verdict.changes]
        minute_over = now // MEASURED_EVERY_S != self._measured_at // MEASURED_EVERY_S
        points = [*self._gauges(seen, now), *_arrivals(seen, arrived, until, quiet_too=minute_over)]
        if minute_over:
            self._measured_at = now
            points += self._meter.points(seen.in_service, now)
        refusals = self._new_refusals(verdicts, now)
        if acts or points or refusals or _ended(seen) or _due(seen.scheduled_actions, now):
            scaled = await self._database.write(
                lambda connection: self._carry_out(connection, points, refusals, now)
            )
            if scaled:
                self._fleet_wake()
        self._counted_until = until
        self._watch(seen, arrived, now)
        # An arrival is news where nothing serves; where something does, the next look is soon enough.
        self._arrivals.ignored = frozenset(
            endpoint.id
            for endpoint in seen.endpoints
            if not acts and any(variant.desired_instance_count for variant in endpoint.variants)
        )
        every_s = ACTIVE_S if any(seen.active(endpoint) for endpoint in seen.endpoints) else IDLE_S
        # On the second: a delay counted from here would now and then skip one.
        delay_s = every_s - now % every_s
        due = [action.next_at for action in seen.scheduled_actions if action.next_at is not None]
        return max(0.0, min([delay_s, *(at - now for at in due if at > now)]))

    async def execute_policy(self, policy_arn: str, alarm: Alarm) -> None:
        """Carry out a step policy that an alarm set off; a target-tracking policy looks at its own metric.

        Raises ServiceError when the policy is gone, its endpoint cannot be scaled now, or the alarm says no
        value that a step could answer: SetAlarmState without StateReasonData.
        """
        now = clock.now()
        arn = configurations.policy_of_action(policy_arn)
        scaled = await self._database.write(lambda connection: _execute(connection, arn, alarm, now))
        if scaled:
            self._fleet_wake()

    def _decide(self, connection: Connection, now: float) -> tuple[observation.Seen, list["_Verdict"]]:
        """What there is, and what the policies make of each target whose endpoint is there."""
        seen = observation.look(connection)
        by_name = {(endpoint.account, endpoint.name): endpoint for endpoint in seen.endpoints}
        verdicts = []
        for target in seen.targets:
            endpoint = by_name.get((target.account, target.endpoint_name))
            if endpoint is not None:
                verdicts += self._weigh(connection, seen, target, endpoint, now)
        return seen, verdicts

    def _weigh(
        self,
        connection: Connection,
        seen: observation.Seen,
        target: ScalableTarget,
        endpoint: Endpoint,
        now: float,
    ) -> list["_Verdict"]:
        variant = endpoint.live.variant(target.variant)
        if variant is None or endpoint.status not in SERVING:
            return []
        backlog, put = seen.backlog(endpoint), seen.policies.get(target.id, ())
        observed = observation.observe(
            target, endpoint, variant, backlog, at=now, peaks=self._peaks.get(endpoint.id)
        )
        read = observation.readings(
            connection, target, put, observed, asynchronous=endpoint.async_config is not None
        )
        wanted, measured = seen.goals.get(endpoint.id, NO_GOALS), Measured()
        if wanted != NO_GOALS:
            price = self.price_per_s(variant.instance_type)
            measured = observation.measure(connection, endpoint, wanted, backlog, price_per_s=price, now=now)
        decision = goals.decide(
            wanted,
            measured,
            target.limits,
            read,
            observed,
            stepping_out=observation.stepping_out(put, seen.lasting, observed.desired),
        )
        return [_Verdict(target, endpoint, observed.desired, decision)]

    def _carry_out(
        self,
        connection: Connection,
        points: Sequence[metrics.Point],
        refusals: Sequence["_Verdict"],
        now: float,
    ) -> bool:
        """Everything a step writes, in one transaction; whether a count changed.

        Decided again in it: an arrival that was committed in between must not find its instance drained.
        """
        for action in _due(targets.all_scheduled_actions(connection), now):
            _set_limits(connection, action, now)
        seen, verdicts = self._decide(connection, now)
        for activity, status, message in _ended(seen):
            activities.end(connection, activity, status=status, message=message, at=now)
        acts = [verdict for verdict in verdicts if verdict.changes]
        for act in acts:
            _scale(connection, act.target, act.endpoint, act.decision, now)
        for refused in refusals:
            activities.not_scaled(
                connection,
                refused.target,
                endpoint_id=refused.endpoint.id,
                current=refused.desired,
                code=refused.not_scaled or "",
                cause=refused.decision.cause,
                at=now,
            )
        metrics.record(connection, points)
        return bool(acts)

    def _counting(self, now: float) -> tuple[float, float]:
        """From when to when arrivals are counted in this look."""
        until = now - COUNTED_AFTER_S
        return min(until, self._counted_until or until), until

    def _watch(self, seen: observation.Seen, arrived: Mapping[str, int], now: float) -> None:
        """Remember the backlogs; what came and went between two looks was a backlog too."""
        former, self._peaks = self._peaks, {}
        for endpoint in seen.endpoints:
            peaks = self._peaks[endpoint.id] = former.get(endpoint.id) or Peaks(now)
            peaks.add(now, max(seen.backlog(endpoint).size, min(1, arrived.get(endpoint.id, 0))))

    def _new_refusals(self, verdicts: Iterable["_Verdict"], now: float) -> list["_Verdict"]:
        """The changes that were called for in vain and have not been told of, once a minute at most."""
        told, self._refusals = self._refusals, {}
        new = []
        for verdict in verdicts:
            code, former = verdict.not_scaled, told.get(verdict.target.id)
            if former is not None and (code == former.code or now - former.at < NOT_SCALED_EVERY_S):
                self._refusals[verdict.target.id] = former
            elif code is not None:
                self._refusals[verdict.target.id] = _Refusal(code, now)
                new.append(verdict)
        return new

    def _gauges(self, seen: observation.Seen, now: float) -> list[metrics.Point]:
        """The gauges of the endpoints that are due to be recorded now."""
        known = {endpoint.id for endpoint in seen.endpoints}
        self._gauged_at = {id_: at for id_, at in self._gauged_at.items() if id_ in known}
        points = []
        for endpoint in seen.endpoints:
            every_s = ACTIVE_S if seen.active(endpoint) else IDLE_S
            # Looks that arrivals bring in between give no second point of the same second.
            if endpoint.async_config and now // every_s > self._gauged_at.get(endpoint.id, 0.0) // every_s:
                self._gauged_at[endpoint.id] = now
                backlog, in_service = seen.backlog(endpoint), seen.in_service_count(endpoint)
                points += observation.gauges(endpoint.account, endpoint.name, backlog, in_service, at=now)
        return points


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the policies of a target come to, beside the count desired now."""

    target: ScalableTarget
    endpoint: Endpoint
    desired: int
    decision: Decision

    @property
    def changes(self) -> bool:
        """Whether the count is to change, and can."""
        return self.decision.desired != self.desired and scalable(self.endpoint)

    @property
    def not_scaled(self) -> str | None:
        """AWS's code of why the count does not change although a policy calls for it."""
        if self.decision.desired != self.desired:
            return None if scalable(self.endpoint) else policies.UNSCALABLE
        return self.decision.not_scaled


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What a target's activities last told of, and when."""

    code: str
    at: float


def scalable(endpoint: Endpoint) -> bool:
    """Whether the counts may change now: it serves, and no other generation is being built."""
    return endpoint.status in SERVING and endpoint.target is None


def _arrivals(
    seen: observation.Seen, arrived: Mapping[str, int], at: float, *, quiet_too: bool
) -> list[metrics.Point]:
    """The points of what was accepted since the last look.

    quiet_too: also that nothing was, where instances are in service; or a policy would never scale in.
    """
    return [
        point
        for endpoint in seen.endpoints
        if endpoint.async_config
        and ((count := arrived.get(endpoint.id, 0)) or (quiet_too and seen.in_service_count(endpoint)))
        for point in observation.arrivals(
            endpoint.account,
            endpoint.name,
            [variant.name for variant in endpoint.variants],
            count,
            seen.in_service_count(endpoint),
            at=at,
        )
    ]


def _due(actions: Iterable[ScheduledAction], now: float) -> list[ScheduledAction]:
    """The scheduled actions whose time has come, in its order; that of the latest then holds."""
    due = [action for action in actions if action.next_at is not None and action.next_at <= now]
    return sorted(due, key=lambda action: action.next_at or 0.0)


def _set_limits(connection: Connection, action: ScheduledAction, now: float) -> None:
    """Carry out a scheduled action, once also for times that were missed, and say when it is due next."""
    targets.put_scheduled_action(connection, replace(action, next_at=action.due_after(now)))
    target = targets.target_of(connection, action)
    if target.suspended.get("ScheduledScalingSuspended"):
        return
    with suppress(endpoints.EndpointNotFound):  # a target outlives its endpoint
        endpoint = endpoints.get_endpoint(connection, target.account, target.endpoint_name)
        activities.limits_set(connection, target, action, endpoint_id=endpoint.id, at=now)


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
    activities.scaled(
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
    rule = configurations.step_scaling(policy.name, policy.configuration)
    distance = observation.distance_of(alarm, rule)
    if distance is None:
        raise ServiceError(f"Alarm {alarm.name} gives no metric value, which policy {policy.name} needs.")
    endpoint = endpoints.get_endpoint(connection, target.account, target.endpoint_name)
    variant = endpoint.live.variant(target.variant)
    if variant is None or not scalable(endpoint):
        raise ServiceError(f"{target.resource_id} cannot be scaled now: the endpoint is {endpoint.status}.")
    observed = observation.observe(target, endpoint, variant, queue.backlog(connection, endpoint.id), at=now)
    others = targets.policies_of(connection, target)
    asynchronous = endpoint.async_config is not None
    read = observation.readings(connection, target, others, observed, asynchronous=asynchronous)
    decision = policies.step(target.limits, rule, distance, observed, read)
    cause = f"monitor alarm {alarm.name} in state ALARM triggered policy {policy.name}"
    if decision is not None:
        _scale(connection, target, endpoint, Decision(decision.desired, cause), now)
        return True
    code = policies.why_not_stepped(target.limits, rule, distance, observed)
    # The action of a lasting alarm comes again each minute; what it told the first time is enough.
    if code is not None and alarm.change_is_due:
        activities.not_scaled(
            connection,
            target,
            endpoint_id=endpoint.id,
            current=observed.desired,
            code=code,
            cause=cause,
            at=now,
        )
    return False
