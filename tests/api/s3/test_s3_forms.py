"""Uploads by browsers' forms: boto3 makes the form, and somebody without credentials posts it."""

from xml.etree import ElementTree

import pytest
import urllib3
from botocore.config import Config


def post(form, content=b"hello", *, filename="a.txt", extra=None, drop=(), order_last=()):
    """Post the form; the answer's status and headers, with its error's code or its body."""
    fields = {name: value for name, value in form["fields"].items() if name not in drop} | (extra or {})
    sent = [*fields.items(), ("file", (filename, content)), *order_last]
    answer = urllib3.request("POST", form["url"], fields=sent, redirect=False, retries=False)
    return answer.status, answer.headers, answer.data


def refusal(answer):
    status, _, body = answer
    error = ElementTree.fromstring(body)
    return status, error.findtext("Code"), error.findtext("Message")


@pytest.fixture(params=["s3v4", "s3"])
def signer(ebbtide, request):
    """boto3 by either version of the signature."""
    config = Config(signature_version=request.param)
    return ebbtide.session().client("s3", endpoint_url=ebbtide.url, config=config)


def test_a_form_that_boto3_made_uploads_its_file(signer, s3, bucket):
    form = signer.generate_presigned_post(
        bucket,
        "uploads/${filename}",
        Fields={"Content-Type": "text/plain", "x-amz-meta-by": "Ann"},
        Conditions=[
            {"Content-Type": "text/plain"},
            ["starts-with", "$x-amz-meta-by", ""],
            ["content-length-range", 1, 1_000_000],
        ],
    )
    content = bytes(range(256)) * 3000 + b"\r\n--"

    status, headers, body = post(form, content, filename="a b.bin")

    stored = s3.get_object(Bucket=bucket, Key="uploads/a b.bin")
    assert (status, body) == (204, b"")
    assert headers["etag"] == stored["ETag"]
    assert stored["Body"].read() == content
    assert (stored["ContentType"], stored["Metadata"]) == ("text/plain", {"by": "Ann"})


def test_a_form_says_what_its_success_is_answered_with(s3, bucket):
    def form(**wish):
        return s3.generate_presigned_post(
            bucket, "k&k", Fields=wish, Conditions=[{name: value} for name, value in wish.items()]
        )

    created = post(form(success_action_status="201"))
    plain = post(form(success_action_status="200"))
    unknown = post(form(success_action_status="404"))
    redirected = post(form(success_action_redirect="https://pages.example/done?of=us"))
    unsafe = post(form(success_action_redirect="javascript:alert(1)"))

    document = ElementTree.fromstring(created[2])
    etag = '"5d41402abc4b2a76b9719d911017c592"'
    assert created[0] == 201
    assert {element.tag: element.text for element in document} == {
        "Location": f"{s3.meta.endpoint_url}/{bucket}/k%26k",
        "Bucket": bucket,
        "Key": "k&k",
        "ETag": etag,
    }
    assert (plain[0], unknown[0], unsafe[0]) == (200, 204, 204)
    assert redirected[0] == 303
    assert redirected[1]["location"] == (
        f"https://pages.example/done?of=us&bucket={bucket}&key=k%26k"
        "&etag=%225d41402abc4b2a76b9719d911017c592%22"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(b"123", (400, "EntityTooSmall"), id="too short"),
        pytest.param(b"1234", (204, None), id="the least"),
        pytest.param(b"12345", (204, None), id="the most"),
        pytest.param(b"123456", (400, "EntityTooLarge"), id="too long"),
    ],
)
def test_a_file_is_as_long_as_the_policy_allows(s3, bucket, content, expected):
    form = s3.generate_presigned_post(bucket, "k", Conditions=[["content-length-range", 4, 5]])

    answer = post(form, content)

    assert (answer[0], refusal(answer)[1] if answer[2] else None) == expected
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == (expected[0] == 204)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({"extra": {"key": "b/k"}}, "Policy Condition failed", id="another key"),
        pytest.param({"extra": {"acl": "public-read"}}, "Extra input fields: acl", id="a field more"),
        pytest.param({"drop": ["x-amz-meta-by"]}, "Policy Condition failed", id="a field less"),
        pytest.param({"extra": {"x-amz-meta-by": "Eve"}}, "Policy Condition failed", id="another prefix"),
        pytest.param({"extra": {"x-amz-signature": "0" * 64}}, "signature we calculated", id="forged"),
        pytest.param({"extra": {"policy": "e30="}}, "signature we calculated", id="a policy of one's own"),
        pytest.param({"drop": ["policy"]}, "Access Denied", id="no policy"),
        pytest.param({"drop": ["key"]}, "a field named 'key'", id="no key"),
        pytest.param({"extra": {"x-amz-credential": "a/20200101/r/s3"}}, "credential", id="no credential"),
    ],
)
def test_a_form_that_its_policy_does_not_allow_is_refused(ebbtide, s3, bucket, changed, expected):
    config = Config(signature_version="s3v4")
    signer = ebbtide.session().client("s3", endpoint_url=ebbtide.url, config=config)
    form = signer.generate_presigned_post(
        bucket,
        "a/k",
        Fields={"x-amz-meta-by": "Ann"},
        Conditions=[["starts-with", "$x-amz-meta-by", "An"]],
    )

    status, _, message = refusal(post(form, **changed))

    assert status in (400, 403)
    assert expected in message
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_a_field_of_several_lines_is_not_made_a_header(s3, bucket):
    form = s3.generate_presigned_post(bucket, "k", Conditions=[["starts-with", "$x-amz-meta-a", ""]])

    refused = refusal(post(form, extra={"x-amz-meta-a": "1\r\nSet-Cookie: x"}))

    assert refused[:2] == (400, "InvalidArgument")


