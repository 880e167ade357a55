"""Requests as botocore's serialisers write them, read back; and what is written badly, refused."""

import json
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode, urlsplit

import cbor2
import pytest
from botocore.awsrequest import create_request_object, prepare_request_dict
from botocore.model import Shape
from botocore.serialize import create_serializer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.wire.shapes import plain, service_model, structures

from ebbtide.errors import ServiceError
from ebbtide.wire import models
from ebbtide.wire.parse import parse
from ebbtide.wire.request import Request
from ebbtide.wire.routing import route
from ebbtide.wire.validate import validate

OPERATIONS = [
    ("sagemaker", "json", "CreateModel"),
    ("sagemaker", "json", "CreateEndpointConfig"),
    ("sagemaker", "json", "UpdateEndpoint"),
    ("sagemaker", "json", "ListEndpoints"),
    ("sqs", "json", "SendMessageBatch"),
    ("sqs", "json", "ReceiveMessage"),
    ("application-autoscaling", "json", "PutScalingPolicy"),
    ("logs", "json", "PutLogEvents"),
    ("cloudwatch", "json", "PutMetricData"),
    ("cloudwatch", "smithy-rpc-v2-cbor", "PutMetricData"),
    ("cloudwatch", "smithy-rpc-v2-cbor", "GetMetricData"),
    ("cloudwatch", "smithy-rpc-v2-cbor", "PutMetricAlarm"),
    ("cloudwatch", "query", "PutMetricData"),
    ("cloudwatch", "query", "GetMetricData"),
    ("cloudwatch", "query", "PutMetricAlarm"),
    ("sns", "query", "Publish"),
    ("sns", "query", "PublishBatch"),
    ("sns", "query", "CreateTopic"),
    ("sts", "query", "AssumeRole"),
    ("iam", "query", "SimulatePrincipalPolicy"),
    ("sagemaker-runtime", "rest-json", "InvokeEndpoint"),
    ("sagemaker-runtime", "rest-json", "InvokeEndpointAsync"),
    ("s3", "rest-xml", "CreateBucket"),
    ("s3", "rest-xml", "DeleteObjects"),
    ("s3", "rest-xml", "CompleteMultipartUpload"),
    ("s3", "rest-xml", "CopyObject"),
    ("s3", "rest-xml", "GetObject"),
    ("s3", "rest-xml", "HeadObject"),
    ("s3", "rest-xml", "ListObjectsV2"),
    ("s3", "rest-xml", "ListParts"),
    ("s3", "rest-xml", "GetObjectAttributes"),
    ("s3", "rest-xml", "PutBucketTagging"),
    ("s3", "rest-xml", "PutObjectAcl"),
    ("s3", "rest-xml", "PutBucketLifecycleConfiguration"),
]


def written(service: str, protocol: str, operation: str, params: dict[str, Any]) -> Request:
    """The request that botocore makes of `params`."""
    model = service_model(service).operation_model(operation)
    serialised = create_serializer(protocol, include_validation=False).serialize_to_request(params, model)
    prepare_request_dict(serialised, "http://localhost:8377")
    prepared = create_request_object(serialised).prepare()
    parts = urlsplit(prepared.url)
    headers = {
        name.lower(): value.decode() if isinstance(value, bytes) else value
        for name, value in prepared.headers.items()
    }
    body = prepared.body or b""
    return Request(
        prepared.method, parts.path, parts.query, headers, body.encode() if isinstance(body, str) else body
    )


def read(service: str, protocol: str, operation: str, request: Request) -> dict[str, Any]:
    loaded = models.load(service)
    if protocol in ("rest-json", "rest-xml"):
        routed = route(loaded, request, request.path)
        assert routed is not None
        found, labels = routed
        assert found.name == operation
        return parse(found, protocol, request, labels)
    return parse(loaded.operation(operation), protocol, request, {})


