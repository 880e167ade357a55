"""The front door, as clients of many kinds and makes meet it."""

import base64
import gzip
import hashlib
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import boto3
import cbor2
import pytest
from botocore import UNSIGNED
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError

from ebbtide.cli.running import LOG_FILE
from ebbtide.pytest_plugin import Ebbtide
from ebbtide.wire.sigv4 import EMPTY_SHA256, sign, signing_key


def client(ebbtide: Ebbtide, service: str, **changes: Any) -> Any:
    """A boto3 client that tries once and leaves validation to the server; `changes` go to its config."""
    given = {
        "aws_access_key_id": ebbtide.credentials.access_key_id,
        "aws_secret_access_key": ebbtide.credentials.secret_access_key,
    } | {name: changes.pop(name) for name in list(changes) if name.startswith("aws_")}
    config = Config(retries={"total_max_attempts": 1}, parameter_validation=False, **changes)
    return boto3.client(service, endpoint_url=ebbtide.url, region_name=ebbtide.region, config=config, **given)


def signed(
    ebbtide: Ebbtide,
    service: str,
    body: bytes,
    headers: dict[str, str],
    *,
    method: str = "POST",
    path: str = "/",
    signer: type[SigV4Auth] = SigV4Auth,
) -> dict[str, str]:
    """The headers of a request signed by botocore for a body of our own."""
    request = AWSRequest(method, ebbtide.url + path, data=body, headers=headers)
    request.context["client_config"] = None
    key = Credentials(ebbtide.credentials.access_key_id, ebbtide.credentials.secret_access_key)
    signer(key, service, ebbtide.region).add_auth(request)
    return dict(request.headers.items())


def send(
    ebbtide: Ebbtide, headers: dict[str, str], body: bytes = b"", *, method: str = "POST", path: str = "/"
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(ebbtide.url).netloc, timeout=120)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    connection.close()
    return answer


def error(call: Any, **params: Any) -> tuple[str, int]:
    with pytest.raises(ClientError) as raised:
        call(**params)
    response = raised.value.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


def log_lines(ebbtide: Ebbtide) -> list[str]:
    return (ebbtide.data / LOG_FILE).read_text().splitlines()


@pytest.fixture(scope="module")
def bucket(ebbtide) -> Iterator[str]:
    ebbtide.client("s3").create_bucket(Bucket="front-door")
    return "front-door"


def test_health_is_answered_without_credentials(ebbtide):
    status, _, body = send(ebbtide, {}, method="GET", path="/_ebbtide/health")

    assert (status, json.loads(body)) == (200, {"status": "ok"})


