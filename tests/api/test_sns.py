"""SNS as boto3 and receivers see it: topics, the confirmation flow, publishing."""

import base64
import json
import re
import urllib.request
import uuid

import pytest
from botocore.exceptions import ClientError
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from sns_message_validator import SignatureVerificationFailureException, SNSMessageValidator
from tests.receivers import HttpReceiver, next_message, running


@pytest.fixture
def sns(ebbtide):
    return ebbtide.client("sns")


@pytest.fixture
def topic(sns):
    """The ARN of a topic without subscriptions."""
    return sns.create_topic(Name=f"topic-{uuid.uuid4()}")["TopicArn"]


@pytest.fixture
def receiver():
    with running(HttpReceiver()) as receiver:
        yield receiver


class Inbox:
    """A queue subscribed to a topic."""

    def __init__(self, ebbtide, topic, **attributes):
        self._sqs = ebbtide.client("sqs")
        self._url = self._sqs.create_queue(QueueName=f"inbox-{uuid.uuid4()}")["QueueUrl"]
        self.arn = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])[
            "Attributes"
        ]["QueueArn"]
        self.subscription = ebbtide.client("sns").subscribe(
            TopicArn=topic, Protocol="sqs", Endpoint=self.arn, Attributes=attributes
        )["SubscriptionArn"]

    def next(self):
        """The body of the next message, waited for."""
        return next_message(self._sqs, self._url)


def follow(url):
    """Open a link as a browser does: without a signature."""
    with urllib.request.urlopen(url) as answer:
        return answer.read().decode()


def listed(sns, topic):
    return sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]


def test_a_queue_receives_what_is_published(ebbtide, sns, topic):
    inbox = Inbox(ebbtide, topic)

    message_id = sns.publish(TopicArn=topic, Message="Grüße", Subject="Hello")["MessageId"]

    envelope = json.loads(inbox.next())
    assert envelope["Type"] == "Notification"
    assert envelope["MessageId"] == message_id
    assert envelope["TopicArn"] == topic
    assert envelope["Subject"] == "Hello"
    assert envelope["Message"] == "Grüße"


def test_an_http_subscriber_confirms_and_then_receives_signed_messages(ebbtide, sns, topic, receiver):
    answer = sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url)
    request = receiver.next()
    pending = listed(sns, topic)
    confirmed = follow(request.json["SubscribeURL"])

    sns.publish(TopicArn=topic, Message="hello")

    assert answer["SubscriptionArn"] == "pending confirmation"
    assert request.headers["x-amz-sns-message-type"] == "SubscriptionConfirmation"
    assert "x-amz-sns-subscription-arn" not in request.headers
    assert request.json["Type"] == "SubscriptionConfirmation"
    assert [each["SubscriptionArn"] for each in pending] == ["PendingConfirmation"]
    [subscription] = listed(sns, topic)
    assert f"<SubscriptionArn>{subscription['SubscriptionArn']}</SubscriptionArn>" in confirmed
    assert receiver.next().json["Message"] == "hello"


@pytest.mark.parametrize("subject", [None, "A subject"])
def test_a_receivers_own_validator_accepts_the_confirmation_and_the_message(
    ebbtide, sns, topic, receiver, subject
):
    """`aws-sns-message-validator` of PyPI, told only that certificates come from this server."""
    validator = SNSMessageValidator(cert_url_regex=f"^{re.escape(ebbtide.url)}/")
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url)
    confirmation = receiver.next().json
    follow(confirmation["SubscribeURL"])
    sns.publish(TopicArn=topic, Message="Grüße\n", **({"Subject": subject} if subject else {}))
    message = receiver.next().json

    validator.validate_message(confirmation)
    validator.validate_message(message)

    with pytest.raises(SignatureVerificationFailureException):
        validator.validate_message(message | {"Message": "something else"})


def test_nothing_is_delivered_before_the_subscription_is_confirmed(sns, topic, receiver):
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url)
    confirmation = receiver.next().json
    sns.publish(TopicArn=topic, Message="too early")
    follow(confirmation["SubscribeURL"])

    sns.publish(TopicArn=topic, Message="in time")

    assert receiver.next().json["Message"] == "in time"


def test_signatures_of_version_2_are_of_sha256(sns, topic, receiver):
    sns.set_topic_attributes(TopicArn=topic, AttributeName="SignatureVersion", AttributeValue="2")
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url)

    confirmation = receiver.next().json

    assert confirmation["SignatureVersion"] == "2"
    names = ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type")
    signed = "".join(f"{name}\n{confirmation[name]}\n" for name in names)
    certificate = x509.load_pem_x509_certificate(follow(confirmation["SigningCertURL"]).encode())
    certificate.public_key().verify(
        base64.b64decode(confirmation["Signature"]), signed.encode(), padding.PKCS1v15(), hashes.SHA256()
    )


