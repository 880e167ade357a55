"""Tasks of HF_TASK beside summarisation, deployed and asked as users of the Hugging Face toolkit do."""

import io
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from tests import task_checkpoints
from tests.deployments import Deployed, deploy, outcome

from ebbtide.pytest_plugin import Ebbtide


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return task_checkpoints.make("image-classification", tmp_path_factory.mktemp("tasks") / "vit")


@pytest.fixture(scope="module")
def photographs(ebbtide: Ebbtide, checkpoint: Path) -> Deployed:
    """An endpoint that tells what is on an image."""
    return deploy(ebbtide, environment={"HF_TASK": "image-classification", "HF_MODEL_ID": str(checkpoint)})


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype="uint8"))


def ask(ebbtide: Ebbtide, endpoint: Deployed, body: bytes, content_type: str) -> tuple[str, Any]:
    """Upload the body, have it answered, and read what is written."""
    s3, runtime = ebbtide.client("s3"), ebbtide.client("sagemaker-runtime")
    s3.put_object(Bucket=endpoint.bucket, Key="in/0", Body=body)
    answer = runtime.invoke_endpoint_async(
        EndpointName=endpoint.name, InputLocation=f"s3://{endpoint.bucket}/in/0", ContentType=content_type
    )
    kind, written, _ = outcome(ebbtide, answer)
    return kind, json.loads(written)


def test_an_uploaded_image_is_classified_as_transformers_does(
    ebbtide: Ebbtide, photographs: Deployed, checkpoint: Path, image: Image.Image
):
    import transformers

    file = io.BytesIO()
    image.save(file, format="PNG")

    kind, labels = ask(ebbtide, photographs, file.getvalue(), "image/png")

    expected = transformers.pipeline("image-classification", model=str(checkpoint), device=-1)(image)
    assert kind == "output"
    assert [label["label"] for label in labels] == [label["label"] for label in expected]
    assert [label["score"] for label in labels] == pytest.approx([label["score"] for label in expected], 1e-4)


def test_what_is_no_image_becomes_a_failure_that_says_so(ebbtide: Ebbtide, photographs: Deployed):
    kind, failure = ask(ebbtide, photographs, b"no image", "image/png")

    assert kind == "failure"
    assert "not an image that can be read" in json.dumps(failure)


def test_a_task_that_nobody_serves_fails_with_the_reason(ebbtide: Ebbtide, checkpoint: Path):
    environment = {"HF_TASK": "conversational", "HF_MODEL_ID": str(checkpoint)}

    endpoint = deploy(ebbtide, environment=environment, wait=False)

    sagemaker = ebbtide.client("sagemaker")
    with pytest.raises(Exception, match="terminal failure"):
        sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName=endpoint.name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 900}
        )
    described = sagemaker.describe_endpoint(EndpointName=endpoint.name)
    assert "HF_TASK conversational is not served" in described["FailureReason"]
