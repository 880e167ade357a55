"""What became of messages: the log of attempts, dead letters, delivery on request, retention."""

import asyncio
import json
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from ebbtide.notifications import history, subscriptions, tables, topics
from ebbtide.notifications.history import Chosen

TOPIC_ARN = "arn:aws:sns:us-east-1:123456789012:results"
NOW = 1_700_000_000.0
DAY = 86_400.0
WEEK = 7 * DAY
NO_RETRY = '{"healthyRetryPolicy": {"numRetries": 0}}'


async def sweep(outbox, now):
    """Let everything past its retention be forgotten."""
    while await outbox.deliveries.sweep(now) == 0.0:
        pass


def begins(entry):
    """When each attempt began, in s after NOW."""
    return pytest.approx([attempt.at - attempt.duration_s - NOW for attempt in entry.attempts], abs=0.001)


async def test_a_delivery_is_kept_with_its_attempt(outbox, receiver):
    arn = await outbox.subscribe("http", receiver.url)
    message_id = await outbox.publish("hello", at=NOW - 5)

    await outbox.deliveries.deliver(arn, NOW)

    [entry] = await outbox.find(topic_arn=TOPIC_ARN)
    assert entry.message.id == message_id
    assert entry.message.message == "hello"
    assert (entry.state, entry.subscription_arn, entry.next_attempt_at) == ("delivered", arn, None)
    [attempt] = entry.attempts
    assert (attempt.status_code, attempt.error) == (200, None)
    assert begins(entry) == [0]


async def test_every_failed_attempt_is_kept_beside_the_one_that_succeeded(outbox, receiver):
    arn = await outbox.subscribe("http", receiver.url)
    receiver.statuses = [500, 429]
    await outbox.publish()
    for at in (NOW, NOW + 1_000):
        await outbox.deliveries.deliver(arn, at)
    [pending] = await outbox.find(subscription_arn=arn)

    await outbox.deliveries.deliver(arn, NOW + 2_000)

    [entry] = await outbox.find(subscription_arn=arn)
    assert pending.state == "pending"
    assert [attempt.status_code for attempt in pending.attempts] == [500, 429]
    assert pending.next_attempt_at > NOW + 1_000
    assert [attempt.status_code for attempt in entry.attempts] == [500, 429, 200]
    assert [attempt.error for attempt in entry.attempts] == ["Answered 500", "Answered 429", None]
    assert begins(entry) == [0, 1_000, 2_000]


async def test_a_receiver_that_is_not_there_leaves_an_error_without_a_status(outbox):
    arn = await outbox.subscribe("http", "http://127.0.0.1:1/hook")
    await outbox.publish()

    await outbox.deliveries.deliver(arn, NOW)

    [entry] = await outbox.find(subscription_arn=arn)
    [attempt] = entry.attempts
    assert attempt.status_code is None
    assert "127.0.0.1:1" in attempt.error


async def test_deliveries_are_found_by_what_is_asked(outbox, receiver):
    queue = await outbox.create_queue("q")
    to_queue = await outbox.subscribe("sqs", queue.arn)
    to_nobody = await outbox.subscribe("sqs", f"{queue.arn}-gone")
    first = await outbox.publish("first", at=NOW, invocation_id="invocation-1")
    second = await outbox.publish("second", at=NOW + 60, invocation_id="invocation-2")
    await outbox.deliveries.deliver(to_nobody, NOW + 100)

    async def found(**chosen):
        return {(e.message.message, e.subscription_arn, e.state) for e in await outbox.find(**chosen)}

    first_queue, second_queue = ("first", to_queue, "pending"), ("second", to_queue, "pending")
    first_nobody, second_nobody = ("first", to_nobody, "abandoned"), ("second", to_nobody, "abandoned")
    everything = {first_queue, second_queue, first_nobody, second_nobody}
    assert await found(topic_arn=TOPIC_ARN) == everything
    assert await found(account="123456789012") == everything
    assert await found(account="999999999999") == set()
    assert await found(subscription_arn=to_queue) == {first_queue, second_queue}
    assert await found(message_ids=(second,)) == {second_queue, second_nobody}
    assert await found(invocation_id="invocation-1") == {first_queue, first_nobody}
    assert await found(topic_arn=TOPIC_ARN, state="abandoned") == {first_nobody, second_nobody}
    assert await found(since=NOW + 1) == {second_queue, second_nobody}
    assert await found(until=NOW + 60) == {first_queue, first_nobody}
    assert await found(message_ids=(first,), subscription_arn=to_queue, state="delivered") == set()


