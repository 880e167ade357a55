"""Virtual time: arrivals, claims, ends, starts and the scaler's looks, in their order.

What decides is the server's own: `queue.fairness` says whose turn it is, `scaling.goals` and
`scaling.policies` how many instances there should be, `instances.plan` which of them goes. What is modelled
is the rest: an idle instance claims at once, a start takes `starting_s`, the scaler looks each second while
anything runs or waits and at once when a request arrives where no instance is.
"""

import heapq
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass
from statistics import fmean

from ebbtide.instances.plan import Drain, plan
from ebbtide.instances.records import Instance, State
from ebbtide.queue import Backlog
from ebbtide.queue.fairness import Waiting, share
from ebbtide.scaling import configurations, goals, observation, policies
from ebbtide.scaling.configurations import PERIOD_S
from ebbtide.scaling.goals import NO_GOALS, Measured
from ebbtide.scaling.policies import (
    Decision,
    Observation,
    Peaks,
    Reading,
    TargetTracking,
)
from ebbtide.simulation.load import Load
from ebbtide.simulation.setting import Fleet, Scaling
from ebbtide.simulation.watch import Watch

ACTIVE_S, IDLE_S = 1.0, 60.0
"""Time between the scaler's looks with and without anything to do, as in scaling.scaler."""

RECENT = 100
"""Latest ends that tell the pace of an instance."""

DAY_S, WEEK_S = 86_400.0, goals.WEEK_S


@dataclass(slots=True)
class Life:
    """An instance: when it was started, came into service and ended."""

    number: int
    started_at: float
    in_service_at: float | None = None
    ended_at: float | None = None
    held: int = 0
    draining: bool = False
    free: bool = False
    """Whether it is in the line of those with a free slot."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the scaler saw at a moment."""

    at: float
    backlog: int
    in_service: int
    desired: int
    oldest_age_s: float


@dataclass(slots=True)
class Run:
    """What came of a load: of each arrival when it was claimed and done, and the number of its instance, or
    when it expired; the instances, what the scaler saw, its decisions, and when calm had returned.
    """

    claimed_at: list[float | None]
    finished_at: list[float | None]
    instance: list[int | None]
    expired_at: list[float | None]
    lives: list[Life]
    looks: list[Look]
    decisions: list[tuple[float, Decision]]
    ended_at: float = 0.0

    @classmethod
    def of(cls, count: int) -> "Run":
        """Of so many arrivals, before anything has happened."""
        return cls([None] * count, [None] * count, [None] * count, [None] * count, [], [], [])


def simulate(load: Load, fleet: Fleet, scaling: Scaling) -> Run:
    """Let the load through, until everything has its end and calm returns.

    The fewest instances that are allowed have come up when the first request does. Calm: no more instances
    than those, or no act and no end for as long as the policies need, or for a day no end.
    """
    return _Simulation(load, fleet, scaling).run()


