"""The commands that show and steer invocations, and give others keys, as users and their scripts run them."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from tests.deployments import deploy

import ebbtide as package
from ebbtide.cli.errors import CommandError
from ebbtide.cli.shown import duration
from ebbtide.cli.steering import moment


@pytest.fixture(scope="module")
def echo(ebbtide):
    return deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"})


@pytest.fixture
def queue(ebbtide):
    """An endpoint at zero whose queue is this test's alone."""
    return deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, instances=0)


@pytest.fixture
def invoke(ebbtide):
    runtime = package.connect(data=ebbtide.data).client("sagemaker-runtime")

    def invoke(endpoint, **parameters):
        answer = runtime.invoke_endpoint_async(EndpointName=endpoint.name, Body=b"x", **parameters)
        return answer["InferenceId"]

    return invoke


def test_wait_prints_each_outcome_with_its_location(run_ebbtide, invoke, echo):
    ids = [invoke(echo), invoke(echo)]

    done = run_ebbtide("wait", *ids)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[id_, "succeeded"] for id_ in ids]
    assert all(line.endswith(".out") for line in lines)


def test_wait_fails_for_what_did_not_succeed(run_ebbtide, invoke, queue):
    id_ = invoke(queue)
    run_ebbtide("cancel", id_)

    done = run_ebbtide("wait", id_, "--json")

    assert done.returncode == 1
    assert [one["state"] for one in json.loads(done.stdout)] == ["cancelled"]
    assert done.stderr == "ebbtide: 1 of 1 did not succeed\n"


def test_wait_gives_up_after_its_time(run_ebbtide, invoke, queue):
    done = run_ebbtide("wait", invoke(queue), "--timeout", "0")

    assert done.returncode == 1
    assert "is still queued" in done.stderr


def test_wait_for_all_ends_when_nothing_is_left(run_ebbtide, invoke, echo):
    ids = [invoke(echo) for _ in range(5)]

    done = run_ebbtide("wait", "--all", "--endpoint", echo.name)

    assert done.returncode == 0, done.stderr
    states = {one["id"]: one["state"] for one in json.loads(run_ebbtide("invocations", "--json").stdout)}
    assert {states[id_] for id_ in ids} == {"succeeded"}


def test_invocations_are_listed_within_80_columns(run_ebbtide, invoke, queue):
    ids = [invoke(queue), invoke(queue)]

    listed = run_ebbtide("invocations", "--endpoint", queue.name, "--since", "1h", COLUMNS="80")

    heading, *rows = listed.stdout.splitlines()
    assert heading.split() == ["Invocation", "State", "Endpoint", "Age", "Took"]
    assert [row.split()[:2] for row in rows] == [[id_, "queued"] for id_ in reversed(ids)]
    assert all(len(line) <= 80 for line in listed.stdout.splitlines())


def test_show_prints_the_timeline_with_durations(run_ebbtide, invoke, echo):
    id_ = invoke(echo, Tags={"project": "trends"})
    run_ebbtide("wait", id_)

    shown = run_ebbtide("show", id_).stdout

    assert shown.startswith(f"{id_}  succeeded\n")
    assert "project:trends" in shown
    steps = ["accepted", "claimed", "payload opened", "model started", "model answered", "stored", "in all"]
    assert [shown.index(f"\n  {step} ") for step in steps] == sorted(
        shown.index(f"\n  {step} ") for step in steps
    )


def test_show_tells_the_place_of_what_is_queued(run_ebbtide, invoke, queue):
    invoke(queue)

    shown = run_ebbtide("show", invoke(queue)).stdout

    assert "position    2\n" in shown


def test_an_unknown_invocation_is_named_in_one_line(run_ebbtide):
    refused = run_ebbtide("show", "nobody")

    assert refused.returncode == 1
    assert refused.stderr == "ebbtide: There is no invocation nobody.\n"


