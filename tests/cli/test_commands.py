"""The commands, as users and their scripts run them."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager

import pytest

TEXT = (
    "The tide rises and the tide falls. Boats in the harbour rise and fall with it. Fishermen wait for the "
    "flood to leave the harbour. At the ebb nobody works, and nobody is paid for waiting. Every day the tide "
    "returns an hour later than the day before. "
)


@pytest.fixture(scope="module")
def endpoint(run_ebbtide):
    deployed = run_ebbtide("deploy", "ebbtide/extractive", "--name", "by-command", "--json")
    assert deployed.returncode == 0, deployed.stderr
    assert json.loads(deployed.stdout)["status"] == "InService"
    return "by-command"


@contextmanager
def serving(data, *arguments, **environment):
    """`ebbtide serve`, from its first line on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ebbtide", "serve", "--data", data, "--port", "0", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


def test_serve_says_when_it_is_ready_and_ends_with_ctrl_c(tmp_path):
    with serving(tmp_path) as (process, first_line):
        assert first_line.startswith("ebbtide is ready at http://127.0.0.1:")

        process.send_signal(signal.SIGINT)

        assert process.wait(timeout=120) == 0


def test_generated_credentials_are_readable_by_their_owner_only(ebbtide):
    assert (ebbtide.data / "credentials.json").stat().st_mode & 0o777 == 0o600


def test_a_data_directory_in_use_is_refused_in_one_line(ebbtide, run_ebbtide):
    refused = run_ebbtide("serve", "--data", ebbtide.data, "--port", "0")

    assert refused.returncode == 1
    assert refused.stderr == (
        f"ebbtide: The data directory {ebbtide.data} is in use by another ebbtide server\n"
    )


def test_a_port_in_use_is_refused_in_one_line(run_ebbtide, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]

        refused = run_ebbtide("serve", "--data", tmp_path, "--port", port, "--log-level", "warning")

    assert refused.returncode == 1
    assert refused.stderr == f"ebbtide: Cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_a_data_directory_that_cannot_be_made_is_refused_in_one_line(run_ebbtide, tmp_path):
    (tmp_path / "file").touch()

    refused = run_ebbtide("serve", "--data", tmp_path / "file" / "data", "--port", "0")

    assert refused.returncode == 1
    assert refused.stderr.startswith("ebbtide: The data directory ")
    assert refused.stderr.count("\n") == 1


def test_a_database_that_is_none_is_refused_in_one_line(run_ebbtide, tmp_path):
    (tmp_path / "ebbtide.db").write_bytes(b"no database" * 1000)

    done = run_ebbtide("serve", "--data", str(tmp_path), "--port", "0")

    assert done.returncode == 1
    assert done.stderr == (
        f"ebbtide: The database {tmp_path / 'ebbtide.db'} cannot be used: file is not a database\n"
    )


def test_a_setting_that_does_not_parse_is_named(run_ebbtide, tmp_path):
    refused = run_ebbtide("serve", "--data", tmp_path, EBBTIDE_LEASE_S="soon")

    assert refused.returncode == 1
    assert refused.stderr == "ebbtide: EBBTIDE_LEASE_S=soon is not a valid float\n"


def test_env_prints_what_a_shell_can_evaluate(ebbtide, run_ebbtide):
    printed = run_ebbtide("env", "--data", ebbtide.data).stdout

    exported = dict(shlex.split(line)[1].split("=", 1) for line in printed.splitlines())
    assert exported["AWS_ENDPOINT_URL"] == ebbtide.url
    assert exported["AWS_SECRET_ACCESS_KEY"] == ebbtide.credentials.secret_access_key
    assert exported.items() <= ebbtide.environment().items()


def test_a_directory_without_a_server_is_named(run_ebbtide, tmp_path):
    refused = run_ebbtide("status", "--data", tmp_path)

    assert refused.returncode == 1
    assert refused.stderr == f"ebbtide: No server has run on {tmp_path}; start one with: ebbtide serve\n"


@pytest.mark.parametrize("command", ["status", "invocations"])
def test_a_key_that_the_server_does_not_know_is_said_to_be_the_matter(run_ebbtide, command):
    refused = run_ebbtide(command, AWS_ACCESS_KEY_ID="AKIANOBODY")

    assert refused.returncode == 1
    assert refused.stderr == "ebbtide: The server knows no such access key as that in AWS_ACCESS_KEY_ID\n"


def test_a_server_that_is_gone_is_said_to_be(run_ebbtide, tmp_path):
    with serving(tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)

    refused = run_ebbtide("status", "--data", tmp_path)

    assert refused.returncode == 1
    assert refused.stderr.startswith("ebbtide: No server answers at http://127.0.0.1:")


