"""`ebbtide evaluate` of an endpoint: articles go through the product itself, and none is asked twice."""

import csv
import json

import pytest

ROWS = [
    {
        "article": f"The tide rose by {n} cm today. It fell again. Nobody saw it.",
        "summary": f"Tide rose {n} cm.",
    }
    for n in range(3)
]


@pytest.fixture(scope="module")
def endpoint(run_ebbtide):
    name = "evaluated"
    deployed = run_ebbtide("deploy", "ebbtide/extractive", "--name", name, "--max", 1, "--cooldown", 3600)
    assert deployed.returncode == 0, deployed.stderr
    yield name
    run_ebbtide("delete", name)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def requests_of(run_ebbtide, endpoint):
    listed = run_ebbtide("invocations", "--endpoint", endpoint, "--json")
    assert listed.returncode == 0, listed.stderr
    return json.loads(listed.stdout)


def test_an_endpoint_scores_as_its_model_does_and_a_second_run_asks_nothing_anew(run_ebbtide, endpoint, data):
    first = run_ebbtide("evaluate", endpoint, "--data", data, "--csv")
    asked = requests_of(run_ebbtide, endpoint)
    second = run_ebbtide("evaluate", endpoint, "--data", data, "--csv")

    assert first.returncode == 0, first.stderr
    loaded, deployed = list(csv.DictReader(first.stdout.splitlines()))[1:]
    assert (loaded["summariser"], deployed["summariser"]) == ("ebbtide/extractive", endpoint)
    assert loaded["ROUGE-1"] == deployed["ROUGE-1"]
    assert deployed["articles_per_s"] == ""
    assert list(csv.DictReader(second.stdout.splitlines()))[2] == deployed
    assert requests_of(run_ebbtide, endpoint) == asked


def test_an_article_that_the_endpoint_refuses_is_named_by_its_row(run_ebbtide, endpoint, data):
    refused = run_ebbtide("evaluate", endpoint, "--data", data, "--parameters", '{"num_beams": 3}')

    assert refused.returncode == 1
    assert refused.stderr.startswith("ebbtide: The model refuses an article: row ")
    assert "num_beams" in refused.stderr


def test_what_its_deployment_says_cannot_be_said_of_an_endpoint(run_ebbtide, endpoint, data):
    refused = run_ebbtide("evaluate", endpoint, "--data", data, "--threads", 1)

    assert refused.returncode == 1
    assert "--threads" in refused.stderr


def test_no_endpoint_of_the_server_that_was_named_is_refused(run_ebbtide, ebbtide, data):
    refused = run_ebbtide("evaluate", "nobody", "--data", data, "--server", ebbtide.data)

    assert refused.returncode == 1
    assert "nobody is no endpoint of" in refused.stderr
    assert "Traceback" not in refused.stderr
