"""An endpoint from a model's name to its removal, in the calls that AWS users make."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from ebbtide.cli.errors import DeploymentError
from ebbtide.cli.running import RunningServer

VARIANT = "AllTraffic"
POLICY = "backlog-per-instance"
DIMENSION = {"ServiceNamespace": "sagemaker", "ScalableDimension": "sagemaker:variant:DesiredInstanceCount"}
POLL_INTERVAL_S = 0.25
_PATHS = ("/", "./", "../", "~")
"""What begins so is no Hub id."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What to deploy. The endpoint, its configuration and its model all take `name`.

    model: a Hub id, a directory with a model in the Hub's layout, a model.tar.gz, or an s3:// URI of one.
    Counts are instances; `target` is the backlog per instance that the policy keeps to.
    """

    name: str
    model: str
    task: str = "summarization"
    instance_type: str = "ml.m5.xlarge"
    min_capacity: int = 0
    max_capacity: int = 5
    target: float = 5.0
    scale_in_cooldown_s: int = 300
    scale_out_cooldown_s: int = 300
    concurrency: int | None = None


def deploy(server: RunningServer, wanted: Deployment) -> Iterator[str]:
    """Create the endpoint with its policy and wait until it serves; yields each step in words.

    It starts one instance, which proves that the model loads, and leaves it to the policy to take it away.
    Raises DeploymentError when there is such an endpoint already or it fails, ClientError when the server
    refuses a call. What was made before a refusal is removed; an endpoint that failed stays, to be looked at.
    """
    if wanted.min_capacity > wanted.max_capacity:
        raise DeploymentError(f"--min {wanted.min_capacity} is above --max {wanted.max_capacity}")
    sagemaker = server.client("sagemaker")
    if _exists(server, wanted.name):
        raise DeploymentError(
            f"There is an endpoint {wanted.name} already: `ebbtide delete {wanted.name}` removes it"
        )
    with ExitStack() as undo:
        yield "storing the model" if wanted.model.endswith(".tar.gz") else "creating the model"
        ensure_bucket(server)
        sagemaker.create_model(
            ModelName=wanted.name,
            ExecutionRoleArn=server.role_arn,
            PrimaryContainer=container(server, wanted),
        )
        undo.callback(sagemaker.delete_model, ModelName=wanted.name)
        yield "creating the endpoint"
        sagemaker.create_endpoint_config(EndpointConfigName=wanted.name, **_config(server, wanted))
        undo.callback(sagemaker.delete_endpoint_config, EndpointConfigName=wanted.name)
        sagemaker.create_endpoint(EndpointName=wanted.name, EndpointConfigName=wanted.name)
        undo.pop_all()
    yield "loading the model"
    await_status(server, wanted.name, "InService")
    _attach_policy(server, wanted)


def container(server: RunningServer, wanted: Deployment) -> dict[str, Any]:
    """CreateModel's PrimaryContainer; a local archive is uploaded first. Raises DeploymentError, OSError."""
    registry = f"763104351884.dkr.ecr.{server.region}.amazonaws.com"
    image = f"{registry}/huggingface-pytorch-inference:2.6.0-transformers4.49.0-cpu-py312-ubuntu22.04"
    environment = {"HF_TASK": wanted.task}
    if wanted.model.startswith("s3://"):
        return {"Image": image, "Environment": environment, "ModelDataUrl": wanted.model}
    if wanted.model.endswith(".tar.gz"):
        key = f"{wanted.name}/model/{Path(wanted.model).name}"
        server.client("s3").upload_file(wanted.model, server.default_bucket, key)
        url = f"s3://{server.default_bucket}/{key}"
        return {"Image": image, "Environment": environment, "ModelDataUrl": url}
    path = Path(wanted.model)
    if path.exists() != path.is_dir() or (wanted.model.startswith(_PATHS) and not path.exists()):
        raise DeploymentError(f"{wanted.model} is neither a directory with a model nor a model.tar.gz")
    model_id = str(path.absolute()) if path.is_dir() else wanted.model
    return {"Image": image, "Environment": environment | {"HF_MODEL_ID": model_id}}


def ensure_bucket(server: RunningServer) -> None:
    """Create the default bucket; one that exists is left as it is."""
    s3 = server.client("s3")
    place: dict[str, Any] = {}
    if server.region != "us-east-1":
        place["CreateBucketConfiguration"] = {"LocationConstraint": server.region}
    with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
        s3.create_bucket(Bucket=server.default_bucket, **place)


def await_status(server: RunningServer, name: str, status: str) -> None:
    """Wait until the endpoint has that status. Raises DeploymentError when it comes to Failed instead."""
    while (endpoint := server.client("sagemaker").describe_endpoint(EndpointName=name))[
        "EndpointStatus"
    ] != status:
        if endpoint["EndpointStatus"] == "Failed":
            raise DeploymentError(f"{name} failed: {endpoint.get('FailureReason', 'no reason given')}")
        time.sleep(POLL_INTERVAL_S)