def test_cancel_purge_redrive_and_priority_do_as_they_say(run_ebbtide, invoke, queue):
    first, second, third = invoke(queue), invoke(queue), invoke(queue)

    moved = run_ebbtide("priority", third, "-5")
    raised = json.loads(run_ebbtide("priority", third, "50", "--json").stdout)
    cancelled = run_ebbtide("cancel", first)
    filtered = json.loads(run_ebbtide("cancel", "--endpoint", queue.name, "--json").stdout)
    redriven = json.loads(run_ebbtide("redrive", "--endpoint", queue.name, "--json").stdout)["redriven"]
    purged = run_ebbtide("purge", queue.name)

    assert moved.stdout == f"{third} has priority -5, position 3\n"
    assert raised["queue"]["position"] == 1
    assert cancelled.stdout == "1 cancelled\n"
    assert filtered == {"cancelled": 2}
    assert set(redriven) == {first, second, third}
    assert purged.stdout == "3 purged\n"


@pytest.mark.parametrize("command", ["cancel", "redrive"])
def test_nothing_named_is_not_everything(run_ebbtide, command):
    refused = run_ebbtide(command)

    assert refused.returncode == 1
    assert refused.stderr == "ebbtide: Say which invocations: their ids, or options such as --endpoint\n"


def test_events_are_printed_as_they_come(ebbtide, invoke, queue):
    id_ = invoke(queue)
    command = [sys.executable, "-m", "ebbtide", "events", "--invocation", id_, "--json"]
    reader = subprocess.Popen(command, env=ebbtide.environment(), stdout=subprocess.PIPE, text=True)
    try:
        first = json.loads(reader.stdout.readline())
        package.connect(data=ebbtide.data).ebbtide.cancel(id_)
        second = json.loads(reader.stdout.readline())
    finally:
        reader.kill()
        reader.communicate()

    assert [first["state"], second["state"]] == ["queued", "cancelled"]


def test_a_key_that_was_added_works_until_it_is_removed(ebbtide, run_ebbtide):
    added = run_ebbtide(
        "keys", "add", "--account", "555555555555", "--name", "Economics", "--weight", "2", "--quota", "9"
    )
    exported = dict(pair.split("=", 1) for line in added.stdout.splitlines() for pair in line.split()[1:])
    accounts = {one["account"]: one for one in json.loads(run_ebbtide("accounts", "list", "--json").stdout)}
    with_key = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | exported

    def whoami():
        call = "import boto3; print(boto3.client('sts').get_caller_identity()['Account'])"
        return subprocess.run([sys.executable, "-c", call], env=with_key, capture_output=True, text=True)

    works = whoami()
    removed = run_ebbtide("keys", "remove", exported["AWS_ACCESS_KEY_ID"])
    refused = whoami()

    assert works.stdout == "555555555555\n", works.stderr
    assert accounts["555555555555"] == {
        "account": "555555555555",
        "name": "Economics",
        "weight": 2.0,
        "queued_quota": 9,
        "joins": "123456789012",
    }
    assert removed.returncode == 0
    assert "InvalidClientTokenId" in refused.stderr


def test_an_accounts_terms_change_one_by_one(run_ebbtide):
    run_ebbtide("accounts", "set", "666666666666", "--weight", "3", "--quota", "5", "--separate")

    changed = json.loads(run_ebbtide("accounts", "set", "666666666666", "--no-quota", "--json").stdout)

    assert (changed["weight"], changed["queued_quota"], changed["joins"]) == (3.0, None, None)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        pytest.param(None, "", id="nothing"),
        pytest.param(0.0, "0 ms", id="no time"),
        pytest.param(0.9996, "1.00 s", id="almost a second"),
        pytest.param(9.996, "10.0 s", id="ten seconds"),
        pytest.param(59.996, "1 min 00 s", id="almost a minute"),
        pytest.param(3599.7, "1 h 00 min", id="almost an hour"),
        pytest.param(90_061.0, "25 h 01 min", id="more than a day"),
    ],
)
def test_durations_read_as_people_say_them(seconds, words):
    assert duration(seconds) == words


NOW = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)


def test_a_time_is_so_long_ago_or_as_it_stands():
    assert moment("10m", now=NOW) == "2026-01-31T11:50:00+00:00"
    assert moment("1.5h", now=NOW) == "2026-01-31T10:30:00+00:00"
    assert datetime.fromisoformat(moment("2026-01-31T12:00:00Z", now=NOW)) == NOW


@pytest.mark.parametrize("text", ["yesterday", "10", "1.2.3m", "9999999999999d"])
def test_a_time_that_is_none_is_refused(text):
    with pytest.raises(CommandError, match="is not a time"):
        moment(text, now=NOW)
