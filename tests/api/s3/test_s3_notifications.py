"""S3 event notifications, as boto3 and the receivers of the messages see them."""

import json
import uuid
from urllib.parse import unquote_plus

import pytest
from botocore.exceptions import ClientError
from tests.receivers import HttpReceiver, next_message, running


class Inbox:
    """A queue, and what arrives in it."""

    def __init__(self, ebbtide):
        self._sqs = ebbtide.client("sqs")
        self.url = self._sqs.create_queue(QueueName=f"inbox-{uuid.uuid4()}")["QueueUrl"]
        self.arn = self._sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=["QueueArn"])[
            "Attributes"
        ]["QueueArn"]

    def next(self):
        """The JSON of the next message, waited for."""
        return json.loads(next_message(self._sqs, self.url))

    def next_record(self):
        [record] = self.next()["Records"]
        return record


@pytest.fixture
def inbox(ebbtide):
    return Inbox(ebbtide)


@pytest.fixture
def topic(ebbtide):
    return ebbtide.client("sns").create_topic(Name=f"topic-{uuid.uuid4()}")["TopicArn"]


def configure(s3, bucket, inbox, events=("s3:ObjectCreated:*", "s3:ObjectRemoved:*"), **rules):
    """Let the bucket tell the inbox, and take the test message out of it."""
    configuration = {"Id": "watch", "QueueArn": inbox.arn, "Events": list(events)}
    if rules:
        filter_rules = [{"Name": name, "Value": value} for name, value in rules.items()]
        configuration["Filter"] = {"Key": {"FilterRules": filter_rules}}
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [configuration]}
    )
    assert inbox.next()["Event"] == "s3:TestEvent"


def refusal(s3, bucket, configuration, **others):
    with pytest.raises(ClientError) as failure:
        s3.put_bucket_notification_configuration(
            Bucket=bucket, NotificationConfiguration=configuration, **others
        )
    return failure.value.response["Error"]


def queue_configuration(arn, *events, prefix=None, suffix=None, **members):
    rules = [
        {"Name": name, "Value": value} for name, value in (("prefix", prefix), ("suffix", suffix)) if value
    ]
    filtered = {"Filter": {"Key": {"FilterRules": rules}}} if rules else {}
    return {"QueueArn": arn, "Events": list(events)} | filtered | members


def test_a_new_configuration_sends_the_test_message(ebbtide, s3, bucket, inbox):
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [{"QueueArn": inbox.arn, "Events": ["s3:ObjectCreated:*"]}]
        },
    )

    message = inbox.next()
    assert {name: message[name] for name in ("Service", "Event", "Bucket")} == {
        "Service": "Amazon S3",
        "Event": "s3:TestEvent",
        "Bucket": bucket,
    }
    assert set(message) == {"Service", "Event", "Time", "Bucket", "RequestId", "HostId"}


def test_an_upload_is_told_in_s3s_own_words(ebbtide, s3, bucket, inbox):
    configure(s3, bucket, inbox)

    answer = s3.put_object(Bucket=bucket, Key="folder/my fïle+1.txt", Body=b"hello")

    record = inbox.next_record()
    assert record["eventVersion"] == "2.1"
    assert record["eventSource"] == "aws:s3"
    assert record["awsRegion"] == ebbtide.region
    assert record["eventName"] == "ObjectCreated:Put"
    assert record["userIdentity"] == {"principalId": f"AWS:{ebbtide.credentials.access_key_id}"}
    assert record["requestParameters"] == {"sourceIPAddress": "127.0.0.1"}
    assert (
        record["responseElements"]["x-amz-request-id"]
        == answer["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"]
    )
    assert record["s3"]["s3SchemaVersion"] == "1.0"
    assert record["s3"]["configurationId"] == "watch"
    assert record["s3"]["bucket"] == {
        "name": bucket,
        "ownerIdentity": {"principalId": ebbtide.credentials.account},
        "arn": f"arn:aws:s3:::{bucket}",
    }
    described = record["s3"]["object"]
    assert described["key"] == "folder/my+f%C3%AFle%2B1.txt"
    assert unquote_plus(described["key"]) == "folder/my fïle+1.txt"
    assert described["size"] == 5
    assert described["eTag"] == answer["ETag"].strip('"')
    assert "versionId" not in described