@pytest.mark.parametrize(("service", "protocol", "operation"), OPERATIONS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_what_a_client_sends_is_what_the_operation_gets(service, protocol, operation, data):
    shape = service_model(service).operation_model(operation).input_shape
    params = data.draw(structures(shape))

    result = read(service, protocol, operation, written(service, protocol, operation, params))

    assert plain(result) == plain(params)


S3_TWINS = {
    "GetBucketLifecycle",
    "GetBucketNotification",
    "PutBucketLifecycle",
    "PutBucketNotification",
    "ListDirectoryBuckets",
    "WriteGetObjectResponse",
}
"""Operations that S3 itself tells apart from others by nothing in the request, or by another host."""


@pytest.mark.parametrize("operation", sorted(set(service_model("s3").operation_names) - S3_TWINS))
@settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_request_to_s3_finds_its_operation(operation, data):
    shape = service_model("s3").operation_model(operation).input_shape
    params = {} if shape is None else data.draw(structures(shape, depth=3))
    request = written("s3", "rest-xml", operation, params)

    routed = route(models.load("s3"), request, request.path)

    assert routed is not None
    assert routed[0].name == operation


def form(service: str, operation: str, **fields: str) -> dict[str, Any]:
    body = urlencode({"Action": operation, "Version": "2012-11-05", **fields}).encode()
    return read(service, "query", operation, Request("POST", "/", "", {}, body))


def test_sqs_is_understood_as_its_older_clients_speak():
    params = form(
        "sqs",
        "SendMessage",
        **{
            "QueueUrl": "http://localhost/1/q",
            "MessageBody": "hello",
            "MessageAttribute.1.Name": "kind",
            "MessageAttribute.1.Value.DataType": "String",
            "MessageAttribute.1.Value.StringValue": "news",
        },
    )

    assert params == {
        "QueueUrl": "http://localhost/1/q",
        "MessageBody": "hello",
        "MessageAttributes": {"kind": {"DataType": "String", "StringValue": "news"}},
    }
    assert form(
        "sqs", "CreateQueue", **{"QueueName": "q", "Attribute.1.Name": "A", "Attribute.1.Value": "1"}
    ) == {
        "QueueName": "q",
        "Attributes": {"A": "1"},
    }
    assert form("sqs", "GetQueueAttributes", **{"QueueUrl": "u", "AttributeName.1": "All"}) == {
        "QueueUrl": "u",
        "AttributeNames": ["All"],
    }
    assert form(
        "sqs",
        "DeleteMessageBatch",
        **{
            "QueueUrl": "u",
            "DeleteMessageBatchRequestEntry.1.Id": "a",
            "DeleteMessageBatchRequestEntry.1.ReceiptHandle": "r",
        },
    ) == {"QueueUrl": "u", "Entries": [{"Id": "a", "ReceiptHandle": "r"}]}


def test_a_query_in_the_path_counts_as_well_as_the_form():
    request = Request("GET", "/", "Action=Unsubscribe&SubscriptionArn=arn%3Aaws%3Asns", {}, b"")

    assert read("sns", "query", "Unsubscribe", request) == {"SubscriptionArn": "arn:aws:sns"}


def test_list_elements_come_in_the_order_of_their_numbers():
    fields = {f"PublishBatchRequestEntries.member.{number}.Id": str(number) for number in (10, 2, 1)}

    params = form("sns", "PublishBatch", **fields)

    assert [entry["Id"] for entry in params["PublishBatchRequestEntries"]] == ["1", "2", "10"]


@pytest.mark.parametrize(
    ("text", "epoch_s"),
    [
        ("1700000000", 1700000000.0),
        ("1700000000.25", 1700000000.25),
        ("2023-11-14T22:13:20Z", 1700000000.0),
        ("2023-11-14T22:13:20.250Z", 1700000000.25),
        ("2023-11-14T23:13:20+01:00", 1700000000.0),
        ("2023-11-14T22:13:20", 1700000000.0),
        ("Tue, 14 Nov 2023 22:13:20 GMT", 1700000000.0),
        ("Tue, 14 Nov 2023 23:13:20 +0100", 1700000000.0),
    ],
)
def test_a_timestamp_is_taken_in_any_form(text, epoch_s):
    assert form("cloudwatch", "GetMetricData", StartTime=text)["StartTime"] == epoch_s


DEEP = b'{"Tags":' + b"[" * 100_000


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"{", "not valid JSON", id="cut off"),
        pytest.param(b"\xff\xfe", "not valid JSON", id="no text"),
        pytest.param(DEEP, "not valid JSON", id="nested beyond measure"),
        pytest.param(b'{"EndpointName": "\\ud800"}', "not valid JSON", id="half a surrogate pair"),
        pytest.param(b'"text"', "STRING_VALUE can not be converted", id="no object"),
        pytest.param(b'{"EndpointName": 5}', "NUMBER_VALUE can not be converted to a String", id="a number"),
        pytest.param(
            b'{"EndpointName": {}}', "START_OBJECT can not be converted to a String", id="an object"
        ),
        pytest.param(
            b'{"Tags": {}}', "START_OBJECT can not be converted to a List", id="an object for a list"
        ),
        pytest.param(b'{"MaxResults": 1e400}', "can not be converted to an Integer", id="beyond measure"),
        pytest.param(b'{"CreationTimeAfter": 1700000000000}', "not a timestamp", id="milliseconds"),
        pytest.param(b'{"CreationTimeAfter": NaN}', "not a timestamp", id="no number"),
        pytest.param(b'{"CreationTimeAfter": "soon"}', "not a timestamp", id="no time"),
        pytest.param(b'{"Tags": ["x"]}', "STRING_VALUE can not be converted to a Structure", id="inside"),
    ],
)
def test_json_that_does_not_fit_is_refused(body, text):
    operation = "CreateEndpoint" if b"Tags" in body or b"EndpointName" in body else "ListEndpoints"

    with pytest.raises(ServiceError, match=text) as refused:
        read("sagemaker", "json", operation, Request("POST", "/", "", {}, body))

    assert refused.value.code == "SerializationException"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param({"EndpointName": None}, {}, id="null is absent"),
        pytest.param({"Unknown": 1, "EndpointName": "e"}, {"EndpointName": "e"}, id="unknown members"),
    ],
)
def test_json_that_says_nothing_is_ignored(document, expected):
    body = json.dumps(document).encode()

    assert read("sagemaker", "json", "CreateEndpoint", Request("POST", "/", "", {}, body)) == expected


