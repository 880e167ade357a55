"""Alarms: thresholds on metrics, their states, and the actions that a change of state sets off.

PutMetricAlarm stores a definition. `Alarms.step` evaluates each alarm as often as its period asks, stores a
change of state together with the time its actions are due, then carries out what is due; a crash between the
two repeats the actions, never loses them.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Connection, Float, Index, Integer, String, Table, text

from ebbtide import identifiers, loops
from ebbtide.database import Database, metadata
from ebbtide.errors import ServiceError
from ebbtide.metrics.alarm_states import (
    Alarm,
    actions_due,
    datapoints,
    due_again_at,
    evaluated,
    in_state,
    newest_end,
)
from ebbtide.metrics.evaluation import ALARM, INSUFFICIENT_DATA
from ebbtide.metrics.points import DAY_S
from ebbtide.metrics.query import statistics

HISTORY_KEPT_S = 14 * DAY_S

IDLE_STEP_S = 1.0

log = logging.getLogger(__name__)

Table(
    "alarms",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("arn", String, nullable=False),
    Column("region", String, nullable=False),
    Column("definition", String, nullable=False),  # PutMetricAlarm's input as JSON
    Column("actions_enabled", Boolean, nullable=False),
    Column("configured_at", Float, nullable=False),
    Column("state", String, nullable=False),
    Column("previous_state", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("reason_data", String),
    Column("state_updated_at", Float, nullable=False),
    Column("transitioned_at", Float, nullable=False),
    # When the actions of the current state are to be carried out next; null when they have been.
    Column("actions_due_at", Float),
    # The scaling policy that the alarm belongs to; null for a client's own.
    Column("policy_arn", String),
    Index("alarms_of_policy", "policy_arn"),
)

Table(
    "alarm_history",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("account", String, nullable=False),
    Column("alarm_name", String, nullable=False, index=True),
    Column("at", Float, nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("summary", String, nullable=False),
    Column("data", String, nullable=False),
)


class AlarmNotFound(ServiceError):
    """No alarm of that name exists."""

    code = "ResourceNotFound"
    http_status = 404


class AlarmOfPolicy(ServiceError):
    """The alarm belongs to a scaling policy, and only goes or changes with it."""

    code = "ValidationError"


def put(
    connection: Connection,
    definition: Mapping[str, Any],
    *,
    account: str,
    region: str,
    now: float,
    policy_arn: str | None = None,
) -> None:
    """Store an alarm; one of that name is replaced and keeps its state.

    policy_arn: of the scaling policy whose alarm it is. Raises AlarmOfPolicy when it is another's.
    """
    name = definition["AlarmName"]
    known = _fetch(connection, account, name)
    if known is not None and known.policy_arn not in (None, policy_arn):
        raise _refused(known)
    if known is not None:
        # Those of an alarm that exists are left as they are. Source: PutMetricAlarm, Tags.
        definition = {**definition, "Tags": known.definition.get("Tags", [])}
    connection.execute(
        PUT,
        {
            "account": account,
            "name": name,
            "arn": identifiers.arn("cloudwatch", region, account, f"alarm:{name}"),
            "region": region,
            "definition": json.dumps(definition),
            "actions_enabled": definition.get("ActionsEnabled", True),
            "state": INSUFFICIENT_DATA,
            "reason": "Unchecked: Initial alarm creation",
            "policy_arn": policy_arn,
            "now": now,
        },
    )
    done = "updated" if known else "created"
    _remember(connection, account, name, "ConfigurationUpdate", f'Alarm "{name}" {done}', {}, now)


def set_tags(connection: Connection, alarm: Alarm, tags: Mapping[str, str]) -> None:
    """Give the alarm these tags in the place of its own."""
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    definition = json.dumps({**alarm.definition, "Tags": listed})
    connection.execute(
        SET_DEFINITION, {"account": alarm.account, "name": alarm.name, "definition": definition}
    )


def find(connection: Connection, account: str) -> list[Alarm]:
    """The account's alarms in the order of their names."""
    return [_alarm(row) for row in connection.execute(FIND_ALL, {"account": account})]


def get(connection: Connection, account: str, name: str) -> Alarm:
    """Raises AlarmNotFound."""
    alarm = _fetch(connection, account, name)
    if alarm is None:
        raise AlarmNotFound(f"Alarm {name} does not exist")
    return alarm


def delete(connection: Connection, account: str, names: Sequence[str], *, now: float) -> None:
    """Delete alarms; names that do not exist are passed over. Raises AlarmOfPolicy, having deleted none."""
    for name in names:
        known = _fetch(connection, account, name)
        if known is not None and known.policy_arn is not None:
            raise _refused(known)
    _delete(connection, account, names, now)


def delete_of_policy(
    connection: Connection, policy_arn: str, *, now: float, except_: Collection[str] = ()
) -> None:
    """Delete the alarms of a scaling policy, but those of these names."""
    for account, name in connection.execute(OF_POLICY, {"policy_arn": policy_arn}).all():
        if name not in except_:
            _delete(connection, account, [name], now)