def test_each_way_to_make_an_object_has_its_event(s3, bucket, inbox):
    configure(s3, bucket, inbox)
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    s3.copy_object(Bucket=bucket, Key="b", CopySource={"Bucket": bucket, "Key": "a"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="c")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="c", UploadId=upload, PartNumber=1, Body=b"xyz")
    s3.complete_multipart_upload(
        Bucket=bucket,
        Key="c",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )

    told = {record["s3"]["object"]["key"]: record for record in (inbox.next_record() for _ in range(3))}

    assert {key: record["eventName"] for key, record in told.items()} == {
        "a": "ObjectCreated:Put",
        "b": "ObjectCreated:Copy",
        "c": "ObjectCreated:CompleteMultipartUpload",
    }
    assert told["c"]["s3"]["object"]["size"] == 3


def test_deleting_one_and_many_is_told_without_size_and_etag(s3, bucket, inbox):
    configure(s3, bucket, inbox, ["s3:ObjectRemoved:Delete"])
    for key in ("a", "b", "c"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")

    s3.delete_object(Bucket=bucket, Key="a")
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "b"}, {"Key": "c"}, {"Key": "never"}]})

    told = [inbox.next_record() for _ in range(3)]
    assert {record["eventName"] for record in told} == {"ObjectRemoved:Delete"}
    assert {record["s3"]["object"]["key"] for record in told} == {"a", "b", "c"}
    assert set(told[0]["s3"]["object"]) == {"key", "sequencer"}


def test_the_sequencer_orders_the_events_of_a_key(s3, bucket, inbox):
    configure(s3, bucket, inbox)
    s3.put_object(Bucket=bucket, Key="k", Body=b"1")
    s3.put_object(Bucket=bucket, Key="k", Body=b"2")
    s3.delete_object(Bucket=bucket, Key="k")

    told = sorted((inbox.next_record() for _ in range(3)), key=lambda r: r["s3"]["object"]["sequencer"])

    assert [record["eventName"] for record in told] == [
        "ObjectCreated:Put",
        "ObjectCreated:Put",
        "ObjectRemoved:Delete",
    ]


@pytest.mark.parametrize("names", [("prefix", "suffix"), ("Prefix", "Suffix")])
def test_only_keys_with_the_prefix_and_the_suffix_are_told(s3, bucket, inbox, names):
    configure(s3, bucket, inbox, **dict(zip(names, ("in/", ".txt"), strict=True)))
    for key in ("in/a.pdf", "out/a.txt", "in/a.txt"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")

    assert inbox.next_record()["s3"]["object"]["key"] == "in/a.txt"
    s3.put_object(Bucket=bucket, Key="in/b.txt", Body=b"x")
    assert inbox.next_record()["s3"]["object"]["key"] == "in/b.txt"


def test_an_upload_that_failed_its_condition_is_not_told(s3, bucket, inbox):
    configure(s3, bucket, inbox)
    with pytest.raises(ClientError):
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", IfMatch='"0"')

    s3.put_object(Bucket=bucket, Key="k2", Body=b"x")

    assert inbox.next_record()["s3"]["object"]["key"] == "k2"


def test_a_topic_carries_the_event_to_its_subscribers(ebbtide, s3, bucket, topic):
    sns = ebbtide.client("sns")
    with running(HttpReceiver()) as receiver:
        sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url)
        sns.confirm_subscription(TopicArn=topic, Token=receiver.next().json["Token"])
        s3.put_bucket_notification_configuration(
            Bucket=bucket,
            NotificationConfiguration={
                "TopicConfigurations": [{"TopicArn": topic, "Events": ["s3:ObjectCreated:Put"]}]
            },
        )
        trial = receiver.next().json

        s3.put_object(Bucket=bucket, Key="k", Body=b"x")

        envelope = receiver.next().json
    assert json.loads(trial["Message"])["Event"] == "s3:TestEvent"
    assert envelope["Subject"] == "Amazon S3 Notification"
    [record] = json.loads(envelope["Message"])["Records"]
    assert record["s3"]["object"]["key"] == "k"


