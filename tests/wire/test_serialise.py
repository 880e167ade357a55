"""Answers, read by botocore's parsers, and by hand where other clients look at what botocore does not."""

import json
import math
from typing import Any
from xml.etree import ElementTree

import cbor2
import pytest
from botocore.awsrequest import HeadersDict
from botocore.parsers import create_parser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.wire.shapes import plain, service_model, structures

from ebbtide.errors import ServiceError
from ebbtide.wire import models
from ebbtide.wire.request import Response
from ebbtide.wire.serialise import serialise, serialise_error

REQUEST_ID = "3b0ab5f6-7e1d-4b7a-9d0e-0d2b7a4f9c11"

OPERATIONS = [
    ("sagemaker", "json", "DescribeEndpoint"),
    ("sagemaker", "json", "DescribeEndpointConfig"),
    ("sagemaker", "json", "ListModels"),
    ("sqs", "json", "ReceiveMessage"),
    ("application-autoscaling", "json", "DescribeScalingPolicies"),
    ("logs", "json", "FilterLogEvents"),
    ("cloudwatch", "json", "GetMetricData"),
    ("cloudwatch", "smithy-rpc-v2-cbor", "GetMetricData"),
    ("cloudwatch", "smithy-rpc-v2-cbor", "DescribeAlarms"),
    ("cloudwatch", "query", "GetMetricStatistics"),
    ("cloudwatch", "query", "DescribeAlarms"),
    ("cloudwatch", "query", "DeleteAlarms"),
    ("sns", "query", "Publish"),
    ("sns", "query", "ListSubscriptions"),
    ("sns", "query", "GetTopicAttributes"),
    ("sts", "query", "GetCallerIdentity"),
    ("iam", "query", "GetRole"),
    ("sagemaker-runtime", "rest-json", "InvokeEndpointAsync"),
    ("s3", "rest-xml", "ListBuckets"),
    ("s3", "rest-xml", "ListObjects"),
    ("s3", "rest-xml", "ListObjectsV2"),
    ("s3", "rest-xml", "ListParts"),
    ("s3", "rest-xml", "CreateMultipartUpload"),
    ("s3", "rest-xml", "CompleteMultipartUpload"),
    ("s3", "rest-xml", "CopyObject"),
    ("s3", "rest-xml", "HeadObject"),
    ("s3", "rest-xml", "PutObject"),
    ("s3", "rest-xml", "DeleteObjects"),
    ("s3", "rest-xml", "GetBucketAcl"),
    ("s3", "rest-xml", "GetObjectAttributes"),
]


def parsed(service: str, protocol: str, operation: str, response: Response) -> dict[str, Any]:
    """What botocore makes of an answer."""
    shape = service_model(service).operation_model(operation).output_shape
    assert isinstance(response.body, bytes)
    received = {
        "status_code": response.status,
        "headers": HeadersDict(response.headers),
        "body": response.body,
        "context": {},
    }
    return create_parser(protocol).parse(received, shape)


