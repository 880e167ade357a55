"""Scaling activities: what was scaled and why, and what could not be."""

from typing import Any

from ebbtide.api.application_autoscaling.requests import PAGE_SIZE, check_listing, limit_of, named
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import next_page
from ebbtide.errors import ServiceError
from ebbtide.identifiers import time_of_id
from ebbtide.scaling import activities
from ebbtide.scaling.activities import Activity


async def describe_scaling_activities(params: Params, call: Call) -> Result:
    """What was scaled in the last six weeks and why, newest first; if asked, also what could not be.

    Source: DescribeScalingActivities.
    """
    check_listing(params)
    limit, before_id = limit_of(params, PAGE_SIZE), params.get("NextToken")
    if before_id is not None:
        try:
            time_of_id(before_id)
        except ValueError as error:
            raise ServiceError(
                "The pagination token is not one that a list operation returned.",
                code="InvalidNextTokenException",
            ) from error
    listed = await call.parts.database.read(
        lambda connection: activities.listed(
            connection,
            call.account,
            params.get("ResourceId"),
            limit=limit + 1,
            before_id=before_id,
            with_not_scaled=params.get("IncludeNotScaledActivities", False),
        )
    )
    token = listed[limit - 1].id if len(listed) > limit else None
    return {"ScalingActivities": [_describe_activity(activity) for activity in listed[:limit]]} | next_page(
        token
    )


def _describe_activity(activity: Activity) -> dict[str, Any]:
    described = named(activity.resource_id) | {
        "ActivityId": activity.id,
        "Description": activity.description or f"Setting desired instance count to {activity.desired}.",
        "Cause": activity.cause,
        "StartTime": activity.started_at,
        "StatusCode": activity.status,
        "StatusMessage": activity.message,
    }
    if activity.ended_at is not None:
        described["EndTime"] = activity.ended_at
    if activity.not_scaled is not None:
        described["NotScaledReasons"] = list(activity.not_scaled)
    return described
