"""Keys and accounts: whoever the operator gives a key to uses every API with it, as the account it has."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from tests.deployments import deploy

import ebbtide as package
from ebbtide.client import Client
from ebbtide.pytest_plugin import Ebbtide

JOINED, SEPARATE, BOUNDED, NEVER_MADE = "222222222222", "333333333333", "777777777777", "999999999999"

PATIENCE_S = 120.0


@pytest.fixture
def operator(own: Client) -> Client:
    return own


@pytest.fixture
def keys(operator: Client) -> Iterator[list[str]]:
    """The ids of keys to remove at the end."""
    added: list[str] = []
    yield added
    for access_key_id in added:
        operator.request("DELETE", f"keys/{access_key_id}")


def add_key(ebbtide: Ebbtide, operator: Client, keys: list[str], account: str) -> package.Session:
    """A session with a new key of the account."""
    key = operator.request("POST", "keys", body={"account": account, "label": "test"})
    keys.append(key["access_key_id"])
    return package.connect(
        ebbtide.url,
        aws_access_key_id=key["access_key_id"],
        aws_secret_access_key=key["secret_access_key"],
        region_name=ebbtide.region,
    )


def refused(call: Any, *arguments: Any, **named: Any) -> tuple[str, int]:
    answer = answered(call, *arguments, **named)
    assert answer is not None
    return answer


def answered(call: Any, *arguments: Any, **named: Any) -> tuple[str, int] | None:
    """The error's code and status that a call got; None for one that succeeded."""
    try:
        call(*arguments, **named)
    except ClientError as error:
        return error.response["Error"]["Code"], error.response["ResponseMetadata"]["HTTPStatusCode"]
    return None


def test_an_accounts_key_is_told_its_own_account_and_uses_the_operators_resources(
    ebbtide: Ebbtide, operator: Client, keys: list[str]
) -> None:
    session = add_key(ebbtide, operator, keys, JOINED)
    ebbtide.client("s3").create_bucket(Bucket="of-the-operator")

    buckets = session.client("s3").list_buckets()["Buckets"]

    assert session.client("sts").get_caller_identity()["Account"] == JOINED
    assert "of-the-operator" in {bucket["Name"] for bucket in buckets}


def test_a_separate_accounts_key_has_resources_of_its_own(
    ebbtide: Ebbtide, operator: Client, keys: list[str]
) -> None:
    operator.request("PUT", f"accounts/{SEPARATE}", body={"name": "Law", "joins": None})
    session = add_key(ebbtide, operator, keys, SEPARATE)
    ebbtide.client("s3").create_bucket(Bucket="not-of-law")
    s3 = session.client("s3")
    s3.create_bucket(Bucket="of-law")
    group, metric = "/of/the/operator", {"Namespace": "Of/the/operator", "MetricName": "Level"}
    ebbtide.client("cloudwatch").put_metric_data(
        Namespace=metric["Namespace"], MetricData=[{"MetricName": metric["MetricName"], "Value": 1}]
    )
    ebbtide.client("logs").create_log_group(logGroupName=group)

    assert [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]] == ["of-law"]
    assert refused(s3.list_objects_v2, Bucket="not-of-law") == ("AccessDenied", 403)
    assert session.client("cloudwatch").list_metrics(**metric)["Metrics"] == []
    assert session.client("logs").describe_log_groups()["logGroups"] == []
    told, _ = refused(session.client("logs").delete_log_group, logGroupName=group)
    assert told == "ResourceNotFoundException"


def test_an_accounts_requests_are_its_own_and_bounded_by_its_quota(
    ebbtide: Ebbtide, operator: Client, keys: list[str]
) -> None:
    endpoint = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, instances=0)
    operator.request("PUT", f"accounts/{BOUNDED}", body={"queued_quota": 1})
    session = add_key(ebbtide, operator, keys, BOUNDED)
    runtime = session.client("sagemaker-runtime", config=Config(retries={"total_max_attempts": 1}))
    request = {"EndpointName": endpoint.name, "Body": b"x"}

    id_ = runtime.invoke_endpoint_async(**request)["InferenceId"]

    assert refused(runtime.invoke_endpoint_async, **request)[0] == "ThrottlingException"
    assert operator.get(id_)["account"] == BOUNDED
    assert [one["id"] for one in session.ebbtide.invocations(account=BOUNDED)] == [id_]
    ebbtide.client("sagemaker-runtime").invoke_endpoint_async(**request)
    assert {depth["account"] for depth in operator.endpoint(endpoint.name)["accounts"]} == {
        BOUNDED,
        "123456789012",
    }


def test_a_removed_key_stops_working(ebbtide: Ebbtide, operator: Client, server_database: str) -> None:
    """At once; where another server is asked than the one that removed it, within seconds."""
    added: list[str] = []
    sts = add_key(ebbtide, operator, added, JOINED).client("sts")
    sts.get_caller_identity()

    operator.request("DELETE", f"keys/{added[0]}")

    deadline = time.monotonic() + PATIENCE_S
    while (answer := answered(sts.get_caller_identity)) is None and server_database == "postgresql":
        assert time.monotonic() < deadline
    assert answer == ("InvalidClientTokenId", 403)


def test_keys_are_listed_without_their_secrets(ebbtide: Ebbtide, operator: Client, keys: list[str]) -> None:
    add_key(ebbtide, operator, keys, JOINED)

    (listed,) = [key for key in operator.request("GET", "keys")["keys"] if key["access_key_id"] == keys[0]]

    assert (listed["account"], listed["label"]) == (JOINED, "test")
    assert "secret_access_key" not in listed


def test_an_account_keeps_its_terms(operator: Client) -> None:
    terms = {"name": "Economics", "weight": 2.5, "queued_quota": 100, "joins": "123456789012"}

    put = operator.request("PUT", f"accounts/{JOINED}", body=terms)

    assert put == {"account": JOINED} | terms
    assert operator.request("GET", f"accounts/{JOINED}") == put
    assert put in operator.request("GET", "accounts")["accounts"]


def test_only_the_operator_manages_keys_and_accounts(
    ebbtide: Ebbtide, operator: Client, keys: list[str]
) -> None:
    own = add_key(ebbtide, operator, keys, JOINED).ebbtide

    for method, path in [("GET", "keys"), ("GET", "accounts"), ("DELETE", f"keys/{keys[0]}")]:
        assert refused(own.request, method, path) == ("AccessDenied", 403)


def test_what_was_never_made_is_not_found(operator: Client) -> None:
    assert refused(operator.request, "DELETE", "keys/AKIANOBODY") == ("NotFound", 404)
    assert refused(operator.request, "GET", f"accounts/{NEVER_MADE}") == ("NotFound", 404)
