"""Whatever a caller sends, shaped as the operation's model says, it is told what is wrong with it.

Hypothesis fills each operation's parameters with values of the model's types, names of things that are there
among them, and sends them as boto3 would without its own checks.
"""

import importlib
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.wire.shapes import service_model, structures

from ebbtide.api import SERVICES

ANSWERED_LATER = {("sqs", "receive_message"), ("logs", "start_live_tail")}
"""Operations that wait as long as they are told to."""

OPERATIONS = [
    (service, operation)
    for service, module in SERVICES.items()
    for operation in importlib.import_module(module).__all__
    if (service, operation) not in ANSWERED_LATER
]


@pytest.fixture(scope="module")
def things(ebbtide):
    """Member names -> names of things that there are."""
    s3, sns, sqs = (ebbtide.client(service) for service in ("s3", "sns", "sqs"))
    s3.create_bucket(Bucket="any-input")
    s3.put_object(Bucket="any-input", Key="key", Body=b"content")
    upload = s3.create_multipart_upload(Bucket="any-input", Key="key")["UploadId"]
    queue = sqs.create_queue(QueueName="any-input")["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="message")
    [message] = sqs.receive_message(QueueUrl=queue)["Messages"]
    topic = sns.create_topic(Name="any-input")["TopicArn"]
    arn = f"{topic.rpartition(':')[0]}:any-input".replace(":sns:", ":sqs:")
    subscription = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)["SubscriptionArn"]
    ebbtide.client("logs").create_log_group(logGroupName="any-input")
    ebbtide.client("logs").create_log_stream(logGroupName="any-input", logStreamName="any-input")
    return {
        "Bucket": "any-input",
        "Key": "key",
        "CopySource": "any-input/key",
        "UploadId": upload,
        "QueueUrl": queue,
        "ReceiptHandle": message["ReceiptHandle"],
        "TopicArn": topic,
        "SubscriptionArn": subscription,
        "ResourceArn": topic,
        "logGroupName": "any-input",
        "logStreamName": "any-input",
    }


@pytest.fixture(scope="module")
def unchecked(ebbtide):
    """boto3's clients without checks of their own."""
    config = Config(
        parameter_validation=False,
        retries={"max_attempts": 0},
        s3={"addressing_style": "path"},
        request_checksum_calculation="when_required",
    )
    session = ebbtide.session()
    return {service: session.client(service, endpoint_url=ebbtide.url, config=config) for service in SERVICES}


@pytest.mark.parametrize(("service", "operation"), OPERATIONS)
@settings(
    max_examples=5,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_any_input_is_answered_or_refused(unchecked, things, service, operation, data):
    client = unchecked[service]
    name = client.meta.method_to_api_mapping[operation]
    shape = service_model(service).operation_model(name).input_shape
    # A length that is not the body's has the server wait for the rest.
    without = frozenset(("ContentLength",))
    params: dict[str, Any] = data.draw(structures(shape, without=without)) if shape is not None else {}
    there = {member: things[member] for member in params if member in things}
    params |= data.draw(st.sampled_from([{}, there, there]))

    code = None
    try:
        getattr(client, operation)(**params)
    except ClientError as error:
        code = error.response["Error"]["Code"]
    except (BotoCoreError, ValueError, TypeError, AttributeError):
        pass  # boto3 could not send it

    assert code not in ("InternalFailure", "InternalError", "500")