@pytest.mark.parametrize(("service", "protocol", "operation"), OPERATIONS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_an_operation_answers_is_what_the_client_gets(service, protocol, operation, data):
    shape = service_model(service).operation_model(operation).output_shape
    result = {} if shape is None else data.draw(structures(shape))

    response = serialise(models.load(service).operation(operation), protocol, result, REQUEST_ID)

    answer = parsed(service, protocol, operation, response)
    metadata = answer.pop("ResponseMetadata")
    assert plain(answer) == plain(result)
    assert metadata["RequestId"] == REQUEST_ID
    assert metadata["HTTPStatusCode"] == response.status


def answer(service: str, operation: str, result: dict[str, Any], protocol: str | None = None) -> Response:
    loaded = models.load(service)
    return serialise(
        loaded.operation(operation),
        protocol or service_model(service).metadata["protocol"],
        result,
        REQUEST_ID,
    )


def test_a_timestamp_may_be_given_as_epoch_seconds():
    response = answer("sagemaker", "DescribeModel", {"CreationTime": 1700000000.1234})

    assert json.loads(response.body) == {"CreationTime": 1700000000.123}


@pytest.mark.parametrize("protocol", ["json", "query", "smithy-rpc-v2-cbor"])
def test_numbers_that_are_none_reach_the_client(protocol):
    given = [math.inf, -math.inf, math.nan]
    response = answer("cloudwatch", "GetMetricData", {"MetricDataResults": [{"Values": given}]}, protocol)

    got = parsed("cloudwatch", protocol, "GetMetricData", response)["MetricDataResults"][0]["Values"]

    assert [str(float(value)) for value in got] == ["inf", "-inf", "nan"]


def test_the_model_gives_the_status_and_the_result_may_override_it():
    assert answer("sagemaker-runtime", "InvokeEndpointAsync", {}).status == 202
    assert answer("s3", "DeleteObject", {}).status == 204

    ranged = answer(
        "s3",
        "GetObject",
        {
            "Body": b"el",
            "ResponseMetadata": {"HTTPStatusCode": 206, "HTTPHeaders": {"Content-Range": "bytes 1-2/5"}},
        },
    )

    assert (ranged.status, ranged.headers["content-range"], ranged.body) == (206, "bytes 1-2/5", b"el")


def test_an_object_keeps_its_own_content_type_and_has_none_of_ours():
    typed = answer("s3", "GetObject", {"Body": b"x", "ContentType": "text/plain"})
    untyped = answer("s3", "GetObject", {"Body": b"x"})

    assert typed.headers["content-type"] == "text/plain"
    assert "content-type" not in untyped.headers


def test_an_empty_answer_of_s3_has_no_body():
    response = answer("s3", "DeleteObject", {"DeleteMarker": True})

    assert response.body == b""
    assert response.headers["x-amz-delete-marker"] == "true"


@pytest.mark.parametrize(
    ("operation", "root"),
    [
        ("ListBuckets", "ListAllMyBucketsResult"),
        ("ListObjectsV2", "ListBucketResult"),
        ("CreateMultipartUpload", "InitiateMultipartUploadResult"),
        ("CompleteMultipartUpload", "CompleteMultipartUploadResult"),
        ("DeleteObjects", "DeleteResult"),
    ],
)
def test_documents_of_s3_have_the_root_elements_that_other_clients_look_for(operation, root):
    document = ElementTree.fromstring(answer("s3", operation, {}).body)

    assert document.tag == f"{{http://s3.amazonaws.com/doc/2006-03-01/}}{root}"


@pytest.mark.parametrize(("result", "text"), [({"LocationConstraint": "eu-west-1"}, "eu-west-1"), ({}, None)])
def test_the_location_of_a_bucket_is_the_root_element_itself(result, text):
    document = ElementTree.fromstring(answer("s3", "GetBucketLocation", result).body)

    assert document.tag.endswith("}LocationConstraint")
    assert document.text == text


def test_characters_that_xml_cannot_hold_are_replaced():
    response = answer("s3", "ListObjectsV2", {"Contents": [{"Key": "a\x01b<&\r\n"}]})

    assert parsed("s3", "rest-xml", "ListObjectsV2", response)["Contents"][0]["Key"] == "a\ufffdb<&\r\n"


def test_sqs_answers_older_clients_in_their_own_names():
    message = {
        "MessageId": "m",
        "Body": "hello",
        "Attributes": {"SentTimestamp": "1"},
        "MessageAttributes": {"kind": {"DataType": "String", "StringValue": "news"}},
    }

    document = ElementTree.fromstring(answer("sqs", "ReceiveMessage", {"Messages": [message]}, "query").body)

    namespace = "{http://queue.amazonaws.com/doc/2012-11-05/}"
    found = document.find(f"{namespace}ReceiveMessageResult/{namespace}Message")
    assert found is not None
    attribute = found.find(f"{namespace}Attribute")
    assert attribute is not None
    assert [(child.tag.removeprefix(namespace), child.text) for child in attribute] == [
        ("Name", "SentTimestamp"),
        ("Value", "1"),
    ]
    value = found.find(f"{namespace}MessageAttribute/{namespace}Value/{namespace}StringValue")
    assert value is not None
    assert value.text == "news"


def test_a_member_that_the_model_lacks_is_a_defect():
    with pytest.raises(KeyError):
        answer("sagemaker", "DescribeModel", {"Colour": "blue"})


def failure(service: str, error: ServiceError, protocol: str | None = None) -> Response:
    loaded = models.load(service)
    return serialise_error(
        error,
        protocol or service_model(service).metadata["protocol"],
        REQUEST_ID,
        service=loaded,
        resource="/b/k",
    )


ERRORS = [
    ("sagemaker", "json", "ResourceNotFound", 400, "ResourceNotFound"),
    ("sagemaker", "json", "ValidationException", 400, "ValidationException"),
    ("application-autoscaling", "json", "ObjectNotFoundException", 400, "ObjectNotFoundException"),
    ("sagemaker-runtime", "rest-json", "ModelError", 424, "ModelError"),
    ("sagemaker-runtime", "rest-json", "ServiceUnavailable", 503, "ServiceUnavailable"),
    ("sns", "query", "NotFoundException", 404, "NotFound"),
    ("sns", "query", "InvalidParameterException", 400, "InvalidParameter"),
    ("cloudwatch", "smithy-rpc-v2-cbor", "ResourceNotFound", 404, "ResourceNotFound"),
    ("cloudwatch", "query", "InvalidParameterValueException", 400, "InvalidParameterValue"),
    ("cloudwatch", "smithy-rpc-v2-cbor", "InvalidParameterValueException", 400, "InvalidParameterValue"),
    ("sqs", "json", "QueueDoesNotExist", 400, "AWS.SimpleQueueService.NonExistentQueue"),
    ("sqs", "query", "QueueDoesNotExist", 400, "AWS.SimpleQueueService.NonExistentQueue"),
    ("s3", "rest-xml", "NoSuchKey", 404, "NoSuchKey"),
    ("s3", "rest-xml", "BucketAlreadyOwnedByYou", 409, "BucketAlreadyOwnedByYou"),
    ("s3", "rest-xml", "AccessDenied", 403, "AccessDenied"),
]


@pytest.mark.parametrize(("service", "protocol", "code", "status", "shown"), ERRORS)
def test_an_error_has_the_models_status_and_the_code_that_clients_match(
    service, protocol, code, status, shown
):
    response = failure(service, ServiceError("It is <gone> & won't return", code=code), protocol)

    answer = parsed(service, protocol, next(iter(service_model(service).operation_names)), response)
    assert answer["Error"]["Code"] == shown
    assert answer["Error"]["Message"] == "It is <gone> & won't return"
    assert response.status == status
    assert answer["ResponseMetadata"]["RequestId"] == REQUEST_ID


def test_an_error_may_be_named_by_its_code_on_the_wire():
    assert failure("sns", ServiceError("Gone", code="NotFound")).status == 404


def test_an_error_carries_the_members_of_its_shape():
    error = ServiceError(
        "No", code="ModelError", members={"OriginalStatusCode": 400, "OriginalMessage": "bad"}
    )

    response = failure("sagemaker-runtime", error)

    assert json.loads(response.body) == {
        "__type": "ModelError",
        "Message": "No",
        "OriginalStatusCode": 400,
        "OriginalMessage": "bad",
    }
    assert response.headers["x-amzn-errortype"] == "ModelError"


def test_an_error_that_the_model_lacks_is_sent_as_it_is():
    response = failure("sagemaker", ServiceError("Slow down", code="ThrottlingException", http_status=429))

    assert response.status == 429
    assert json.loads(response.body) == {"__type": "ThrottlingException", "message": "Slow down"}


def test_errors_of_services_that_once_spoke_query_bear_the_old_code_in_a_header():
    response = failure("cloudwatch", ServiceError("No", code="InvalidParameterValueException"))

    assert response.headers["x-amzn-query-error"] == "InvalidParameterValue;Sender"
    assert cbor2.loads(response.body)["__type"] == "InvalidParameterValueException"


def test_an_error_of_s3_names_the_resource_and_its_members():
    response = failure("s3", ServiceError("Gone", code="NoSuchKey", members={"Key": "k&"}))

    document = ElementTree.fromstring(response.body)
    assert {child.tag: child.text for child in document} == {
        "Code": "NoSuchKey",
        "Message": "Gone",
        "Key": "k&",
        "Resource": "/b/k",
        "RequestId": REQUEST_ID,
        "HostId": REQUEST_ID,
    }


def test_a_header_cannot_be_made_to_hold_another():
    with pytest.raises(ServiceError) as refused:
        answer("s3", "GetObject", {"Body": b"x", "ContentType": "text/plain\r\nSet-Cookie: a=b"})

    assert refused.value.code == "InvalidArgument"