def lasting_of_policies(connection: Connection) -> list[Alarm]:
    """The clients' alarms in ALARM whose actions are carried out."""
    return [_alarm(row) for row in connection.execute(LASTING, {"state": ALARM, "enabled": True})]


def _delete(connection: Connection, account: str, names: Sequence[str], now: float) -> None:
    for name in names:
        if connection.execute(DELETE, {"account": account, "name": name}).rowcount:
            _remember(connection, account, name, "ConfigurationUpdate", f'Alarm "{name}" deleted', {}, now)


def _refused(alarm: Alarm) -> AlarmOfPolicy:
    return AlarmOfPolicy(
        f"Alarm {alarm.name} belongs to the scaling policy {alarm.policy_arn}: change or delete the policy."
    )


def enable_actions(connection: Connection, account: str, names: Sequence[str], *, enabled: bool) -> None:
    """Let alarms act, or only change their states; names that do not exist are passed over."""
    for name in names:
        connection.execute(ENABLE, {"account": account, "name": name, "enabled": enabled})


def set_state(
    connection: Connection, alarm: Alarm, state: str, reason: str, reason_data: str | None, *, now: float
) -> None:
    """Store a state; when it is another one than before, its actions are due at once."""
    _store(connection, alarm, in_state(alarm, state, reason, reason_data, now=now), now)


def _store(connection: Connection, former: Alarm, alarm: Alarm, now: float) -> None:
    connection.execute(
        SET_STATE,
        {
            "account": alarm.account,
            "name": alarm.name,
            "state": alarm.state,
            "previous_state": alarm.previous_state,
            "reason": alarm.reason,
            "reason_data": alarm.reason_data,
            "now": now,
            "transitioned_at": alarm.transitioned_at,
            "actions_due_at": alarm.actions_due_at,
        },
    )
    if former.state != alarm.state:
        states = {"oldState": _told(former), "newState": _told(alarm)}
        summary = f"Alarm updated from {former.state} to {alarm.state}"
        _remember(connection, alarm.account, alarm.name, "StateUpdate", summary, states, now)


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """Something that happened to an alarm; `data` is JSON."""

    id: int
    alarm_name: str
    at: float
    kind: str
    summary: str
    data: str


def history(connection: Connection, account: str, alarm_name: str | None = None) -> list[HistoryItem]:
    """What happened to an alarm, or to all of the account, oldest first."""
    rows = connection.execute(HISTORY, {"account": account, "alarm_name": alarm_name})
    return [HistoryItem(*row) for row in rows]


class Alarms:
    """Evaluates the alarms and carries out their actions."""

    def __init__(self, database: Database, act: Callable[[Alarm, str], Awaitable[None]]) -> None:
        self._database = database
        self._act = act
        self._evaluated: dict[str, float] = {}  # ARN -> end of the newest period evaluated

    async def run(self, stop: asyncio.Event) -> None:
        """Step until told to stop."""
        await loops.run("alarms", self.step, stop)

    async def step(self, now: float) -> float:
        """Evaluate the alarms whose period has ended since they last were, and run the actions due.

        Returns the delay to the next step, in s.
        """
        alarms = await self._database.read(_all)
        known = {alarm.arn for alarm in alarms}
        self._evaluated = {arn: end for arn, end in self._evaluated.items() if arn in known}
        for alarm in alarms:
            end = newest_end(alarm, now)
            # A state that was set acts before an evaluation may undo it.
            if self._evaluated.get(alarm.arn) != end and not alarm.change_is_due:
                await self._evaluate(alarm, end, now)
                self._evaluated[alarm.arn] = end
        for alarm in await self._database.read(lambda connection: _due(connection, now)):
            await self._run_actions(alarm, now)
        return IDLE_STEP_S

    async def _evaluate(self, alarm: Alarm, end: float, now: float) -> None:
        try:
            values = await self._database.read(
                lambda connection: datapoints(partial(statistics, connection, alarm.account), alarm, end)
            )
        except ServiceError as error:
            log.warning("Alarm %s cannot be evaluated: %s", alarm.name, error.message)
            return
        changed = evaluated(alarm, values, end=end, now=now)
        if changed is None:
            return

        def store(connection: Connection) -> None:
            # Somebody may have set another state, or replaced or deleted the alarm, since it was read.
            if _fetch(connection, alarm.account, alarm.name) == alarm:
                _store(connection, alarm, changed, now)

        await self._database.write(store)

    async def _run_actions(self, alarm: Alarm, now: float) -> None:
        for action in actions_due(alarm):
            await self._run_action(alarm, action, now)
        next_at = due_again_at(alarm, now)

        def store(connection: Connection) -> None:
            current = _fetch(connection, alarm.account, alarm.name)
            # A change of state in the meantime has its own actions due.
            if current is not None and current.actions_due_at == alarm.actions_due_at:
                connection.execute(
                    SET_DUE, {"account": alarm.account, "name": alarm.name, "actions_due_at": next_at}
                )

        await self._database.write(store)

    async def _run_action(self, alarm: Alarm, action: str, now: float) -> None:
        try:
            await self._act(alarm, action)
            summary = f"Successfully executed action {action}"
        except ServiceError as error:
            log.warning("Alarm %s: action %s failed: %s", alarm.name, action, error.message)
            summary = f"Failed to execute action {action}. Received error: {error.message}"

        def store(connection: Connection) -> None:
            _remember(connection, alarm.account, alarm.name, "Action", summary, {"actionArn": action}, now)

        await self._database.write(store)