def test_a_whole_number_written_as_a_float_is_an_integer():
    params = read("sagemaker", "json", "ListEndpoints", Request("POST", "/", "", {}, b'{"MaxResults": 5.0}'))

    assert params == {"MaxResults": 5}
    assert type(params["MaxResults"]) is int


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\xa1", id="cut off"),
        pytest.param(b"\x81" * 100_000, id="nested beyond measure"),
        pytest.param(cbor2.dumps([1]), id="no map"),
        pytest.param(cbor2.dumps({"Namespace": 5}), id="a number for text"),
        pytest.param(cbor2.dumps({"Namespace": cbor2.CBORTag(99, "x")}), id="an unknown tag"),
    ],
)
def test_cbor_that_does_not_fit_is_refused(body):
    with pytest.raises(ServiceError) as refused:
        read("cloudwatch", "smithy-rpc-v2-cbor", "PutMetricData", Request("POST", "/", "", {}, body))

    assert refused.value.code == "SerializationException"


BOMB = b'<!DOCTYPE d [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><Delete>&b;</Delete>'


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"<Delete>", id="cut off"),
        pytest.param(b"plain", id="no XML"),
        pytest.param(b"<Delete>" * 100_000, id="nested too deep"),
        pytest.param(b"<Tagging><TagSet/></Tagging>", id="another document"),
        pytest.param(BOMB, id="entities"),
        pytest.param(b"<Delete><Quiet>maybe</Quiet></Delete>", id="no boolean"),
        pytest.param(b"\xff\xfe\xff", id="no text"),
        pytest.param(b'<?xml version="1.0" encoding="nonsense"?><Delete/>', id="an unknown encoding"),
    ],
)
def test_xml_that_does_not_fit_is_refused(body):
    with pytest.raises(ServiceError) as refused:
        read("s3", "rest-xml", "DeleteObjects", Request("POST", "/bucket", "delete", {}, body))

    assert refused.value.code == "MalformedXML"


@pytest.mark.parametrize(("name", "value"), [("MaxRecords", "many"), ("ActionsEnabled", "perhaps")])
def test_a_form_value_of_the_wrong_type_is_refused(name, value):
    operation = "DescribeAlarms" if name == "MaxRecords" else "PutMetricAlarm"

    with pytest.raises(ServiceError) as refused:
        form("cloudwatch", operation, **{name: value})

    assert refused.value.code == "MalformedInput"


def test_a_path_that_is_not_utf_8_is_refused():
    with pytest.raises(ServiceError) as refused:
        read("s3", "rest-xml", "GetObject", Request("GET", "/bucket/%ff", "", {}))

    assert refused.value.code == "InvalidURI"


def test_a_header_list_may_quote_commas():
    headers = {"x-amz-object-attributes": 'ETag, "Object,Size"'}

    params = read("s3", "rest-xml", "GetObjectAttributes", Request("GET", "/b/k", "attributes", headers))

    assert params["ObjectAttributes"] == ["ETag", "Object,Size"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


def misfits(shape: Shape, leaf: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values that bear a shape's names and are otherwise anything."""
    if shape.type_name == "structure":
        return leaf | st.fixed_dictionaries(
            {},
            optional={name: st.deferred(lambda m=m: misfits(m, leaf)) for name, m in shape.members.items()},
        )
    if shape.type_name == "list":
        return leaf | st.lists(st.deferred(lambda: misfits(shape.member, leaf)), max_size=2)
    return leaf


@pytest.mark.parametrize(
    ("service", "protocol", "operation"),
    [
        ("sagemaker", "json", "CreateEndpointConfig"),
        ("application-autoscaling", "json", "PutScalingPolicy"),
        ("sqs", "json", "SendMessageBatch"),
        ("cloudwatch", "smithy-rpc-v2-cbor", "PutMetricData"),
    ],
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_is_sent_is_understood_or_refused(service, protocol, operation, data):
    shape = service_model(service).operation_model(operation).input_shape
    document = data.draw(misfits(shape, ANYTHING))
    body = json.dumps(document, default=repr).encode() if protocol == "json" else cbor2.dumps(document)

    with suppress(ServiceError):
        params = read(service, protocol, operation, Request("POST", "/", "", {}, body))
        validate(models.load(service).operation(operation), params)


@pytest.mark.parametrize(
    ("service", "protocol", "operation", "path", "query"),
    [
        ("sagemaker", "json", "CreateModel", "/", ""),
        ("cloudwatch", "smithy-rpc-v2-cbor", "PutMetricData", "/", ""),
        ("sns", "query", "Publish", "/", ""),
        ("s3", "rest-xml", "DeleteObjects", "/bucket", "delete"),
    ],
)
@given(body=st.binary(max_size=200))
def test_whatever_bytes_come_are_understood_or_refused(service, protocol, operation, path, query, body):
    with suppress(ServiceError):
        read(service, protocol, operation, Request("POST", path, query, {}, body))
