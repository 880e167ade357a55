"""Application Auto Scaling's scheduled actions: when a target's limits move. The scaler carries them out."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from ebbtide.api.application_autoscaling.requests import (
    PAGE_SIZE,
    check_capacities,
    check_listing,
    limit_of,
    named,
    resource_of,
)
from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import next_page, page
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn, time_ordered_id
from ebbtide.metrics.datums import LAST_MOMENT
from ebbtide.scaling import targets
from ebbtide.scaling.targets import ObjectNotFound, ScalableTarget, ScheduledAction


async def put_scheduled_action(params: Params, call: Call) -> Result:
    """Set a target's limits at times to come, or change an action of that name, by the members given.

    Raises ObjectNotFound without a target; ServiceError for a schedule that means nothing or is over, or
    limits that contradict each other. Source: PutScheduledAction.
    """
    resource_of(params)

    def put(connection: Connection) -> None:
        target = targets.get_target(connection, call.account, params["ResourceId"])
        known = {each.name: each for each in targets.scheduled_actions_of(connection, target)}
        action = _scheduled_action(params, call, target, known.get(params["ScheduledActionName"]))
        targets.put_scheduled_action(connection, action)

    await call.parts.database.write(put)
    call.parts.scaler.wake()
    return {}


async def describe_scheduled_actions(params: Params, call: Call) -> Result:
    """Source: DescribeScheduledActions."""
    check_listing(params)
    names, resource_id = params.get("ScheduledActionNames"), params.get("ResourceId")

    def read(connection: Connection) -> list[tuple[ScalableTarget, ScheduledAction]]:
        by_id = {target.id: target for target in targets.all_targets(connection)}
        return [
            (by_id[action.target_id], action)
            for action in targets.all_scheduled_actions(connection)
            if by_id[action.target_id].account == call.account
            and resource_id in (None, by_id[action.target_id].resource_id)
            and (not names or action.name in names or action.arn in names)
        ]

    listed, token = page(
        await call.parts.database.read(read),
        lambda put: (put[0].resource_id, put[1].name),
        limit=limit_of(params, PAGE_SIZE),
        token=params.get("NextToken"),
        error_code="InvalidNextTokenException",
    )
    return {"ScheduledActions": [_describe_action(*each) for each in listed]} | next_page(token)


async def delete_scheduled_action(params: Params, call: Call) -> Result:
    """Raises ObjectNotFound. Source: DeleteScheduledAction."""
    resource_of(params)

    def delete(connection: Connection) -> None:
        target = targets.get_target(connection, call.account, params["ResourceId"])
        for action in targets.scheduled_actions_of(connection, target):
            if action.name == params["ScheduledActionName"]:
                return targets.remove_scheduled_action(connection, action)
        raise ObjectNotFound(f"No scheduled action found for name: {params['ScheduledActionName']}")

    await call.parts.database.write(delete)
    return {}


def _scheduled_action(
    params: Params, call: Call, target: ScalableTarget, known: ScheduledAction | None
) -> ScheduledAction:
    """The action as it is to be kept. Raises ServiceError."""
    if known is None and "Schedule" not in params:
        raise ServiceError("Schedule must be given for a new scheduled action.")
    limits = params.get("ScalableTargetAction", {})
    if known is None and not limits:
        raise ServiceError("ScalableTargetAction must have MinCapacity, MaxCapacity or both.")
    made = known or ScheduledAction(
        arn=_scheduled_action_arn(call, params["ResourceId"], params["ScheduledActionName"]),
        target_id=target.id,
        name=params["ScheduledActionName"],
        schedule=params["Schedule"],
        timezone=None,
        start_at=None,
        end_at=None,
        min_capacity=None,
        max_capacity=None,
        created_at=call.now,
        next_at=None,
    )
    action = replace(
        made,
        schedule=params.get("Schedule", made.schedule),
        timezone=params.get("Timezone", made.timezone),
        start_at=_moment(params, "StartTime", made.start_at),
        end_at=_moment(params, "EndTime", made.end_at),
        min_capacity=limits.get("MinCapacity") if limits else made.min_capacity,
        max_capacity=limits.get("MaxCapacity") if limits else made.max_capacity,
    )
    check_capacities(action.min_capacity, action.max_capacity)
    if action.start_at is not None and action.end_at is not None and action.start_at >= action.end_at:
        raise ServiceError("StartTime must be before EndTime.")
    try:
        next_at = action.due_after(call.now)
    except ValueError as error:
        raise ServiceError(f"Schedule is not valid: {error}.") from error
    if next_at is None:
        raise ServiceError(f"The schedule {action.schedule} has no time that is to come.")
    return replace(action, next_at=next_at)


def _moment(params: Params, name: str, otherwise: float | None) -> float | None:
    if name not in params:
        return otherwise
    at = float(params[name])
    if not 0 <= at <= LAST_MOMENT:
        raise ServiceError(f"The value of {name} is not a time.")
    return at


def _scheduled_action_arn(call: Call, resource_id: str, name: str) -> str:
    resource = f"resource/sagemaker/{resource_id}:scheduledActionName/{name}"
    id_ = time_ordered_id(call.now)
    return arn("autoscaling", call.region, call.account, f"scheduledAction:{id_}:{resource}")


def _describe_action(target: ScalableTarget, action: ScheduledAction) -> dict[str, Any]:
    limits = {"MinCapacity": action.min_capacity, "MaxCapacity": action.max_capacity}
    described = {
        "Timezone": action.timezone,
        "StartTime": action.start_at,
        "EndTime": action.end_at,
        "ScalableTargetAction": {name: value for name, value in limits.items() if value is not None},
    }
    return named(target.resource_id) | {
        "ScheduledActionName": action.name,
        "ScheduledActionARN": action.arn,
        "Schedule": action.schedule,
        "CreationTime": action.created_at,
        **{name: value for name, value in described.items() if value is not None},
    }
