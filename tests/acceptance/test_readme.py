"""What the README shows, run as it stands there."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.acceptance.conftest import ARTICLE
from tests.deployments import Deployed

from ebbtide import connect
from ebbtide.pytest_plugin import Ebbtide

README = Path(__file__).parents[2] / "README.md"


def test_the_boto3_example_prints_a_summary(ebbtide: Ebbtide, tmp_path: Path):
    (tmp_path / "article.txt").write_text(ARTICLE)
    example = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[0]

    run = subprocess.run(
        [sys.executable, "-c", example],
        env=ebbtide.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)[0]["summary_text"]


def test_the_plain_http_example_lists_what_succeeded(ebbtide: Ebbtide, article: str, summaries: Deployed):
    answer = ebbtide.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=summaries.name, InputLocation=article, ContentType="application/json"
    )
    connect(data=ebbtide.data).ebbtide.wait(answer["InferenceId"], timeout_s=180)
    (example,) = [
        block
        for block in re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
        if "SigV4Auth" in block
    ]

    run = subprocess.run(
        [sys.executable, "-c", example],
        env=ebbtide.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert run.returncode == 0, run.stderr
    assert f"{answer['InferenceId']} succeeded {answer['OutputLocation']}" in run.stdout.splitlines()
