"""Our own API's door: who may ask, and how it refuses. Through plain signed HTTP."""

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from openapi_spec_validator import validate

from ebbtide.pytest_plugin import Ebbtide


def answered(request: urllib.request.Request) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def ask(
    ebbtide: Ebbtide,
    method: str,
    path: str,
    body: bytes | None = None,
    *,
    service: str = "ebbtide",
    secret: str | None = None,
    sent: bytes | None = None,
    presigned: bool = False,
) -> tuple[int, Any]:
    """Sign `body`, send `sent` if it is given; the status and the JSON of the answer."""
    request = AWSRequest(method, f"{ebbtide.url}/_ebbtide/{path}", data=body)
    key = Credentials(ebbtide.credentials.access_key_id, secret or ebbtide.credentials.secret_access_key)
    signer = SigV4QueryAuth if presigned else SigV4Auth
    signer(key, service, ebbtide.region).add_auth(request)
    prepared = request.prepare()
    return answered(
        urllib.request.Request(
            prepared.url, data=sent or body, method=method, headers=dict(prepared.headers.items())
        )
    )


@pytest.mark.parametrize("service", ["ebbtide", "sagemaker", "execute-api"])
@pytest.mark.parametrize("presigned", [False, True], ids=["header", "presigned"])
def test_a_signature_for_a_service_that_signers_know_is_taken(
    ebbtide: Ebbtide, service: str, presigned: bool
):
    status, answer = ask(ebbtide, "GET", "keys", service=service, presigned=presigned)

    assert (status, list(answer)) == (200, ["keys"])


def test_a_signature_for_another_service_is_refused(ebbtide: Ebbtide):
    status, answer = ask(ebbtide, "GET", "keys", service="s3")

    assert (status, answer["code"]) == (403, "InvalidSignatureException")


def test_a_request_without_a_signature_is_refused(ebbtide: Ebbtide):
    status, answer = answered(urllib.request.Request(f"{ebbtide.url}/_ebbtide/keys"))

    assert (status, answer["code"]) == (403, "MissingAuthenticationTokenException")


def test_a_wrong_secret_is_refused(ebbtide: Ebbtide):
    status, answer = ask(ebbtide, "GET", "keys", secret="wrong")

    assert (status, answer["code"]) == (403, "InvalidSignatureException")


def test_a_body_that_is_not_the_one_signed_is_refused(ebbtide: Ebbtide):
    signed, sent = b'{"account": "222222222222"}', b'{"account": "333333333333"}'

    status, answer = ask(ebbtide, "POST", "keys", signed, sent=sent)

    assert (status, answer["code"]) == (403, "InvalidSignatureException")


def test_a_path_that_leads_nowhere_is_not_found(ebbtide: Ebbtide):
    assert ask(ebbtide, "GET", "nowhere") == (
        404,
        {"code": "NotFound", "message": "There is no such page."},
    )


def test_a_method_that_a_resource_lacks_is_refused(ebbtide: Ebbtide):
    status, answer = ask(ebbtide, "PATCH", "keys")

    assert (status, answer["code"]) == (405, "MethodNotAllowed")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        pytest.param(b"{", "The body is not valid JSON.", id="no JSON"),
        pytest.param(b"[]", "body: ", id="no object"),
        pytest.param(b'{"label": "x"}', "account: ", id="a field that lacks"),
        pytest.param(b'{"account": "222222222222", "x": 1}', "x: ", id="a field too many"),
        pytest.param(b'{"account": 5}', "account: ", id="a field of another type"),
        pytest.param(b"", "body: ", id="no body"),
    ],
)
def test_a_wrong_body_is_refused_by_what_is_wrong(ebbtide: Ebbtide, body: bytes, named: str):
    status, answer = ask(ebbtide, "POST", "keys", body)

    assert (status, answer["code"]) == (400, "ValidationError")
    assert answer["message"].startswith(named)


def test_a_body_without_end_is_refused(ebbtide: Ebbtide):
    status, answer = ask(ebbtide, "POST", "keys", b" " * (4 * 1024 * 1024 + 1))

    assert (status, answer["code"]) == (413, "RequestTooLarge")


def test_the_openapi_document_is_valid_and_needs_no_signature(ebbtide: Ebbtide):
    status, document = answered(urllib.request.Request(f"{ebbtide.url}/_ebbtide/openapi.json"))

    validate(document)
    assert status == 200
    assert "/_ebbtide/keys" in document["paths"]


def test_a_method_that_a_path_lacks_is_refused_with_those_that_it_has(ebbtide: Ebbtide):
    request = AWSRequest("DELETE", f"{ebbtide.url}/_ebbtide/accounts/222222222222")
    key = Credentials(ebbtide.credentials.access_key_id, ebbtide.credentials.secret_access_key)
    SigV4QueryAuth(key, "ebbtide", ebbtide.region).add_auth(request)

    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(request.url, method="DELETE"))

    with refused.value as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "GET, PUT")