def test_what_was_configured_is_shown_again(s3, bucket, inbox, topic):
    given = {
        "TopicConfigurations": [
            {"Id": "removed", "TopicArn": topic, "Events": ["s3:ObjectRemoved:*"]},
        ],
        "QueueConfigurations": [
            {
                "Id": "pdf",
                "QueueArn": inbox.arn,
                "Events": ["s3:ObjectCreated:Put", "s3:ObjectCreated:Copy"],
                "Filter": {
                    "Key": {
                        "FilterRules": [
                            {"Name": "Prefix", "Value": "in/"},
                            {"Name": "Suffix", "Value": ".pdf"},
                        ]
                    }
                },
            }
        ],
    }
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=given)

    shown = s3.get_bucket_notification_configuration(Bucket=bucket)

    shown.pop("ResponseMetadata")
    assert shown == given


def test_a_configuration_without_an_id_gets_one(s3, bucket, inbox):
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [queue_configuration(inbox.arn, "s3:ObjectCreated:*")]
        },
    )

    [configured] = s3.get_bucket_notification_configuration(Bucket=bucket)["QueueConfigurations"]
    assert configured["Id"]


def test_an_empty_configuration_ends_the_notifications(s3, bucket, inbox):
    configure(s3, bucket, inbox)

    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})

    assert "QueueConfigurations" not in s3.get_bucket_notification_configuration(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="untold", Body=b"x")
    configure(s3, bucket, inbox)
    s3.put_object(Bucket=bucket, Key="told", Body=b"x")
    assert inbox.next_record()["s3"]["object"]["key"] == "told"


def test_a_destination_that_does_not_exist_is_refused_by_name(s3, bucket, inbox):
    missing = f"{inbox.arn}-missing"

    error = refusal(s3, bucket, {"QueueConfigurations": [queue_configuration(missing, "s3:ObjectCreated:*")]})

    assert error["Code"] == "InvalidArgument"
    assert error["Message"] == "Unable to validate the following destination configurations"
    assert error["ArgumentName1"] == f"{missing}, null"
    assert error["ArgumentValue1"] == "The destination queue does not exist"
    assert "QueueConfigurations" not in s3.get_bucket_notification_configuration(Bucket=bucket)


def test_destinations_are_not_looked_for_when_the_request_says_so(s3, bucket, inbox):
    missing = f"{inbox.arn}-missing"

    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [queue_configuration(missing, "s3:ObjectCreated:*")]
        },
        SkipDestinationValidation=True,
    )

    [configured] = s3.get_bucket_notification_configuration(Bucket=bucket)["QueueConfigurations"]
    assert configured["QueueArn"] == missing


CREATED = "s3:ObjectCreated:*"


@pytest.mark.parametrize(
    ("configurations", "says"),
    [
        pytest.param(
            [("s3:ObjectCreated:*", "", ""), ("s3:ObjectCreated:Put", "", "")],
            "ambiguously defined",
            id="the same event without filters",
        ),
        pytest.param(
            [(CREATED, "in/", ""), (CREATED, "in/a/", "")], "ambiguously defined", id="overlapping prefixes"
        ),
        pytest.param(
            [(CREATED, "in/", ".txt"), (CREATED, "", "a.txt")],
            "ambiguously defined",
            id="overlapping prefixes and suffixes",
        ),
        pytest.param(
            [("ObjectCreated:Put", "", "")], "A specified event is not supported", id="an event without s3:"
        ),
    ],
)
def test_what_breaks_the_rules_of_configurations_is_an_invalid_argument(
    s3, bucket, inbox, configurations, says
):
    error = refusal(
        s3,
        bucket,
        {
            "QueueConfigurations": [
                queue_configuration(inbox.arn, event, prefix=prefix, suffix=suffix)
                for event, prefix, suffix in configurations
            ]
        },
    )

    assert error["Code"] == "InvalidArgument"
    assert says in error["Message"]


