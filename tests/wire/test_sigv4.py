"""Signatures as botocore's own signers make them, checked and refused."""

import hashlib
import time
from contextlib import suppress
from urllib.parse import quote, urlsplit

import pytest
from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.utils import percent_encode_sequence
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.wire import sigv2, sigv4
from ebbtide.wire.request import Request

KEY_ID, SECRET = "AKIDEXAMPLE/with+slash", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
CREDENTIALS = Credentials(KEY_ID, SECRET)
EMPTY = sigv4.EMPTY_SHA256


def signed(
    signer: auth.BaseSigner,
    *,
    method: str = "POST",
    url: str = "http://localhost:8377/",
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> Request:
    """A request with the signature of one of botocore's signers, as a server sees it."""
    request = AWSRequest(method, url, data=body, headers=headers or {})
    request.context["client_config"] = None
    signer.add_auth(request)
    prepared = request.prepare()
    parts = urlsplit(prepared.url)
    received = {
        name.lower(): value.decode() if isinstance(value, bytes) else str(value)
        for name, value in prepared.headers.items()
    }
    return Request(method, parts.path or "/", parts.query, {"host": parts.netloc, **received}, body)


def check(request: Request, *, secret: str = SECRET, now: float | None = None) -> None:
    """Verify as the server does: the declared hash, else that of the body."""
    signature = sigv4.read_signature(request)
    assert signature is not None
    assert signature.access_key_id == KEY_ID
    declared = sigv4.declared_payload_hash(request, signature)
    payload_hash = declared or hashlib.sha256(request.body).hexdigest()
    sigv4.verify(
        request, signature, secret, payload_hash=payload_hash, now=time.time() if now is None else now
    )


segments = st.text(st.characters(codec="utf-8", exclude_characters="/?#\0"), min_size=1, max_size=12)
arguments = st.lists(st.tuples(segments, st.text(st.characters(codec="utf-8"), max_size=8)), max_size=4)


def encoded_url(path: list[str], query: list[tuple[str, str]]) -> str:
    encoded = "/".join(quote(segment, safe="-_.~") for segment in path)
    return f"http://localhost:8377/{encoded}?{percent_encode_sequence(query)}"


@given(path=st.lists(segments, max_size=3), query=arguments, body=st.binary(max_size=64))
def test_any_request_that_a_client_signs_is_accepted(path, query, body):
    request = signed(
        auth.SigV4Auth(CREDENTIALS, "sagemaker", "eu-west-1"), url=encoded_url(path, query), body=body
    )

    check(request)


@given(path=st.lists(segments, min_size=1, max_size=3), query=arguments)
def test_any_object_key_that_a_client_signs_is_accepted(path, query):
    request = signed(
        auth.S3SigV4Auth(CREDENTIALS, "s3", "us-east-1"),
        method="PUT",
        url=encoded_url(path, query),
        body=b"data",
    )

    check(request)


@given(path=st.lists(segments, min_size=1, max_size=3), query=arguments)
def test_any_url_that_a_client_presigns_is_accepted(path, query):
    request = signed(
        auth.S3SigV4QueryAuth(CREDENTIALS, "s3", "us-east-1"), method="GET", url=encoded_url(path, query)
    )

    check(request)


def test_a_presigned_url_of_another_service_covers_the_empty_body():
    request = signed(
        auth.SigV4QueryAuth(CREDENTIALS, "sts", "us-east-1"),
        method="GET",
        url="http://localhost:8377/?Action=GetCallerIdentity&Version=2011-06-15",
    )

    check(request)


def test_blanks_in_and_around_header_values_do_not_matter():
    request = signed(
        auth.SigV4Auth(CREDENTIALS, "sns", "us-east-1"), headers={"x-amz-meta-a": "  two   words "}
    )
    request.headers["x-amz-meta-a"] = "two   words"

    check(request)


def test_a_date_header_stands_in_for_the_amazon_one():
    request = signed(
        auth.SigV4Auth(CREDENTIALS, "sns", "us-east-1"), headers={"Date": "Sat, 01 Jan 2000 00:00:00 GMT"}
    )
    assert "x-amz-date" not in request.headers

    check(request)


TAMPERINGS = [
    pytest.param({"method": "GET"}, id="another method"),
    pytest.param({"path": "/other"}, id="another path"),
    pytest.param({"query": "a=2"}, id="another argument"),
    pytest.param({"body": b"other"}, id="another body"),
]


@pytest.mark.parametrize("change", TAMPERINGS)
def test_what_is_changed_after_signing_is_refused(change):
    request = signed(
        auth.SigV4Auth(CREDENTIALS, "sagemaker", "us-east-1"), url="http://localhost:8377/p?a=1", body=b"body"
    )
    for name, value in change.items():
        setattr(request, name, value)

    with pytest.raises(sigv4.Refused) as refused:
        check(request)

    assert refused.value.reason is sigv4.Reason.MISMATCH


@pytest.mark.parametrize(
    ("header", "value"),
    [("host", "elsewhere:8377"), ("x-amz-target", "SageMaker.DeleteEndpoint"), ("x-amz-target", None)],
)
def test_a_signed_header_that_is_changed_or_gone_is_refused(header, value):
    request = signed(
        auth.SigV4Auth(CREDENTIALS, "sagemaker", "us-east-1"),
        headers={"x-amz-target": "SageMaker.ListModels"},
    )
    del request.headers[header]
    if value is not None:
        request.headers[header] = value

    with pytest.raises(sigv4.Refused) as refused:
        check(request)

    assert refused.value.reason is sigv4.Reason.MISMATCH


def test_another_secret_is_refused():
    request = signed(auth.SigV4Auth(CREDENTIALS, "sns", "us-east-1"))

    with pytest.raises(sigv4.Refused, match="does not match"):
        check(request, secret="another")


@pytest.mark.parametrize(
    ("age_s", "reason"),
    [
        pytest.param(890, None, id="within the window"),
        pytest.param(-890, None, id="a client ahead of us, within the window"),
        pytest.param(910, sigv4.Reason.CLOCK, id="too old"),
        pytest.param(-910, sigv4.Reason.CLOCK, id="from the future"),
    ],
)
def test_a_signature_is_good_for_a_quarter_of_an_hour_either_way(age_s, reason):
    request = signed(auth.SigV4Auth(CREDENTIALS, "sns", "us-east-1"))

    if reason is None:
        check(request, now=time.time() + age_s)
    else:
        with pytest.raises(sigv4.Refused) as refused:
            check(request, now=time.time() + age_s)
        assert refused.value.reason is reason


@pytest.mark.parametrize(("age_s", "good"), [(0, True), (95, True), (105, False), (-1000, False)])
def test_a_presigned_url_is_good_until_it_expires(age_s, good):
    request = signed(auth.S3SigV4QueryAuth(CREDENTIALS, "s3", "us-east-1", expires=100), method="GET")

    if good:
        check(request, now=time.time() + age_s)
    else:
        with pytest.raises(sigv4.Refused) as refused:
            check(request, now=time.time() + age_s)
        assert refused.value.reason is sigv4.Reason.EXPIRED


SCOPE = "K/20260101/us-east-1/sns/aws4_request"


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("Basic dXNlcjpwYXNz", id="another mechanism"),
        pytest.param("AWS4-HMAC-SHA256", id="nothing but the mechanism"),
        pytest.param(f"AWS4-HMAC-SHA256 Credential={SCOPE}, Signature=ab", id="no signed headers"),
        pytest.param(f"AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders=host", id="no signature"),
        pytest.param("AWS4-HMAC-SHA256 Credential=K, SignedHeaders=host, Signature=ab", id="no scope"),
        pytest.param(
            f"AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders=x-amz-date, Signature=ab", id="host unsigned"
        ),
    ],
)
def test_an_incomplete_authorization_header_is_refused_as_malformed(header):
    request = Request("POST", "/", "", {"authorization": header, "x-amz-date": "20260101T000000Z"})

    with pytest.raises(sigv4.Refused) as refused:
        sigv4.read_signature(request)

    assert refused.value.reason is sigv4.Reason.MALFORMED


