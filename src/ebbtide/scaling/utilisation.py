"""What processor and memory the instances use, as CloudWatch's instance metrics.

One sample of each a minute and instance, so that CPUUtilization's SampleCount over a minute is the number of
instances: AWS's documentation of asynchronous endpoints counts them so.
Source: SageMaker Developer Guide, monitoring-cloudwatch and async-inference-troubleshooting.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from ebbtide.metrics import Point

NAMESPACE = "/aws/sagemaker/Endpoints"


@dataclass(frozen=True, slots=True)
class Running:
    """An instance in service and the process of its model server."""

    endpoint_id: str
    account: str
    endpoint_name: str
    variant: str
    pid: int


@dataclass(frozen=True, slots=True)
class _Usage:
    at: float
    processor_s: float
    memory_percent: float


class Meter:
    """Remembers each process's processor time, since utilisation is its growth over time."""

    def __init__(self) -> None:
        self._former: dict[int, _Usage] = {}

    def points(self, running: Iterable[Running], now: float) -> list[Point]:
        """CPUUtilization (100 a core in full use) and MemoryUtilization, both in percent, of each instance.

        An instance whose process has just ended has none.
        """
        points = []
        usages: dict[int, _Usage] = {}
        for instance in running:
            usage, started_at = _usage(instance.pid, now)
            if usage is None:
                continue
            usages[instance.pid] = usage
            former = self._former.get(instance.pid, _Usage(started_at, 0.0, 0.0))
            # A child that ended takes its time along, which is then no longer seen.
            used_s = max(0.0, usage.processor_s - former.processor_s)
            elapsed_s = now - former.at
            values = {
                "CPUUtilization": 100 * used_s / elapsed_s if elapsed_s > 0 else 0.0,
                "MemoryUtilization": usage.memory_percent,
            }
            dimensions = (("EndpointName", instance.endpoint_name), ("VariantName", instance.variant))
            points += [
                Point(instance.account, NAMESPACE, name, dimensions, value, "Percent", now)
                for name, value in values.items()
            ]
        self._former = usages
        return points


def _usage(pid: int, now: float) -> tuple[_Usage | None, float]:
    """What the process and its children have used, and when it was started; None when it is gone."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        started_at = process.create_time()
    except psutil.NoSuchProcess:
        return None, now
    processor_s = memory_percent = 0.0
    for member in family:
        try:
            times = member.cpu_times()
            memory_percent += member.memory_percent()
        except psutil.NoSuchProcess:
            continue
        processor_s += times.user + times.system
    return _Usage(now, processor_s, memory_percent), started_at