def test_a_subscriber_leaves_by_the_link_in_each_message(sns, topic, receiver):
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url)
    follow(receiver.next().json["SubscribeURL"])
    sns.publish(TopicArn=topic, Message="hello")

    follow(receiver.next().json["UnsubscribeURL"])

    assert listed(sns, topic) == []


def test_a_subscriber_who_confirmed_with_authentication_leaves_only_by_a_signed_call(sns, topic, receiver):
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url)
    arn = sns.confirm_subscription(
        TopicArn=topic, Token=receiver.next().json["Token"], AuthenticateOnUnsubscribe="true"
    )["SubscriptionArn"]
    sns.publish(TopicArn=topic, Message="hello")

    with pytest.raises(urllib.error.HTTPError, match="403"):
        follow(receiver.next().json["UnsubscribeURL"])

    assert [each["SubscriptionArn"] for each in listed(sns, topic)] == [arn]
    sns.unsubscribe(SubscriptionArn=arn)
    assert listed(sns, topic) == []


def test_a_pending_subscription_that_is_asked_for_again_gets_a_new_token(sns, topic, receiver):
    first = sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url, ReturnSubscriptionArn=True)[
        "SubscriptionArn"
    ]
    old = receiver.next().json["Token"]

    second = sns.subscribe(
        TopicArn=topic, Protocol="http", Endpoint=receiver.url, ReturnSubscriptionArn=True
    )["SubscriptionArn"]
    new = receiver.next().json["Token"]

    assert second == first
    with pytest.raises(sns.exceptions.InvalidParameterException, match="Token"):
        sns.confirm_subscription(TopicArn=topic, Token=old)
    assert sns.confirm_subscription(TopicArn=topic, Token=new)["SubscriptionArn"] == first


def test_a_pending_subscriber_receives_nothing_but_the_question(sns, topic, receiver):
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url)
    question = receiver.next()

    sns.publish(TopicArn=topic, Message="too early")
    sns.confirm_subscription(TopicArn=topic, Token=question.json["Token"])
    sns.publish(TopicArn=topic, Message="in time")

    assert receiver.next().json["Message"] == "in time"


def test_signature_version_2_is_an_attribute_of_the_topic(ebbtide, sns, topic):
    inbox = Inbox(ebbtide, topic)
    sns.set_topic_attributes(TopicArn=topic, AttributeName="SignatureVersion", AttributeValue="2")

    sns.publish(TopicArn=topic, Message="hello")

    assert json.loads(inbox.next())["SignatureVersion"] == "2"


def test_a_filter_policy_on_the_body_lets_failures_pass(ebbtide, sns, topic):
    inbox = Inbox(
        ebbtide,
        topic,
        FilterPolicy='{"invocationStatus": ["Failed"]}',
        FilterPolicyScope="MessageBody",
        RawMessageDelivery="true",
    )

    sns.publish(TopicArn=topic, Message='{"invocationStatus": "Completed"}')
    sns.publish(TopicArn=topic, Message='{"invocationStatus": "Failed"}')

    assert inbox.next() == '{"invocationStatus": "Failed"}'


@pytest.mark.parametrize("name", ["FilterPolicy", "DeliveryPolicy", "RedrivePolicy"])
def test_a_policy_nested_too_deep_is_refused(ebbtide, sns, topic, name):
    with pytest.raises(ClientError) as raised:
        Inbox(ebbtide, topic, **{name: '{"a":' * 20_000 + "[1]" + "}" * 20_000})

    assert raised.value.response["Error"]["Code"] == "InvalidParameter"


def test_a_message_nested_too_deep_for_a_filter_is_published_and_passed_by(ebbtide, sns, topic):
    inbox = Inbox(ebbtide, topic, FilterPolicy='{"a": [1]}', FilterPolicyScope="MessageBody")

    sns.publish(TopicArn=topic, Message='{"a":' + "[" * 100_000 + "1" + "]" * 100_000 + "}")
    sns.publish(TopicArn=topic, Message='{"a": [[1]]}')

    assert json.loads(inbox.next())["Message"] == '{"a": [[1]]}'


