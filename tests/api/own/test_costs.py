"""Costs over the API, of what a running server has really run."""

import csv
import io
import json

import pytest
from tests.deployments import deploy

import ebbtide as package
from ebbtide.client import Client, RefusedError
from ebbtide.pytest_plugin import Ebbtide


@pytest.fixture(scope="module")
def worked(ebbtide: Ebbtide, session: package.Session, own: Client) -> str:
    """The name of an endpoint that has done five invocations, two of them of a project."""
    endpoint = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"})
    runtime = session.client("sagemaker-runtime")
    for number in range(5):
        answer = runtime.invoke_endpoint_async(
            EndpointName=endpoint.name,
            Body=json.dumps({"inputs": "x"}).encode(),
            ContentType="application/json",
            Tags={"project": "trends"} if number < 2 else {},
        )
        own.wait(answer["InferenceId"], timeout_s=180)
    return endpoint.name


def test_an_endpoints_cost_is_told_beside_always_on_and_the_minimum(worked: str, own: Client) -> None:
    found = own.costs(endpoint=worked)

    [row] = found["rows"]
    assert row["of"] == {"endpoint": worked}
    assert row["invocations"] == 5
    assert 0 < row["minimum_s"] <= row["instance_s"]
    assert row["instance_s"] == pytest.approx(row["starting_s"] + row["busy_s"] + row["idle_s"])
    assert row["cost"] == pytest.approx(row["instance_s"] / 3600 * 0.23)
    assert found["total"] == {name: value for name, value in row.items() if name != "of"}


def test_tags_and_invocations_make_rows_too(worked: str, own: Client) -> None:
    by_project = own.costs(endpoint=worked, by="tag:project")["rows"]
    by_invocation = own.costs(endpoint=worked, by=["invocation", "account"])["rows"]

    assert [(row["of"], row["invocations"]) for row in by_project] == [
        ({"tag:project": "trends"}, 2),
        ({"tag:project": None}, 3),
    ]
    assert [row["invocations"] for row in by_invocation] == [1] * 5


def test_csv_has_a_line_a_row(worked: str, own: Client) -> None:
    lines = list(csv.DictReader(io.StringIO(own.costs_csv(endpoint=worked, by=["day", "endpoint"]))))

    assert {line["endpoint"] for line in lines} == {worked}  # two of them around midnight
    assert all(float(line["instance_s"]) > 0 for line in lines)


def test_a_deleted_endpoints_cost_stays_under_its_name(ebbtide: Ebbtide, own: Client) -> None:
    endpoint = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"})
    sagemaker = ebbtide.client("sagemaker")

    sagemaker.delete_endpoint(EndpointName=endpoint.name)
    sagemaker.get_waiter("endpoint_deleted").wait(
        EndpointName=endpoint.name, WaiterConfig={"Delay": 0.2, "MaxAttempts": 900}
    )

    [row] = own.costs(endpoint=endpoint.name)["rows"]
    assert row["instance_s"] > 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param({"by": "colour"}, "by: colour is none of", id="no such dimension"),
        pytest.param({"by": "tag:"}, "a tag's key must follow", id="a tag without a key"),
        pytest.param(
            {"since": "2026-02-01", "until": "2026-01-01"}, "since must not be after", id="backwards"
        ),
        pytest.param({"since": "2025-01-01", "until": "2026-01-01"}, "92 days", id="too many days"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(own: Client, asked: dict[str, str], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        own.costs(**asked)