async def test_deliveries_come_in_pages_the_latest_message_first(outbox):
    queue = await outbox.create_queue("q")
    for name in ("q", "r"):
        await outbox.subscribe("sqs", f"{queue.arn}-{name}")
    for n in range(3):
        await outbox.publish(f"message {n}", at=NOW + n)
    seen, after = [], None
    while True:
        page = await outbox.database.read(
            lambda c: history.find(c, Chosen(topic_arn=TOPIC_ARN), after=after, limit=4)  # noqa: B023
        )
        seen.append([entry.message.message for entry in page.entries])
        after = page.next_after
        if after is None:
            break

    assert seen == [["message 2", "message 2", "message 1", "message 1"], ["message 0", "message 0"]]


async def test_when_somebody_was_told_of_an_outcome_is_known_and_stays(outbox, receiver):
    arn = await outbox.subscribe("http", receiver.url)
    await outbox.publish("done", invocation_id="invocation")

    async def notified():
        return await outbox.database.read(lambda c: history.notified_at(c, ["invocation", "another"]))

    before = await notified()
    await outbox.deliveries.deliver(arn, NOW)
    after = await notified()
    receiver.statuses = [500]
    await outbox.deliveries.replay(Chosen(invocation_id="invocation"), NOW + 60)
    await outbox.deliveries.deliver(arn, NOW + 60)

    assert before == {}
    assert after.keys() == {"invocation"}
    assert after["invocation"] >= NOW
    assert await notified() == after


async def test_a_dead_letter_is_what_would_have_been_delivered_and_says_why(outbox, receiver):
    queue = await outbox.create_queue("dead-letters")
    arn = await outbox.subscribe(
        "http", receiver.url, RedrivePolicy=json.dumps({"deadLetterTargetArn": queue.arn})
    )
    receiver.statuses = [404]
    message_id = await outbox.publish("lost", attributes={"n": {"Type": "Number", "Value": "7"}})

    await outbox.deliveries.deliver(arn, NOW)

    [letter] = await outbox.letters(queue)
    envelope = json.loads(letter.body)
    assert (envelope["Message"], envelope["MessageId"]) == ("lost", message_id)
    assert "Signature" in envelope
    assert letter.attributes == {
        "RequestID": {"DataType": "String", "StringValue": message_id},
        "ErrorCode": {"DataType": "String", "StringValue": "404"},
        "ErrorMessage": {"DataType": "String", "StringValue": "Answered 404"},
    }
    [entry] = await outbox.find(subscription_arn=arn)
    assert (entry.state, entry.dead_letter_arn) == ("abandoned", queue.arn)


async def test_a_raw_dead_letter_is_the_bare_message_with_its_attributes(outbox, receiver):
    queue = await outbox.create_queue("dead-letters")
    arn = await outbox.subscribe(
        "http",
        receiver.url,
        RawMessageDelivery="true",
        DeliveryPolicy=NO_RETRY,
        RedrivePolicy=json.dumps({"deadLetterTargetArn": queue.arn}),
    )
    receiver.statuses = [503]
    await outbox.publish("lost", attributes={"n": {"Type": "Number", "Value": "7"}})

    await outbox.deliveries.deliver(arn, NOW)

    [letter] = await outbox.letters(queue)
    assert letter.body == "lost"
    assert letter.attributes["n"] == {"DataType": "Number", "StringValue": "7"}
    assert letter.attributes["ErrorCode"]["StringValue"] == "503"