def test_connections_on_which_nothing_is_said_keep_nobody_waiting(ebbtide):
    """More of them than wait to be accepted at a time (1,024)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4_096)), hard))
    where = urlsplit(ebbtide.url)

    with ExitStack() as silent:
        for _ in range(1_100):
            silent.enter_context(socket.create_connection((where.hostname, where.port), timeout=120))
        with urllib.request.urlopen(f"{ebbtide.url}/_ebbtide/health", timeout=120) as answer:
            assert answer.status == 200


def test_the_certificate_that_signs_messages_is_served(ebbtide):
    status, _, body = send(ebbtide, {}, method="GET", path="/_ebbtide/sns/certificate.pem")

    assert status == 200
    assert body.startswith(b"-----BEGIN CERTIFICATE-----")


def test_a_page_of_our_own_is_no_bucket_and_not_for_strangers(ebbtide):
    status, _, body = send(ebbtide, {}, method="GET", path="/_ebbtide/nothing")

    assert status == 403
    assert json.loads(body)["code"] == "MissingAuthenticationTokenException"


FIRST_CALLS = [
    ("sagemaker", "list_endpoints", {}),
    ("sagemaker-runtime", "invoke_endpoint_async", {"EndpointName": "e", "InputLocation": "s3://b/k"}),
    ("sns", "list_topics", {}),
    ("sqs", "list_queues", {}),
    ("cloudwatch", "list_metrics", {}),
    ("logs", "describe_log_groups", {}),
    ("application-autoscaling", "describe_scalable_targets", {"ServiceNamespace": "sagemaker"}),
    ("sts", "get_caller_identity", {}),
    ("iam", "get_role", {"RoleName": "r"}),
    ("s3", "list_buckets", {}),
]
WRONG_SECRET = {"s3": "SignatureDoesNotMatch", "sns": "SignatureDoesNotMatch", "iam": "SignatureDoesNotMatch"}
UNKNOWN_KEY = {"s3": "InvalidAccessKeyId", "sns": "InvalidClientTokenId", "iam": "InvalidClientTokenId"}
NO_SIGNATURE = {
    "s3": "AccessDenied",
    "sns": "MissingAuthenticationToken",
    "iam": "MissingAuthenticationToken",
}
for codes in (WRONG_SECRET, UNKNOWN_KEY, NO_SIGNATURE):
    codes["sts"] = codes["sns"]


@pytest.mark.parametrize(("service", "operation", "params"), FIRST_CALLS)
def test_a_wrong_secret_is_refused_in_the_services_own_words(ebbtide, service, operation, params):
    stranger = client(ebbtide, service, aws_secret_access_key="wrong")

    code, status = error(getattr(stranger, operation), **params)

    assert (code, status) == (WRONG_SECRET.get(service, "InvalidSignatureException"), 403)


@pytest.mark.parametrize(("service", "operation", "params"), FIRST_CALLS)
def test_an_unknown_key_is_refused_in_the_services_own_words(ebbtide, service, operation, params):
    stranger = client(ebbtide, service, aws_access_key_id="AKIAUNKNOWN")

    code, status = error(getattr(stranger, operation), **params)

    assert (code, status) == (UNKNOWN_KEY.get(service, "UnrecognizedClientException"), 403)


@pytest.mark.parametrize(("service", "operation", "params"), FIRST_CALLS)
def test_no_signature_is_refused_in_the_services_own_words(ebbtide, service, operation, params):
    anonymous = client(ebbtide, service, signature_version=UNSIGNED)

    code, status = error(getattr(anonymous, operation), **params)

    assert (code, status) == (NO_SIGNATURE.get(service, "MissingAuthenticationTokenException"), 403)


@pytest.mark.parametrize(
    ("service", "operation", "params", "code", "status"),
    [
        ("sagemaker", "list_apps", {}, "UnknownOperationException", 400),
        ("cloudwatch", "list_dashboards", {}, "UnknownOperationException", 400),
        ("sns", "list_platform_applications", {}, "InvalidAction", 400),
        ("s3", "get_bucket_abac", {"Bucket": "front-door"}, "NotImplemented", 501),
        ("ec2", "describe_instances", {}, "InvalidAction", 400),
        ("dynamodb", "list_tables", {}, "UnknownOperationException", 400),
    ],
)
def test_an_operation_that_there_is_not_is_named(ebbtide, service, operation, params, code, status):
    assert error(getattr(client(ebbtide, service), operation), **params) == (code, status)


def test_a_form_that_names_no_operation_is_told_so(ebbtide):
    body = b"Version=2012-11-05"
    headers = signed(ebbtide, "sqs", body, {"Content-Type": "application/x-www-form-urlencoded"})

    status, _, answer = send(ebbtide, headers, body)

    assert status == 400
    assert b"<Code>MissingAction</Code>" in answer


def test_a_signature_for_another_service_is_refused(ebbtide):
    headers = signed(ebbtide, "s3", b"{}", {"X-Amz-Target": "SageMaker.ListEndpoints"})

    status, _, body = send(ebbtide, headers, b"{}")

    assert status == 403
    assert b"should be scoped to correct service: 'sagemaker'" in body


def test_a_body_that_was_changed_on_its_way_is_refused(ebbtide):
    headers = signed(ebbtide, "sagemaker", b"{}", {"X-Amz-Target": "SageMaker.ListEndpoints"})

    assert send(ebbtide, headers, b'{"MaxResults": 1}')[0] == 403


@pytest.mark.parametrize(
    "body", [b"{", b"[" * 100_000, b'{"NameContains": 5}', b'{"NameContains": "\\udc00"}']
)
def test_json_that_does_not_fit_is_the_callers_error(ebbtide, body):
    target = {"X-Amz-Target": "SageMaker.ListEndpoints", "Content-Type": "application/x-amz-json-1.1"}

    status, headers, _ = send(ebbtide, signed(ebbtide, "sagemaker", body, target), body)

    assert (status, headers["x-amzn-errortype"]) == (400, "SerializationException")


def test_all_constraints_that_are_broken_are_told(ebbtide):
    with pytest.raises(ClientError) as raised:
        client(ebbtide, "sagemaker").create_endpoint(
            EndpointName="no_underscores", EndpointConfigName="x" * 64
        )

    assert raised.value.response["Error"]["Code"] == "ValidationException"
    message = raised.value.response["Error"]["Message"]
    assert message.startswith("3 validation errors detected: Value 'no_underscores' at 'endpointName'")


@pytest.mark.parametrize("size", [128_001, 5_000_000])
def test_an_inline_body_that_is_too_large_is_refused(ebbtide, size):
    runtime = client(ebbtide, "sagemaker-runtime")

    with pytest.raises(runtime.exceptions.ValidationError, match="less than or equal to 128000"):
        runtime.invoke_endpoint_async(EndpointName="e", Body=b"x" * size)


def test_a_document_without_bound_is_refused(ebbtide):
    body = b'{"NameContains": "' + b"x" * 6_000_000 + b'"}'
    headers = signed(ebbtide, "sagemaker", body, {"X-Amz-Target": "SageMaker.ListEndpoints"})

    assert send(ebbtide, headers, body)[0] == 413


def test_gzipped_metric_data_is_understood(ebbtide):
    point = {"MetricName": "m", "Value": 1.0, "Dimensions": [{"Name": "d", "Value": "x" * 200}]}

    # boto3 compresses a body beyond 10 KiB.
    ebbtide.client("cloudwatch").put_metric_data(Namespace="FrontDoor", MetricData=[point] * 100)


def test_a_gzipped_form_is_understood(ebbtide):
    """boto3 1.38 and older send much metric data so."""
    form = b"Action=PutMetricData&Version=2010-08-01&Namespace=FrontDoor"
    body = gzip.compress(form + b"&MetricData.member.1.MetricName=zipped&MetricData.member.1.Value=1")
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Encoding": "gzip"}

    status, _, answer = send(ebbtide, signed(ebbtide, "monitoring", body, headers), body)

    listed = ebbtide.client("cloudwatch").list_metrics(Namespace="FrontDoor", MetricName="zipped")["Metrics"]
    assert (status, len(listed)) == (200, 1), answer


@pytest.mark.parametrize("body", [b"Action=PutMetricData", gzip.compress(b"A" * 100_000_000), b"\x1f\x8b"])
def test_a_form_that_does_not_unfold_is_the_callers_error(ebbtide, body):
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Content-Encoding": "gzip"}

    status, _, answer = send(ebbtide, signed(ebbtide, "monitoring", body, headers), body)

    assert status in (400, 413), answer


def test_gzip_that_unfolds_without_bound_is_refused(ebbtide):
    body = gzip.compress(b" " * 100_000_000)
    headers = {"X-Amz-Target": "GraniteServiceVersion20100801.PutMetricData", "Content-Encoding": "gzip"}

    assert send(ebbtide, signed(ebbtide, "monitoring", body, headers), body)[0] == 413


def test_gzip_that_is_none_is_the_callers_error(ebbtide):
    headers = {"X-Amz-Target": "GraniteServiceVersion20100801.PutMetricData", "Content-Encoding": "gzip"}

    status, answered, _ = send(ebbtide, signed(ebbtide, "monitoring", b"plain", headers), b"plain")

    assert (status, answered["x-amzn-errortype"]) == (400, "SerializationException")


def test_links_of_sns_need_no_credentials(ebbtide):
    query = "/?Action=Unsubscribe&SubscriptionArn=arn:aws:sns:us-east-1:123456789012:none:none"

    status, headers, body = send(ebbtide, {}, method="GET", path=query)

    assert headers["content-type"] == "text/xml"
    assert status in (200, 404)
    assert b"MissingAuthenticationToken" not in body


@pytest.mark.parametrize("version", [None, "s3v4"])
def test_presigned_urls_serve_those_without_credentials(ebbtide, bucket, version):
    s3 = client(ebbtide, "s3", **({"signature_version": version} if version else {}))
    name = {"Bucket": bucket, "Key": "presigned/ü +(1).txt"}

    put = urllib.request.Request(s3.generate_presigned_url("put_object", Params=name), b"hello", method="PUT")
    put.add_header("Content-Type", "")
    urllib.request.urlopen(put).close()
    with urllib.request.urlopen(s3.generate_presigned_url("get_object", Params=name)) as got:
        assert got.read() == b"hello"

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(s3.generate_presigned_url("get_object", Params=name).replace(".txt", ".text"))
    refused.value.close()
    assert refused.value.code == 403


def test_a_bucket_is_found_in_the_hosts_name(ebbtide, bucket):
    ebbtide.client("s3").put_object(Bucket=bucket, Key="virtual/host", Body=b"x")
    host = {"Host": f"{bucket}.localhost:{urlsplit(ebbtide.url).port}"}
    headers = signed(ebbtide, "s3", b"", host, method="GET", path="/virtual/host", signer=S3SigV4Auth)

    status, _, body = send(ebbtide, headers, method="GET", path="/virtual/host")

    assert (status, body) == (200, b"x")


UNSIGNED_CHUNKS = b"5\r\nhello\r\n0\r\nx-amz-checksum-crc32:NhCmhg==\r\n\r\n"


def chunked_headers(ebbtide: Ebbtide, path: str, *, length: int) -> dict[str, str]:
    class ChunkSigner(S3SigV4Auth):
        def payload(self, request: Any) -> str:
            return "STREAMING-UNSIGNED-PAYLOAD-TRAILER"

    headers = {
        "Content-Encoding": "aws-chunked",
        "X-Amz-Trailer": "x-amz-checksum-crc32",
        "X-Amz-Decoded-Content-Length": str(length),
    }
    return signed(ebbtide, "s3", b"", headers, method="PUT", path=path, signer=ChunkSigner)


def test_bodies_in_chunks_with_trailing_checksums_are_stored_as_their_data(ebbtide, bucket):
    path = f"/{bucket}/chunked"

    status, _, body = send(
        ebbtide, chunked_headers(ebbtide, path, length=5), UNSIGNED_CHUNKS, method="PUT", path=path
    )

    assert status == 200, body
    stored = ebbtide.client("s3").get_object(Bucket=bucket, Key="chunked")
    assert stored["Body"].read() == b"hello"
    assert "ContentEncoding" not in stored


@pytest.mark.parametrize(
    ("length", "body", "code"),
    [
        pytest.param(6, UNSIGNED_CHUNKS, b"IncompleteBody", id="fewer data than announced"),
        pytest.param(5, UNSIGNED_CHUNKS[:-2], b"IncompleteBody", id="cut off"),
        pytest.param(5, UNSIGNED_CHUNKS.replace(b"5\r", b"z\r"), b"InvalidRequest", id="no size"),
    ],
)
def test_chunks_that_do_not_fit_store_nothing(ebbtide, bucket, length, body, code):
    path = f"/{bucket}/broken-chunks"

    status, _, answer = send(
        ebbtide, chunked_headers(ebbtide, path, length=length), body, method="PUT", path=path
    )

    assert status == 400
    assert b"<Code>" + code + b"</Code>" in answer
    assert error(ebbtide.client("s3").head_object, Bucket=bucket, Key="broken-chunks") == ("404", 404)


def test_a_body_unlike_its_signed_hash_stores_nothing(ebbtide, bucket):
    path = f"/{bucket}/tampered"
    headers = signed(ebbtide, "s3", b"hello", {}, method="PUT", path=path, signer=S3SigV4Auth)

    status, _, answer = send(ebbtide, headers, b"HELLO", method="PUT", path=path)

    assert status == 400
    assert b"XAmzContentSHA256Mismatch" in answer
    assert error(ebbtide.client("s3").head_object, Bucket=bucket, Key="tampered") == ("404", 404)


def test_an_upload_that_breaks_off_stores_nothing_and_harms_nobody(ebbtide, bucket):
    url = urlsplit(
        client(ebbtide, "s3").generate_presigned_url("put_object", {"Bucket": bucket, "Key": "half"})
    )
    with socket.create_connection((url.hostname, url.port)) as connection:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: 10\r\n\r\n"
        connection.sendall(head.encode() + b"half")

    assert error(ebbtide.client("s3").head_object, Bucket=bucket, Key="half") == ("404", 404)


def test_the_answer_to_head_has_the_length_and_no_body(ebbtide, bucket):
    ebbtide.client("s3").put_object(Bucket=bucket, Key="head", Body=b"12345")
    path = f"/{bucket}/head"
    headers = signed(ebbtide, "s3", b"", {}, method="HEAD", path=path, signer=S3SigV4Auth)

    status, answered, body = send(ebbtide, headers, method="HEAD", path=path)

    assert (status, answered["content-length"], body) == (200, "5", b"")


def test_cloudwatch_is_spoken_in_cbor(ebbtide):
    path = "/service/GraniteServiceVersion20100801/operation/ListMetrics"
    headers = {"Smithy-Protocol": "rpc-v2-cbor", "Content-Type": "application/cbor"}
    body = cbor2.dumps({"Namespace": "Nothing"})

    status, answered, answer = send(
        ebbtide, signed(ebbtide, "monitoring", body, headers, path=path), body, path=path
    )

    assert (status, answered["smithy-protocol"]) == (200, "rpc-v2-cbor")
    assert cbor2.loads(answer)["Metrics"] == []


def test_an_old_client_may_speak_query_to_cloudwatch_and_sqs(ebbtide):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    for service, text in (
        ("monitoring", b"Action=ListMetrics&Version=2010-08-01&Namespace=Nothing"),
        ("sqs", b"Action=ListQueues&Version=2012-11-05&QueueNamePrefix=nothing"),
    ):
        status, headers, body = send(ebbtide, signed(ebbtide, service, text, form), text)

        assert (status, headers["content-type"]) == (200, "text/xml"), body
        assert b"<RequestId>" in body


@pytest.mark.parametrize(
    "arguments",
    [
        ["sts", "get-caller-identity"],
        ["sagemaker", "list-endpoints"],
        ["cloudwatch", "list-metrics", "--namespace", "Nothing"],
        ["s3api", "list-buckets"],
    ],
)
def test_the_aws_command_is_served(ebbtide, arguments):
    command = [sys.executable, "-m", "awscli", *arguments]

    done = subprocess.run(
        command, env=ebbtide.environment(), capture_output=True, text=True, check=False, timeout=300
    )

    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout), dict)


DIGITS = "9" * 5000
TOKEN = base64.urlsafe_b64encode(b'{"x": 1e999}').decode()


@pytest.mark.parametrize(
    ("service", "operation", "params", "code"),
    [
        (
            "sqs",
            "create_queue",
            {"QueueName": "q", "Attributes": {"DelaySeconds": DIGITS}},
            "InvalidAttributeValue",
        ),
        (
            "sns",
            "create_topic",
            {"Name": "t", "Attributes": {"MaximumMessageSize": DIGITS}},
            "InvalidParameter",
        ),
        ("s3", "put_object", {"Bucket": "front-door", "Key": "k", "ContentMD5": "\xe9"}, "InvalidDigest"),
        ("s3", "list_objects_v2", {"Bucket": "front-door", "ContinuationToken": "\xe9"}, "InvalidArgument"),
        ("logs", "filter_log_events", {"logGroupName": "g", "nextToken": TOKEN}, "InvalidParameterException"),
    ],
)
def test_values_that_only_a_stranger_sends_are_the_callers_error(
    ebbtide, bucket, service, operation, params, code
):
    assert error(getattr(client(ebbtide, service), operation), **params) == (code, 400)


def test_a_range_beyond_measure_is_none(ebbtide, bucket):
    ebbtide.client("s3").put_object(Bucket=bucket, Key="ranged", Body=b"abc")

    answer = ebbtide.client("s3").get_object(Bucket=bucket, Key="ranged", Range=f"bytes={DIGITS}-")

    assert (answer["ResponseMetadata"]["HTTPStatusCode"], answer["Body"].read()) == (200, b"abc")


def test_members_of_a_list_may_have_any_number(ebbtide):
    """What is no number of a list, or is beyond measure, names no member; others may leave gaps."""
    body = f"Action=CreateTopic&Name=numbered&Tags.member.{DIGITS}.Key=a&Tags.member.x.Key=b".encode()
    body += b"&Tags.member.7.Key=c&Tags.member.7.Value=d&Tags.member.07.Key=c&Tags.member.07.Value=d"
    headers = {"content-type": "application/x-www-form-urlencoded"}

    status, _, answer = send(ebbtide, signed(ebbtide, "sns", body, headers), body)

    assert status == 200, answer


@pytest.mark.parametrize("expires", [DIGITS, "-1", "x", "0"])
def test_a_presigned_url_that_expires_at_no_time_is_malformed(ebbtide, bucket, expires):
    signer = client(ebbtide, "s3", signature_version="s3v4")
    given = signer.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"})
    url = urlsplit(given.replace("X-Amz-Expires=3600", f"X-Amz-Expires={expires}"))

    status, _, body = send(ebbtide, {}, method="GET", path=f"{url.path}?{url.query}")

    assert (status, b"X-Amz-Expires must be" in body) == (400, True)


def test_the_source_of_a_copy_may_be_encoded_whole(ebbtide, bucket):
    """As the AWS SDKs for JavaScript and Java do; boto3 leaves the slashes."""
    ebbtide.client("s3").put_object(Bucket=bucket, Key="a/b+c", Body=b"text")
    source = urllib.parse.quote(f"{bucket}/a/b+c", safe="")
    path = f"/{bucket}/copy"
    headers = signed(
        ebbtide, "s3", b"", {"x-amz-copy-source": source}, method="PUT", path=path, signer=S3SigV4Auth
    )

    status, _, _ = send(ebbtide, headers, method="PUT", path=path)

    assert status == 200
    assert ebbtide.client("s3").get_object(Bucket=bucket, Key="copy")["Body"].read() == b"text"


def test_an_empty_upload_that_waits_for_100_continue_gets_it(ebbtide, bucket):
    """botocore 1.34 and the AWS command 1.46 hang on their next upload otherwise."""
    path = f"/{bucket}/empty"
    headers = signed(
        ebbtide, "s3", b"", {"expect": "100-continue"}, method="PUT", path=path, signer=S3SigV4Auth
    )
    url = urlsplit(ebbtide.url)
    headers = {"Host": url.netloc, **headers}
    lines = [f"PUT {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]

    with (
        socket.create_connection((url.hostname, url.port)) as connection,
        connection.makefile("rb") as answers,
    ):
        for _ in range(2):
            connection.sendall("\r\n".join(lines).encode())

            assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"
            assert answers.readline() == b"\r\n"
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            while answers.readline() != b"\r\n":
                pass


def test_clients_that_go_while_an_object_is_sent_harm_nobody(ebbtide, bucket):
    ebbtide.client("s3").put_object(Bucket=bucket, Key="large", Body=bytes(64 * 1024 * 1024))
    url = urlsplit(
        client(ebbtide, "s3").generate_presigned_url("get_object", {"Bucket": bucket, "Key": "large"})
    )
    head = f"GET {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\n\r\n".encode()

    for _ in range(20):
        with socket.create_connection((url.hostname, url.port)) as connection:
            connection.sendall(head)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")

    assert send(ebbtide, {}, method="GET", path="/_ebbtide/health")[0] == 200


def test_an_answer_that_breaks_off_is_logged_with_the_id_that_its_client_has(ebbtide, bucket):
    before = set((ebbtide.data / "objects").iterdir())
    ebbtide.client("s3").put_object(Bucket=bucket, Key="cut short", Body=bytes(32 * 1024 * 1024))
    [file] = set((ebbtide.data / "objects").iterdir()) - before

    answer = ebbtide.client("s3").get_object(Bucket=bucket, Key="cut short")
    os.truncate(file, 1)  # while the most of it waits to be read

    with pytest.raises(BotoCoreError):
        answer["Body"].read()
    [line] = [line for line in log_lines(ebbtide) if answer["ResponseMetadata"]["RequestId"] in line]
    assert f"/{bucket}/cut%20short: its answer broke off" in line


def test_a_long_poll_whose_client_has_gone_takes_no_message(ebbtide):
    sqs = client(ebbtide, "sqs")
    dead = sqs.create_queue(QueueName="told-of-the-poll")["QueueUrl"]
    dead_arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 1})
    queue = sqs.create_queue(QueueName="polled", Attributes={"RedrivePolicy": policy})["QueueUrl"]
    sqs.send_message(QueueUrl=queue, MessageBody="tells of the poll")
    sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0)
    body = json.dumps({"QueueUrl": queue, "WaitTimeSeconds": 20}).encode()
    poll = {"X-Amz-Target": "AmazonSQS.ReceiveMessage", "Content-Type": "application/x-amz-json-1.0"}
    connection = http.client.HTTPConnection(urlsplit(ebbtide.url).netloc, timeout=120)
    connection.request("POST", "/", body, signed(ebbtide, "sqs", body, poll))
    # It came too often: the poll has moved it, and found nothing else.
    assert "Messages" in sqs.receive_message(QueueUrl=dead, WaitTimeSeconds=20)

    connection.close()
    sqs.send_message(QueueUrl=queue, MessageBody="for who is there")

    [got] = sqs.receive_message(QueueUrl=queue)["Messages"]
    assert got["Body"] == "for who is there"


@pytest.mark.parametrize("trailers", [False, True])
def test_bodies_in_signed_chunks_are_checked_chunk_by_chunk(ebbtide, bucket, trailers):
    path = f"/{bucket}/signed-chunks"
    declared = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailers else "")

    class ChunkSigner(S3SigV4Auth):
        def payload(self, request: Any) -> str:
            return declared

    headers = {"X-Amz-Decoded-Content-Length": "10"}
    headers = signed(ebbtide, "s3", b"", headers, method="PUT", path=path, signer=ChunkSigner)
    body = in_signed_chunks(ebbtide, headers, [b"hello", b"world"], trailers=trailers)

    good = send(ebbtide, headers, body, method="PUT", path=path)
    bad = send(ebbtide, headers, body.replace(b"world", b"werld"), method="PUT", path=path)

    assert good[0] == 200, good
    assert (bad[0], b"<Code>SignatureDoesNotMatch</Code>" in bad[2]) == (403, True)
    assert ebbtide.client("s3").get_object(Bucket=bucket, Key="signed-chunks")["Body"].read() == b"helloworld"


def in_signed_chunks(
    ebbtide: Ebbtide, headers: dict[str, str], chunks: list[bytes], *, trailers: bool
) -> bytes:
    timestamp = headers["X-Amz-Date"]
    scope = f"{timestamp[:8]}/{ebbtide.region}/s3/aws4_request"
    key = signing_key(ebbtide.credentials.secret_access_key, timestamp[:8], ebbtide.region, "s3")
    signature = headers["Authorization"].rpartition("Signature=")[2]
    body = b""
    for chunk in [*chunks, b""]:
        digests = f"{EMPTY_SHA256}\n{hashlib.sha256(chunk).hexdigest()}"
        signature = sign(key, f"AWS4-HMAC-SHA256-PAYLOAD\n{timestamp}\n{scope}\n{signature}\n{digests}")
        body += f"{len(chunk):x};chunk-signature={signature}\r\n".encode() + (chunk and chunk + b"\r\n")
    if trailers:
        checksum = zlib.crc32(b"".join(chunks)).to_bytes(4, "big")
        line = f"x-amz-checksum-crc32:{base64.b64encode(checksum).decode()}"
        digest = hashlib.sha256(f"{line}\n".encode()).hexdigest()
        signature = sign(key, f"AWS4-HMAC-SHA256-TRAILER\n{timestamp}\n{scope}\n{signature}\n{digest}")
        body += f"{line}\r\nx-amz-trailer-signature:{signature}\r\n".encode()
    return body + b"\r\n"
