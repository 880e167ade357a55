"""Scalable targets, their policies and scheduled actions in the database.

Every function runs in a caller's transaction. Targets name their endpoint and outlive it, as in AWS: an
endpoint made again under the name meets its old target.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    String,
    Table,
    UniqueConstraint,
    delete,
    insert,
    select,
    update,
)

from ebbtide.database import metadata
from ebbtide.errors import ServiceError
from ebbtide.scaling import schedules
from ebbtide.scaling.policies import Limits

MAX_POLICIES = 50
MAX_SCHEDULED_ACTIONS = 200
"""Of a target. Source: Application Auto Scaling User Guide, Quotas."""

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
        """What no policy and no goal of the target leaves."""
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
class ScheduledAction:
    """An action as put: at the schedule's times between `start_at` and `end_at` it sets the target's limits,
    those that are not None. `next_at`: when it is due next; None once it never is again.
    """

    arn: str
    target_id: str
    name: str
    schedule: str
    timezone: str | None
    start_at: float | None
    end_at: float | None
    min_capacity: int | None
    max_capacity: int | None
    created_at: float
    next_at: float | None

    def due_after(self, after: float) -> float | None:
        """The first time after `after` at which it is due; None when there is none. Raises ValueError."""
        schedule = schedules.parse(self.schedule, self.timezone)
        origin = self.created_at if self.start_at is None else self.start_at
        # A start is itself a time at which a rate, or a cron that names it, is due.
        after = after if self.start_at is None else max(after, self.start_at - 0.001)
        due = schedules.next_after(schedule, after, origin=origin)
        return None if due is None or (self.end_at is not None and due > self.end_at) else due


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
    """Forget the target, its policies and its scheduled actions; its activities stay."""
    connection.execute(delete(policies).where(policies.c.target_id == target.id))
    connection.execute(delete(scheduled_actions).where(scheduled_actions.c.target_id == target.id))
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


def scheduled_actions_of(connection: Connection, target: ScalableTarget) -> list[ScheduledAction]:
    rows = connection.execute(select(scheduled_actions).where(scheduled_actions.c.target_id == target.id))
    return [ScheduledAction(**row._mapping) for row in rows]


def all_scheduled_actions(connection: Connection) -> list[ScheduledAction]:
    """Every target's."""
    return [ScheduledAction(**row._mapping) for row in connection.execute(select(scheduled_actions))]


def target_of(connection: Connection, action: ScheduledAction) -> ScalableTarget:
    row = connection.execute(select(targets).where(targets.c.id == action.target_id)).one()
    return ScalableTarget(**row._mapping)


def put_scheduled_action(connection: Connection, action: ScheduledAction) -> None:
    """Keep an action, in the place of one with the same ARN. Raises ServiceError beyond 200 of a target."""
    connection.execute(delete(scheduled_actions).where(scheduled_actions.c.arn == action.arn))
    connection.execute(insert(scheduled_actions).values(asdict(action)))
    of_target = select(scheduled_actions.c.arn).where(scheduled_actions.c.target_id == action.target_id)
    if len(connection.execute(of_target).all()) > MAX_SCHEDULED_ACTIONS:
        raise ServiceError(
            f"A scalable target may have at most {MAX_SCHEDULED_ACTIONS} scheduled actions.",
            code="LimitExceededException",
        )


def remove_scheduled_action(connection: Connection, action: ScheduledAction) -> None:
    connection.execute(delete(scheduled_actions).where(scheduled_actions.c.arn == action.arn))


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