async def test_a_message_for_a_missing_queue_becomes_a_dead_letter_too(outbox):
    queue = await outbox.create_queue("dead-letters")
    arn = await outbox.subscribe(
        "sqs", f"{queue.arn}-gone", RedrivePolicy=json.dumps({"deadLetterTargetArn": queue.arn})
    )
    await outbox.publish("lost")

    await outbox.deliveries.deliver(arn, NOW)

    [letter] = await outbox.letters(queue)
    assert letter.attributes["ErrorMessage"]["StringValue"] == "the queue does not exist"


async def test_without_its_dead_letter_queue_a_message_is_given_up_and_kept(outbox, receiver):
    arn = await outbox.subscribe(
        "http",
        receiver.url,
        RedrivePolicy='{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:gone"}',
    )
    receiver.statuses = [404]
    await outbox.publish("lost")

    await outbox.deliveries.deliver(arn, NOW)

    [entry] = await outbox.find(subscription_arn=arn)
    assert (entry.state, entry.dead_letter_arn, entry.message.message) == ("abandoned", None, "lost")


async def test_a_message_is_delivered_again_by_its_id(outbox, receiver):
    arn = await outbox.subscribe("http", receiver.url)
    wanted = await outbox.publish("once more")
    await outbox.publish("not this", at=NOW + 1)
    await outbox.deliveries.deliver(arn, NOW + 1)
    first = {receiver.next().json["Message"] for _ in range(2)}

    count = await outbox.deliveries.replay(Chosen(message_ids=(wanted,)), NOW + 60)
    delivered = await outbox.deliveries.deliver(arn, NOW + 60)

    assert first == {"once more", "not this"}
    assert (count, delivered) == (1, 1)
    again = receiver.next().json
    assert (again["Message"], again["MessageId"]) == ("once more", wanted)
    [entry] = await outbox.find(message_ids=(wanted,))
    assert [attempt.status_code for attempt in entry.attempts] == [200, 200]
    assert entry.owed_at == NOW + 60


async def test_messages_of_a_time_range_are_delivered_again_however_many(outbox):
    queue = await outbox.create_queue("q")
    arn = await outbox.subscribe("sqs", queue.arn)
    for n in range(history.REPLAYED_AT_ONCE + 20):
        await outbox.publish(f"message {n}", at=NOW + n)
    while await outbox.deliveries.deliver(arn, NOW + 1_000):
        pass

    count = await outbox.deliveries.replay(
        Chosen(topic_arn=TOPIC_ARN, since=NOW + 10, until=NOW + 115), NOW + 2_000
    )

    assert count == 105
    assert await outbox.deliveries.deliver(arn, NOW + 2_000) == 105


async def test_only_one_subscription_gets_a_message_again(outbox):
    queues = [await outbox.create_queue(name) for name in ("a", "b")]
    arns = [await outbox.subscribe("sqs", queue.arn) for queue in queues]
    await outbox.publish("hello")
    for arn in arns:
        await outbox.deliveries.deliver(arn, NOW)

    count = await outbox.deliveries.replay(Chosen(topic_arn=TOPIC_ARN, subscription_arn=arns[1]), NOW + 1)

    assert count == 1
    assert [await outbox.deliveries.deliver(arn, NOW + 1) for arn in arns] == [0, 1]


async def test_a_subscription_made_later_gets_earlier_messages_that_its_filter_lets_pass(outbox):
    first = await outbox.create_queue("first")
    await outbox.subscribe("sqs", first.arn)
    for kind in ("x", "y"):
        await outbox.publish(kind, attributes={"kind": {"Type": "String", "Value": kind}})
    late = await outbox.create_queue("late")
    arn = await outbox.subscribe("sqs", late.arn, FilterPolicy='{"kind": ["y"]}')

    count = await outbox.deliveries.replay(Chosen(subscription_arn=arn), NOW + 1)
    await outbox.deliveries.deliver(arn, NOW + 1)

    assert count == 1
    assert [json.loads(letter.body)["Message"] for letter in await outbox.letters(late)] == ["y"]


