"""SQS as boto3 sees it: queues, messages, visibility, long polling, dead letters."""

import hashlib
import json
import threading
import urllib.parse
import urllib.request
import uuid

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ClientError


@pytest.fixture
def sqs(ebbtide):
    return ebbtide.client("sqs")


@pytest.fixture
def queue(sqs):
    """The URL of an empty queue."""
    return sqs.create_queue(QueueName=f"q-{uuid.uuid4()}")["QueueUrl"]


def arn(sqs, queue):
    return attributes(sqs, queue)["QueueArn"]


def attributes(sqs, queue):
    return sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["All"])["Attributes"]


def bodies(answer):
    return sorted(message["Body"] for message in answer.get("Messages", []))


def test_a_message_is_received_as_it_was_sent_and_gone_when_deleted(sqs, queue):
    sent = sqs.send_message(
        QueueUrl=queue,
        MessageBody="Grüße ☃",
        MessageAttributes={
            "n": {"DataType": "Number", "StringValue": "7"},
            "b": {"DataType": "Binary.png", "BinaryValue": b"\x00\xff"},
        },
        MessageSystemAttributes={"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-2"}},
    )

    [got] = sqs.receive_message(QueueUrl=queue, MessageAttributeNames=["All"], AttributeNames=["All"])[
        "Messages"
    ]
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=got["ReceiptHandle"])

    assert got["MessageId"] == sent["MessageId"]
    assert got["MD5OfBody"] == sent["MD5OfMessageBody"] == hashlib.md5("Grüße ☃".encode()).hexdigest()
    assert got["MD5OfMessageAttributes"] == sent["MD5OfMessageAttributes"]
    assert got["Body"] == "Grüße ☃"
    assert got["MessageAttributes"]["n"] == {"DataType": "Number", "StringValue": "7"}
    assert got["MessageAttributes"]["b"] == {"DataType": "Binary.png", "BinaryValue": b"\x00\xff"}
    assert got["Attributes"]["ApproximateReceiveCount"] == "1"
    assert got["Attributes"]["AWSTraceHeader"] == "Root=1-2"
    assert attributes(sqs, queue)["ApproximateNumberOfMessages"] == "0"
    assert attributes(sqs, queue)["ApproximateNumberOfMessagesNotVisible"] == "0"


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        pytest.param([], [], id="none unless asked for"),
        pytest.param(["a.x"], ["a.x"], id="by name"),
        pytest.param(["a.*"], ["a.x", "a.y", "ab"], id="by prefix"),
        pytest.param([".*"], ["a.x", "a.y", "ab", "b"], id="all"),
    ],
)
def test_a_receiver_gets_the_attributes_it_asks_for(sqs, queue, asked, got):
    sqs.send_message(
        QueueUrl=queue,
        MessageBody="m",
        MessageAttributes={
            name: {"DataType": "String", "StringValue": "v"} for name in ("a.x", "a.y", "ab", "b")
        },
    )

    [message] = sqs.receive_message(QueueUrl=queue, MessageAttributeNames=asked)["Messages"]

    assert sorted(message.get("MessageAttributes", {})) == got
    assert "Attributes" not in message


@pytest.mark.parametrize("asked", [["SentTimestamp"], ["SenderId", "SentTimestamp"]])
def test_attributes_of_a_message_are_asked_for_by_name(sqs, queue, asked):
    sqs.send_message(QueueUrl=queue, MessageBody="x")

    [got] = sqs.receive_message(QueueUrl=queue, AttributeNames=asked)["Messages"]

    assert sorted(got["Attributes"]) == asked


def test_attributes_that_there_are_not_are_refused_by_name(sqs, queue):
    calls = [
        lambda: sqs.receive_message(QueueUrl=queue, AttributeNames=["Nope"]),
        lambda: sqs.receive_message(QueueUrl=queue, MessageSystemAttributeNames=["Nope"]),
        lambda: sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["Nope"]),
        lambda: sqs.set_queue_attributes(QueueUrl=queue, Attributes={"Nope": "1"}),
    ]

    for call in calls:
        with pytest.raises(sqs.exceptions.InvalidAttributeName, match="Unknown Attribute Nope"):
            call()


def test_a_received_message_is_hidden_until_its_visibility_ends(sqs, queue):
    sqs.send_message(QueueUrl=queue, MessageBody="m")
    [first] = sqs.receive_message(QueueUrl=queue, VisibilityTimeout=600)["Messages"]
    hidden = sqs.receive_message(QueueUrl=queue)
    in_flight = attributes(sqs, queue)["ApproximateNumberOfMessagesNotVisible"]

    sqs.change_message_visibility(QueueUrl=queue, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0)

    [again] = sqs.receive_message(QueueUrl=queue, MessageSystemAttributeNames=["ApproximateReceiveCount"])[
        "Messages"
    ]
    assert "Messages" not in hidden
    assert in_flight == "1"
    assert again["MessageId"] == first["MessageId"]
    assert again["Attributes"] == {"ApproximateReceiveCount": "2"}


