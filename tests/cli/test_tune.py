"""`ebbtide tune`: the curve it measures, and what it makes of one."""

import json
from dataclasses import replace

import pytest
from tests.deployments import deploy

from ebbtide.cli.tune import Step, knee, rises, saturated_rate_per_s

AT_THREE = '''
"""Three at a time and no more, 20 ms each."""
import threading, time

def model_fn(model_dir):
    return threading.Semaphore(3)

def transform_fn(model, body, content_type, accept):
    with model:
        time.sleep(0.02)
    return body
'''


def curve(*documents_per_s: float, batch: int = 1) -> list[Step]:
    return [Step(number, batch, rate, 0.1, 10) for number, rate in enumerate(documents_per_s, 1)]


@pytest.mark.parametrize(
    ("rates", "chosen"),
    [
        pytest.param([10, 20, 30, 31, 29], 3, id="the fewest that do nearly the most"),
        pytest.param([10, 10.2, 10.1], 1, id="one is enough where more bring nothing"),
        pytest.param([10, 20, 40], 3, id="the peak where it still rises"),
    ],
)
def test_the_knee_is_the_fewest_at_a_time_near_the_peak(rates, chosen):
    assert knee(curve(*rates)).concurrency == chosen


def test_larger_requests_are_advised_only_where_they_bring_more():
    assert knee([*curve(10, 20), *curve(12, 20.5, batch=4)]).batch == 1
    assert knee([*curve(10, 20), *curve(12, 40, batch=4)]).batch == 4


def test_a_limit_of_the_batch_is_advised_only_where_it_brings_more():
    limited = [replace(step, batch_size=4) for step in curve(10.1, 20.5)]
    assert knee([*limited, *curve(10, 20)]).batch_size is None
    assert knee([*[replace(step, documents_per_s=40) for step in limited], *curve(10, 20)]).batch_size == 4


@pytest.mark.parametrize(
    ("rates", "goes_on"),
    [
        pytest.param([10], True, id="one step tells nothing"),
        pytest.param([10, 10, 20], True, id="a late rise"),
        pytest.param([10, 20, 20, 20], False, id="two steps without a rise"),
        pytest.param([10, 20, 15, 12], False, id="a fall"),
    ],
)
def test_the_rise_ends_when_two_steps_bring_no_more(rates, goes_on):
    assert rises(curve(*rates)) is goes_on


def test_the_rate_counts_the_time_in_which_all_slots_had_work():
    # Two slots, 1 s each; the last two are alone at the end.
    held = [(0.0, 1.0), (0.0, 1.0), (1.0, 2.0), (1.0, 2.0), (2.0, 9.0)]

    assert saturated_rate_per_s(held) == 4 / 2
    assert saturated_rate_per_s([(0.0, 2.0), (0.0, 4.0)]) == 2 / 4


def configurations(ebbtide) -> set[str]:
    """The names of all endpoint configurations, of which others may have made many."""
    pages = ebbtide.client("sagemaker").get_paginator("list_endpoint_configs").paginate()
    return {each["EndpointConfigName"] for page in pages for each in page["EndpointConfigs"]}


def test_an_endpoint_is_tuned_and_nothing_else_stays(ebbtide, run_ebbtide, tmp_path):
    endpoint = deploy(ebbtide, inference=AT_THREE, max_concurrent=1)
    (tmp_path / "request.json").write_text('{"inputs": "x"}')
    before = configurations(ebbtide)

    done = run_ebbtide(
        "tune",
        endpoint.name,
        "--body",
        tmp_path / "request.json",
        "--most",
        "3",
        "--seconds",
        "0.4",
        "--apply",
        "--json",
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [step["concurrency"] for step in found["curve"]] == [1, 2, 3]
    sagemaker = ebbtide.client("sagemaker")
    config = sagemaker.describe_endpoint(EndpointName=endpoint.name)["EndpointConfigName"]
    client = sagemaker.describe_endpoint_config(EndpointConfigName=config)["AsyncInferenceConfig"][
        "ClientConfig"
    ]
    assert client == {"MaxConcurrentInvocationsPerInstance": found["chosen"]["concurrency"]}
    assert configurations(ebbtide) == before | {config}
    found_endpoints = sagemaker.list_endpoints(NameContains=endpoint.name)["Endpoints"]
    assert [each["EndpointName"] for each in found_endpoints] == [endpoint.name]


def test_what_the_model_refuses_is_said_as_it_said_it(ebbtide, run_ebbtide, tmp_path):
    """The built-in model decodes nothing, so it knows no batches."""
    endpoint = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/extractive"}, instances=0)
    (tmp_path / "article.txt").write_text("A sentence of some words. " * 20)

    done = run_ebbtide("tune", endpoint.name, tmp_path / "article.txt", "--batch-size", "4")

    assert done.returncode == 1
    assert "max_length and min_length, in words, not batch_size" in " ".join(done.stderr.split())


def test_what_cannot_be_tuned_is_said_in_a_line(ebbtide, run_ebbtide):
    endpoint = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, asynchronous=False)

    done = run_ebbtide("tune", endpoint.name)

    assert done.returncode == 1
    assert "is not an asynchronous endpoint" in done.stderr