def set_instance_count(server: RunningServer, name: str, count: int) -> None:
    """Ask for that many instances now, whatever the policy would do later."""
    server.client("sagemaker").update_endpoint_weights_and_capacities(
        EndpointName=name,
        DesiredWeightsAndCapacities=[{"VariantName": VARIANT, "DesiredInstanceCount": count}],
    )


def delete(server: RunningServer, name: str) -> Iterator[str]:
    """Remove the endpoint, its scaling, configurations and model, and wait until it is gone.

    Objects in storage stay, as on AWS, and so does what another endpoint or configuration names. Yields each
    step in words. Raises ClientError when there is no such endpoint.
    """
    sagemaker = server.client("sagemaker")
    endpoint = sagemaker.describe_endpoint(EndpointName=name)
    configured = endpoint["EndpointConfigName"]
    yield "removing the scaling target"
    autoscaling = server.client("application-autoscaling")
    for variant in endpoint.get("ProductionVariants", []):
        try:
            autoscaling.deregister_scalable_target(
                ResourceId=f"endpoint/{name}/variant/{variant['VariantName']}", **DIMENSION
            )
        except autoscaling.exceptions.ObjectNotFoundException:
            continue
    yield "draining its instances"
    sagemaker.delete_endpoint(EndpointName=name)
    await_gone(server, name)
    yield "deleting its configuration and model"
    # Another than the one of its name where `tune --apply` or UpdateEndpoint gave it one.
    models: set[str] = set()
    for config_name in {configured, name} - _configs_of_endpoints(sagemaker):
        with _missing_allowed():
            models |= _models_of_config(sagemaker, config_name)
            sagemaker.delete_endpoint_config(EndpointConfigName=config_name)
    for model_name in models - _models_of_configs(sagemaker):
        with _missing_allowed():
            sagemaker.delete_model(ModelName=model_name)


def _configs_of_endpoints(sagemaker: Any) -> set[str]:
    pages = sagemaker.get_paginator("list_endpoints").paginate()
    names = [endpoint["EndpointName"] for page in pages for endpoint in page["Endpoints"]]
    return {sagemaker.describe_endpoint(EndpointName=name)["EndpointConfigName"] for name in names}


def _models_of_configs(sagemaker: Any) -> set[str]:
    pages = sagemaker.get_paginator("list_endpoint_configs").paginate()
    names = [config["EndpointConfigName"] for page in pages for config in page["EndpointConfigs"]]
    return {model for name in names for model in _models_of_config(sagemaker, name)}


def _models_of_config(sagemaker: Any, name: str) -> set[str]:
    config = sagemaker.describe_endpoint_config(EndpointConfigName=name)
    return {variant["ModelName"] for variant in config["ProductionVariants"]}


def await_gone(server: RunningServer, name: str) -> None:
    """Wait until there is no such endpoint any more."""
    while _exists(server, name):
        time.sleep(POLL_INTERVAL_S)


def _exists(server: RunningServer, name: str) -> bool:
    with _missing_allowed():
        server.client("sagemaker").describe_endpoint(EndpointName=name)
        return True
    return False


@contextmanager
def _missing_allowed() -> Iterator[None]:
    """What is left undone because SageMaker has nothing of that name is fine."""
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationException":  # what AWS answers for "not found"
            raise


def _config(server: RunningServer, wanted: Deployment) -> dict[str, Any]:
    variant = {
        "VariantName": VARIANT,
        "ModelName": wanted.name,
        "InstanceType": wanted.instance_type,
        "InitialInstanceCount": 1,
    }
    place = f"s3://{server.default_bucket}/{wanted.name}"
    outputs = {"S3OutputPath": f"{place}/outputs", "S3FailurePath": f"{place}/failures"}
    asynchronous: dict[str, Any] = {"OutputConfig": outputs}
    if wanted.concurrency is not None:
        asynchronous["ClientConfig"] = {"MaxConcurrentInvocationsPerInstance": wanted.concurrency}
    return {"ProductionVariants": [variant], "AsyncInferenceConfig": asynchronous}


def _attach_policy(server: RunningServer, wanted: Deployment) -> None:
    autoscaling = server.client("application-autoscaling")
    variant = {"ResourceId": f"endpoint/{wanted.name}/variant/{VARIANT}", **DIMENSION}
    autoscaling.register_scalable_target(
        MinCapacity=wanted.min_capacity, MaxCapacity=wanted.max_capacity, **variant
    )
    autoscaling.put_scaling_policy(
        PolicyName=POLICY,
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": wanted.target,
            "CustomizedMetricSpecification": {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": [{"Name": "EndpointName", "Value": wanted.name}],
                "Statistic": "Average",
            },
            "ScaleInCooldown": wanted.scale_in_cooldown_s,
            "ScaleOutCooldown": wanted.scale_out_cooldown_s,
        },
        **variant,
    )