@pytest.mark.parametrize("value", ["é", "zz", ""])
def test_a_signature_that_is_no_hex_is_refused(value):
    header = f"AWS4-HMAC-SHA256 Credential={SCOPE}, SignedHeaders=host, Signature={value or 'x'}"
    request = Request(
        "POST", "/", "", {"authorization": header, "x-amz-date": "20260101T000000Z", "host": "h"}
    )
    signature = sigv4.read_signature(request)
    assert signature is not None

    with pytest.raises(sigv4.Refused):
        sigv4.verify(request, signature, SECRET, payload_hash=EMPTY, now=1767225600)


def test_a_request_without_any_signature_says_so():
    request = Request("GET", "/bucket", "list-type=2", {"host": "h"})

    assert sigv4.read_signature(request) is None
    assert not sigv4.is_signed(request)


@pytest.mark.parametrize(
    ("method", "url", "headers"),
    [
        ("GET", "http://localhost:8377/b/k%20e%C3%BCy?response-content-type=text%2Fplain", {}),
        ("PUT", "http://localhost:8377/b/k?partNumber=1&uploadId=x%2By", {}),
        ("POST", "http://localhost:8377/b/k?uploads", {}),
        ("PUT", "http://localhost:8377/b/k", {"Content-Type": "text/plain", "x-amz-meta-a": "b"}),
    ],
)
def test_urls_presigned_by_version_2_are_accepted_until_they_expire(method, url, headers):
    request = signed(
        auth.HmacV1QueryAuth(Credentials("AKID", SECRET), expires=100),
        method=method,
        url=url,
        headers=headers,
    )
    assert sigv2.is_presigned(request)
    assert sigv2.access_key_id(request) == "AKID"

    sigv2.verify_presigned(request, request.path, SECRET, now=time.time() + 90)

    with pytest.raises(sigv4.Refused, match="expired"):
        sigv2.verify_presigned(request, request.path, SECRET, now=time.time() + 110)
    with pytest.raises(sigv4.Refused, match="does not match"):
        sigv2.verify_presigned(request, request.path + "x", SECRET, now=time.time())


SCRAPS = st.sampled_from(
    [
        "AWS4-HMAC-SHA256",
        " ",
        ",",
        "=",
        "Credential=",
        "SignedHeaders=",
        "Signature=",
        "/",
        ";",
        "host",
        "aws4_request",
    ]
)


@given(
    header=st.lists(SCRAPS | st.text(max_size=6), max_size=16).map("".join),
    date=st.none() | st.text(max_size=20) | st.just("Mon, 01 Jan 0001 00:00:00 +2300"),
    query=st.text("AXZ-amzSignature=&%20Credential/", max_size=60),
)
def test_whatever_is_claimed_is_verified_or_refused(header, date, query):
    headers = {"authorization": header, "host": "h"} | ({"date": date} if date is not None else {})

    for request in (Request("GET", "/", "", headers), Request("GET", "/", query, {"host": "h"})):
        with suppress(sigv4.Refused):
            if signature := sigv4.read_signature(request):
                sigv4.verify(request, signature, SECRET, payload_hash=EMPTY, now=0)
        if sigv2.is_presigned(request):
            with suppress(sigv4.Refused):
                sigv2.verify_presigned(request, "/", SECRET, now=0)