async def test_what_was_given_up_is_tried_again_and_nothing_else(outbox, receiver):
    arn = await outbox.subscribe("http", receiver.url, DeliveryPolicy=NO_RETRY)
    receiver.statuses = [200, 500]
    await outbox.publish("arrives", at=NOW)
    await outbox.deliveries.deliver(arn, NOW)
    await outbox.publish("is lost", at=NOW + 1)
    await outbox.deliveries.deliver(arn, NOW + 1)
    before = [receiver.next().json["Message"] for _ in range(2)]

    count = await outbox.deliveries.replay(Chosen(topic_arn=TOPIC_ARN, state="abandoned"), NOW + 60)
    await outbox.deliveries.deliver(arn, NOW + 60)
    again = await outbox.deliveries.replay(Chosen(topic_arn=TOPIC_ARN, state="abandoned"), NOW + 90)

    assert before == ["arrives", "is lost"]
    assert (count, again) == (1, 0)
    assert receiver.next().json["Message"] == "is lost"
    assert {entry.state for entry in await outbox.find(topic_arn=TOPIC_ARN)} == {"delivered"}


async def test_what_is_still_owed_is_not_owed_twice(outbox):
    arn = await outbox.subscribe("http", "http://127.0.0.1:1/hook")
    message_id = await outbox.publish()
    await outbox.deliveries.deliver(arn, NOW)

    assert await outbox.deliveries.replay(Chosen(message_ids=(message_id,)), NOW + 1) == 0
    [(state, attempts, _, _)] = await outbox.owed()
    assert (state, attempts) == ("pending", 1)


async def test_an_old_message_asked_for_again_has_all_its_time_again(outbox):
    arn = await outbox.subscribe("http", "http://127.0.0.1:1/hook")
    message_id = await outbox.publish(at=NOW - 15 * DAY)
    await outbox.deliveries.deliver(arn, NOW)
    [(given_up, *_)] = await outbox.owed()

    await outbox.deliveries.replay(Chosen(message_ids=(message_id,)), NOW)
    await outbox.deliveries.deliver(arn, NOW + 1)

    [(state, *_)] = await outbox.owed()
    assert (given_up, state) == ("abandoned", "pending")


async def test_the_log_is_kept_for_its_retention_and_then_forgotten(outbox, receiver):
    arn = await outbox.subscribe("http", receiver.url)
    receiver.statuses = [500]
    await outbox.publish()
    for at in (NOW, NOW + 60):
        await outbox.deliveries.deliver(arn, at)

    await sweep(outbox, NOW + WEEK - 60)
    kept = await outbox.find(topic_arn=TOPIC_ARN)
    await sweep(outbox, NOW + WEEK + 3_600)

    assert len(kept) == 1
    assert await outbox.find(topic_arn=TOPIC_ARN) == []
    assert await outbox.message_count() == 0
    attempts = await outbox.database.read(
        lambda c: c.execute(select(func.count()).select_from(tables.attempts)).scalar()
    )
    assert attempts == 0


async def test_the_operator_sets_the_retention(outbox):
    queue = await outbox.create_queue("q")
    arn = await outbox.subscribe("sqs", queue.arn)
    outbox.use(replace(outbox.settings, delivery_retention_s=60.0))
    await outbox.publish()
    await outbox.deliveries.deliver(arn, NOW)

    await sweep(outbox, NOW + 61)

    assert await outbox.message_count() == 0


async def test_what_is_owed_outlasts_the_retention_with_its_latest_attempts(outbox):
    arn = await outbox.subscribe("http", "http://127.0.0.1:1/hook")
    await outbox.publish()
    for at in (NOW, NOW + 8 * DAY):
        await outbox.deliveries.deliver(arn, at)

    await sweep(outbox, NOW + 8 * DAY)

    [entry] = await outbox.find(subscription_arn=arn)
    assert entry.state == "pending"
    assert begins(entry) == [8 * DAY]