def test_status_lists_endpoints_with_their_instances(run_ebbtide, endpoint):
    table = run_ebbtide("status").stdout
    listed = {row["endpoint"]: row for row in json.loads(run_ebbtide("status", "--json").stdout)}

    assert endpoint in table
    assert listed[endpoint]["status"] == "InService"
    assert listed[endpoint]["backlog"] == 0
    assert listed[endpoint]["starts"][0]["phases_s"].keys() >= {"spawning", "importing", "preparing"}
    assert "importing" in table


def test_logs_print_what_the_model_wrote(run_ebbtide, endpoint):
    lines = run_ebbtide("logs", endpoint, "--json").stdout.splitlines()

    assert lines
    assert all(json.loads(line)["logStreamName"].startswith("AllTraffic/") for line in lines)


def test_an_unknown_endpoint_is_named_by_every_command(run_ebbtide, tmp_path):
    (tmp_path / "tide.txt").write_text(TEXT)
    summarize = run_ebbtide("summarize", tmp_path / "tide.txt", "--endpoint", "nobody")
    delete = run_ebbtide("delete", "nobody")
    logs = run_ebbtide("logs", "nobody")

    assert (summarize.returncode, delete.returncode, logs.returncode) == (1, 1, 1)
    assert "nobody" in summarize.stderr
    assert delete.stderr.startswith("ebbtide: Could not find endpoint ")
    assert logs.stderr.startswith("ebbtide: There is no endpoint nobody")


def test_a_model_that_cannot_load_fails_the_deployment_with_its_reason(run_ebbtide, tmp_path):
    (tmp_path / "config.json").write_text("{}")

    failed = run_ebbtide("deploy", tmp_path, "--name", "unloadable")
    again = run_ebbtide("deploy", tmp_path, "--name", "unloadable")
    run_ebbtide("delete", "unloadable")

    assert (failed.returncode, again.returncode) == (1, 1)
    assert failed.stderr.startswith("ebbtide: unloadable failed: ")
    assert again.stderr == (
        "ebbtide: There is an endpoint unloadable already: `ebbtide delete unloadable` removes it\n"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["ebbtide/echo", "--min", 2, "--max", 1], "--min 2 is above --max 1", id="limits"),
        pytest.param(["./missing"], "./missing is neither a directory", id="a directory that is not there"),
        pytest.param(["missing.tar.gz"], "No such file or directory", id="an archive that is not there"),
        pytest.param(["ebbtide/echo", "--name", "no_name"], "no_name", id="a name that is none"),
    ],
)
def test_a_deployment_that_is_refused_leaves_nothing_behind(ebbtide, run_ebbtide, arguments, told):
    named = arguments if "--name" in arguments else [*arguments, "--name", "refused"]

    refused = run_ebbtide("deploy", *named)

    assert refused.returncode == 1
    assert told in refused.stderr
    sagemaker = ebbtide.client("sagemaker")
    assert sagemaker.list_models(NameContains="refused")["Models"] == []


def test_delete_leaves_the_model_that_another_configuration_names(ebbtide, run_ebbtide):
    run_ebbtide("deploy", "ebbtide/extractive", "--name", "first")
    sagemaker = ebbtide.client("sagemaker")
    given = sagemaker.describe_endpoint_config(EndpointConfigName="first")
    sagemaker.create_endpoint_config(
        EndpointConfigName="second", ProductionVariants=given["ProductionVariants"]
    )

    deleted = run_ebbtide("delete", "first")

    assert deleted.returncode == 0, deleted.stderr
    assert [model["ModelName"] for model in sagemaker.list_models(NameContains="first")["Models"]] == [
        "first"
    ]


def test_delete_leaves_no_endpoint_model_or_configuration(ebbtide, run_ebbtide):
    run_ebbtide("deploy", "ebbtide/extractive", "--name", "short-lived")
    sagemaker = ebbtide.client("sagemaker")
    given = sagemaker.describe_endpoint_config(EndpointConfigName="short-lived")
    sagemaker.create_endpoint_config(
        EndpointConfigName="short-lived-2",
        **{member: given[member] for member in ("ProductionVariants", "AsyncInferenceConfig")},
    )
    sagemaker.update_endpoint(EndpointName="short-lived", EndpointConfigName="short-lived-2")
    sagemaker.delete_model(ModelName="short-lived")

    deleted = run_ebbtide("delete", "short-lived")

    assert deleted.returncode == 0, deleted.stderr
    assert sagemaker.list_endpoints(NameContains="short-lived")["Endpoints"] == []
    assert sagemaker.list_endpoint_configs(NameContains="short-lived")["EndpointConfigs"] == []
    assert sagemaker.list_models(NameContains="short-lived")["Models"] == []
