"""An endpoint whose inputs, outputs and model lie in a foreign S3: through its faults, none is lost."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.deployments import IMAGE, model_archive
from tests.foreign_store import VARIABLES, ForeignS3, Gateway, foreign_s3, gateway_to, outside_file

from ebbtide.cli.running import LOG_FILE, RunningServer, started

ECHO = """
import os, signal, time

def model_fn(directory):
    return None

def transform_fn(model, body, content_type, accept):
    if body == b"fail":
        raise ValueError("as asked")
    if body.startswith(b"die once"):
        tried = body.decode().split()[-1]
        if not os.path.exists(tried):
            open(tried, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        while not os.path.exists(tried + "-again"):
            time.sleep(0.01)
        return b"done", content_type
    return body, content_type
"""


class Papers:
    """A server with an endpoint `papers`, all of whose objects lie in the foreign store."""

    def __init__(self, server: RunningServer, data: Path, gateway: Gateway, foreign: ForeignS3) -> None:
        self.server = server
        self.gateway = gateway
        self.foreign = foreign
        self._data = data

    def deploy(self) -> None:
        self.foreign.put("model.tar.gz", model_archive(ECHO))
        sns, sqs = self.server.client("sns"), self.server.client("sqs")
        self.queue = sqs.create_queue(QueueName="failures")["QueueUrl"]
        described = sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])
        topic = sns.create_topic(Name="failures")["TopicArn"]
        sns.subscribe(
            TopicArn=topic,
            Protocol="sqs",
            Endpoint=described["Attributes"]["QueueArn"],
            Attributes={"RawMessageDelivery": "true"},
        )
        sagemaker = self.server.client("sagemaker")
        sagemaker.create_model(
            ModelName="papers",
            ExecutionRoleArn=self.server.role_arn,
            PrimaryContainer={"Image": IMAGE, "ModelDataUrl": "s3://papers/model.tar.gz"},
        )
        sagemaker.create_endpoint_config(
            EndpointConfigName="papers",
            ProductionVariants=[
                {
                    "VariantName": "v",
                    "ModelName": "papers",
                    "InstanceType": "ml.m5.xlarge",
                    "InitialInstanceCount": 1,
                }
            ],
            AsyncInferenceConfig={
                "OutputConfig": {
                    "S3OutputPath": "s3://papers/out",
                    "S3FailurePath": "s3://papers/failed",
                    "NotificationConfig": {"ErrorTopic": topic},
                }
            },
        )
        sagemaker.create_endpoint(EndpointName="papers", EndpointConfigName="papers")
        sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName="papers", WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )

    def invoke(self, key: str, body: bytes) -> dict[str, str]:
        self.foreign.put(key, body)
        answer = self.server.client("sagemaker-runtime").invoke_endpoint_async(
            EndpointName="papers", InputLocation=f"s3://papers/{key}"
        )
        return {
            name: answer[name].removeprefix("s3://papers/") for name in ("OutputLocation", "FailureLocation")
        }

    def told(self, inference_id: str) -> list[dict[str, Any]]:
        """The messages about one invocation's failure, once there are any, and all that came with them."""
        sqs, found = self.server.client("sqs"), []
        while not found:
            answer = sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10, WaitTimeSeconds=20)
            messages = [json.loads(each["Body"]) for each in answer.get("Messages", ())]
            found = [each for each in messages if each.get("inferenceId") == inference_id]
        return found

    def wait_for(self, key: str) -> bytes:
        """What the foreign bucket has under the key, once it has something."""
        self.foreign.client.get_waiter("object_exists").wait(
            Bucket="foreign", Key=key, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )
        return self.foreign.get(key)

    def shown_waiting(self) -> dict[str, Any]:
        """The newest invocation as our own API shows it, once it says what it waits for."""
        own, waited = self.server.own(), threading.Event()
        newest = next(own.invocations(endpoint="papers", limit=1))
        for _ in range(600):
            found: dict[str, Any] = own.get(newest["id"])
            if found["waiting_reason"]:
                return found
            waited.wait(0.1)
        raise AssertionError(f"it never said what it waits for: {found}")

    def wait_for_log(self, words: str) -> None:
        log, waited = self._data / LOG_FILE, threading.Event()
        for _ in range(600):
            if words in log.read_text():
                return
            waited.wait(0.1)
        raise AssertionError(f"the log never said {words!r}:\n{log.read_text()}")


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Papers]:
    data = tmp_path_factory.mktemp("outside")
    with pytest.MonkeyPatch.context() as patch, foreign_s3() as foreign, gateway_to(foreign) as gateway:
        file = outside_file(data / "outside.toml", gateway.url)
        for name, value in (VARIABLES | {"EBBTIDE_OUTSIDE_STORES_FILE": str(file)}).items():
            patch.setenv(name, value)
        with started(data) as server:
            papers = Papers(server, data, gateway, foreign)
            papers.deploy()
            yield papers


@pytest.fixture(autouse=True)
def no_faults(papers: Papers) -> Iterator[None]:
    yield
    papers.gateway.status = None
    papers.gateway.speak()


def test_input_model_and_output_lie_in_the_foreign_store(papers):
    places = papers.invoke("in/a", b"a text")

    assert papers.wait_for(places["OutputLocation"]) == b"a text"


