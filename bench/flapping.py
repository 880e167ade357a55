"""How often the instance count changes under a noisy load, by the scale-in cooldown: the server's own policy,
in virtual time.

Three hours of requests of 1 s each, on average one and a half a second: a Poisson process whose rate swings
between half and twice the mean with periods of 4 and of 13 minutes. A reversal is a scale-out within
a minute of a scale-in: an instance that was ended and started again.
"""

import math
import random
from collections.abc import Iterator

from ebbtide.scaling.policies import Limits, TargetTracking
from ebbtide.simulation.engine import Run, simulate
from ebbtide.simulation.load import Arrival, Load, load
from ebbtide.simulation.setting import Fleet, Scaling

HOURS = 3
MEAN_PER_S, SERVICE_S, STARTING_S, TARGET = 1.5, 1.0, 10.0, 5.0
COOLDOWNS_S = (0, 30, 120, 300)
REVERSAL_S = 60.0
BARS = " ▁▂▃▄▅▆▇█"


def measure() -> Iterator[tuple[str, str]]:
    """Yields (what, figure) pairs."""
    noisy = _noisy()
    for cooldown_s in COOLDOWNS_S:
        policy = TargetTracking("tracking", TARGET, cooldown_s, cooldown_s, disable_scale_in=False, since=0.0)
        run = simulate(noisy, Fleet(starting_s=STARTING_S), Scaling("noisy", Limits(0, 8), (policy,)))
        yield f"noisy load, cooldown {cooldown_s} s", _told(run)


def _noisy() -> Load:
    draw = random.Random(1)
    arrivals, at = [], 0.0
    while at < HOURS * 3600:
        swing = math.sin(2 * math.pi * at / 240) + math.sin(2 * math.pi * at / 780)
        at += draw.expovariate(MEAN_PER_S * 2 ** (swing / 2))
        arrivals.append(Arrival(at, SERVICE_S))
    return load(arrivals)


def _told(run: Run) -> str:
    counts = [(at, decision.desired) for at, decision in run.decisions]
    ins, reversals, before = [], 0, 0
    for at, desired in counts:
        if desired < before:
            ins.append(at)
        elif ins and at - ins[-1] <= REVERSAL_S:
            reversals += 1
        before = desired
    used_s = sum((life.ended_at or run.ended_at) - life.started_at for life in run.lives)
    return (
        f"{len(counts) / HOURS:.0f} changes an hour, {reversals / HOURS:.0f} reversals; "
        f"{used_s / 3600:.1f} instance-hours; {_course(run)}"
    )


def _course(run: Run) -> str:
    """The desired count over the time, a bar for each three minutes."""
    bars = []
    for begin in range(0, HOURS * 3600, 180):
        seen = [look.desired for look in run.looks if begin <= look.at < begin + 180]
        bars.append(BARS[min(8, max(seen, default=0))])
    return "".join(bars)


if __name__ == "__main__":
    for what, figure in measure():
        print(f"{what}: {figure}")
