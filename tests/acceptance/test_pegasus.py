"""PEGASUS checkpoints in the Hub's layout, deployed as users deploy them, beside transformers' answers."""

import json
import tarfile
from pathlib import Path

import pytest
from tests.checkpoints import Trained
from tests.deployments import IMAGE, Deployed, deploy, outcome

from ebbtide.pytest_plugin import Ebbtide
from ebbtide.runtime.spiece import pegasus_tokenizer

EXACT = {"HF_TASK": "summarization", "CT2_COMPUTE_TYPE": "float32"}
GREEDY = {"num_beams": 1, "max_length": 24}
TEXTS = [
    "Asynchronous inference queues incoming requests and processes them later.",
    "Endpoints can scale to zero instances when there is nothing to do.",
    "Results are written to object storage, and topics tell subscribers about success or failure.",
    "A queue keeps the requests until an instance takes them.",
]


@pytest.fixture(scope="module")
def checkpoint(trained: Trained) -> Path:
    return trained("pegasus")


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> list[str]:
    """transformers' own summaries of the texts, one at a time."""
    import torch
    from transformers import PegasusForConditionalGeneration

    model = PegasusForConditionalGeneration.from_pretrained(checkpoint).eval()
    # transformers' own tokenizer cannot read a SentencePiece model beside the SDK's version of protobuf.
    tokenizer = pegasus_tokenizer(checkpoint / "spiece.model")
    summaries = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.no_grad():
            generated = model.generate(ids, attention_mask=torch.ones_like(ids), **GREEDY)
        summaries.append(tokenizer.decode(generated[0].tolist()))
    return summaries


@pytest.fixture(scope="module")
def archive(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as a model.tar.gz."""
    path = tmp_path_factory.mktemp("archive") / "model.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for file in sorted(checkpoint.iterdir()):
            tar.add(file, file.name)
    return path


def summarise(ebbtide: Ebbtide, endpoint: str, texts: list[str]) -> list[str]:
    body = json.dumps({"inputs": texts, "parameters": GREEDY})
    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint, Body=body.encode(), ContentType="application/json"
    )
    kind, written, _ = outcome(ebbtide, answer)
    assert kind == "output", written
    return [summary["summary_text"] for summary in json.loads(written)]


def test_a_checkpoint_in_a_directory_answers_as_transformers_does(
    ebbtide: Ebbtide, checkpoint: Path, expected: list[str]
):
    endpoint = deploy(ebbtide, environment=EXACT | {"HF_MODEL_ID": str(checkpoint)})

    assert summarise(ebbtide, endpoint.name, TEXTS) == expected


def test_a_checkpoint_in_a_model_archive_answers_as_transformers_does(
    ebbtide: Ebbtide, summaries: Deployed, archive: Path, expected: list[str]
):
    ebbtide.client("s3").upload_file(str(archive), summaries.bucket, "pegasus/model.tar.gz")
    container = {
        "Image": IMAGE,
        "Environment": EXACT,
        "ModelDataUrl": f"s3://{summaries.bucket}/pegasus/model.tar.gz",
    }
    sagemaker = ebbtide.client("sagemaker")
    sagemaker.create_model(
        ModelName="pegasus-archive", ExecutionRoleArn=ebbtide.role_arn, PrimaryContainer=container
    )
    variant = {"VariantName": "v", "ModelName": "pegasus-archive", "InstanceType": "ml.m5.xlarge"}
    sagemaker.create_endpoint_config(
        EndpointConfigName="pegasus-archive",
        ProductionVariants=[variant | {"InitialInstanceCount": 1}],
        AsyncInferenceConfig={"OutputConfig": {"S3OutputPath": f"s3://{summaries.bucket}/pegasus"}},
    )
    sagemaker.create_endpoint(EndpointName="pegasus-archive", EndpointConfigName="pegasus-archive")
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName="pegasus-archive", WaiterConfig={"Delay": 1}
    )

    assert summarise(ebbtide, "pegasus-archive", TEXTS) == expected
