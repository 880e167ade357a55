"""Endpoints for tests: deployed through boto3, as their users deploy them."""

import io
import tarfile
import uuid
from dataclasses import dataclass
from typing import Any

from bench.server import hold_at_zero

from ebbtide.pytest_plugin import Ebbtide

IMAGE = (
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:"
    "1.13.1-transformers4.26.0-cpu-py39-ubuntu20.04"
)


@dataclass(frozen=True, slots=True)
class Deployed:
    """An endpoint in service and the bucket it reads from and writes to."""

    name: str
    bucket: str


def model_archive(inference: str) -> bytes:
    """A model.tar.gz that holds nothing but code/inference.py."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        code = inference.encode()
        info = tarfile.TarInfo("code/inference.py")
        info.size = len(code)
        tar.addfile(info, io.BytesIO(code))
    return archive.getvalue()


def deploy(
    ebbtide: Ebbtide,
    *,
    inference: str | None = None,
    archive: bytes | None = None,
    environment: dict[str, str] | None = None,
    instances: int = 1,
    held: bool = True,
    asynchronous: bool = True,
    failure_path: bool = True,
    max_concurrent: int = 2,
    notification: dict[str, Any] | None = None,
    managed_scaling: dict[str, Any] | None = None,
    wait: bool = True,
) -> Deployed:
    """Deploy user code (`inference`), an archive or what the environment names, under a new name.

    held: without instances it also stays without, whatever arrives.
    """
    name = f"e-{uuid.uuid4().hex[:12]}"
    s3, sagemaker = ebbtide.client("s3"), ebbtide.client("sagemaker")
    s3.create_bucket(Bucket=name)
    container: dict[str, Any] = {"Image": IMAGE, "Environment": environment or {}}
    if inference is not None:
        archive = model_archive(inference)
    if archive is not None:
        s3.put_object(Bucket=name, Key="model.tar.gz", Body=archive)
        container["ModelDataUrl"] = f"s3://{name}/model.tar.gz"
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=ebbtide.role_arn, PrimaryContainer=container)
    variant: dict[str, Any] = {"VariantName": "v", "ModelName": name, "InstanceType": "ml.m5.xlarge"}
    if instances:
        variant["InitialInstanceCount"] = instances
    if managed_scaling:
        variant["ManagedInstanceScaling"] = managed_scaling
    config: dict[str, Any] = {"EndpointConfigName": name, "ProductionVariants": [variant]}
    if asynchronous:
        output: dict[str, Any] = {"S3OutputPath": f"s3://{name}/results"}
        if failure_path:
            output["S3FailurePath"] = f"s3://{name}/failures/"
        if notification:
            output["NotificationConfig"] = notification
        config["AsyncInferenceConfig"] = {
            "OutputConfig": output,
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": max_concurrent},
        }
    sagemaker.create_endpoint_config(**config)
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    if held and not instances and not managed_scaling:
        hold_at_zero(ebbtide.client, name)
    if wait:
        sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName=name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 900}
        )
    return Deployed(name, name)


def outcome(ebbtide: Ebbtide, answer: dict[str, Any], *, timeout_s: float = 180.0) -> tuple[str, bytes, Any]:
    """Wait for an invocation's one object: ("output" or "failure", its bytes, GetObject's answer)."""
    import time

    s3 = ebbtide.client("s3")
    deadline = time.monotonic() + timeout_s
    places = {"output": answer["OutputLocation"], "failure": answer.get("FailureLocation")}
    while time.monotonic() < deadline:
        for kind, uri in places.items():
            if uri is None:
                continue
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            try:
                found = s3.get_object(Bucket=bucket, Key=key)
            except (s3.exceptions.NoSuchKey, s3.exceptions.NoSuchBucket):
                continue
            return kind, found["Body"].read(), found
        time.sleep(0.02)
    raise AssertionError(f"neither output nor failure of {answer['InferenceId']} after {timeout_s} s")
