"""Alarms over time: when they are evaluated, what they act on, and how often. Time is an argument."""

import json

import pytest

from ebbtide import metrics
from ebbtide.errors import ServiceError
from ebbtide.metrics import Point, alarm_states, alarms
from ebbtide.metrics.alarms import Alarms

ACCOUNT = "123456789012"
TOPIC = "arn:aws:sns:us-east-1:123456789012:alarms"
POLICY = "arn:aws:autoscaling:us-east-1:123456789012:scalingPolicy:1:resource/sagemaker/e:policyName/p"
NOON = 1_800_000_000 // 86_400 * 86_400 + 43_200

HIGH = {
    "AlarmName": "high",
    "Namespace": "Mine",
    "MetricName": "Level",
    "Statistic": "Average",
    "Period": 60,
    "EvaluationPeriods": 1,
    "Threshold": 5.0,
    "ComparisonOperator": "GreaterThanThreshold",
    "AlarmActions": [TOPIC],
    "OKActions": [TOPIC],
}


class Watch:
    """An alarm loop, what it did, and the metric it watches."""

    def __init__(self, database):
        self.database = database
        self.acts = []
        self.alarms = Alarms(database, self.act)

    async def act(self, alarm, action):
        self.acts.append((alarm.state, action, alarm.datapoints[-1] if alarm.datapoints else None))

    async def put(self, **changed):
        await self.database.write(
            lambda c: alarms.put(c, HIGH | changed, account=ACCOUNT, region="us-east-1", now=NOON)
        )

    async def level(self, value, at):
        await self.database.write(
            lambda c: metrics.record(c, [Point(ACCOUNT, "Mine", "Level", (), value, "None", at)])
        )

    async def alarm(self, name="high"):
        return await self.database.read(lambda c: alarms.get(c, ACCOUNT, name))


@pytest.fixture
def watch(database):
    return Watch(database)


async def test_an_alarm_acts_once_on_each_change_of_its_state(watch):
    await watch.put()
    await watch.level(9, NOON)
    await watch.level(9, NOON + 60)
    await watch.level(1, NOON + 120)

    for second in range(60, 190):
        await watch.alarms.step(NOON + second)

    assert watch.acts == [("ALARM", TOPIC, 9), ("OK", TOPIC, 1)]


async def test_a_new_alarm_has_insufficient_data_until_its_metric_has_some(watch):
    await watch.put()

    await watch.alarms.step(NOON + 62)
    before = await watch.alarm()
    await watch.level(1, NOON + 60)
    await watch.alarms.step(NOON + 122)

    assert before.state == "INSUFFICIENT_DATA"
    assert (await watch.alarm()).state == "OK"


async def test_a_scaling_action_is_repeated_every_minute_while_in_alarm(watch):
    await watch.put(AlarmActions=[TOPIC, POLICY])
    for minute in range(3):
        await watch.level(10 + minute, NOON + minute * 60)

    for second in range(60, 182):
        await watch.alarms.step(NOON + second)

    assert watch.acts[:2] == [("ALARM", TOPIC, 10), ("ALARM", POLICY, 10)]
    assert [action for _, action, _ in watch.acts[2:]] == [POLICY]
    assert watch.acts[2][2] == 11, "the repetition sees the newest value"


async def test_actions_of_a_state_stored_before_a_crash_run_after_it(watch, database):
    await watch.put()
    before = await watch.alarm()
    await database.write(lambda c: alarms.set_state(c, before, "ALARM", "drill", None, now=NOON))

    restarted = Alarms(database, watch.act)
    await restarted.step(NOON + 1)
    await restarted.step(NOON + 2)

    assert watch.acts == [("ALARM", TOPIC, None)]


async def test_disabled_actions_do_not_run_though_the_state_changes(watch):
    await watch.put(ActionsEnabled=False)
    await watch.level(9, NOON)

    await watch.alarms.step(NOON + 62)

    assert (await watch.alarm()).state == "ALARM"
    assert watch.acts == []