def test_prefixes_may_overlap_where_suffixes_or_events_do_not(s3, bucket, inbox):
    given = [
        queue_configuration(inbox.arn, CREATED, prefix="in/", suffix=".txt"),
        queue_configuration(inbox.arn, CREATED, prefix="in/", suffix=".pdf"),
        queue_configuration(inbox.arn, "s3:ObjectRemoved:*", prefix="in/"),
    ]

    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": given}
    )

    assert len(s3.get_bucket_notification_configuration(Bucket=bucket)["QueueConfigurations"]) == 3


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ([{"Name": "infix", "Value": "x"}], "must be either prefix or suffix"),
        ([{"Name": "prefix", "Value": "a"}, {"Name": "Prefix", "Value": "b"}], "more than one prefix rule"),
        ([{"Name": "suffix", "Value": "x" * 1025}], "cannot exceed 1024 bytes"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_refused(s3, bucket, inbox, rules, says):
    configured = {"QueueArn": inbox.arn, "Events": [CREATED], "Filter": {"Key": {"FilterRules": rules}}}

    error = refusal(s3, bucket, {"QueueConfigurations": [configured]})

    assert error["Code"] == "InvalidArgument"
    assert says in error["Message"]


def test_an_id_is_given_once_only(s3, bucket, inbox):
    given = [
        queue_configuration(inbox.arn, "s3:ObjectCreated:*", Id="same"),
        queue_configuration(inbox.arn, "s3:ObjectRemoved:*", Id="same"),
    ]

    error = refusal(s3, bucket, {"QueueConfigurations": given})

    assert error["Message"] == "Same ID used for multiple configurations. IDs must be unique"


@pytest.mark.parametrize(
    ("arn", "says"),
    [
        ("inbox", "The ARN is not well formed"),
        ("arn:aws:sns:us-east-1:123456789012:topic", "The ARN is not well formed"),
        ("arn:aws:sqs:eu-west-1:123456789012:q", "region is not valid for the bucket location"),
        ("arn:aws:sqs:us-east-1:123456789012:q.fifo", "FIFO"),
    ],
)
def test_a_destination_that_cannot_be_one_is_refused(s3, bucket, arn, says):
    error = refusal(s3, bucket, {"QueueConfigurations": [queue_configuration(arn, CREATED)]})

    assert error["Code"] == "InvalidArgument"
    assert says in error["Message"]


@pytest.mark.parametrize(
    "configuration",
    [
        {
            "LambdaFunctionConfigurations": [
                {
                    "LambdaFunctionArn": "arn:aws:lambda:us-east-1:123456789012:function:f",
                    "Events": [CREATED],
                }
            ]
        },
        {"EventBridgeConfiguration": {}},
        {
            "QueueConfigurations": [
                queue_configuration("arn:aws:sqs:us-east-1:123456789012:q", "s3:ObjectRestore:*")
            ]
        },
    ],
    ids=["Lambda", "EventBridge", "an event that never comes about here"],
)
def test_what_nobody_here_would_be_told_is_not_implemented(s3, bucket, configuration):
    error = refusal(s3, bucket, configuration)

    assert error["Code"] == "NotImplemented"


def test_the_resource_interface_of_boto3_configures_too(ebbtide, bucket, inbox):
    resource = ebbtide.session().resource("s3", endpoint_url=ebbtide.url)

    resource.BucketNotification(bucket).put(
        NotificationConfiguration={"QueueConfigurations": [queue_configuration(inbox.arn, CREATED)]}
    )

    assert resource.BucketNotification(bucket).queue_configurations[0]["QueueArn"] == inbox.arn
