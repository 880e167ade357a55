"""CloudWatch's statistics of the samples of a period. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples that lie together: how many, their sum and extremes."""

    count: float
    total: float
    minimum: float
    maximum: float


Distribution = Sequence[Samples]
"""A period's samples in ascending order; whole-period statistics need only one element."""


@dataclass(frozen=True, slots=True)
class Statistic:
    """One statistic. `of` computes it; `needs_distribution` says that one merged element is not enough."""

    name: str
    of: Callable[[Distribution], float]
    needs_distribution: bool


def _sample_count(samples: Distribution) -> float:
    return sum(part.count for part in samples)


def _sum(samples: Distribution) -> float:
    return sum(part.total for part in samples)


WHOLE: dict[str, Callable[[Distribution], float]] = {
    "SampleCount": _sample_count,
    "Sum": _sum,
    "Average": lambda samples: _sum(samples) / _sample_count(samples),
    "Minimum": lambda samples: min(part.minimum for part in samples),
    "Maximum": lambda samples: max(part.maximum for part in samples),
}

_PERCENTILE = re.compile(r"p(\d{1,2}(?:\.\d{1,10})?|100)")
_TRIMMED = re.compile(
    r"(?P<kind>tm|wm|tc|ts)(?:(?P<upto>\d{1,2}(?:\.\d{1,10})?)"
    r"|\((?P<low>\d{1,2}(?:\.\d+)?)?%?:(?:(?P<high>\d{1,3}(?:\.\d+)?)%)?\))",
    re.IGNORECASE,
)


@lru_cache(maxsize=256)
def parse(name: str) -> Statistic:
    """The statistic of that name: Average, Sum, Minimum, Maximum, SampleCount, percentiles (p99.9), and the
    trimmed mean, winsorized mean, trimmed count and sum between percentiles (tm90, TC(10%:90%), IQM).

    Raises ValueError for any other. Source: CloudWatch statistics definitions.
    """
    if whole := WHOLE.get(name):
        return Statistic(name, whole, needs_distribution=False)
    if percentile := _PERCENTILE.fullmatch(name):
        share = float(percentile[1]) / 100
        return Statistic(name, lambda samples: value_at(samples, share), needs_distribution=True)
    trimmed = _TRIMMED.fullmatch("tm(25%:75%)" if name in ("IQM", "iqm") else name)
    if trimmed is None:
        raise ValueError(f"The statistic {name} is not supported")
    low = float(trimmed["low"] or 0) / 100
    high = float(trimmed["upto"] or trimmed["high"] or 100) / 100
    if not low < high <= 1:
        raise ValueError(f"The statistic {name} names no range of percentiles")
    of = {"tm": _trimmed_mean, "wm": _winsorized_mean, "tc": _trimmed_count, "ts": _trimmed_sum}
    compute = of[trimmed["kind"].lower()]
    return Statistic(name, lambda samples: compute(samples, low, high), needs_distribution=True)


def value_at(samples: Distribution, share: float) -> float:
    """The value below which `share` (0 to 1) of the samples lie, interpolated within an element."""
    rank = share * _sample_count(samples)
    passed = 0.0
    for part in samples:
        if passed + part.count >= rank:
            within = (rank - passed) / part.count
            return part.minimum + (part.maximum - part.minimum) * within
        passed += part.count
    return samples[-1].maximum


def _trim(samples: Distribution, low: float, high: float) -> tuple[float, float]:
    """Count and sum of the samples between two percentiles."""
    everything = _sample_count(samples)
    first, last = low * everything, high * everything
    count = total = passed = 0.0
    for part in samples:
        kept = max(0.0, min(passed + part.count, last) - max(passed, first))
        count += kept
        total += kept * part.total / part.count
        passed += part.count
    return count, total


def _trimmed_count(samples: Distribution, low: float, high: float) -> float:
    return _trim(samples, low, high)[0]


def _trimmed_sum(samples: Distribution, low: float, high: float) -> float:
    return _trim(samples, low, high)[1]


def _trimmed_mean(samples: Distribution, low: float, high: float) -> float:
    count, total = _trim(samples, low, high)
    return total / count


def _winsorized_mean(samples: Distribution, low: float, high: float) -> float:
    everything = _sample_count(samples)
    tails = low * value_at(samples, low) + (1 - high) * value_at(samples, high)
    return _trimmed_sum(samples, low, high) / everything + tails