class _Simulation:
    def __init__(self, load: Load, fleet: Fleet, scaling: Scaling) -> None:
        self._load = load
        self._fleet = fleet
        self._scaling = scaling
        self._run = Run.of(len(load))
        self._queues: dict[str, list[tuple[int, int]]] = {account: [] for account in set(load.account)}
        self._queued = dict.fromkeys(self._queues, 0)
        self._turns = dict.fromkeys(self._queues, 0.0)
        self._expiring: list[tuple[float, int]] = []
        # What happens next: (when, order of equals, what, of which); ends before starts before looks.
        self._ends: list[tuple[float, int, Life]] = []
        self._starts: list[tuple[float, int, Life]] = []
        self._free: deque[Life] = deque()
        self._now = load.at[0] - fleet.starting_s
        self._arrived = self._seen = self._waiting = self._left = self._first_open = 0
        self._desired = 0
        self._instances: list[Life] = []
        self._last_scaled_at: float | None = None
        self._last_scale_out_at: float | None = None
        self._before_scale_out: int | None = None
        self._peaks = Peaks(self._now)
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._last_end_at = self._now
        self._watch = Watch(scaling.resource, scaling.alarms, [queries for _, queries in scaling.stored])
        self._watch.rest(self._now, scaling.limits.min_capacity)
        self._watch_at = self._watch.next_at(self._now)
        self._gauged_at = self._now
        self._counted_in = self._now // PERIOD_S
        self._minutes: dict[str, tuple[float, list[float | None]]] = {}
        self._limits = scaling.limits
        self._due = {each: each.next_at(self._now, origin=load.at[0]) for each in scaling.scheduled}

    @property
    def _backlog(self) -> int:
        return self._arrived - self._left

    def run(self) -> Run:
        at, total = self._load.at, len(self._load)
        look_at = self._now
        never = float("inf")
        while True:
            arrival = at[self._arrived] if self._arrived < total else never
            end = self._ends[0][0] if self._ends else never
            start = self._starts[0][0] if self._starts else never
            self._now = now = min(arrival, end, start, look_at, self._watch_at)
            if now == end:
                self._end(heapq.heappop(self._ends))
            elif now == start:
                self._come_up(heapq.heappop(self._starts)[2])
            elif now == arrival:
                self._arrive(self._arrived)
                if not self._desired:
                    look_at = now
            elif now < look_at:
                if self._answer_alarms():
                    look_at = min(look_at, now // ACTIVE_S + ACTIVE_S)
            else:
                self._look()
                self._answer_alarms()
                if self._over():
                    break
                every_s = ACTIVE_S if self._backlog or self._instances or self._desired else IDLE_S
                # On the second, as the scaler does.
                look_at = min([(now // every_s + 1) * every_s, *filter(None, self._due.values())])
        self._run.ended_at = self._now
        return self._run

    def _over(self) -> bool:
        if self._arrived < len(self._load) or self._backlog:
            return False
        if len(self._instances) <= self._limits.min_capacity:
            return True
        quiet_since = max(self._last_end_at, self._last_scaled_at or 0.0)
        return self._now > min(quiet_since + self._scaling.settling_s + 60.0, self._last_end_at + DAY_S)

    def _arrive(self, number: int) -> None:
        load = self._load
        self._arrived = number + 1
        account = load.account[number]
        heapq.heappush(self._queues[account], (-load.priority[number], number))
        self._queued[account] += 1
        heapq.heappush(self._expiring, (self._now + load.ttl_s[number], number))
        self._waiting += 1
        while self._free:
            # Round and round, so that what arrives singly spreads over the instances.
            life = self._free.popleft()
            life.free = False
            if life.held < self._fleet.slots and not life.draining:
                self._claim(life, 1)
                self._offer(life)
                break

    def _offer(self, life: Life) -> None:
        """Let it stand in line, if it has a free slot."""
        if life.held < self._fleet.slots and not life.free:
            life.free = True
            self._free.append(life)

    def _claim(self, life: Life, limit: int) -> None:
        """Fill free slots, accounts in their turns, of each its highest priority and oldest first."""
        self._expire()
        if not self._waiting:
            return
        waiting = [
            Waiting(account, queued, self._turns[account], self._fleet.weights.get(account, 1.0))
            for account, queued in self._queued.items()
        ]
        for each in share(waiting, limit):
            queue = self._queues[each.account]
            taken = 0
            while taken < each.count:
                number = heapq.heappop(queue)[1]
                if self._run.expired_at[number] is None:
                    self._run.claimed_at[number] = self._now
                    self._run.instance[number] = life.number
                    life.held += 1
                    heapq.heappush(self._ends, (self._now + self._load.service_s[number], number, life))
                    taken += 1
            self._queued[each.account] -= taken
            self._waiting -= taken
            if len(waiting) > 1:
                self._turns[each.account] = each.turn

    def _expire(self) -> None:
        expiring, run = self._expiring, self._run
        while expiring and expiring[0][0] <= self._now:
            number = heapq.heappop(expiring)[1]
            if run.claimed_at[number] is None:
                run.expired_at[number] = self._now
                self._watch.ended(self._load.at[number], None, self._now)
                self._queued[self._load.account[number]] -= 1
                self._waiting -= 1
                self._left += 1

    def _end(self, ended: tuple[float, int, Life]) -> None:
        _, number, life = ended
        self._run.finished_at[number] = self._last_end_at = self._now
        self._watch.ended(self._load.at[number], self._run.claimed_at[number], self._now)
        self._recent.append(self._load.service_s[number])
        self._left += 1
        life.held -= 1
        if life.draining:
            if not life.held:
                self._stop(life)
            return
        self._claim(life, 1)
        self._offer(life)

    def _come_up(self, life: Life) -> None:
        if life.ended_at is not None:
            return  # given up while it was starting
        life.in_service_at = self._now
        self._claim(life, self._fleet.slots)
        self._offer(life)

    def _stop(self, life: Life) -> None:
        life.ended_at = self._now
        self._instances.remove(life)

    def _look(self) -> None:
        self._expire()
        self._schedule()
        self._record()
        seen = self._observe()
        decision = goals.decide(
            self._scaling.goals,
            self._measure(),
            self._limits,
            self._readings(seen),
            seen,
            stepping_out=observation.stepping_out(
                self._scaling.stepping, self._watch.lasting(), self._desired
            ),
        )
        if decision.desired != self._desired:
            self._scale(decision)
        self._run.looks.append(
            Look(
                self._now,
                self._backlog,
                self._in_service,
                self._desired,
                0.0 if (oldest := self._oldest_accepted_at()) is None else self._now - oldest,
            )
        )

    def _schedule(self) -> None:
        """Move the limits to those of the scheduled actions that are due."""
        for each, at in self._due.items():
            if at is not None and at <= self._now:
                self._limits = self._limits.moved(each.min_capacity, each.max_capacity)
                self._due[each] = each.next_at(self._now, origin=self._load.at[0])

    @property
    def _in_service(self) -> int:
        return sum(life.in_service_at is not None and not life.draining for life in self._instances)

    def _record(self) -> None:
        """What the scaler records at a look: what came since the last one, gauges each second or minute."""
        came = self._arrived - self._seen
        self._seen = self._arrived
        minute = self._now // PERIOD_S
        if came or (minute != self._counted_in and self._in_service):
            self._watch.accepted(came, self._in_service, at=self._now)
        self._counted_in = minute
        # As the scaler does: what came and went between two looks was a backlog of one.
        self._peaks.add(self._now, max(self._backlog, min(1, came)))
        every_s = ACTIVE_S if self._backlog or self._instances or self._desired else IDLE_S
        if self._now // every_s > self._gauged_at // every_s:
            self._gauged_at = self._now
            oldest = self._oldest_accepted_at()
            backlog = Backlog(self._waiting, self._backlog - self._waiting, oldest)
            self._watch.gauge(backlog, self._in_service, at=self._now)

    def _readings(self, seen: Observation) -> list[tuple[TargetTracking, Reading | None]]:
        read: list[tuple[TargetTracking, Reading | None]] = [
            (policy, policies.read_backlog(policy, seen)) for policy in self._scaling.tracking
        ]
        for policy, queries in self._scaling.stored:
            minute, values = self._minutes.get(policy.name, (None, []))
            if minute != self._now // PERIOD_S:
                values = observation.last_minutes(self._watch.statistics, queries, self._now)
                self._minutes[policy.name] = self._now // PERIOD_S, values
            read.append((policy, policies.read_datapoints(policy, values, seen)))
        return read

    def _answer_alarms(self) -> bool:
        """Carry out the step policies that alarms set off now; whether any scaled."""
        acts_before = len(self._run.decisions)
        for alarm, action in self._watch.step(self._now):
            arn = configurations.policy_of_action(action)
            policy = next((each for each in self._scaling.stepping if each.arn == arn), None)
            if policy is None:
                continue  # a topic, or another endpoint's policy
            rule = configurations.step_scaling(policy.name, policy.configuration)
            distance = observation.distance_of(alarm, rule)
            if distance is None:
                continue
            seen = self._observe()
            decision = policies.step(self._limits, rule, distance, seen, self._readings(seen))
            if decision is not None:
                cause = f"monitor alarm {alarm.name} in state ALARM triggered policy {policy.name}"
                self._scale(Decision(decision.desired, cause))
        self._watch_at = self._watch.next_at(self._now)
        return len(self._run.decisions) > acts_before

    def _observe(self) -> Observation:
        return Observation(
            at=self._now,
            desired=self._desired,
            others=0,
            backlog=self._backlog,
            last_scaled_at=self._last_scaled_at,
            last_scale_out_at=self._last_scale_out_at,
            before_scale_out=self._before_scale_out,
            peaks=self._peaks.steps,
            watched_since=self._peaks.since,
        )

    def _measure(self) -> Measured:
        if self._scaling.goals == NO_GOALS:
            return _NOTHING_MEASURED
        return Measured(
            oldest_accepted_at=self._oldest_accepted_at(),
            rate_per_s=self._fleet.slots / max(1e-3, fmean(self._recent)) if self._recent else None,
            starting_s=self._fleet.starting_s,
            slots=self._fleet.slots,
            spent=self._spent_s() * (self._price or 0.0),
            spent_per_instance_s=self._price,
            arrivals=self._earlier_arrivals(),
        )

    def _scale(self, decision: Decision) -> None:
        if decision.desired > self._desired:
            self._before_scale_out = self._desired
            self._last_scale_out_at = self._now
        self._last_scaled_at = self._now
        self._desired = decision.desired
        self._run.decisions.append((self._now, decision))
        by_id = {str(life.number): life for life in self._instances}
        known = [_recorded(id_, life) for id_, life in by_id.items()]
        busy = {id_ for id_, life in by_id.items() if life.held}
        for step in plan(self._desired, known, busy):
            if isinstance(step, Drain):
                self._drain(by_id[step.id])
            else:
                life = Life(len(self._run.lives), self._now)
                self._instances.append(life)
                self._run.lives.append(life)
                ready = (self._now + self._fleet.starting_s, life.number, life)
                heapq.heappush(self._starts, ready)

    def _drain(self, life: Life) -> None:
        life.draining = True
        if not life.held:
            self._stop(life)

    def _oldest_accepted_at(self) -> float | None:
        run = self._run
        while self._first_open < self._arrived and (
            run.finished_at[self._first_open] is not None or run.expired_at[self._first_open] is not None
        ):
            self._first_open += 1
        return self._load.at[self._first_open] if self._first_open < self._arrived else None

    @property
    def _price(self) -> float | None:
        """Of an instance's second, in what the budget counts: seconds, or money."""
        budget = self._scaling.goals.budget
        return 1.0 if budget is None or budget.usd_per_day is None else self._fleet.price_per_s

    def _spent_s(self) -> float:
        """What instances have taken of this day (UTC) so far."""
        midnight = self._now - self._now % DAY_S
        return sum(
            max(0.0, (self._now if life.ended_at is None else life.ended_at) - max(life.started_at, midnight))
            for life in self._run.lives
        )

    def _earlier_arrivals(self) -> list[float]:
        """How many came in the same stretch of each earlier week that the load reaches back to."""
        if self._scaling.goals.forecast is None:
            return []
        at = self._load.at
        begins = [self._now - weeks * WEEK_S for weeks in range(1, self._scaling.goals.forecast.weeks + 1)]
        return [
            float(bisect_left(at, begin + goals.WINDOW_S) - bisect_left(at, begin))
            for begin in begins
            if begin >= at[0]
        ]


_NOTHING_MEASURED = Measured()


def _recorded(id_: str, life: Life) -> Instance:
    """An instance as `plan` reads it."""
    state = State.STARTING if life.in_service_at is None else State.IN_SERVICE
    return Instance(
        id=id_,
        endpoint_id="",
        generation=1,
        variant="",
        state=State.DRAINING if life.draining else state,
        cause="",
        instance_type=None,
        model_digest="",
        peak_memory_bytes=None,
        pid=None,
        created_at=life.started_at,
    )