def _told(alarm: Alarm) -> dict[str, Any]:
    """An alarm's state in its history. Source: DescribeAlarmHistory, example."""
    told = {"stateValue": alarm.state, "stateReason": alarm.reason}
    return told | ({"stateReasonData": json.loads(alarm.reason_data)} if alarm.reason_data else {})


def _remember(
    connection: Connection,
    account: str,
    name: str,
    kind: str,
    summary: str,
    happened: Mapping[str, Any],
    now: float,
) -> None:
    connection.execute(FORGET, {"before": now - HISTORY_KEPT_S})
    connection.execute(
        REMEMBER,
        {
            "account": account,
            "alarm_name": name,
            "at": now,
            "kind": kind,
            "summary": summary[:255],
            "data": json.dumps({"version": "1.0", **happened}),
        },
    )


def _alarm(row: Any) -> Alarm:
    alarm = Alarm(*row)
    return replace(
        alarm,
        definition=json.loads(row.definition),
        actions_enabled=bool(row.actions_enabled),
    )


def _fetch(connection: Connection, account: str, name: str) -> Alarm | None:
    row = connection.execute(FIND, {"account": account, "name": name}).first()
    return None if row is None else _alarm(row)


def _all(connection: Connection) -> list[Alarm]:
    return [_alarm(row) for row in connection.execute(EVERY)]


def _due(connection: Connection, now: float) -> list[Alarm]:
    return [_alarm(row) for row in connection.execute(DUE, {"now": now})]


_COLUMNS = """account, name, arn, region, definition, actions_enabled, configured_at, state, previous_state,
       reason, reason_data, state_updated_at, transitioned_at, actions_due_at, policy_arn"""

EVERY = text(f"SELECT {_COLUMNS} FROM alarms")  # noqa: S608  the columns are constants of this file
DUE = text(f"SELECT {_COLUMNS} FROM alarms WHERE actions_due_at <= :now")  # noqa: S608
FIND_ALL = text(f"SELECT {_COLUMNS} FROM alarms WHERE account = :account ORDER BY name")  # noqa: S608
FIND = text(f"SELECT {_COLUMNS} FROM alarms WHERE account = :account AND name = :name")  # noqa: S608

PUT = text("""
INSERT INTO alarms (account, name, arn, region, definition, actions_enabled, configured_at,
                    state, previous_state, reason, state_updated_at, transitioned_at, policy_arn)
VALUES (:account, :name, :arn, :region, :definition, :actions_enabled, :now,
        :state, :state, :reason, :now, :now, :policy_arn)
ON CONFLICT (account, name) DO UPDATE SET
  definition = excluded.definition, actions_enabled = excluded.actions_enabled,
  configured_at = excluded.configured_at, policy_arn = excluded.policy_arn
""")

OF_POLICY = text("SELECT account, name FROM alarms WHERE policy_arn = :policy_arn")
LASTING = text(
    f"SELECT {_COLUMNS} FROM alarms "  # noqa: S608
    "WHERE state = :state AND actions_enabled = :enabled AND policy_arn IS NULL"
)

SET_DEFINITION = text("UPDATE alarms SET definition = :definition WHERE account = :account AND name = :name")

DELETE = text("DELETE FROM alarms WHERE account = :account AND name = :name")

ENABLE = text("UPDATE alarms SET actions_enabled = :enabled WHERE account = :account AND name = :name")

SET_STATE = text("""
UPDATE alarms
   SET state = :state, previous_state = :previous_state, reason = :reason, reason_data = :reason_data,
       state_updated_at = :now, transitioned_at = :transitioned_at, actions_due_at = :actions_due_at
 WHERE account = :account AND name = :name
""")

SET_DUE = text("UPDATE alarms SET actions_due_at = :actions_due_at WHERE account = :account AND name = :name")

REMEMBER = text("""
INSERT INTO alarm_history (account, alarm_name, at, kind, summary, data)
VALUES (:account, :alarm_name, :at, :kind, :summary, :data)
""")

FORGET = text("DELETE FROM alarm_history WHERE at < :before")

HISTORY = text("""
SELECT id, alarm_name, at, kind, summary, data FROM alarm_history
 WHERE account = :account AND (CAST(:alarm_name AS TEXT) IS NULL OR alarm_name = :alarm_name)
 ORDER BY at, id
""")
