"""What tests that speak as users do share: an endpoint that needs no download, and an article for it."""

import json

import pytest
from tests.deployments import Deployed, deploy

from ebbtide.pytest_plugin import Ebbtide

ARTICLE = (
    "Asynchronous inference queues incoming requests and processes them later. It suits requests with "
    "large payloads and long processing times. Endpoints can scale to zero instances when there is "
    "nothing to do, so that idle time costs nothing. A queue keeps the requests until an instance takes "
    "them. Results are written to object storage. Topics tell subscribers about success or failure."
)


@pytest.fixture(scope="session")
def summaries(ebbtide: Ebbtide) -> Deployed:
    """An asynchronous endpoint with the built-in summariser."""
    return deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/extractive", "HF_TASK": "summarization"})


@pytest.fixture(scope="session")
def article(ebbtide: Ebbtide, summaries: Deployed) -> str:
    """The s3:// location of a request body with a real text."""
    body = json.dumps({"inputs": ARTICLE})
    ebbtide.client("s3").put_object(Bucket=summaries.bucket, Key="inputs/article.json", Body=body)
    return f"s3://{summaries.bucket}/inputs/article.json"
