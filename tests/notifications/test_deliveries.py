"""Deliveries from the outbox to real receivers, with time as an argument."""

import asyncio
import base64
import email
import json
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from tests.receivers import HttpReceiver, running

from ebbtide.notifications import queues, topics
from ebbtide.notifications.signing import text_to_sign
from ebbtide.notifications.topics import TopicNotFound

TOPIC_ARN = "arn:aws:sns:us-east-1:123456789012:results"
NOW = 1_700_000_000.0


async def test_an_http_receiver_gets_the_signed_envelope_and_nothing_is_owed_any_more(
    outbox, receiver, signer
):
    arn = await outbox.subscribe("http", receiver.url)
    message_id = await outbox.publish(
        "hello", subject="A greeting", attributes={"kind": {"Type": "String", "Value": "x"}}
    )

    await outbox.deliveries.deliver(arn, NOW)

    got = receiver.next()
    assert got.headers["content-type"] == "text/plain; charset=UTF-8"
    assert got.headers["user-agent"] == "Amazon Simple Notification Service Agent"
    assert got.headers["x-amz-sns-message-type"] == "Notification"
    assert got.headers["x-amz-sns-message-id"] == message_id
    assert got.headers["x-amz-sns-topic-arn"] == TOPIC_ARN
    assert got.headers["x-amz-sns-subscription-arn"] == arn
    envelope = got.json
    assert envelope["Type"] == "Notification"
    assert envelope["Subject"] == "A greeting"
    assert envelope["Message"] == "hello"
    assert envelope["Timestamp"] == "2023-11-14T22:13:20.000Z"
    assert envelope["SignatureVersion"] == "1"
    assert envelope["SigningCertURL"] == "http://127.0.0.1:8377/_ebbtide/sns/certificate.pem"
    assert envelope["UnsubscribeURL"].startswith("http://127.0.0.1:8377/?Action=Unsubscribe&SubscriptionArn=")
    assert envelope["MessageAttributes"] == {"kind": {"Type": "String", "Value": "x"}}
    key = x509.load_pem_x509_certificate(signer.certificate_pem()).public_key()
    signature = base64.b64decode(envelope["Signature"])
    key.verify(signature, text_to_sign(envelope).encode(), padding.PKCS1v15(), hashes.SHA1())
    assert await outbox.owed() == []


async def test_raw_delivery_sends_the_bare_message(outbox, receiver):
    arn = await outbox.subscribe("http", receiver.url, RawMessageDelivery="true")
    await outbox.publish("hello")

    await outbox.deliveries.deliver(arn, NOW)

    got = receiver.next()
    assert got.body == "hello"
    assert got.headers["x-amz-sns-rawdelivery"] == "true"


async def test_a_message_with_texts_by_protocol_gives_each_receiver_its_own(outbox, receiver):
    arn = await outbox.subscribe("http", receiver.url, RawMessageDelivery="true")
    queue = await outbox.create_queue("q")
    to_queue = await outbox.subscribe("sqs", queue.arn, RawMessageDelivery="true")
    await outbox.publish(json.dumps({"default": "any", "http": "web"}), structure="json")

    await outbox.deliveries.deliver(arn, NOW)
    await outbox.deliveries.deliver(to_queue, NOW)

    assert receiver.next().body == "web"
    assert await outbox.received(queue) == ["any"]


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_a_failing_receiver_is_tried_again_later(outbox, receiver, status):
    arn = await outbox.subscribe(
        "http", receiver.url, DeliveryPolicy='{"healthyRetryPolicy": {"numRetries": 2}}'
    )
    receiver.statuses = [status]
    await outbox.publish()

    await outbox.deliveries.deliver(arn, NOW)

    [(state, attempts, _, error)] = await outbox.owed()
    assert (state, attempts, error) == ("pending", 1, f"Answered {status}")
    assert await outbox.deliveries.deliver(arn, NOW) == 0
    assert await outbox.deliveries.deliver(arn, NOW + 3_600) == 1
    assert await outbox.owed() == []


