"""Deliveries seen and repeated, and rules that invoke on upload, over our own API."""

import json
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.deployments import Deployed, deploy
from tests.receivers import next_message

import ebbtide as package
from ebbtide.client import Client
from ebbtide.pytest_plugin import Ebbtide


@dataclass(frozen=True)
class Told:
    """An endpoint whose successes go to a topic, and the queue that is subscribed to it."""

    endpoint: Deployed
    topic_arn: str
    queue_url: str


@pytest.fixture(scope="module")
def told(ebbtide: Ebbtide) -> Told:
    name = f"told-{uuid.uuid4().hex[:8]}"
    sns, sqs = ebbtide.client("sns"), ebbtide.client("sqs")
    topic_arn = sns.create_topic(Name=name)["TopicArn"]
    queue_url = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(TopicArn=topic_arn, Protocol="sqs", Endpoint=queue_arn["QueueArn"])
    endpoint = deploy(
        ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, notification={"SuccessTopic": topic_arn}
    )
    return Told(endpoint, topic_arn, queue_url)


def invoke(session: package.Session, endpoint: Deployed) -> str:
    answer = session.client("sagemaker-runtime").invoke_endpoint_async(EndpointName=endpoint.name, Body=b"x")
    inference_id: str = answer["InferenceId"]
    return inference_id


def await_message(ebbtide: Ebbtide, told: Told, inference_id: str) -> None:
    """Take messages until one tells of this outcome: the first is the endpoint's greeting."""
    told_of = None
    while told_of != inference_id:
        envelope = json.loads(next_message(ebbtide.client("sqs"), told.queue_url))
        told_of = json.loads(envelope["Message"]).get("inferenceId")


def refused(call: Any, *arguments: Any, **named: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(*arguments, **named)
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


def test_an_outcomes_delivery_is_seen_and_repeated(
    ebbtide: Ebbtide, session: package.Session, own: Client, told: Told
) -> None:
    id_ = own.wait(invoke(session, told.endpoint), timeout_s=180)["id"]
    await_message(ebbtide, told, id_)

    (delivery,) = own.request("GET", "deliveries", {"invocation": id_})["deliveries"]
    replayed = own.request("POST", "deliveries/replay", body={"invocation": id_})

    assert (delivery["state"], delivery["topic_arn"]) == ("delivered", told.topic_arn)
    assert [attempt["error"] for attempt in delivery["attempts"]] == [None]
    assert replayed == {"replayed": 1}
    await_message(ebbtide, told, id_)
    assert own.get(id_)["timeline"][-1]["event"] == "notified"


def test_deliveries_are_paged(session: package.Session, own: Client, told: Told) -> None:
    ids = [own.wait(invoke(session, told.endpoint), timeout_s=180)["id"] for _ in range(3)]

    seen, after = [], None
    while True:
        query = {"topic_arn": told.topic_arn, "limit": 2, "after": after}
        page = own.request("GET", "deliveries", query)
        assert len(page["deliveries"]) <= 2
        seen += [delivery["invocation_id"] for delivery in page["deliveries"]]
        after = page["next"]
        if after is None:
            break

    assert seen[:3] == ids[::-1]
    assert len(seen) == len(set(seen))
    before_time = {"topic_arn": told.topic_arn, "published_before": "1763-11-07T00:00:00Z"}
    assert own.request("GET", "deliveries", before_time)["deliveries"] == []


@pytest.mark.parametrize(
    ("method", "path", "query", "body", "named"),
    [
        pytest.param("POST", "deliveries/replay", {}, {}, "must be given", id="everything at once"),
        pytest.param(
            "POST",
            "deliveries/replay",
            {},
            {"topic_arn": "x", "state": "pending"},
            "state: ",
            id="pending ones",
        ),
        pytest.param("GET", "deliveries", {"after": "x~y"}, None, "after: ", id="no such page"),
        pytest.param("GET", "deliveries", {"state": "lost"}, None, "state: ", id="no such state"),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    own: Client, method: str, path: str, query: Any, body: Any, named: str
) -> None:
    status, message = refused(own.request, method, path, query, body=body)

    assert status == 400
    assert named in message


def test_a_rule_invokes_its_endpoint_for_each_upload(ebbtide: Ebbtide, own: Client, told: Told) -> None:
    bucket = told.endpoint.bucket
    rule = own.request(
        "POST",
        "upload-rules",
        body={"bucket": bucket, "prefix": "inbox/", "endpoint": told.endpoint.name},
    )
    ebbtide.client("s3").put_object(Bucket=bucket, Key="inbox/article.txt", Body=b"The tide rises.")

    made: list[Any] = []
    while not made:
        made = list(own.invocations(tag=f"upload-rule:{rule['id']}"))
    done = own.wait(made[0]["id"], timeout_s=180)

    assert (done["state"], done["input_location"]) == ("succeeded", f"s3://{bucket}/inbox/article.txt")
    listed = own.request("GET", "upload-rules")["upload_rules"]
    assert rule in listed
    standing = own.request("GET", f"upload-rules/{rule['id']}")
    assert (standing["waiting"], standing["given_up"], standing["last_error"]) == (0, 0, None)
    assert own.request("PATCH", f"upload-rules/{rule['id']}", body={"enabled": False})["enabled"] is False
    own.request("DELETE", f"upload-rules/{rule['id']}")
    assert refused(own.request, "GET", f"upload-rules/{rule['id']}")[0] == 404


def test_a_rule_that_would_invoke_itself_is_refused(own: Client, told: Told) -> None:
    body = {"bucket": told.endpoint.bucket, "endpoint": told.endpoint.name}

    status, message = refused(own.request, "POST", "upload-rules", body=body)

    assert status == 400
    assert "writes itself" in message
