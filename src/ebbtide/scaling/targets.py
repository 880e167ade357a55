"""Scalable targets, their policies and the activities of both, in the database.

Every function runs in a caller's transaction. Targets name their endpoint and outlive it, as in AWS: an
endpoint made again under the name meets its old target.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    delete,
    insert,
    select,
    update,
)

from ebbtide.database import metadata
from ebbtide.errors import ServiceError
from ebbtide.identifiers import time_ordered_id
from ebbtide.scaling.policies import Limits

ACTIVITIES_KEPT_S = 6 * 7 * 86_400
"""Source: DescribeScalingActivities."""

MAX_POLICIES = 50

targets = Table(
    "scalable_targets",
    metadata,
    Column("id", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("resource_id", String, nullable=False),
    Column("arn", String, nullable=False, unique=True),
    Column("endpoint_name", String, nullable=False),
    Column("variant", String, nullable=False),
    Column("min_capacity", Integer, nullable=False),
    Column("max_capacity", Integer, nullable=False),
    Column("role_arn", String, nullable=False),
    Column("suspended", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("last_scaled_at", Float),
    Column("last_scale_out_at", Float),
    Column("before_scale_out", Integer),
    UniqueConstraint("account", "resource_id"),
)

policies = Table(
    "scaling_policies",
    metadata,
    Column("arn", String, primary_key=True),
    Column("target_id", ForeignKey("scalable_targets.id", ondelete="CASCADE"), nullable=False),
    Column("name", String, nullable=False),
    Column("type", String, nullable=False),
    Column("configuration", JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("put_at", Float, nullable=False),
    UniqueConstraint("target_id", "name"),
)

scheduled_actions = Table(
    "scheduled_actions",
    metadata,
    Column("arn", String, primary_key=True),
    Column("target_id", ForeignKey("scalable_targets.id", ondelete="CASCADE"), nullable=False),
    Column("name", String, nullable=False),
    Column("schedule", String, nullable=False),
    Column("timezone", String),
    Column("start_at", Float),
    Column("end_at", Float),
    Column("min_capacity", Integer),
    Column("max_capacity", Integer),
    Column("created_at", Float, nullable=False),
    # When it is due next; null once it never is again.
    Column("next_at", Float),
    UniqueConstraint("target_id", "name"),
)

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
class ScalableTarget:
    """A variant whose instance count scales within limits. `suspended` is SuspendedState as given."""

    id: str
    account: str
    resource_id: str
    arn: str
    endpoint_name: str
    variant: str
    min_capacity: int
    max_capacity: int
    role_arn: str
    suspended: Mapping[str, bool]
    tags: Mapping[str, str]
    created_at: float
    last_scaled_at: float | None = None
    last_scale_out_at: float | None = None
    before_scale_out: int | None = None

    @property
    def limits(self) -> Limits:
        return Limits(
            self.min_capacity,
            self.max_capacity,
            scale_in_suspended=self.suspended.get("DynamicScalingInSuspended", False),
            scale_out_suspended=self.suspended.get("DynamicScalingOutSuspended", False),
        )


@dataclass(frozen=True, slots=True)
class Policy:
    """A scaling policy as put. `put_at` is when it last was, `created_at` when it first was."""

    arn: str
    target_id: str
    name: str
    type: str
    configuration: Mapping[str, Any]
    created_at: float
    put_at: float


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


class ObjectNotFound(ServiceError):
    """No such scalable target or policy is registered."""

    code = "ObjectNotFoundException"


def find_target(connection: Connection, account: str, resource_id: str) -> ScalableTarget | None:
    row = connection.execute(
        select(targets).where(targets.c.account == account, targets.c.resource_id == resource_id)
    ).one_or_none()
    return None if row is None else ScalableTarget(**row._mapping)


def get_target(connection: Connection, account: str, resource_id: str) -> ScalableTarget:
    """Raises ObjectNotFound."""
    target = find_target(connection, account, resource_id)
    if target is None:
        raise ObjectNotFound(
            "No scalable target registered for service namespace: sagemaker, resource ID: "
            f"{resource_id}, scalable dimension: sagemaker:variant:DesiredInstanceCount"
        )
    return target


def find_target_of_arn(connection: Connection, arn: str) -> ScalableTarget | None:
    row = connection.execute(select(targets).where(targets.c.arn == arn)).one_or_none()
    return None if row is None else ScalableTarget(**row._mapping)


def all_targets(connection: Connection) -> list[ScalableTarget]:
    return [ScalableTarget(**row._mapping) for row in connection.execute(select(targets))]


def add_target(connection: Connection, target: ScalableTarget) -> None:
    connection.execute(insert(targets).values(_columns(target)))


def change_target(connection: Connection, target: ScalableTarget) -> None:
    """Keep what changed of a target under its id."""
    connection.execute(update(targets).where(targets.c.id == target.id).values(_columns(target)))


def remove_target(connection: Connection, target: ScalableTarget) -> None:
    """Forget the target and its policies; its activities stay."""
    connection.execute(delete(policies).where(policies.c.target_id == target.id))
    connection.execute(delete(targets).where(targets.c.id == target.id))


def policies_of(connection: Connection, target: ScalableTarget) -> list[Policy]:
    rows = connection.execute(select(policies).where(policies.c.target_id == target.id))
    return [Policy(**row._mapping) for row in rows]


def all_policies(connection: Connection) -> dict[str, list[Policy]]:
    """Every policy, by its target's id."""
    by_target: dict[str, list[Policy]] = {}
    for row in connection.execute(select(policies).order_by(policies.c.name)):
        by_target.setdefault(row.target_id, []).append(Policy(**row._mapping))
    return by_target


