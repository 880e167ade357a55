"""Alarms: put, described, set and deleted. What watches them is the alarms' loop in `metrics`."""

import math
from contextlib import suppress

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import page
from ebbtide.errors import ServiceError
from ebbtide.metrics import alarms, data, datums, definitions
from ebbtide.metrics.alarm_states import Alarm
from ebbtide.metrics.data import dimensions
from ebbtide.metrics.definitions import InvalidAlarm
from ebbtide.wire.json_text import parse_json

ALARMS_PAGE = 50
HISTORY_PAGE = 100
MAX_TAGS = 50


async def put_metric_alarm(params: Params, call: Call) -> Result:
    """Store an alarm; it is evaluated within seconds, and from then on as each period ends.

    Raises InvalidAlarm, InvalidQuery. Source: PutMetricAlarm.
    """
    data.check_accounts(params.get("Metrics", ()), call.account)
    definitions.check(params)

    def put(connection: Connection) -> None:
        alarms.put(connection, params, account=call.account, region=call.region, now=call.now)

    await call.parts.database.write(put)
    return {}


async def describe_alarms(params: Params, call: Call) -> Result:
    """The account's alarms by name. Raises InvalidAlarm, ServiceError InvalidNextToken."""
    if "AlarmNames" in params and "AlarmNamePrefix" in params:
        raise InvalidAlarm("AlarmNames and AlarmNamePrefix cannot both be specified.")
    if "ChildrenOfAlarmName" in params or "ParentsOfAlarmName" in params:
        raise InvalidAlarm("Composite alarms, which have children, are not supported.")
    types = params.get("AlarmTypes") or ["MetricAlarm"]

    def wanted(alarm: Alarm) -> bool:
        return (
            alarm.name in params.get("AlarmNames", (alarm.name,))
            and alarm.name.startswith(params.get("AlarmNamePrefix", ""))
            and alarm.state == params.get("StateValue", alarm.state)
            and _has_action(alarm, params.get("ActionPrefix"))
        )

    known = await call.parts.database.read(lambda connection: alarms.find(connection, call.account))
    found, token = page(
        filter(wanted, known) if "MetricAlarm" in types else (),
        lambda alarm: (alarm.name,),
        limit=params.get("MaxRecords", ALARMS_PAGE),
        token=params.get("NextToken"),
        error_code="InvalidNextToken",
    )
    # Clients that page look for all three kinds of alarm.
    kinds: Result = {
        "MetricAlarms": [_describe(alarm) for alarm in found],
        "CompositeAlarms": [],
        "LogAlarms": [],
    }
    return kinds | ({"NextToken": token} if token else {})


async def describe_alarms_for_metric(params: Params, call: Call) -> Result:
    """The alarms that watch one metric by itself. Source: DescribeAlarmsForMetric."""
    asked = [
        name
        for name in ("Namespace", "MetricName", "Statistic", "ExtendedStatistic", "Period", "Unit")
        if name in params
    ]
    own = dimensions(params.get("Dimensions", ()))
    known = await call.parts.database.read(lambda connection: alarms.find(connection, call.account))
    return {
        "MetricAlarms": [
            _describe(alarm)
            for alarm in known
            if all(alarm.definition.get(name) == params[name] for name in asked)
            and dimensions(alarm.definition.get("Dimensions", ())) == own
        ]
    }


async def describe_alarm_history(params: Params, call: Call) -> Result:
    """What happened to alarms in the last two weeks, newest first unless ScanBy says otherwise.

    Raises ServiceError InvalidNextToken. Source: DescribeAlarmHistory.
    """
    since = datums.moment(params, "StartDate") if "StartDate" in params else 0.0
    until = datums.moment(params, "EndDate") if "EndDate" in params else math.inf
    items = await call.parts.database.read(
        lambda connection: alarms.history(connection, call.account, params.get("AlarmName"))
    )
    found, token = page(
        [
            item
            for item in items
            if item.kind == params.get("HistoryItemType", item.kind) and since <= item.at <= until
        ],
        lambda item: (item.at, item.id),
        limit=params.get("MaxRecords", HISTORY_PAGE),
        token=params.get("NextToken"),
        descending=params.get("ScanBy") != "TimestampAscending",
        error_code="InvalidNextToken",
    )
    described = [
        {
            "AlarmName": item.alarm_name,
            "AlarmType": "MetricAlarm",
            "Timestamp": item.at,
            "HistoryItemType": item.kind,
            "HistorySummary": item.summary,
            "HistoryData": item.data,
        }
        for item in found
    ]
    return {"AlarmHistoryItems": described} | ({"NextToken": token} if token else {})