async def test_a_receiver_that_keeps_failing_is_given_up_after_its_last_retry(outbox, receiver):
    arn = await outbox.subscribe(
        "http", receiver.url, DeliveryPolicy='{"healthyRetryPolicy": {"numRetries": 1}}'
    )
    receiver.statuses = [500, 500]
    await outbox.publish()

    await outbox.deliveries.deliver(arn, NOW)
    await outbox.deliveries.deliver(arn, NOW + 3_600)

    [(state, attempts, _, error)] = await outbox.owed()
    assert (state, attempts, error) == ("abandoned", 2, "Answered 500")
    assert await outbox.deliveries.deliver(arn, NOW + 86_400) == 0


@pytest.mark.parametrize("status", [400, 404, 302])
async def test_an_answer_that_will_not_change_is_not_asked_for_again(outbox, receiver, status):
    arn = await outbox.subscribe("http", receiver.url)
    receiver.statuses = [status]
    await outbox.publish()

    await outbox.deliveries.deliver(arn, NOW)

    [(state, *_)] = await outbox.owed()
    assert state == "abandoned"


async def test_an_unreachable_receiver_is_owed_its_message_for_days(outbox):
    arn = await outbox.subscribe("http", "http://127.0.0.1:1/hook")
    await outbox.publish(at=NOW - 13 * 86_400)

    await outbox.deliveries.deliver(arn, NOW)

    [(state, attempts, _, error)] = await outbox.owed()
    assert (state, attempts) == ("pending", 1)
    assert "127.0.0.1:1" in error


async def test_a_message_that_nobody_could_take_for_two_weeks_is_given_up(outbox):
    arn = await outbox.subscribe("http", "http://127.0.0.1:1/hook")
    await outbox.publish(at=NOW - 14 * 86_400)

    await outbox.deliveries.deliver(arn, NOW)

    [(state, *_)] = await outbox.owed()
    assert state == "abandoned"


async def test_a_name_that_leads_to_a_refused_address_is_not_connected_to(outbox, receiver):
    outbox.use(replace(outbox.settings, private_delivery=False))
    arn = await outbox.subscribe("http", receiver.url.replace("127.0.0.1", "localhost"))
    await outbox.publish()

    await outbox.deliveries.deliver(arn, NOW)

    [(state, _, _, error)] = await outbox.owed()
    assert state == "abandoned"
    assert "private address" in error
    assert receiver.idle


async def test_a_queue_gets_the_envelope_exactly_once(outbox):
    queue = await outbox.create_queue("q")
    arn = await outbox.subscribe("sqs", queue.arn)
    for i in range(3):
        await outbox.publish(f"message {i}")

    assert await outbox.deliveries.deliver(arn, NOW) == 3
    assert await outbox.deliveries.deliver(arn, NOW) == 0

    bodies = [json.loads(body) for body in await outbox.received(queue)]
    assert sorted(body["Message"] for body in bodies) == ["message 0", "message 1", "message 2"]
    assert all(body["SignatureVersion"] == "1" for body in bodies)


async def test_of_two_servers_that_deliver_at_once_one_moves_the_message_into_the_queue(outbox):
    queue = await outbox.create_queue("q")
    arn = await outbox.subscribe("sqs", queue.arn)
    await outbox.publish("hello")
    first = outbox.deliveries
    outbox.use(outbox.settings)

    await asyncio.gather(first.deliver(arn, NOW), outbox.deliveries.deliver(arn, NOW))

    assert len(await outbox.received(queue)) == 1
    await first.close()


async def test_a_queue_with_raw_delivery_gets_the_attributes_as_its_own_kind(outbox):
    queue = await outbox.create_queue("q")
    arn = await outbox.subscribe("sqs", queue.arn, RawMessageDelivery="true")
    await outbox.publish("bare", attributes={"n": {"Type": "Number", "Value": "7"}})

    await outbox.deliveries.deliver(arn, NOW)

    [taken], _ = await outbox.database.write(lambda c: queues.receive(c, queue, 1, 30, NOW))
    assert taken.body == "bare"
    assert taken.attributes == {"n": {"DataType": "Number", "StringValue": "7"}}


