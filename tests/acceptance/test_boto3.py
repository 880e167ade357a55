"""The main job through boto3: what a request becomes, good or bad."""

import json

import pytest
from botocore.exceptions import ClientError

EVERY_HALF_SECOND = {"Delay": 0.5, "MaxAttempts": 60}


def invoke(ebbtide, endpoint, location, **parameters):
    return ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint, InputLocation=location, **{"ContentType": "application/json"} | parameters
    )


def read(ebbtide, location):
    bucket, key = location.removeprefix("s3://").split("/", 1)
    s3 = ebbtide.client("s3")
    s3.get_waiter("object_exists").wait(Bucket=bucket, Key=key, WaiterConfig=EVERY_HALF_SECOND)
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def exists(ebbtide, location):
    bucket, key = location.removeprefix("s3://").split("/", 1)
    return "Contents" in ebbtide.client("s3").list_objects_v2(Bucket=bucket, Prefix=key)


def test_an_accepted_request_becomes_a_summary_in_the_output_path(ebbtide, extractive_endpoint, article):
    answer = invoke(ebbtide, extractive_endpoint, article)

    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert answer["OutputLocation"].startswith("s3://acceptance/outputs/")
    summaries = json.loads(read(ebbtide, answer["OutputLocation"]))
    assert [list(summary) for summary in summaries] == [["summary_text"]]
    assert summaries[0]["summary_text"]
    assert not exists(ebbtide, answer["FailureLocation"])


def test_a_request_keeps_the_inference_id_that_its_client_chose(ebbtide, extractive_endpoint, article):
    answer = invoke(ebbtide, extractive_endpoint, article, InferenceId="my-own-id")

    assert answer["InferenceId"] == "my-own-id"


def test_an_inline_body_needs_no_input_object(ebbtide, extractive_endpoint):
    body = json.dumps({"inputs": "Rivers carry water. Rivers carry sand. The sea takes both in the end."})

    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=extractive_endpoint, Body=body.encode(), ContentType="application/json"
    )

    assert "summary_text" in read(ebbtide, answer["OutputLocation"]).decode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(b'{"inputs": ', "", id="JSON that is cut off"),
        pytest.param(b"\xff\xfe\x00binary", "", id="bytes that are no text"),
        pytest.param(
            b'{"inputs": "A text.", "parameters": {"max_length": -3}}',
            "max_length",
            id="a parameter out of range",
        ),
    ],
)
def test_a_body_the_model_refuses_becomes_a_failure_object_with_the_models_reason(
    ebbtide, extractive_endpoint, bucket, body, said
):
    ebbtide.client("s3").put_object(Bucket=bucket, Key="inputs/refused", Body=body)

    answer = invoke(ebbtide, extractive_endpoint, f"s3://{bucket}/inputs/refused")

    failure = json.loads(read(ebbtide, answer["FailureLocation"]))
    assert failure["code"] == 400
    assert said in failure["message"]
    assert not exists(ebbtide, answer["OutputLocation"])


def test_a_missing_input_object_is_accepted_and_then_fails(ebbtide, extractive_endpoint, bucket):
    answer = invoke(ebbtide, extractive_endpoint, f"s3://{bucket}/inputs/nothing-here")

    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert b"nothing-here" in read(ebbtide, answer["FailureLocation"])


def test_an_unknown_endpoint_refuses_with_its_name(ebbtide, article):
    with pytest.raises(ClientError) as refused:
        invoke(ebbtide, "nobody", article)

    assert refused.value.response["Error"]["Code"] == "ValidationError"
    assert "nobody" in refused.value.response["Error"]["Message"]


def test_a_wrong_key_is_refused(ebbtide):
    stranger = ebbtide.session().client(
        "sagemaker", endpoint_url=ebbtide.url, aws_secret_access_key="wrong", aws_access_key_id="AKIAWRONG"
    )

    with pytest.raises(ClientError) as refused:
        stranger.list_endpoints()

    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
