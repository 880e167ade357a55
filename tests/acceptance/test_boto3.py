"""The main job through boto3: what a request becomes, good or bad."""

import io
import json
from typing import Any

import pytest
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError
from tests.deployments import Deployed, outcome

from ebbtide.pytest_plugin import Ebbtide


def invoke(ebbtide: Ebbtide, endpoint: str, location: str, **parameters: str) -> dict[str, Any]:
    given = {"ContentType": "application/json"} | parameters
    runtime = ebbtide.client("sagemaker-runtime")
    return runtime.invoke_endpoint_async(EndpointName=endpoint, InputLocation=location, **given)


def test_an_accepted_request_becomes_a_summary_in_the_output_path(
    ebbtide: Ebbtide, summaries: Deployed, article: str
):
    answer = invoke(ebbtide, summaries.name, article)

    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert answer["OutputLocation"].startswith(f"s3://{summaries.bucket}/results/")
    kind, body, _ = outcome(ebbtide, answer)
    assert kind == "output"
    [summary] = json.loads(body)
    assert summary["summary_text"]


def test_a_request_keeps_the_inference_id_that_its_client_chose(
    ebbtide: Ebbtide, summaries: Deployed, article: str
):
    answer = invoke(ebbtide, summaries.name, article, InferenceId="my-own-id")

    assert answer["InferenceId"] == "my-own-id"


def test_an_inline_body_needs_no_input_object(ebbtide: Ebbtide, summaries: Deployed):
    body = json.dumps({"inputs": "Rivers carry water. Rivers carry sand. The sea takes both in the end."})

    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=summaries.name, Body=body.encode(), ContentType="application/json"
    )

    kind, body, _ = outcome(ebbtide, answer)
    assert kind == "output"
    assert b"summary_text" in body


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
    ebbtide: Ebbtide, summaries: Deployed, body: bytes, said: str
):
    ebbtide.client("s3").put_object(Bucket=summaries.bucket, Key="inputs/refused", Body=body)

    answer = invoke(ebbtide, summaries.name, f"s3://{summaries.bucket}/inputs/refused")

    kind, written, _ = outcome(ebbtide, answer)
    failure = json.loads(written)
    assert (kind, failure["code"]) == ("failure", 400)
    assert said in failure["message"]


def test_a_missing_input_object_is_accepted_and_then_fails(ebbtide: Ebbtide, summaries: Deployed):
    answer = invoke(ebbtide, summaries.name, f"s3://{summaries.bucket}/inputs/nothing-here")

    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    kind, written, _ = outcome(ebbtide, answer)
    assert kind == "failure"
    assert b"nothing-here" in written


def test_an_input_whose_file_was_lost_fails_as_such_and_not_as_the_models_fault(
    ebbtide: Ebbtide, summaries: Deployed
):
    before = set((ebbtide.data / "objects").iterdir())
    ebbtide.client("s3").put_object(Bucket=summaries.bucket, Key="inputs/lost", Body=b"x" * 100_000)
    [file] = set((ebbtide.data / "objects").iterdir()) - before
    file.unlink()

    answer = invoke(ebbtide, summaries.name, f"s3://{summaries.bucket}/inputs/lost")

    kind, written, _ = outcome(ebbtide, answer)
    assert kind == "failure"
    assert "/inputs/lost could not be read: The bytes of the object are lost" in written.decode()


def test_a_byte_of_an_input_that_the_disk_has_changed_never_reaches_the_model(
    ebbtide: Ebbtide, summaries: Deployed
):
    before = set((ebbtide.data / "objects").iterdir())
    in_parts = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, use_threads=False)
    ebbtide.client("s3").upload_fileobj(
        io.BytesIO(b"x" * (6 << 20)), summaries.bucket, "inputs/changed", Config=in_parts
    )
    changed = max(set((ebbtide.data / "objects").iterdir()) - before, key=lambda path: path.stat().st_size)
    with changed.open("r+b") as file:
        file.seek(5 << 19)
        file.write(b"y")

    answer = invoke(ebbtide, summaries.name, f"s3://{summaries.bucket}/inputs/changed")

    kind, written, _ = outcome(ebbtide, answer)
    assert kind == "failure"
    assert "The bytes of the object are lost: their CRC32 was" in written.decode()


def test_an_unknown_endpoint_refuses_with_its_name(ebbtide: Ebbtide, article: str):
    with pytest.raises(ClientError) as refused:
        invoke(ebbtide, "nobody", article)

    assert refused.value.response["Error"]["Code"] == "ValidationError"
    assert "nobody" in refused.value.response["Error"]["Message"]


def test_a_wrong_key_is_refused(ebbtide: Ebbtide):
    stranger = ebbtide.session().client(
        "sagemaker", endpoint_url=ebbtide.url, aws_access_key_id="AKIAWRONG", aws_secret_access_key="wrong"
    )

    with pytest.raises(ClientError) as refused:
        stranger.list_endpoints()

    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
