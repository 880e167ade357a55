"""The main job through the aws command."""

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def aws(ebbtide):
    """Run an aws command against the server; returns what it printed, parsed where it is JSON."""

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "awscli", *arguments],
            env=ebbtide.environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.lstrip().startswith(("{", "[")) else done.stdout

    return run


def test_the_caller_is_known(aws, ebbtide):
    assert aws("sts", "get-caller-identity")["Account"] == ebbtide.credentials.account


def test_files_travel_by_s3_commands(aws, tmp_path):
    original, copy = tmp_path / "original.txt", tmp_path / "copy.txt"
    original.write_text("ebb and flow\n" * 1000)

    aws("s3", "mb", "s3://by-command")
    aws("s3", "cp", str(original), "s3://by-command/folder/file.txt")
    listing = aws("s3", "ls", "s3://by-command/folder/")
    aws("s3", "cp", "s3://by-command/folder/file.txt", str(copy))
    aws("s3", "rb", "--force", "s3://by-command")

    assert listing.split()[-2:] == ["13000", "file.txt"]
    assert copy.read_text() == original.read_text()
    assert "by-command" not in aws("s3", "ls")


def test_an_endpoint_is_invoked_and_described(aws, ebbtide, summaries, article):
    accepted = aws(
        *("sagemaker-runtime", "invoke-endpoint-async", "--endpoint-name", summaries.name),
        *("--input-location", article, "--content-type", "application/json"),
    )
    bucket, key = accepted["OutputLocation"].removeprefix("s3://").split("/", 1)
    ebbtide.client("s3").get_waiter("object_exists").wait(Bucket=bucket, Key=key, WaiterConfig={"Delay": 0.5})

    assert "summary_text" in aws("s3", "cp", accepted["OutputLocation"], "-")[0]
    described = aws("sagemaker", "describe-endpoint", "--endpoint-name", summaries.name)
    assert described["EndpointStatus"] == "InService"


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("sagemaker", "list-models"), id="sagemaker"),
        pytest.param(("sns", "list-topics"), id="sns"),
        pytest.param(("cloudwatch", "list-metrics", "--namespace", "AWS/SageMaker"), id="cloudwatch"),
        pytest.param(("logs", "describe-log-groups"), id="logs"),
        pytest.param(
            ("application-autoscaling", "describe-scalable-targets", "--service-namespace", "sagemaker"),
            id="application-autoscaling",
        ),
    ],
)
def test_every_service_answers_its_listing(aws, arguments):
    assert isinstance(aws(*arguments), dict)


def test_queues_work_when_the_command_is_told_where(aws, ebbtide):
    """The aws command of version 1 has SQS's address built in, whatever the environment says."""
    here = ("--endpoint-url", ebbtide.url)

    url = aws("sqs", "create-queue", "--queue-name", "by-command", *here)["QueueUrl"]
    aws("sqs", "send-message", "--queue-url", url, "--message-body", "hello", *here)
    received = aws("sqs", "receive-message", "--queue-url", url, *here)

    assert [message["Body"] for message in received["Messages"]] == ["hello"]
