"""InvokeEndpointAsync and InvokeEndpoint through boto3, against a running server and real model servers."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.deployments import Deployed, deploy, outcome
from tests.receivers import next_message

from ebbtide.pytest_plugin import Ebbtide

TEACHABLE = '''
"""Does what each request tells it to."""
import json, os, time

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    told = json.loads(body)
    if "sleep_s" in told:
        time.sleep(told["sleep_s"])
    if "exit" in told:
        os._exit(told["exit"])
    if "raise" in told:
        raise RuntimeError(told["raise"])
    if "allocate_mb" in told:
        hoard = bytearray(told["allocate_mb"] * 1024 * 1024)
        for at in range(0, len(hoard), 4096):
            hoard[at] = 1
    return json.dumps({"told": told, "content_type": content_type, "accept": accept})
'''


@pytest.fixture(scope="module")
def teachable(ebbtide: Ebbtide) -> Deployed:
    return deploy(ebbtide, inference=TEACHABLE)


@pytest.fixture(scope="module")
def idle(ebbtide: Ebbtide) -> Deployed:
    """An endpoint at zero instances that nothing scales: its requests wait."""
    return deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, instances=0)


@pytest.fixture(scope="module")
def real_time(ebbtide: Ebbtide) -> Deployed:
    return deploy(ebbtide, inference=TEACHABLE, asynchronous=False)


def invoke(ebbtide: Ebbtide, endpoint: Deployed, told: object, **parameters: Any) -> dict[str, Any]:
    answer: dict[str, Any] = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint.name,
        Body=json.dumps(told).encode(),
        **{"ContentType": "application/json"} | parameters,
    )
    return answer


def refused(ebbtide: Ebbtide, operation: str = "invoke_endpoint_async", **parameters: Any) -> ClientError:
    with pytest.raises(ClientError) as caught:
        getattr(ebbtide.client("sagemaker-runtime"), operation)(**parameters)
    return caught.value


def test_an_accepted_request_is_answered_with_202_and_where_its_outcome_will_be(
    ebbtide: Ebbtide, idle: Deployed
) -> None:
    answer = invoke(ebbtide, idle, {"inputs": "text"}, InferenceId="mine-1")

    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert answer["InferenceId"] == "mine-1"
    made = answer["OutputLocation"].removeprefix(f"s3://{idle.bucket}/results/").removesuffix(".out")
    assert str(uuid.UUID(made)) == made
    assert answer["FailureLocation"] == f"s3://{idle.bucket}/failures/{made}-error.out"


def test_an_endpoint_without_a_failure_path_promises_none(ebbtide: Ebbtide) -> None:
    endpoint = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, instances=0, failure_path=False)

    answer = invoke(ebbtide, endpoint, {"inputs": "text"})

    assert "FailureLocation" not in answer


def test_the_output_is_named_by_extension_and_filename(ebbtide: Ebbtide, idle: Deployed) -> None:
    answer = invoke(ebbtide, idle, {}, S3OutputPathExtension="2026/trends", Filename="a-1.json")

    assert answer["OutputLocation"] == f"s3://{idle.bucket}/results/2026/trends/a-1.json"


def test_an_inline_body_is_computed_and_its_answer_stored_with_the_models_type(
    ebbtide: Ebbtide, teachable: Deployed
) -> None:
    answer = invoke(ebbtide, teachable, {"n": 1}, Accept="application/json")

    kind, body, found = outcome(ebbtide, answer)

    assert kind == "output"
    assert json.loads(body)["told"] == {"n": 1}
    assert found["ContentType"] == "application/json"


@pytest.mark.parametrize("form", ["s3://{bucket}/{key}", "https://{bucket}.s3.us-east-1.amazonaws.com/{key}"])
def test_an_input_in_storage_is_opened_in_both_forms_and_keeps_its_own_content_type(
    ebbtide: Ebbtide, teachable: Deployed, form: str
) -> None:
    ebbtide.client("s3").put_object(
        Bucket=teachable.bucket, Key="in/é 1.json", Body=b'{"n": 2}', ContentType="application/json"
    )
    key = "in/é 1.json" if form.startswith("s3") else "in/%C3%A9%201.json"

    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=teachable.name, InputLocation=form.format(bucket=teachable.bucket, key=key)
    )

    kind, body, _ = outcome(ebbtide, answer)
    assert kind == "output"
    assert json.loads(body)["told"] == {"n": 2}
    assert json.loads(body)["content_type"] == "application/json"


def test_a_missing_input_is_accepted_and_fails_naming_it(ebbtide: Ebbtide, teachable: Deployed) -> None:
    location = f"s3://{teachable.bucket}/in/nowhere.json"

    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=teachable.name, InputLocation=location
    )

    kind, body, _ = outcome(ebbtide, answer)
    assert kind == "failure"
    assert location in json.loads(body)["message"]


def test_a_model_that_raises_fails_with_its_own_words(ebbtide: Ebbtide, teachable: Deployed) -> None:
    answer = invoke(ebbtide, teachable, {"raise": "no such language"})

    kind, body, _ = outcome(ebbtide, answer)

    assert kind == "failure"
    assert "no such language" in json.loads(body)["message"]
    assert json.loads(body)["code"] == 400


def test_a_request_that_kills_its_model_server_ends_failed_and_the_endpoint_serves_on(
    ebbtide: Ebbtide, teachable: Deployed
) -> None:
    answer = invoke(ebbtide, teachable, {"exit": 9})

    kind, body, _ = outcome(ebbtide, answer)

    assert kind == "failure"
    assert "died 3 times" in json.loads(body)["message"]
    assert outcome(ebbtide, invoke(ebbtide, teachable, {"n": 3}))[0] == "output"


def test_a_model_that_hangs_past_its_timeout_fails_and_its_slot_is_free_again(ebbtide: Ebbtide) -> None:
    endpoint = deploy(ebbtide, inference=TEACHABLE, max_concurrent=1)
    hanging = invoke(ebbtide, endpoint, {"sleep_s": 3600}, InvocationTimeoutSeconds=1)
    following = invoke(ebbtide, endpoint, {"n": 4})

    kind, body, _ = outcome(ebbtide, hanging)

    assert kind == "failure"
    assert "InvocationTimeoutSeconds of 1 s" in json.loads(body)["message"]
    assert outcome(ebbtide, following)[0] == "output"


def test_a_result_that_cannot_be_written_is_a_failure_that_says_so(ebbtide: Ebbtide) -> None:
    endpoint = deploy(ebbtide, inference=TEACHABLE, instances=0)
    answer = invoke(ebbtide, endpoint, {"n": 5})
    s3 = ebbtide.client("s3")
    config = ebbtide.client("sagemaker").describe_endpoint_config(EndpointConfigName=endpoint.name)
    del config["ResponseMetadata"], config["EndpointConfigArn"], config["CreationTime"]
    config["EndpointConfigName"] = f"{endpoint.name}-2"
    config["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"] = "s3://no-such-bucket-here/results"
    config["ProductionVariants"][0]["InitialInstanceCount"] = 1
    ebbtide.client("sagemaker").create_endpoint_config(**config)
    ebbtide.client("sagemaker").update_endpoint(
        EndpointName=endpoint.name, EndpointConfigName=config["EndpointConfigName"]
    )
    assert outcome(ebbtide, answer)[0] == "output", "what was accepted before keeps its location"

    lost = invoke(ebbtide, endpoint, {"n": 6})

    kind, body, _ = outcome(ebbtide, lost)
    assert kind == "failure"
    assert "s3://no-such-bucket-here/results" in json.loads(body)["message"]
    assert s3.list_objects_v2(Bucket=endpoint.bucket, Prefix="results/")["KeyCount"] == 1


def test_an_unknown_endpoint_is_said_not_to_exist(ebbtide: Ebbtide) -> None:
    error = refused(ebbtide, EndpointName="nowhere", Body=b"{}")

    assert error.response["Error"]["Code"] == "ValidationError"
    assert error.response["Error"]["Message"] == "Endpoint nowhere of account 123456789012 not found."


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        pytest.param({}, "neither was", id="neither body nor location"),
        pytest.param({"Body": b"{}", "InputLocation": "s3://a/b"}, "both were", id="both"),
        pytest.param({"Body": b"x" * 128_001}, "128", id="a body over 128,000 bytes"),
        pytest.param({"InputLocation": "ftp://a/b"}, "InputLocation|inputLocation", id="another scheme"),
        pytest.param(
            {"Body": b"{}", "Filename": "a.b.c"}, "Filename|filename", id="a filename with two dots"
        ),
        pytest.param(
            {"Body": b"{}", "S3OutputPathExtension": "s3://elsewhere"},
            "xtension",
            id="an extension that is a location",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(
    ebbtide: Ebbtide, idle: Deployed, parameters: dict[str, Any], says: str
) -> None:
    error = refused(ebbtide, EndpointName=idle.name, **parameters)

    assert error.response["Error"]["Code"] == "ValidationError"
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert any(part in error.response["Error"]["Message"] for part in says.split("|"))


def test_a_body_of_exactly_128000_bytes_is_accepted(ebbtide: Ebbtide, idle: Deployed) -> None:
    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=idle.name, Body=b"x" * 128_000
    )

    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 202


def test_a_real_time_endpoint_answers_at_once(ebbtide: Ebbtide, real_time: Deployed) -> None:
    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint(
        EndpointName=real_time.name, Body=b'{"n": 7}', ContentType="application/json"
    )

    assert json.loads(answer["Body"].read())["told"] == {"n": 7}
    assert answer["InvokedProductionVariant"] == "v"


def test_a_real_time_models_error_is_a_model_error_with_its_words(
    ebbtide: Ebbtide, real_time: Deployed
) -> None:
    error = refused(
        ebbtide,
        "invoke_endpoint",
        EndpointName=real_time.name,
        Body=b'{"raise": "no such language"}',
        ContentType="application/json",
    )

    assert error.response["Error"]["Code"] == "ModelError"
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert error.response["OriginalStatusCode"] == 400
    assert "no such language" in error.response["OriginalMessage"]


def test_each_kind_of_endpoint_refuses_the_other_kinds_call(
    ebbtide: Ebbtide, idle: Deployed, real_time: Deployed
) -> None:
    errors = [
        refused(ebbtide, "invoke_endpoint", EndpointName=idle.name, Body=b"{}"),
        refused(ebbtide, EndpointName=real_time.name, Body=b"{}"),
    ]

    for error in errors:
        assert error.response["Error"]["Code"] == "ValidationError"
        assert "does not support this inference type" in error.response["Error"]["Message"]


@pytest.fixture
def queue(ebbtide: Ebbtide) -> Iterator[tuple[str, str]]:
    """A topic and the URL of a queue that is subscribed to it."""
    sns, sqs = ebbtide.client("sns"), ebbtide.client("sqs")
    name = f"q-{uuid.uuid4().hex[:8]}"
    topic = sns.create_topic(Name=name)["TopicArn"]
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"})
    yield topic, url
    sqs.delete_queue(QueueUrl=url)
    sns.delete_topic(TopicArn=topic)


def receive(ebbtide: Ebbtide, url: str, event: str) -> dict[str, Any]:
    """The next message about such an event; others are passed over, as consumers do."""
    while True:
        content: dict[str, Any] = json.loads(next_message(ebbtide.client("sqs"), url))
        if content["eventName"] == event:
            return content


def test_success_and_failure_are_notified_with_the_response_where_asked(
    ebbtide: Ebbtide, queue: tuple[str, str]
) -> None:
    topic, url = queue
    endpoint = deploy(
        ebbtide,
        inference=TEACHABLE,
        notification={
            "SuccessTopic": topic,
            "ErrorTopic": topic,
            "IncludeInferenceResponseIn": ["SUCCESS_NOTIFICATION_TOPIC"],
        },
    )

    succeeded = invoke(ebbtide, endpoint, {"n": 8}, InferenceId="good")
    good = receive(ebbtide, url, "InferenceResult")
    failed = invoke(ebbtide, endpoint, {"raise": "bad"}, InferenceId="bad")
    bad = receive(ebbtide, url, "InferenceResult")

    assert (good["invocationStatus"], good["inferenceId"]) == ("Completed", "good")
    assert good["responseParameters"]["outputLocation"] == succeeded["OutputLocation"]
    assert "inputLocation" not in good["requestParameters"]
    assert good["responseBody"]["encoding"] == "BASE64"
    assert (bad["invocationStatus"], bad["inferenceId"]) == ("Failed", "bad")
    assert bad["responseParameters"] == {"failureLocation": failed["FailureLocation"]}
    assert bad["failureReason"] == (
        "ClientError: Received client error (400) from model. "
        "See the SageMaker Endpoint logs in your account for more information."
    )
    assert "responseBody" not in bad


def test_a_deleted_endpoint_forgets_its_queue(ebbtide: Ebbtide) -> None:
    endpoint = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, instances=0)
    invoke(ebbtide, endpoint, {})

    sagemaker = ebbtide.client("sagemaker")
    sagemaker.delete_endpoint(EndpointName=endpoint.name)
    sagemaker.get_waiter("endpoint_deleted").wait(
        EndpointName=endpoint.name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 900}
    )

    assert (
        refused(ebbtide, EndpointName=endpoint.name, Body=b"{}").response["Error"]["Code"]
        == "ValidationError"
    )
