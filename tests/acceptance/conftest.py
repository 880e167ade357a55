"""Endpoints for tests that speak as users do; each is deployed once and shared."""

import json

import pytest

IMAGE = (
    "763104351884.dkr.ecr.us-east-1.amazonaws.com/huggingface-pytorch-inference:"
    "2.6.0-transformers4.49.0-cpu-py312-ubuntu22.04"
)
BUCKET = "acceptance"
WAIT = {"Delay": 1, "MaxAttempts": 60}


@pytest.fixture(scope="session")
def bucket(ebbtide) -> str:
    ebbtide.client("s3").create_bucket(Bucket=BUCKET)
    return BUCKET


@pytest.fixture(scope="session")
def extractive_endpoint(ebbtide, bucket) -> str:
    """An asynchronous endpoint that summarises without a download."""
    sagemaker = ebbtide.client("sagemaker")
    name = "acceptance-extractive"
    sagemaker.create_model(
        ModelName=name,
        ExecutionRoleArn=ebbtide.role_arn,
        PrimaryContainer={
            "Image": IMAGE,
            "Environment": {"HF_MODEL_ID": "ebbtide/extractive", "HF_TASK": "summarization"},
        },
    )
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": "AllTraffic",
                "ModelName": name,
                "InstanceType": "ml.m5.xlarge",
                "InitialInstanceCount": 1,
            }
        ],
        AsyncInferenceConfig={
            "OutputConfig": {
                "S3OutputPath": f"s3://{bucket}/outputs",
                "S3FailurePath": f"s3://{bucket}/failures",
            }
        },
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig=WAIT)
    return name


@pytest.fixture(scope="session")
def article(ebbtide, bucket) -> str:
    """The s3:// location of a request body with a real text."""
    text = (
        "Asynchronous inference queues incoming requests and processes them later. It suits requests with "
        "large payloads and long processing times. Endpoints can scale to zero instances when there is "
        "nothing to do, so that idle time costs nothing. A queue keeps the requests until an instance takes "
        "them. Results are written to object storage. Topics tell subscribers about success or failure."
    )
    ebbtide.client("s3").put_object(
        Bucket=bucket, Key="inputs/article.json", Body=json.dumps({"inputs": text})
    )
    return f"s3://{bucket}/inputs/article.json"
