"""What an endpoint looks like now, from DescribeEndpoint and its CloudWatch metrics."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ebbtide.cli.running import RunningServer

RECENT_S = 70
"""How far back the newest value of a gauge may lie: an endpoint at rest writes one a minute."""


@dataclass(frozen=True, slots=True)
class Observation:
    """An endpoint at a moment. `backlog_per_instance` is None while there is no instance to divide by."""

    at: float
    status: str
    instances: int
    desired_instances: int
    backlog: int
    backlog_per_instance: float | None
    oldest_age_s: float
    reason: str | None


def observe(server: RunningServer, name: str, now: float) -> Observation:
    """Observe an endpoint. Raises ClientError when there is none of that name."""
    endpoint = server.client("sagemaker").describe_endpoint(EndpointName=name)
    variants = endpoint.get("ProductionVariants", [])
    backlog, per_instance, age = _newest(
        server,
        name,
        ["ApproximateBacklogSize", "ApproximateBacklogSizePerInstance", "ApproximateAgeOfOldestRequest"],
        now,
    )
    instances = sum(variant.get("CurrentInstanceCount", 0) for variant in variants)
    return Observation(
        at=now,
        status=endpoint["EndpointStatus"],
        instances=instances,
        desired_instances=sum(variant.get("DesiredInstanceCount", 0) for variant in variants),
        backlog=round(backlog or 0),
        backlog_per_instance=per_instance if instances else None,
        oldest_age_s=age or 0.0,
        reason=endpoint.get("FailureReason") or _waiting_for(variants),
    )


def series(
    server: RunningServer, name: str, metric: str, start: float, end: float
) -> list[tuple[float, float]]:
    """An endpoint metric's averages by second, oldest first: (epoch seconds, value)."""
    answer = (
        server.client("cloudwatch")
        .get_paginator("get_metric_data")
        .paginate(
            MetricDataQueries=[_query("m", name, metric)],
            StartTime=datetime.fromtimestamp(start, UTC),
            EndTime=datetime.fromtimestamp(end, UTC),
            ScanBy="TimestampAscending",
        )
    )
    return [
        (timestamp.timestamp(), value)
        for page in answer
        for result in page["MetricDataResults"]
        for timestamp, value in zip(result["Timestamps"], result["Values"], strict=True)
    ]


def _newest(server: RunningServer, name: str, metrics: list[str], now: float) -> list[float | None]:
    answer = server.client("cloudwatch").get_metric_data(
        MetricDataQueries=[_query(f"m{number}", name, metric) for number, metric in enumerate(metrics)],
        StartTime=datetime.fromtimestamp(now - RECENT_S, UTC),
        EndTime=datetime.fromtimestamp(now + 1, UTC),
        ScanBy="TimestampDescending",
    )
    values = {result["Id"]: result["Values"] for result in answer["MetricDataResults"]}
    return [next(iter(values[f"m{number}"]), None) for number in range(len(metrics))]


def _query(query_id: str, name: str, metric: str) -> dict[str, Any]:
    return {
        "Id": query_id,
        "MetricStat": {
            "Metric": {
                "Namespace": "AWS/SageMaker",
                "MetricName": metric,
                "Dimensions": [{"Name": "EndpointName", "Value": name}],
            },
            "Period": 1,
            "Stat": "Average",
        },
    }


def _waiting_for(variants: list[dict[str, Any]]) -> str | None:
    messages = (
        status.get("StatusMessage") for variant in variants for status in variant.get("VariantStatus", [])
    )
    return next(filter(None, messages), None)