def test_a_failure_object_goes_there_too(papers):
    places = papers.invoke("in/fails", b"fail")

    assert b"as asked" in papers.wait_for(places["FailureLocation"])


def test_an_input_that_is_not_there_fails_by_its_name(papers):
    answer = papers.server.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName="papers", InputLocation="s3://papers/in/absent"
    )

    failure = papers.wait_for(answer["FailureLocation"].removeprefix("s3://papers/"))
    assert "s3://papers/in/absent could not be read" in json.loads(failure)["message"]


def test_while_the_store_is_down_work_waits_and_says_why_and_goes_on_once_it_is_up(papers):
    papers.gateway.status = 503
    places = papers.invoke("in/waits", b"patience")

    papers.wait_for_log("waits, and is tried again: s3://foreign at ")
    found = papers.shown_waiting()
    before = papers.foreign.keys()
    papers.gateway.status = None

    assert places["OutputLocation"] not in before
    assert "s3://foreign at " in found["waiting_reason"]
    assert papers.wait_for(places["OutputLocation"]) == b"patience"


def test_the_failure_object_of_one_cancelled_while_the_store_is_down_follows_once_it_is_up(papers):
    papers.gateway.status = 503
    places = papers.invoke("in/cancelled", b"never read")
    own = papers.server.own()
    id_ = next(own.invocations(endpoint="papers", limit=1))["id"]

    state = own.cancel(id_)["state"]
    papers.wait_for_log("its failure object waits: s3://foreign at ")
    waits = papers.shown_waiting()["waiting_reason"]
    before = papers.foreign.keys()
    papers.gateway.status = None

    assert state == "cancelled"
    assert "s3://foreign at " in waits
    assert places["FailureLocation"] not in before
    assert b"The invocation was cancelled" in papers.wait_for(places["FailureLocation"])
    [told] = papers.told(id_)
    assert told["invocationStatus"] == "Cancelled"
    assert told["responseParameters"]["failureLocation"].endswith(places["FailureLocation"])
    assert own.get(id_)["waiting_reason"] is None


def test_a_failure_object_that_a_cut_off_attempt_left_is_gone_when_the_next_one_succeeds(papers, tmp_path):
    tried = tmp_path / "tried"
    places = papers.invoke("in/twice", f"die once {tried}".encode())
    waited = threading.Event()
    while not tried.exists():
        waited.wait(0.01)
    papers.foreign.put(places["FailureLocation"], b"left by an attempt whose server was killed")

    Path(f"{tried}-again").touch()

    assert papers.wait_for(places["OutputLocation"]) == b"done"
    id_ = next(papers.server.own().invocations(endpoint="papers", limit=1))["id"]
    assert papers.server.own().wait(id_, timeout_s=180)["state"] == "succeeded"
    left = papers.foreign.keys()
    assert places["FailureLocation"] not in left


def test_an_endpoint_whose_model_lies_in_a_store_that_is_down_comes_into_service_once_it_is_up(papers):
    sagemaker = papers.server.client("sagemaker")
    papers.gateway.status = 503
    sagemaker.create_endpoint(EndpointName="waits", EndpointConfigName="papers")

    papers.wait_for_log("model data s3://papers/model.tar.gz waits: s3://foreign at ")
    before = sagemaker.describe_endpoint(EndpointName="waits")["EndpointStatus"]
    papers.gateway.status = None

    assert before == "Creating"
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName="waits", WaiterConfig={"Delay": 1, "MaxAttempts": 120}
    )


def test_objects_pass_through_the_servers_own_s3(papers):
    s3 = papers.server.client("s3")
    put = s3.put_object(
        Bucket="papers", Key="mine/k", Body=b"0123", ContentType="text/csv", Metadata={"n": "v"}
    )

    got = s3.get_object(Bucket="papers", Key="mine/k", Range="bytes=1-2")
    seen = s3.head_object(Bucket="papers", Key="mine/k")
    listed = s3.list_objects_v2(Bucket="papers", Prefix="mine/", Delimiter="/")

    assert (got["Body"].read(), got["ContentRange"]) == (b"12", "bytes 1-2/4")
    assert (seen["ContentLength"], seen["ContentType"], seen["Metadata"]) == (4, "text/csv", {"n": "v"})
    assert put["ETag"] == seen["ETag"]
    assert [each["Key"] for each in listed["Contents"]] == ["mine/k"]
    assert papers.foreign.get("mine/k") == b"0123"
    s3.delete_object(Bucket="papers", Key="mine/k")
    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket="papers", Key="mine/k")


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("create_multipart_upload", {"Key": "k"}),
        ("get_bucket_acl", {}),
        ("put_object_tagging", {"Key": "k", "Tagging": {"TagSet": []}}),
    ],
)
def test_what_does_not_pass_through_is_refused_by_the_buckets_place(papers, operation, arguments):
    with pytest.raises(ClientError, match="papers lies in s3://foreign at http") as caught:
        getattr(papers.server.client("s3"), operation)(Bucket="papers", **arguments)

    assert caught.value.response["Error"]["Code"] == "NotImplemented"


def test_an_outside_bucket_is_there_and_its_name_is_taken(papers):
    s3 = papers.server.client("s3")

    s3.head_bucket(Bucket="papers")
    with pytest.raises(s3.exceptions.BucketAlreadyExists):
        s3.create_bucket(Bucket="papers")