async def delete_alarms(params: Params, call: Call) -> Result:
    """Delete alarms, all of them or none. Raises AlarmNotFound. Source: DeleteAlarms."""

    def delete(connection: Connection) -> None:
        for name in params["AlarmNames"]:
            alarms.get(connection, call.account, name)
        alarms.delete(connection, call.account, params["AlarmNames"], now=call.now)

    await call.parts.database.write(delete)
    return {}


async def set_alarm_state(params: Params, call: Call) -> Result:
    """Put an alarm into a state until its next evaluation; a new state's actions run as always.

    Raises AlarmNotFound, and InvalidFormatFault for StateReasonData that is not JSON. Source: SetAlarmState.
    """
    reason_data = params.get("StateReasonData")
    if reason_data is not None:
        try:
            parse_json(reason_data)
        except ValueError as error:
            raise ServiceError("StateReasonData was not valid JSON", code="InvalidFormatFault") from error

    def set_state(connection: Connection) -> None:
        alarm = alarms.get(connection, call.account, params["AlarmName"])
        state, reason = params["StateValue"], params["StateReason"]
        alarms.set_state(connection, alarm, state, reason, reason_data, now=call.now)

    await call.parts.database.write(set_state)
    return {}


async def enable_alarm_actions(params: Params, call: Call) -> Result:
    """Let alarms act on their states. Source: EnableAlarmActions."""
    return await _enable(params, call, enabled=True)


async def disable_alarm_actions(params: Params, call: Call) -> Result:
    """Let alarms change their states only. Source: DisableAlarmActions."""
    return await _enable(params, call, enabled=False)


async def tag_resource(params: Params, call: Call) -> Result:
    """Set tags of an alarm. Raises ServiceError without such an alarm, and over 50. Source: TagResource."""

    def tag(connection: Connection) -> None:
        alarm = _tagged(connection, call, params["ResourceARN"])
        tags = alarm.tags | {given["Key"]: given["Value"] for given in params["Tags"]}
        if len(tags) > MAX_TAGS:
            raise ServiceError(f"At most {MAX_TAGS} tags are allowed.", code="InvalidParameterValue")
        alarms.set_tags(connection, alarm, tags)

    await call.parts.database.write(tag)
    return {}


async def untag_resource(params: Params, call: Call) -> Result:
    """Source: UntagResource."""

    def untag(connection: Connection) -> None:
        alarm = _tagged(connection, call, params["ResourceARN"])
        kept = {key: value for key, value in alarm.tags.items() if key not in params["TagKeys"]}
        alarms.set_tags(connection, alarm, kept)

    await call.parts.database.write(untag)
    return {}


async def list_tags_for_resource(params: Params, call: Call) -> Result:
    """Source: ListTagsForResource."""
    alarm = await call.parts.database.read(
        lambda connection: _tagged(connection, call, params["ResourceARN"])
    )
    return {"Tags": [{"Key": key, "Value": value} for key, value in alarm.tags.items()]}


def _tagged(connection: Connection, call: Call, resource: str) -> Alarm:
    """The alarm of that ARN."""
    with suppress(alarms.AlarmNotFound):
        alarm = alarms.get(connection, call.account, resource.partition(":alarm:")[2])
        if alarm.arn == resource:
            return alarm
    raise ServiceError(f"No alarm found: {resource}", code="ResourceNotFoundException", http_status=404)


async def _enable(params: Params, call: Call, *, enabled: bool) -> Result:
    await call.parts.database.write(
        lambda connection: alarms.enable_actions(
            connection, call.account, params["AlarmNames"], enabled=enabled
        )
    )
    return {}


def _has_action(alarm: Alarm, prefix: str | None) -> bool:
    members = ("OKActions", "AlarmActions", "InsufficientDataActions")
    actions = [action for member in members for action in alarm.definition.get(member, ())]
    return prefix is None or any(action.startswith(prefix) for action in actions)


def _describe(alarm: Alarm) -> Result:
    defaults: Result = {"OKActions": [], "AlarmActions": [], "InsufficientDataActions": []}
    if "Metrics" not in alarm.definition:
        defaults["Dimensions"] = []
    definition = {name: value for name, value in alarm.definition.items() if name != "Tags"}
    described = (
        defaults
        | definition
        | {
            "AlarmArn": alarm.arn,
            "ActionsEnabled": alarm.actions_enabled,
            "AlarmConfigurationUpdatedTimestamp": alarm.configured_at,
            "StateValue": alarm.state,
            "StateReason": alarm.reason,
            "StateUpdatedTimestamp": alarm.state_updated_at,
            "StateTransitionedTimestamp": alarm.transitioned_at,
        }
    )
    return described | ({"StateReasonData": alarm.reason_data} if alarm.reason_data else {})