async def test_a_failing_action_is_remembered_and_holds_up_no_other(watch, database):
    async def fail(alarm, action):
        raise ServiceError("the topic is gone")

    await watch.put()
    await watch.level(9, NOON)

    await Alarms(database, fail).step(NOON + 62)

    history = await database.read(lambda c: alarms.history(c, ACCOUNT, "high"))
    assert [item.kind for item in history] == ["ConfigurationUpdate", "StateUpdate", "Action"]
    assert "the topic is gone" in history[-1].summary


async def test_an_alarm_on_metric_math_watches_the_expression(watch):
    metric = {"Metric": {"Namespace": "Mine", "MetricName": "Level"}, "Period": 60, "Stat": "Sum"}
    without = ("Namespace", "MetricName", "Statistic", "Period")
    definition = {name: value for name, value in HIGH.items() if name not in without}
    definition["Metrics"] = [
        {"Id": "m1", "MetricStat": metric, "ReturnData": False},
        {"Id": "e1", "Expression": "FILL(m1, 0) + 5.5"},
    ]
    await watch.database.write(
        lambda c: alarms.put(c, definition, account=ACCOUNT, region="us-east-1", now=NOON)
    )

    await watch.alarms.step(NOON + 62)

    assert (await watch.alarm()).state == "ALARM"


async def test_an_expression_that_leaves_no_series_is_missing_data(watch):
    empty = {"Metric": {"Namespace": "Mine", "MetricName": "Never"}, "Period": 60, "Stat": "Sum"}
    definition = {
        "AlarmName": "high",
        "EvaluationPeriods": 1,
        "Threshold": 5.0,
        "TreatMissingData": "breaching",
    }
    definition["ComparisonOperator"] = "GreaterThanThreshold"
    definition["Metrics"] = [
        {"Id": "m1", "MetricStat": empty, "ReturnData": False},
        {"Id": "e1", "Expression": "REMOVE_EMPTY([m1])"},
    ]
    await watch.database.write(
        lambda c: alarms.put(c, definition, account=ACCOUNT, region="us-east-1", now=NOON)
    )

    await watch.alarms.step(NOON + 62)

    assert (await watch.alarm()).state == "ALARM"


async def test_a_replaced_alarm_keeps_its_state(watch):
    await watch.put()
    await watch.level(9, NOON)
    await watch.alarms.step(NOON + 62)

    await watch.put(Threshold=100.0)

    assert (await watch.alarm()).state == "ALARM"
    assert (await watch.alarm()).definition["Threshold"] == 100


async def test_the_message_to_a_topic_tells_states_reason_and_trigger(watch):
    await watch.put(Dimensions=[{"Name": "Harbour", "Value": "Brest"}])
    alarm = await watch.alarm()

    subject, message = alarm_states.notification(alarm)

    told = json.loads(message)
    assert subject == 'INSUFFICIENT_DATA: "high" in us-east-1'
    assert told["AlarmName"] == "high"
    assert told["AWSAccountId"] == ACCOUNT
    assert told["Trigger"]["MetricName"] == "Level"
    assert told["Trigger"]["EvaluateLowSampleCountPercentile"] == ""
    assert told["Trigger"]["Dimensions"] == [{"name": "Harbour", "value": "Brest"}]


async def test_an_alarm_of_a_scaling_policy_shows_its_state_and_acts_on_nothing(watch):
    definition = HIGH | {"AlarmActions": [POLICY]}
    await watch.database.write(
        lambda c: alarms.put(c, definition, account=ACCOUNT, region="us-east-1", now=NOON, policy_arn=POLICY)
    )
    await watch.level(9, NOON)

    for second in range(60, 190):
        await watch.alarms.step(NOON + second)

    assert watch.acts == []
    history = await watch.database.read(lambda c: alarms.history(c, ACCOUNT, "high"))
    assert "Alarm updated from INSUFFICIENT_DATA to ALARM" in [item.summary for item in history]
    assert "Action" not in [item.kind for item in history]