def test_a_receiver_that_was_replaced_can_neither_delete_nor_hold_the_message(sqs, queue):
    sqs.send_message(QueueUrl=queue, MessageBody="m")
    [first] = sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0)["Messages"]
    [second] = sqs.receive_message(QueueUrl=queue, VisibilityTimeout=600)["Messages"]

    sqs.delete_message(QueueUrl=queue, ReceiptHandle=first["ReceiptHandle"])
    with pytest.raises(ClientError) as raised:
        sqs.change_message_visibility(
            QueueUrl=queue, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=60
        )

    assert raised.value.response["Error"]["Code"] == "AWS.SimpleQueueService.MessageNotInflight"
    assert attributes(sqs, queue)["ApproximateNumberOfMessagesNotVisible"] == "1"
    sqs.delete_message(QueueUrl=queue, ReceiptHandle=second["ReceiptHandle"])
    assert attributes(sqs, queue)["ApproximateNumberOfMessagesNotVisible"] == "0"


def test_a_late_receiver_hides_its_message_again_while_nobody_else_has_it(sqs, queue):
    sqs.send_message(QueueUrl=queue, MessageBody="m")
    [message] = sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0)["Messages"]

    sqs.change_message_visibility(
        QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=600
    )

    assert "Messages" not in sqs.receive_message(QueueUrl=queue)


def test_a_long_poll_answers_as_soon_as_a_message_arrives(sqs, queue):
    got = []
    waiting = threading.Thread(
        target=lambda: got.append(sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20))
    )
    waiting.start()

    sqs.send_message(QueueUrl=queue, MessageBody="here")

    waiting.join(timeout=18)  # at the end of its time it would look once more
    assert bodies(got[0]) == ["here"]


def test_a_long_poll_sees_a_message_that_becomes_visible_again(sqs, queue):
    sqs.send_message(QueueUrl=queue, MessageBody="m")
    sqs.receive_message(QueueUrl=queue, VisibilityTimeout=1)

    again = sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=20)

    assert bodies(again) == ["m"]


def test_a_delayed_message_waits(sqs, queue):
    sqs.send_message(QueueUrl=queue, MessageBody="m", DelaySeconds=600)

    assert "Messages" not in sqs.receive_message(QueueUrl=queue)
    assert attributes(sqs, queue)["ApproximateNumberOfMessagesDelayed"] == "1"


def test_messages_received_too_often_go_to_the_dead_letter_queue(sqs, queue):
    dead = sqs.create_queue(QueueName=f"dead-{uuid.uuid4()}")["QueueUrl"]
    policy = json.dumps({"deadLetterTargetArn": arn(sqs, dead), "maxReceiveCount": "2"})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": policy})
    sqs.send_message(QueueUrl=queue, MessageBody="poison")

    for _ in range(2):
        [got] = sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0, AttributeNames=["All"])["Messages"]
        assert got["Body"] == "poison"
    third = sqs.receive_message(QueueUrl=queue)

    assert json.loads(attributes(sqs, queue)["RedrivePolicy"])["maxReceiveCount"] == 2
    assert "Messages" not in third
    [moved] = sqs.receive_message(QueueUrl=dead, AttributeNames=["All"])["Messages"]
    assert moved["Body"] == "poison"
    assert moved["Attributes"] == got["Attributes"] | {
        "ApproximateReceiveCount": "3",
        "DeadLetterQueueSourceArn": arn(sqs, queue),
    }
    assert sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"] == [queue]


@pytest.fixture
def dead(sqs, queue):
    """The URL of the queue's dead-letter queue, in which three of its messages lie."""
    url = sqs.create_queue(QueueName=f"dead-{uuid.uuid4()}")["QueueUrl"]
    policy = json.dumps({"deadLetterTargetArn": arn(sqs, url), "maxReceiveCount": "1"})
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": policy})
    for body in "abc":
        sqs.send_message(QueueUrl=queue, MessageBody=body)
    for _ in range(2):
        sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0)
    return url


def awaited(sqs, queue):
    """The messages that are the next to come, at least one."""
    asked = {"MaxNumberOfMessages": 10, "WaitTimeSeconds": 20, "VisibilityTimeout": 3600}
    while not (found := sqs.receive_message(QueueUrl=queue, AttributeNames=["All"], **asked).get("Messages")):
        pass
    return found