def test_a_filter_policy_on_attributes_can_be_set_later(ebbtide, sns, topic):
    inbox = Inbox(ebbtide, topic, RawMessageDelivery="true")
    sns.set_subscription_attributes(
        SubscriptionArn=inbox.subscription,
        AttributeName="FilterPolicy",
        AttributeValue='{"size": [{"numeric": [">", 5]}]}',
    )

    for size in ("3", "7"):
        sns.publish(
            TopicArn=topic,
            Message=size,
            MessageAttributes={"size": {"DataType": "Number", "StringValue": size}},
        )

    assert inbox.next() == "7"
    shown = sns.get_subscription_attributes(SubscriptionArn=inbox.subscription)["Attributes"]
    assert shown["FilterPolicyScope"] == "MessageAttributes"
    assert shown["RawMessageDelivery"] == "true"


def test_a_batch_is_published_with_an_answer_for_each_entry(ebbtide, sns, topic):
    inbox = Inbox(ebbtide, topic, RawMessageDelivery="true")

    answer = sns.publish_batch(
        TopicArn=topic,
        PublishBatchRequestEntries=[
            {"Id": "good", "Message": "one"},
            {"Id": "bad", "Message": "two", "Subject": "line\nbreak"},
        ],
    )

    assert [each["Id"] for each in answer["Successful"]] == ["good"]
    assert [(each["Id"], each["Code"]) for each in answer["Failed"]] == [("bad", "InvalidParameter")]
    assert inbox.next() == "one"


def test_creating_a_topic_again_finds_it_unless_it_differs(sns):
    name = f"topic-{uuid.uuid4()}"
    tags = [{"Key": "team", "Value": "research"}]
    first = sns.create_topic(Name=name, Attributes={"DisplayName": "Results"}, Tags=tags)["TopicArn"]

    assert sns.create_topic(Name=name)["TopicArn"] == first
    assert first == f"arn:aws:sns:us-east-1:123456789012:{name}"
    with pytest.raises(sns.exceptions.InvalidParameterException, match="different attributes"):
        sns.create_topic(Name=name, Attributes={"DisplayName": "Others"})
    with pytest.raises(sns.exceptions.InvalidParameterException, match="different tags"):
        sns.create_topic(Name=name, Tags=[{"Key": "team", "Value": "others"}])


def test_a_topic_shows_its_attributes_and_the_numbers_of_its_subscriptions(ebbtide, sns, topic, receiver):
    Inbox(ebbtide, topic)
    sns.subscribe(TopicArn=topic, Protocol="http", Endpoint=receiver.url)

    shown = sns.get_topic_attributes(TopicArn=topic)["Attributes"]

    assert shown["Owner"] == "123456789012"
    assert (shown["SubscriptionsConfirmed"], shown["SubscriptionsPending"]) == ("1", "1")
    assert json.loads(shown["Policy"])["Statement"][0]["Resource"] == topic


def test_topics_and_subscriptions_are_listed_in_pages(ebbtide, sns, topic):
    names = [f"many-{uuid.uuid4()}" for _ in range(101)]
    arns = {sns.create_topic(Name=name)["TopicArn"] for name in names}
    inbox = Inbox(ebbtide, topic)

    found = [
        each["TopicArn"] for page in sns.get_paginator("list_topics").paginate() for each in page["Topics"]
    ]
    subscribed = [
        each["SubscriptionArn"]
        for page in sns.get_paginator("list_subscriptions").paginate()
        for each in page["Subscriptions"]
    ]

    assert arns < set(found)
    assert len(found) == len(set(found))
    assert inbox.subscription in subscribed
    for arn in arns:
        sns.delete_topic(TopicArn=arn)


def test_a_deleted_topic_is_gone_with_its_subscriptions_and_may_be_deleted_again(ebbtide, sns, topic):
    inbox = Inbox(ebbtide, topic)

    sns.delete_topic(TopicArn=topic)
    sns.delete_topic(TopicArn=topic)

    with pytest.raises(sns.exceptions.NotFoundException, match="Topic does not exist"):
        sns.publish(TopicArn=topic, Message="hello")
    with pytest.raises(sns.exceptions.NotFoundException):
        sns.get_subscription_attributes(SubscriptionArn=inbox.subscription)


def test_tags_of_a_topic(sns, topic):
    sns.tag_resource(ResourceArn=topic, Tags=[{"Key": "a", "Value": "1"}, {"Key": "b", "Value": "2"}])
    sns.untag_resource(ResourceArn=topic, TagKeys=["a"])

    assert sns.list_tags_for_resource(ResourceArn=topic)["Tags"] == [{"Key": "b", "Value": "2"}]
    with pytest.raises(sns.exceptions.ResourceNotFoundException):
        sns.list_tags_for_resource(ResourceArn=f"{topic}-missing")