async def test_messages_for_a_queue_that_was_deleted_are_given_up(outbox):
    arn = await outbox.subscribe("sqs", "arn:aws:sqs:us-east-1:123456789012:gone")
    await outbox.publish()

    await outbox.deliveries.deliver(arn, NOW)

    [(state, attempts, _, error)] = await outbox.owed()
    assert (state, attempts, error) == ("abandoned", 1, "the queue does not exist")


async def test_mail_carries_the_message_and_the_way_out(outbox, mail):
    outbox.use(replace(outbox.settings, smtp_url=mail.url))
    arn = await outbox.subscribe("email", "reader@example.com")
    await outbox.publish("Done: 12 summaries", subject="Finished")

    await outbox.deliveries.deliver(arn, NOW)

    got = email.message_from_string(mail.next())
    assert got["From"] == "AWS Notifications <ebbtide@example.com>"
    assert got["To"] == "reader@example.com"
    assert got["Subject"] == "Finished"
    text = got.get_payload(decode=True).decode()
    assert text.startswith("Done: 12 summaries\n")
    assert "http://127.0.0.1:8377/?Action=Unsubscribe&SubscriptionArn=" in text
    assert await outbox.owed() == []


async def test_json_by_mail_is_the_envelope(outbox, mail):
    outbox.use(replace(outbox.settings, smtp_url=mail.url))
    arn = await outbox.subscribe("email-json", "reader@example.com")
    await outbox.publish("hello")

    await outbox.deliveries.deliver(arn, NOW)

    got = email.message_from_string(mail.next())
    assert json.loads(got.get_payload(decode=True))["Message"] == "hello"


async def test_a_refused_recipient_is_given_up_and_a_missing_mail_server_is_not(outbox, mail):
    arn = await outbox.subscribe("email", "nobody@example.com")
    await outbox.publish("one")
    await outbox.deliveries.deliver(arn, NOW)
    [(without_server, *_)] = await outbox.owed()
    mail.refuse = True
    outbox.use(replace(outbox.settings, smtp_url=mail.url))

    await outbox.deliveries.deliver(arn, NOW + 60)

    assert without_server == "pending"
    [(refused, *_, error)] = await outbox.owed()
    assert refused == "abandoned"
    assert "no such person" in error


async def test_a_slow_receiver_delays_nobody_else(outbox, receiver):
    with running(HttpReceiver()) as slow:
        slow.hold.clear()
        await outbox.subscribe("http", slow.url)
        await outbox.subscribe("http", receiver.url)
        stop = asyncio.Event()
        running_loop = asyncio.create_task(outbox.deliveries.run(stop))
        for i in range(40):
            await outbox.publish(f"message {i}")
        outbox.deliveries.wake()

        got = [(await asyncio.to_thread(receiver.next)).json["Message"] for _ in range(40)]

        assert sorted(got) == sorted(f"message {i}" for i in range(40))
        slow.hold.set()
        stop.set()
        await running_loop


async def test_what_was_owed_before_a_restart_is_delivered_after_it(outbox, receiver):
    await outbox.subscribe("http", receiver.url)
    await outbox.publish("kept")
    stop = asyncio.Event()

    restarted = asyncio.create_task(outbox.deliveries.run(stop))

    assert (await asyncio.to_thread(receiver.next)).json["Message"] == "kept"
    stop.set()
    await restarted


async def test_a_message_nobody_wants_is_not_stored(outbox, receiver):
    await outbox.subscribe("http", receiver.url, FilterPolicy='{"kind": ["x"]}')

    await outbox.publish(attributes={"kind": {"Type": "String", "Value": "y"}})

    assert await outbox.message_count() == 0


async def test_publishing_to_a_missing_topic_says_so(outbox):
    with pytest.raises(TopicNotFound, match="nowhere"):
        await outbox.database.write(
            lambda c: topics.publish(c, "arn:aws:sns:us-east-1:123456789012:nowhere", "hello", at=NOW)
        )