def received(sqs, queue, count):
    """The bodies of so many messages, waited for."""
    found = []
    while len(found) < count:
        found += [message["Body"] for message in awaited(sqs, queue)]
    return sorted(found)


def test_dead_letters_go_back_to_where_they_came_from(sqs, queue, dead):
    sqs.start_message_move_task(SourceArn=arn(sqs, dead))

    assert received(sqs, queue, 3) == ["a", "b", "c"]
    [task] = sqs.list_message_move_tasks(SourceArn=arn(sqs, dead))["Results"]
    assert (task["Status"], task["ApproximateNumberOfMessagesMoved"]) == ("COMPLETED", 3)
    assert attributes(sqs, dead)["ApproximateNumberOfMessages"] == "0"


def test_dead_letters_go_to_another_queue_as_if_sent_anew(sqs, queue, dead):
    other = sqs.create_queue(QueueName=f"other-{uuid.uuid4()}")["QueueUrl"]

    sqs.start_message_move_task(SourceArn=arn(sqs, dead), DestinationArn=arn(sqs, other))

    [got, *_] = awaited(sqs, other)
    assert got["Attributes"]["ApproximateReceiveCount"] == "1"
    assert "DeadLetterQueueSourceArn" not in got["Attributes"]


def test_a_move_goes_as_slowly_as_it_was_told_and_can_be_cancelled(sqs, queue, dead):
    for _ in range(3):  # more of them than seconds in which we have cancelled it
        entries = [{"Id": str(n), "MessageBody": "more"} for n in range(10)]
        sqs.send_message_batch(QueueUrl=queue, Entries=entries)
    while attributes(sqs, queue)["ApproximateNumberOfMessages"] != "0":
        sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, VisibilityTimeout=0)
    source = arn(sqs, dead)
    handle = sqs.start_message_move_task(SourceArn=source, MaxNumberOfMessagesPerSecond=1)["TaskHandle"]
    [task] = sqs.list_message_move_tasks(SourceArn=source)["Results"]

    with pytest.raises(ClientError, match="Only one active task"):
        sqs.start_message_move_task(SourceArn=source)
    moved = sqs.cancel_message_move_task(TaskHandle=handle)["ApproximateNumberOfMessagesMoved"]

    assert (task["Status"], task["TaskHandle"], task["ApproximateNumberOfMessagesToMove"]) == (
        "RUNNING",
        handle,
        33,
    )
    assert moved < 33
    assert attributes(sqs, dead)["ApproximateNumberOfMessages"] == str(33 - moved)
    assert sqs.list_message_move_tasks(SourceArn=source)["Results"][0]["Status"] == "CANCELLED"
    with pytest.raises(ClientError, match="Only active tasks"):
        sqs.cancel_message_move_task(TaskHandle=handle)


def test_a_move_of_what_came_from_nowhere_fails_and_says_why(sqs, queue, dead):
    sqs.purge_queue(QueueUrl=dead)
    sqs.send_message(QueueUrl=dead, MessageBody="sent here")

    sqs.start_message_move_task(SourceArn=arn(sqs, dead))

    task = {"Status": "RUNNING"}
    while task["Status"] == "RUNNING":
        [task] = sqs.list_message_move_tasks(SourceArn=arn(sqs, dead))["Results"]
    assert task["Status"] == "FAILED"
    assert task["FailureReason"] == "AWS.SimpleQueueService.CouldNotDetermineMessageSource"
    assert received(sqs, dead, 1) == ["sent here"]


@pytest.mark.parametrize(
    ("params", "words"),
    [
        pytest.param({"SourceArn": "dead"}, "You must use this format", id="no ARN"),
        pytest.param(
            {"SourceArn": "arn:aws:sqs:us-east-1:123456789012:none"}, "doesn't exist", id="no queue"
        ),
        pytest.param({"DestinationArn": "arn:aws:sqs:us-east-1:1:none"}, "DestinationArn", id="no target"),
        pytest.param({"MaxNumberOfMessagesPerSecond": 501}, "MaxNumberOfMessagesPerSecond", id="too fast"),
    ],
)
def test_a_move_that_cannot_be_made_is_refused(sqs, queue, dead, params, words):
    with pytest.raises(ClientError, match=words):
        sqs.start_message_move_task(**{"SourceArn": arn(sqs, dead)} | params)


def test_messages_are_moved_from_dead_letter_queues_only(sqs, queue):
    with pytest.raises(ClientError, match="must be configured as a Dead Letter Queue"):
        sqs.start_message_move_task(SourceArn=arn(sqs, queue))


