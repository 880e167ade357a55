"""Scaling activities in the database: what was scaled and why, what ended, and what could not be.

Every function runs in a caller's transaction. They outlive their target, for six weeks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from ebbtide.database import metadata
from ebbtide.identifiers import time_ordered_id
from ebbtide.scaling import targets
from ebbtide.scaling.policies import ALREADY_AT_DESIRED, ALREADY_AT_MAX, ALREADY_AT_MIN
from ebbtide.scaling.targets import ScalableTarget, ScheduledAction

ACTIVITIES_KEPT_S = 6 * 7 * 86_400
"""Source: DescribeScalingActivities."""

activities = Table(
    "scaling_activities",
    metadata,
    Column("id", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("resource_id", String, nullable=False),
    Column("endpoint_id", String, nullable=False),
    Column("desired", Integer, nullable=False),
    Column("cause", Text, nullable=False),
    Column("status", String, nullable=False),
    Column("message", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float),
    # Null: of setting the desired instance count.
    Column("description", Text),
    # Why nothing was scaled, as NotScaledReasons; null for an act that was carried out.
    Column("not_scaled", JSON(none_as_null=True)),
)
_UNDER_WAY = activities.c.status == "InProgress"
Index("scaling_activities_of_resource", activities.c.account, activities.c.resource_id)
Index(
    "scaling_activities_under_way",
    activities.c.endpoint_id,
    sqlite_where=_UNDER_WAY,
    postgresql_where=_UNDER_WAY,
)


@dataclass(frozen=True, slots=True)
class Activity:
    """One scaling act and its cause. `status`: InProgress, then Successful, Overridden or Failed.

    `description` is None for one that sets the instance count. `not_scaled`: why nothing was scaled, as
    NotScaledReasons; None for an act, Unfulfilled is the status of the others.
    """

    id: str
    account: str
    resource_id: str
    endpoint_id: str
    desired: int
    cause: str
    status: str
    message: str
    started_at: float
    ended_at: float | None
    description: str | None = None
    not_scaled: Sequence[Mapping[str, Any]] | None = None

    @property
    def variant(self) -> str:
        return self.resource_id.rpartition("/")[2]


def limits_set(
    connection: Connection,
    target: ScalableTarget,
    action: ScheduledAction,
    *,
    endpoint_id: str,
    at: float,
) -> ScalableTarget:
    """Set the limits that a scheduled action names, and record it; the target as it is then."""
    moved = target.limits.moved(action.min_capacity, action.max_capacity)
    minimum, maximum = moved.min_capacity, moved.max_capacity
    changed = replace(target, min_capacity=minimum, max_capacity=maximum)
    targets.change_target(connection, changed)
    limits = f"min capacity to {minimum} and max capacity to {maximum}"
    connection.execute(
        insert(activities).values(
            # What follows from it in the same moment sorts after it.
            id=time_ordered_id(at - 0.001),
            account=target.account,
            resource_id=target.resource_id,
            endpoint_id=endpoint_id,
            desired=0,
            description=f"Setting {limits}",
            cause=f"scheduled action name {action.name} was triggered",
            status="Successful",
            message=f"Successfully set {limits}",
            started_at=at,
            ended_at=at,
        )
    )
    return changed


def not_scaled(
    connection: Connection,
    target: ScalableTarget,
    *,
    endpoint_id: str,
    current: int,
    code: str,
    cause: str,
    at: float,
) -> None:
    """Record that a policy's call could not be followed, and AWS's code of why. Source: NotScaledReason."""
    reason: dict[str, Any] = {"Code": code}
    if code == ALREADY_AT_MAX:
        reason["MaxCapacity"] = target.max_capacity
    elif code == ALREADY_AT_MIN:
        reason["MinCapacity"] = target.min_capacity
    elif code == ALREADY_AT_DESIRED:
        reason["CurrentCapacity"] = current
    connection.execute(
        insert(activities).values(
            id=time_ordered_id(at),
            account=target.account,
            resource_id=target.resource_id,
            endpoint_id=endpoint_id,
            desired=current,
            description="Attempting to scale due to alarm triggered",
            cause=cause,
            status="Unfulfilled",
            message="",
            not_scaled=[reason],
            started_at=at,
            ended_at=at,
        )
    )
    _forget_old(connection, target, at)


def scaled(
    connection: Connection,
    target: ScalableTarget,
    *,
    endpoint_id: str,
    before: int,
    desired: int,
    cause: str,
    at: float,
) -> None:
    """Record a scaling act: an activity under way, and on the target what cooldowns need to know.

    Acts on the variant that were still under way are overridden by it.
    """
    overridden = f"Overridden by setting desired instance count to {desired}."
    of_variant = (activities.c.endpoint_id == endpoint_id, activities.c.resource_id == target.resource_id)
    connection.execute(
        update(activities)
        .where(*of_variant, _UNDER_WAY)
        .values(status="Overridden", message=overridden, ended_at=at)
    )
    connection.execute(
        insert(activities).values(
            id=time_ordered_id(at),
            account=target.account,
            resource_id=target.resource_id,
            endpoint_id=endpoint_id,
            desired=desired,
            cause=cause,
            status="InProgress",
            message=f"Successfully set desired instance count to {desired}. "
            "Waiting for change to be fulfilled by sagemaker.",
            started_at=at,
        )
    )
    marks: dict[str, float | int] = {"last_scaled_at": at}
    if desired > before:
        marks |= {"last_scale_out_at": at, "before_scale_out": before}
    connection.execute(update(targets.targets).where(targets.targets.c.id == target.id).values(marks))
    _forget_old(connection, target, at)


def _forget_old(connection: Connection, target: ScalableTarget, now: float) -> None:
    connection.execute(
        delete(activities).where(
            activities.c.account == target.account,
            activities.c.resource_id == target.resource_id,
            activities.c.started_at < now - ACTIVITIES_KEPT_S,
        )
    )


def end(connection: Connection, activity: Activity, *, status: str, message: str, at: float) -> None:
    """Say what has become of an activity, if it is still under way."""
    connection.execute(
        update(activities)
        .where(activities.c.id == activity.id, _UNDER_WAY)
        .values(status=status, message=message, ended_at=at)
    )


def last_scaled_at(connection: Connection, account: str, resource_id: str, endpoint_id: str) -> float | None:
    """When a variant was last scaled, for those that have no target to keep it."""
    of_variant = (activities.c.account == account, activities.c.resource_id == resource_id)
    acts = select(func.max(activities.c.started_at)).where(
        *of_variant, activities.c.endpoint_id == endpoint_id, activities.c.not_scaled.is_(None)
    )
    at: float | None = connection.scalar(acts)
    return at


def under_way(connection: Connection) -> list[Activity]:
    return [Activity(**row._mapping) for row in connection.execute(select(activities).where(_UNDER_WAY))]


def listed(
    connection: Connection,
    account: str,
    resource_id: str | None,
    *,
    limit: int,
    before_id: str | None,
    with_not_scaled: bool = False,
) -> list[Activity]:
    """An account's activities, or a resource's, newest first, those that began before `before_id`."""
    query = select(activities).where(activities.c.account == account)
    if not with_not_scaled:
        query = query.where(activities.c.not_scaled.is_(None))
    if resource_id is not None:
        query = query.where(activities.c.resource_id == resource_id)
    if before_id is not None:
        query = query.where(activities.c.id < before_id)
    rows = connection.execute(query.order_by(activities.c.id.desc()).limit(limit))
    return [Activity(**row._mapping) for row in rows]