async def test_much_is_forgotten_in_small_steps(outbox):
    """No transaction removes more than a few hundred rows, so that none holds up the others for long."""
    queue = await outbox.create_queue("q")
    arn = await outbox.subscribe("sqs", queue.arn)
    size = 2 * history.FORGOTTEN_AT_ONCE + 1
    await outbox.database.write(
        lambda c: topics.publish_many(c, TOPIC_ARN, [(f"message {n}", f"{n}") for n in range(size)], at=NOW)
    )
    while await outbox.deliveries.deliver(arn, NOW):
        pass
    counts = []
    while await outbox.deliveries.sweep(NOW + WEEK + 60) == 0.0:
        counts.append(await outbox.message_count())

    assert counts == [size - history.FORGOTTEN_AT_ONCE, size - 2 * history.FORGOTTEN_AT_ONCE]
    assert await outbox.message_count() == 0


async def test_what_was_owed_to_a_subscription_that_ended_is_given_up(outbox):
    arn = await outbox.subscribe("http", "http://127.0.0.1:1/hook")
    await outbox.publish()
    await outbox.deliveries.deliver(arn, NOW)
    await outbox.database.write(lambda c: subscriptions.remove(c, subscriptions.get(c, arn)))

    await sweep(outbox, NOW + 60)

    assert await outbox.deliveries.deliver(arn, NOW + DAY) == 0
    [entry] = await outbox.find(topic_arn=TOPIC_ARN)
    assert (entry.state, entry.last_error) == ("abandoned", "the subscription has ended")
    assert len(entry.attempts) == 1


async def test_a_topic_that_wants_it_finds_its_deliveries_in_cloudwatch_logs(outbox, receiver):
    attributes = {
        "HTTPSuccessFeedbackRoleArn": "arn:aws:iam::123456789012:role/logs",
        "HTTPSuccessFeedbackSampleRate": "100",
        "HTTPFailureFeedbackRoleArn": "arn:aws:iam::123456789012:role/logs",
    }
    await outbox.database.write(lambda c: topics.set_attributes(c, TOPIC_ARN, attributes))
    arn = await outbox.subscribe("http", receiver.url)
    receiver.statuses = [200, 404]
    for n in range(2):
        await outbox.publish(f"message {n}", at=NOW + n)
        await outbox.deliveries.deliver(arn, NOW + n)

    def logged(group):
        [stream] = outbox.logs.of("123456789012").streams(group)
        [event] = stream.forward(0)
        return json.loads(event.message)

    success = logged("sns/us-east-1/123456789012/results")
    failure = logged("sns/us-east-1/123456789012/results/Failure")
    assert (success["status"], failure["status"]) == ("SUCCESS", "FAILURE")
    assert success["notification"]["topicArn"] == TOPIC_ARN
    assert success["notification"]["timestamp"] == "2023-11-14 22:13:20.000"
    assert success["delivery"]["destination"] == receiver.url
    assert (success["delivery"]["statusCode"], success["delivery"]["attempts"]) == (200, 1)
    assert (failure["delivery"]["statusCode"], failure["delivery"]["providerResponse"]) == (
        404,
        "Answered 404",
    )


async def test_a_receiver_that_was_down_for_a_day_gets_everything_once_when_it_is_up(outbox, receiver):
    """And meanwhile delays nobody: the lane of another is never behind its own."""
    queue = await outbox.create_queue("q")
    alive = await outbox.subscribe("sqs", queue.arn)
    dead = await outbox.subscribe("http", receiver.url)
    count = 40
    hours = 24
    receiver.statuses = [503] * (count * hours * 10)
    published = 0
    for hour in range(hours):
        now = NOW + hour * 3_600
        for _ in range(count // hours + 1):
            if published < count:
                await outbox.publish(f"message {published}", at=now)
                published += 1
        await asyncio.gather(drain(outbox, dead, now), drain(outbox, alive, now))
        assert await outbox.find(subscription_arn=alive, state="pending") == []
    while not receiver.idle:
        receiver.next()
    receiver.statuses.clear()

    for hour in range(hours, hours + 2):
        await drain(outbox, dead, NOW + hour * 3_600)

    got = [receiver.next().json["Message"] for _ in range(count)]
    assert sorted(got) == sorted(f"message {n}" for n in range(count))
    assert receiver.idle
    assert {entry.state for entry in await outbox.find(subscription_arn=dead)} == {"delivered"}


async def drain(outbox, arn, now):
    while await outbox.deliveries.deliver(arn, now):
        pass