@pytest.mark.parametrize("handle", ["", "e30", "W10=", "e30="])
def test_a_handle_of_no_task_is_refused(sqs, handle):
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        sqs.cancel_message_move_task(TaskHandle=handle)


@pytest.mark.parametrize(
    "policy", ['{"deadLetterTargetArn": "a", "maxReceiveCount": Infinity}', "[" * 10_000]
)
def test_a_redrive_policy_that_means_nothing_is_refused(sqs, queue, policy):
    with pytest.raises(ClientError, match="InvalidParameterValue"):
        sqs.set_queue_attributes(QueueUrl=queue, Attributes={"RedrivePolicy": policy})


def test_a_batch_is_sent_received_and_deleted(sqs, queue):
    entries = [{"Id": str(i), "MessageBody": f"m{i}"} for i in range(10)]

    sent = sqs.send_message_batch(QueueUrl=queue, Entries=entries)
    got = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)
    deleted = sqs.delete_message_batch(
        QueueUrl=queue,
        Entries=[{"Id": m["Body"], "ReceiptHandle": m["ReceiptHandle"]} for m in got["Messages"]],
    )

    assert len(sent["Successful"]) == 10
    assert bodies(got) == [f"m{i}" for i in range(10)]
    assert len(deleted["Successful"]) == 10
    assert attributes(sqs, queue)["ApproximateNumberOfMessagesNotVisible"] == "0"


def test_an_entry_that_fails_leaves_the_others_of_its_batch(sqs, queue):
    answer = sqs.delete_message_batch(QueueUrl=queue, Entries=[{"Id": "a", "ReceiptHandle": "nonsense"}])
    sent = sqs.send_message_batch(
        QueueUrl=queue,
        Entries=[{"Id": "good", "MessageBody": "m"}, {"Id": "bad", "MessageBody": "\x01"}],
    )

    assert [each["Code"] for each in answer["Failed"]] == ["ReceiptHandleIsInvalid"]
    assert [each["Id"] for each in sent["Successful"]] == ["good"]
    assert [(each["Id"], each["Code"]) for each in sent["Failed"]] == [("bad", "InvalidMessageContents")]


def test_creating_a_queue_again_finds_it_unless_its_attributes_differ(sqs):
    name = f"q-{uuid.uuid4()}"
    first = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "60"})["QueueUrl"]

    again = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
    with pytest.raises(sqs.exceptions.QueueNameExists) as raised:
        sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "61"})

    assert again == first
    assert sqs.get_queue_url(QueueName=name)["QueueUrl"] == first
    assert raised.value.response["Error"]["Code"] == "QueueAlreadyExists"


def test_a_queue_shows_its_attributes_and_their_defaults(sqs, queue):
    sqs.set_queue_attributes(QueueUrl=queue, Attributes={"MessageRetentionPeriod": "600"})

    shown = attributes(sqs, queue)

    assert shown["MessageRetentionPeriod"] == "600"
    assert shown["VisibilityTimeout"] == "30"
    assert shown["MaximumMessageSize"] == "1048576"
    assert shown["QueueArn"] == f"arn:aws:sqs:us-east-1:123456789012:{queue.rpartition('/')[2]}"


def test_queues_are_listed_by_prefix_in_pages(sqs):
    prefix = f"listed-{uuid.uuid4()}"
    made = [sqs.create_queue(QueueName=f"{prefix}-{i}")["QueueUrl"] for i in range(3)]

    pages = list(
        sqs.get_paginator("list_queues").paginate(QueueNamePrefix=prefix, PaginationConfig={"PageSize": 2})
    )

    assert [page["QueueUrls"] for page in pages] == [made[:2], made[2:]]


def test_tags_of_a_queue(sqs, queue):
    sqs.tag_queue(QueueUrl=queue, Tags={"team": "research", "stage": "test"})
    sqs.untag_queue(QueueUrl=queue, TagKeys=["stage"])

    assert sqs.list_queue_tags(QueueUrl=queue)["Tags"] == {"team": "research"}


def test_a_purged_queue_is_empty(sqs, queue):
    sqs.send_message(QueueUrl=queue, MessageBody="m")

    sqs.purge_queue(QueueUrl=queue)

    assert "Messages" not in sqs.receive_message(QueueUrl=queue)


def test_a_deleted_queue_is_gone(sqs, queue):
    sqs.delete_queue(QueueUrl=queue)

    with pytest.raises(sqs.exceptions.QueueDoesNotExist) as raised:
        sqs.receive_message(QueueUrl=queue)

    assert raised.value.response["Error"]["Code"] == "AWS.SimpleQueueService.NonExistentQueue"
    headers = raised.value.response["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amzn-errortype"] == "com.amazonaws.sqs#QueueDoesNotExist"