BAD_SUBSCRIPTIONS = [
    pytest.param(
        "lambda", "arn:aws:lambda:us-east-1:123456789012:function:f", {}, "protocol", id="a protocol we lack"
    ),
    pytest.param("http", "https://example.com", {}, "must match the specified protocol", id="a wrong scheme"),
    pytest.param("http", "http://", {}, "names no host", id="no host"),
    pytest.param("http", "http://169.254.169.254/latest", {}, "not allowed", id="the metadata service"),
    pytest.param("sqs", "my-queue", {}, "SQS endpoint ARN", id="a queue's name for its ARN"),
    pytest.param("sqs", "arn:aws:sqs:us-east-1:123456789012:q.fifo", {}, "FIFO", id="a FIFO queue"),
    pytest.param("email", "nobody", {}, "Email address", id="no address"),
    pytest.param("email", "a@example.com", {}, "EBBTIDE_SMTP_URL", id="mail without a mail server"),
    pytest.param("http", "http://a.example", {"Speed": "1"}, "Unknown attribute", id="an unknown attribute"),
    pytest.param("http", "http://a.example", {"FilterPolicy": "{"}, "FilterPolicy", id="a bad filter"),
    pytest.param(
        "http", "http://a.example", {"RedrivePolicy": "{}"}, "RedrivePolicy", id="a bad redrive policy"
    ),
    pytest.param(
        "http",
        "http://a.example",
        {"RedrivePolicy": '{"deadLetterTargetArn": "arn:aws:sqs:eu-west-1:123456789012:q"}'},
        "region and account",
        id="a dead-letter queue elsewhere",
    ),
    pytest.param(
        "http", "http://a.example", {"DeliveryPolicy": "{"}, "DeliveryPolicy", id="a bad delivery policy"
    ),
]


@pytest.mark.parametrize(("protocol", "endpoint", "attributes", "says"), BAD_SUBSCRIPTIONS)
def test_a_subscription_that_could_never_be_served_is_refused(
    sns, topic, protocol, endpoint, attributes, says
):
    with pytest.raises(sns.exceptions.InvalidParameterException, match=says):
        sns.subscribe(TopicArn=topic, Protocol=protocol, Endpoint=endpoint, Attributes=attributes)


BAD_MESSAGES = [
    pytest.param({"Message": "m" * 262_145}, "Message too long", id="too long"),
    pytest.param({"Message": "m", "Subject": "s" * 101}, "Subject", id="too long a subject"),
    pytest.param({"Message": "m", "Subject": "ü"}, "Subject", id="a subject beyond ASCII"),
    pytest.param(
        {"Message": "m", "MessageStructure": "json"}, "failed to parse", id="texts that are no JSON"
    ),
    pytest.param({"Message": "{}", "MessageStructure": "json"}, "No default entry", id="no default text"),
    pytest.param({"Message": "m", "MessageDeduplicationId": "x"}, "FIFO", id="deduplication"),
]


@pytest.mark.parametrize(("params", "says"), BAD_MESSAGES)
def test_a_message_that_breaks_a_rule_is_refused(sns, topic, params, says):
    with pytest.raises(sns.exceptions.InvalidParameterException, match=says):
        sns.publish(TopicArn=topic, **params)


@pytest.mark.parametrize(
    ("operation", "params", "code"),
    [
        pytest.param("create_topic", {"Name": "a b"}, "InvalidParameter", id="a bad name"),
        pytest.param("create_topic", {"Name": "a.fifo"}, "InvalidParameter", id="a FIFO topic"),
        pytest.param("get_topic_attributes", {"TopicArn": "nonsense"}, "InvalidParameter", id="no ARN"),
        pytest.param(
            "subscribe",
            {"TopicArn": "arn:aws:sns:us-east-1:123456789012:no", "Protocol": "sqs", "Endpoint": "nonsense"},
            "NotFound",
            id="a missing topic, whatever the endpoint",
        ),
        pytest.param(
            "publish", {"Message": "m", "PhoneNumber": "+1555"}, "InvalidParameter", id="a text message"
        ),
        pytest.param("publish", {"Message": "m"}, "InvalidParameter", id="no topic"),
    ],
)
def test_bad_input_gets_the_error_that_sns_gives(sns, operation, params, code):
    with pytest.raises(ClientError) as raised:
        getattr(sns, operation)(**params)

    assert raised.value.response["Error"]["Code"] == code