def find_policy(connection: Connection, arn: str) -> tuple[Policy, ScalableTarget] | None:
    row = connection.execute(select(policies).where(policies.c.arn == arn)).one_or_none()
    if row is None:
        return None
    target = connection.execute(select(targets).where(targets.c.id == row.target_id)).one()
    return Policy(**row._mapping), ScalableTarget(**target._mapping)


def put_policy(connection: Connection, policy: Policy) -> None:
    """Keep a policy, in the place of one with the same ARN. Raises ServiceError beyond 50 of a target."""
    connection.execute(delete(policies).where(policies.c.arn == policy.arn))
    connection.execute(
        insert(policies).values(
            arn=policy.arn,
            target_id=policy.target_id,
            name=policy.name,
            type=policy.type,
            configuration=policy.configuration,
            created_at=policy.created_at,
            put_at=policy.put_at,
        )
    )
    of_target = select(policies.c.arn).where(policies.c.target_id == policy.target_id)
    if len(connection.execute(of_target).all()) > MAX_POLICIES:
        raise ServiceError(
            f"A scalable target may have at most {MAX_POLICIES} scaling policies.",
            code="LimitExceededException",
        )


def remove_policy(connection: Connection, policy: Policy) -> None:
    connection.execute(delete(policies).where(policies.c.arn == policy.arn))


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
    connection.execute(update(targets).where(targets.c.id == target.id).values(marks))
    connection.execute(
        delete(activities).where(
            activities.c.account == target.account,
            activities.c.resource_id == target.resource_id,
            activities.c.started_at < at - ACTIVITIES_KEPT_S,
        )
    )


def end_activity(connection: Connection, activity: Activity, *, status: str, message: str, at: float) -> None:
    """Say what has become of an activity, if it is still under way."""
    connection.execute(
        update(activities)
        .where(activities.c.id == activity.id, _UNDER_WAY)
        .values(status=status, message=message, ended_at=at)
    )


def activities_under_way(connection: Connection) -> list[Activity]:
    return [Activity(**row._mapping) for row in connection.execute(select(activities).where(_UNDER_WAY))]


def activities_of(
    connection: Connection, account: str, resource_id: str | None, *, limit: int, before_id: str | None
) -> list[Activity]:
    """An account's activities, or a resource's, newest first, those that began before `before_id`."""
    query = select(activities).where(activities.c.account == account)
    if resource_id is not None:
        query = query.where(activities.c.resource_id == resource_id)
    if before_id is not None:
        query = query.where(activities.c.id < before_id)
    rows = connection.execute(query.order_by(activities.c.id.desc()).limit(limit))
    return [Activity(**row._mapping) for row in rows]


def _columns(target: ScalableTarget) -> dict[str, Any]:
    return {
        "id": target.id,
        "account": target.account,
        "resource_id": target.resource_id,
        "arn": target.arn,
        "endpoint_name": target.endpoint_name,
        "variant": target.variant,
        "min_capacity": target.min_capacity,
        "max_capacity": target.max_capacity,
        "role_arn": target.role_arn,
        "suspended": dict(target.suspended),
        "tags": dict(target.tags),
        "created_at": target.created_at,
    }
