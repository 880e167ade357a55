"""Whole articles through boto3: how far a long one has come, and the files that people have."""

import json
from typing import Any

import pytest
from tests import checkpoints
from tests.checkpoints import Trained
from tests.deployments import Deployed, deploy

import ebbtide as package
from ebbtide.client import Client
from ebbtide.pytest_plugin import Ebbtide


@pytest.fixture(scope="module")
def own(ebbtide: Ebbtide) -> Client:
    return package.connect(data=ebbtide.data).ebbtide


@pytest.fixture(scope="module")
def pegasus(ebbtide: Ebbtide, trained: Trained) -> Deployed:
    environment = {"HF_MODEL_ID": str(trained("pegasus")), "HF_TASK": "summarization"}
    return deploy(ebbtide, environment=environment)


def invoke(ebbtide: Ebbtide, endpoint: Deployed, body: Any, **parameters: Any) -> dict[str, Any]:
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    ebbtide.client("s3").put_object(Bucket=endpoint.bucket, Key="article", Body=body)
    answer: dict[str, Any] = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint.name,
        InputLocation=f"s3://{endpoint.bucket}/article",
        **{"ContentType": "application/json"} | parameters,
    )
    return answer


def test_a_long_article_says_how_far_it_has_come_while_it_runs(
    ebbtide: Ebbtide, own: Client, pegasus: Deployed
) -> None:
    article = "\n\n".join(checkpoints.texts(32) * 200)
    begun: list[dict[str, Any]] = []

    def begin() -> None:
        begun.append(invoke(ebbtide, pegasus, {"inputs": ["A short one.", article, article]}))

    events = own.events(endpoint=pegasus.name, on_open=begin)
    told = next(event for event in events if event.get("progress", {}).get("parts_done"))
    now = own.get(told["id"])
    own.cancel(told["id"])

    assert (told["state"], now["state"]) == ("claimed", "claimed")
    reached = told["progress"]
    assert (reached["level"], reached["article"], reached["articles"]) == (1, 1, 2)
    assert 0 < reached["parts_done"] < reached["parts"]
    assert now["inference_id"] == begun[0]["InferenceId"]
    (step,) = [step for step in now["timeline"] if step["event"] == "parts_summarised"]
    assert step["progress"]["parts_done"] >= reached["parts_done"]


def test_an_article_that_is_done_keeps_what_each_pass_took(
    ebbtide: Ebbtide, own: Client, pegasus: Deployed
) -> None:
    article = "\n\n".join(checkpoints.texts(32) * 4)
    answer = invoke(ebbtide, pegasus, {"inputs": article, "parameters": {"return_details": True}})
    done = own.wait(answer["InferenceId"])

    steps = [step for step in done["timeline"] if step["event"] == "parts_summarised"]
    assert [step["progress"]["level"] for step in steps] == list(range(1, len(steps) + 1))
    assert all(step["progress"]["parts_done"] == step["progress"]["parts"] for step in steps)
    assert done["timeline"].index(steps[0]) > 0
    assert done["timeline"][-1]["event"] in ("stored", "notified")
