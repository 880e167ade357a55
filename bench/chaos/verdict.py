"""From what was seen to which promises were kept: pure rules over `Observations`."""

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from bench.chaos.observation import Accepted, Observations, Told

DIED = "The model server died"
TIMED_OUT = "InvocationTimeoutSeconds"
TTL_OVER = "RequestTTLSeconds"
"""What the failureReason of a poisonous, a slow and an expired request says."""

REASONS = {"poisonous": (DIED,), "slow": (TIMED_OUT, DIED), "parked": (TTL_OVER,), "plain": (DIED,)}
"""A plain one fails only if it was struck at each time it was tried: to the server it looks poisonous."""


@dataclass(slots=True)
class Verdict:
    """Figures, and every broken promise in words."""

    outcomes: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    unnotified: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    unacknowledged: int = 0
    """Outcomes of attempts whose 202 never reached the client."""

    @property
    def kept(self) -> bool:
        return not (self.lost or self.duplicates or self.unnotified or self.broken)


def judge(seen: Observations, channels: tuple[str, ...], *, most_tries: int) -> Verdict:
    """Account for each attempt. most_tries: how often at most a model may have begun on a poisonous one."""
    verdict = Verdict(broken=list(seen.broken))
    told = _by_id(seen.told)
    for inference_id, accepted in seen.accepted.items():
        _account(verdict, seen, accepted, told.get(inference_id, []), channels)
        if accepted.ask.kind == "poisonous" and (tries := seen.tries[inference_id]) > most_tries:
            verdict.broken.append(f"{inference_id} is poisonous and was tried {tries} times")
    for inference_id, messages in told.items():
        if len({each.message_id for each in messages}) > 1:
            verdict.duplicates.append(f"{inference_id} was published more than once: {messages}")
        if inference_id in seen.accepted:
            continue
        verdict.unacknowledged += 1
        if inference_id not in seen.unanswered:
            answer = seen.refused.get(inference_id, "nothing: its body was never sent whole")
            verdict.broken.append(f"{inference_id} was done although it was answered with {answer}")
    _account_objects(verdict, seen)
    return verdict


def settled(seen: Observations, channels: tuple[str, ...]) -> bool:
    """Whether each accepted attempt was told of everywhere, and each object of these was listed and read."""
    told = _by_id(seen.snapshot_told())
    everywhere = set(channels)
    return not (seen.unlisted() or seen.unread()) and all(
        {each.channel for each in told.get(inference_id, [])} == everywhere
        for inference_id in list(seen.accepted)
    )


def recoveries_s(ended: list[tuple[str, float]], events: list[float]) -> dict[str, list[float]]:
    """Fault -> the times from its ends to the next event after each, for those that something followed."""
    events = sorted(events)
    found: dict[str, list[float]] = defaultdict(list)
    for name, at in ended:
        index = bisect_left(events, at)
        if index < len(events):
            found[name].append(events[index] - at)
    return dict(found)


def _account(
    verdict: Verdict, seen: Observations, accepted: Accepted, told: list[Told], channels: tuple[str, ...]
) -> None:
    name, ask = accepted.inference_id, accepted.ask
    output, failure = accepted.output in seen.objects, accepted.failure in seen.objects
    if not told:
        (verdict.unnotified if output or failure else verdict.lost).append(name)
        return
    if missing := set(channels) - {each.channel for each in told}:
        verdict.unnotified.append(f"{name} at {', '.join(sorted(missing))}")
    statuses = {each.status for each in told}
    if len(statuses) > 1 or (output and failure):
        verdict.duplicates.append(f"{name}: {sorted(statuses)}, output {output}, failure {failure}")
        return
    [status] = statuses
    reason = told[0].reason
    verdict.outcomes[f"{ask.kind} {status}"] += 1
    if status == "Completed":
        if ask.kind != "plain":
            verdict.broken.append(f"{name} is {ask.kind} and was completed")
        if not output:
            verdict.lost.append(f"{name} was told completed and has no output")
        elif seen.objects[accepted.output].md5 not in (None, accepted.md5):
            verdict.broken.append(f"{name} has the wrong output")
        return
    if output:
        verdict.duplicates.append(f"{name} was told {status} and has an output")
    if accepted.failure is not None and not failure:
        verdict.lost.append(f"{name} was told {status} and has no failure object")
    if status != ("Expired" if ask.kind == "parked" else "Failed"):
        verdict.broken.append(f"{name} is {ask.kind} and ended {status}")
    if not any(words in reason for words in REASONS[ask.kind]):
        verdict.broken.append(f"{name} is {ask.kind} and failed because {reason!r}")


def _account_objects(verdict: Verdict, seen: Observations) -> None:
    """Each object must be the one that a notification names."""
    named = {each.location for each in seen.told}
    verdict.broken += [f"{location} is of nobody" for location in seen.objects if location not in named]


def _by_id(told: list[Told]) -> dict[str, list[Told]]:
    grouped: dict[str, list[Told]] = defaultdict(list)
    for each in told:
        grouped[each.inference_id].append(each)
    return grouped