def test_an_expired_policy_is_refused(s3, bucket):
    form = s3.generate_presigned_post(bucket, "k", ExpiresIn=-1)

    assert refusal(post(form)) == (403, "AccessDenied", "Invalid according to Policy: Policy expired.")


def test_a_forms_tags_and_checksum_are_the_objects(s3, bucket):
    def form(**fields):
        return s3.generate_presigned_post(
            bucket, "k", Fields=fields, Conditions=[{name: value} for name, value in fields.items()]
        )

    tags = "<Tagging><TagSet><Tag><Key>a&amp;b</Key><Value>1=2</Value></Tag></TagSet></Tagging>"
    right, wrong = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=", "A" * 43 + "="

    stored = post(form(tagging=tags, **{"x-amz-checksum-sha256": right}))
    refused = refusal(post(form(**{"x-amz-checksum-sha256": wrong})))

    assert stored[0] == 204
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "a&b", "Value": "1=2"}]
    assert refused[:2] == (400, "BadDigest")


def test_a_form_for_another_bucket_or_none_is_refused(s3, bucket):
    form = s3.generate_presigned_post(bucket, "k")
    elsewhere = form | {"url": f"{s3.meta.endpoint_url}/another-bucket"}
    nowhere = s3.generate_presigned_post("no-such-bucket", "k")

    assert refusal(post(elsewhere))[1] == "AccessDenied"
    assert refusal(post(nowhere))[:2] == (404, "NoSuchBucket")


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"--b\r\n", id="a delimiter"),
        pytest.param(b'--b\r\nContent-Disposition: form-data; name="key"\r\n\r\nk', id="no end of a field"),
        pytest.param(b"--b\r\nX: y\r\n\r\nk\r\n--b--", id="no name"),
        pytest.param(b'--b\r\nContent-Disposition: form-data; name="key"\r\n\r\n\xff\r\n--b--', id="no text"),
        pytest.param(b"x" * 30_000, id="no delimiter"),
    ],
)
def test_a_malformed_form_is_refused(s3, bucket, body):
    url = f"{s3.meta.endpoint_url}/{bucket}"
    headers = {"content-type": "multipart/form-data; boundary=b"}

    answer = urllib3.request("POST", url, body=body, headers=headers, retries=False)

    assert refusal((answer.status, answer.headers, answer.data))[:2] in [
        (400, "MalformedPOSTRequest"),
        (400, "MaxPostPreDataLengthExceededError"),
    ]


def test_a_file_that_breaks_off_is_not_stored(s3, bucket):
    form = s3.generate_presigned_post(bucket, "k")
    fields = "".join(
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in form["fields"].items()
    )
    body = f'{fields}--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nhalf'
    headers = {"content-type": "multipart/form-data; boundary=b"}

    answer = urllib3.request("POST", form["url"], body=body, headers=headers, retries=False)

    assert refusal((answer.status, answer.headers, answer.data))[1] == "MalformedPOSTRequest"
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