BAD_CALLS = [
    pytest.param(
        "send_message",
        {"MessageBody": "m", "MessageAttributes": {"n": {"DataType": "Number", "StringValue": "ten"}}},
        "InvalidParameterValue",
        id="a number that is none",
    ),
    pytest.param("create_queue", {"QueueName": "a b"}, "InvalidParameterValue", id="a bad name"),
    pytest.param(
        "create_queue",
        {"QueueName": "a.fifo"},
        "AWS.SimpleQueueService.UnsupportedOperation",
        id="a FIFO queue",
    ),
    pytest.param(
        "create_queue",
        {"QueueName": "a", "Attributes": {"VisibilityTimeout": "-1"}},
        "InvalidAttributeValue",
        id="an attribute out of range",
    ),
    pytest.param(
        "create_queue",
        {
            "QueueName": "a",
            "Attributes": {
                "RedrivePolicy": '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:no", '
                '"maxReceiveCount": 1}'
            },
        },
        "InvalidParameterValue",
        id="a dead-letter queue that there is not",
    ),
    pytest.param("tag_queue", {"Tags": {}}, "MissingParameter", id="no tags"),
    pytest.param("untag_queue", {"TagKeys": []}, "InvalidParameterValue", id="no tag keys"),
    pytest.param(
        "tag_queue", {"Tags": {str(i): "" for i in range(51)}}, "InvalidParameterValue", id="51 tags"
    ),
    pytest.param(
        "receive_message", {"MaxNumberOfMessages": 11}, "InvalidParameterValue", id="more than ten messages"
    ),
    pytest.param("receive_message", {"WaitTimeSeconds": 21}, "InvalidParameterValue", id="too long a wait"),
    pytest.param("send_message", {"MessageBody": "\x00"}, "InvalidMessageContents", id="control characters"),
    pytest.param("send_message", {"MessageBody": "m" * 1_048_577}, "InvalidParameterValue", id="too long"),
    pytest.param(
        "send_message",
        {"MessageBody": "m", "MessageAttributes": {"a": {"DataType": "Text", "StringValue": "x"}}},
        "InvalidParameterValue",
        id="an unknown attribute type",
    ),
    pytest.param(
        "send_message",
        {"MessageBody": "m", "MessageAttributes": {"a": {"DataType": "String"}}},
        "InvalidParameterValue",
        id="an attribute without value",
    ),
    pytest.param(
        "delete_message", {"ReceiptHandle": "nonsense"}, "ReceiptHandleIsInvalid", id="a bad handle"
    ),
    pytest.param(
        "send_message_batch", {"Entries": []}, "AWS.SimpleQueueService.EmptyBatchRequest", id="an empty batch"
    ),
    pytest.param(
        "send_message_batch",
        {"Entries": [{"Id": "a", "MessageBody": "m"}] * 2},
        "AWS.SimpleQueueService.BatchEntryIdsNotDistinct",
        id="an id twice",
    ),
    pytest.param(
        "send_message_batch",
        {"Entries": [{"Id": str(i), "MessageBody": "m"} for i in range(11)]},
        "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
        id="eleven entries",
    ),
]


@pytest.mark.parametrize(("operation", "params", "code"), BAD_CALLS)
def test_bad_input_gets_the_error_that_sqs_gives(sqs, queue, operation, params, code):
    target = {} if operation == "create_queue" else {"QueueUrl": queue}

    with pytest.raises(ClientError) as raised:
        getattr(sqs, operation)(**target, **params)

    assert raised.value.response["Error"]["Code"] == code


def test_clients_of_the_query_protocol_are_served_too(ebbtide, sqs, queue):
    sqs.send_message(QueueUrl=queue, MessageBody="<old & new>")
    form = urllib.parse.urlencode(
        {"Action": "ReceiveMessage", "Version": "2012-11-05", "AttributeName.1": "All", "QueueUrl": queue}
    )
    request = AWSRequest(
        "POST", queue, data=form, headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    key = boto3.Session(
        ebbtide.credentials.access_key_id, ebbtide.credentials.secret_access_key
    ).get_credentials()
    SigV4Auth(key, "sqs", ebbtide.region).add_auth(request)

    sent = urllib.request.Request(queue, form.encode(), dict(request.headers.items()))
    with urllib.request.urlopen(sent) as answer:
        text = answer.read().decode()

    assert "<ReceiveMessageResponse" in text
    assert "<Body>&lt;old &amp; new&gt;</Body>" in text
    assert "<Name>ApproximateReceiveCount</Name><Value>1</Value>" in text
