"""What consumers of the success and error topics read."""

import base64
import json

from ebbtide.queue.invocations import Invocation
from ebbtide.queue.messages import message

REQUEST = Invocation(
    id="5c1d",
    inference_id="0b7a",
    account="123456789012",
    endpoint_id="e",
    accepted_at=1714644001.020,
    expires_at=1714665601.020,
    timeout_s=900,
    input_uri="s3://in/a.json",
    content_type="application/json",
    accept=None,
    custom_attributes=None,
    output_uri="s3://out/results/5c1d.out",
    failure_uri="s3://out/failures/5c1d-error.out",
    body=None,
)


def test_a_success_message_is_sagemakers_member_by_member() -> None:
    text = message(
        REQUEST,
        endpoint_name="ep",
        region="eu-west-1",
        status="Completed",
        at=1714644007.412,
        response={"contentType": "application/json", "outputLocation": REQUEST.output_uri},
    )

    assert text == (
        '{"awsRegion":"eu-west-1","eventTime":"2024-05-02T10:00:07.412Z",'
        '"receivedTime":"2024-05-02T10:00:01.020Z","invocationStatus":"Completed",'
        '"requestParameters":{"contentType":"application/json","endpointName":"ep",'
        '"inputLocation":"s3://in/a.json"},'
        '"responseParameters":{"contentType":"application/json","outputLocation":"s3://out/results/5c1d.out"},'
        '"inferenceId":"0b7a","eventVersion":"1.0","eventSource":"aws:sagemaker",'
        '"eventName":"InferenceResult"}'
    )


def test_a_failure_message_says_why_and_where() -> None:
    reason = "ClientError: Received server error (500) from model."

    text = message(
        REQUEST,
        endpoint_name="ep",
        region="eu-west-1",
        status="Failed",
        at=1714644007.412,
        failure_reason=reason,
        response={"failureLocation": "s3://out/failures/5c1d-error.out"},
    )

    content = json.loads(text)
    assert list(content) == [
        "awsRegion",
        "eventTime",
        "receivedTime",
        "invocationStatus",
        "failureReason",
        "requestParameters",
        "responseParameters",
        "inferenceId",
        "eventVersion",
        "eventSource",
        "eventName",
    ]
    assert content["failureReason"] == reason


def test_the_response_is_in_the_message_where_the_endpoint_asks_for_it() -> None:
    text = message(
        REQUEST,
        endpoint_name="ep",
        region="eu-west-1",
        status="Completed",
        at=0.0,
        response={},
        include=True,
        included="Zusammenfassung é".encode(),
    )

    body = json.loads(text)["responseBody"]
    assert body["encoding"] == "BASE64"
    assert base64.b64decode(body["content"]).decode() == "Zusammenfassung é"


def test_a_response_too_large_for_a_message_is_said_to_be_left_out() -> None:
    text = message(
        REQUEST,
        endpoint_name="ep",
        region="eu-west-1",
        status="Completed",
        at=0.0,
        response={},
        include=True,
        included=None,
    )

    body = json.loads(text)["responseBody"]
    assert "content" not in body
    assert "131072 bytes" in body["message"]
