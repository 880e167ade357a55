"""Invocations seen and steered through ebbtide.connect(), against a running server and real model servers."""

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.deployments import Deployed, deploy, outcome

import ebbtide as package
from ebbtide.client import Client
from ebbtide.pytest_plugin import Ebbtide

PATIENCE_S = 180.0

TEACHABLE = '''
"""Does what each request tells it to."""
import json, os, time

def model_fn(model_dir):
    return None

def transform_fn(model, body, content_type, accept):
    told = json.loads(body)
    if "sleep_s" in told:
        time.sleep(told["sleep_s"])
    while "gate" in told and not os.path.exists(told["gate"]):
        time.sleep(0.01)
    if "raise" in told:
        raise RuntimeError(told["raise"])
    return body
'''


@pytest.fixture(scope="module")
def idle(ebbtide: Ebbtide) -> Deployed:
    """An endpoint at zero instances that nothing scales: its requests wait."""
    return deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, instances=0)


@pytest.fixture(scope="module")
def echo(ebbtide: Ebbtide) -> Deployed:
    return deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"})


@pytest.fixture(scope="module")
def teachable(ebbtide: Ebbtide) -> Deployed:
    return deploy(ebbtide, inference=TEACHABLE)


@pytest.fixture
def queue(ebbtide: Ebbtide, own: Client) -> Iterator[Deployed]:
    """An endpoint at zero whose queue is this test's alone."""
    endpoint = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"}, instances=0)
    yield endpoint
    own.purge(endpoint.name)


def invoke(session: package.Session, endpoint: Deployed, told: object = "x", **parameters: Any) -> str:
    """Submit; the InferenceId."""
    answer = session.client("sagemaker-runtime").invoke_endpoint_async(
        EndpointName=endpoint.name,
        Body=json.dumps(told).encode(),
        **{"ContentType": "application/json"} | parameters,
    )
    inference_id: str = answer["InferenceId"]
    return inference_id


def refused(call: Any, *arguments: Any, **named: Any) -> tuple[int, str]:
    with pytest.raises(ClientError) as caught:
        call(*arguments, **named)
    response = caught.value.response
    return response["ResponseMetadata"]["HTTPStatusCode"], response["Error"]["Message"]


def test_a_queued_invocation_shows_its_place_and_its_submission(
    session: package.Session, own: Client, queue: Deployed
) -> None:
    invoke(session, queue)
    id_ = invoke(session, queue, Priority=-3, Tags={"project": "trends"}, InferenceId="shown-1")

    found = own.get(id_)

    assert (found["state"], found["priority"], found["tags"]) == ("queued", -3, {"project": "trends"})
    assert (found["inference_id"], found["endpoint"], found["account"]) == (
        "shown-1",
        queue.name,
        "123456789012",
    )
    assert found["queue"] == {"position": 2, "exact": True}
    assert [step["event"] for step in found["timeline"]] == ["accepted"]
    assert own.get(found["id"])["id"] == found["id"]


def test_tags_may_come_in_awss_form(session: package.Session, own: Client, idle: Deployed) -> None:
    id_ = invoke(session, idle, Tags=[{"Key": "project", "Value": "trends"}])

    assert own.get(id_)["tags"] == {"project": "trends"}


@pytest.mark.parametrize("ttl_s", [60, 21_600, 604_800])
def test_a_request_may_wait_longer_than_awss_six_hours(
    session: package.Session, own: Client, queue: Deployed, ttl_s: int
) -> None:
    found = own.get(invoke(session, queue, RequestTTLSeconds=ttl_s))

    waits = datetime.fromisoformat(found["expires_at"]) - datetime.fromisoformat(found["accepted_at"])
    assert waits.total_seconds() == pytest.approx(ttl_s, abs=0.01)


def test_a_wrong_submission_is_refused_by_its_field(session: package.Session, idle: Deployed) -> None:
    status, message = refused(invoke, session, idle, Priority=101)

    assert status == 400
    assert "priority must be a whole number from -100 to 100" in message


def test_a_finished_invocation_has_its_timeline_in_order(
    session: package.Session, own: Client, echo: Deployed
) -> None:
    done = own.wait(invoke(session, echo), timeout_s=PATIENCE_S)

    events = [step["event"] for step in done["timeline"]]
    times = [datetime.fromisoformat(step["at"]) for step in done["timeline"]]
    assert events == ["accepted", "claimed", "payload_opened", "model_started", "model_answered", "stored"]
    assert times == sorted(times)
    assert (done["state"], done["queue"], done["estimate"], done["attempts"]) == ("succeeded", None, None, [])
    assert done["waiting_reason"] is None


def test_a_failed_invocation_says_why(session: package.Session, own: Client, teachable: Deployed) -> None:
    done = own.wait(invoke(session, teachable, {"raise": "no such tide"}), timeout_s=PATIENCE_S)

    assert done["state"] == "failed"
    assert "Received client error (400)" in done["failure_reason"]
    assert done["timeline"][-1]["event"] == "failed"


def test_a_long_poll_answers_when_the_outcome_is_there(
    session: package.Session, own: Client, teachable: Deployed
) -> None:
    id_ = invoke(session, teachable, {"sleep_s": 0.2})

    found = own.get(id_, wait_s=60)

    assert found["state"] == "succeeded"


def test_a_long_poll_whose_time_is_over_answers_with_what_there_is(
    session: package.Session, own: Client, idle: Deployed
) -> None:
    assert own.get(invoke(session, idle), wait_s=0.1)["state"] == "queued"


def test_waiting_is_given_up_after_its_time(session: package.Session, own: Client, idle: Deployed) -> None:
    id_ = invoke(session, idle)

    with pytest.raises(TimeoutError, match="still queued"):
        own.wait(id_, timeout_s=0.1)


def test_a_list_is_filtered_and_paged_newest_first(
    session: package.Session, own: Client, queue: Deployed
) -> None:
    ids = [invoke(session, queue, Tags={"batch": str(n % 2)}) for n in range(5)]

    listed = [one["id"] for one in own.invocations(endpoint=queue.name, limit=2)]
    tagged = [one["id"] for one in own.invocations(endpoint=queue.name, tag="batch:1", state=["queued"])]

    assert listed == ids[::-1]
    assert tagged == [ids[3], ids[1]]


def test_a_queued_invocation_is_cancelled_at_once(
    session: package.Session, own: Client, queue: Deployed
) -> None:
    id_ = invoke(session, queue)

    cancelled = own.cancel(id_)

    assert cancelled["state"] == "cancelled"
    assert own.endpoint(queue.name)["queued"] == 0
    assert own.cancel(id_)["finished_at"] == cancelled["finished_at"]


def test_all_that_are_meant_are_cancelled(session: package.Session, own: Client, queue: Deployed) -> None:
    meant = [invoke(session, queue, Tags={"run": "1"}) for _ in range(3)]
    other = invoke(session, queue, Tags={"run": "2"})

    assert own.cancel_all(endpoint=queue.name, tag="run:1") == 3
    assert {own.get(id_)["state"] for id_ in meant} == {"cancelled"}
    assert own.get(other)["state"] == "queued"


def test_a_purge_drops_what_is_queued(session: package.Session, own: Client, queue: Deployed) -> None:
    for _ in range(3):
        invoke(session, queue)

    assert own.purge(queue.name) == {"purged": 3}
    assert own.endpoint(queue.name)["queued"] == 0


def test_a_priority_changed_later_changes_the_place(
    session: package.Session, own: Client, queue: Deployed
) -> None:
    invoke(session, queue)
    id_ = invoke(session, queue)

    changed = own.set_priority(id_, 7)

    assert (changed["priority"], changed["queue"]["position"]) == (7, 1)


def test_what_has_its_outcome_keeps_its_priority(
    session: package.Session, own: Client, queue: Deployed
) -> None:
    id_ = invoke(session, queue)
    own.cancel(id_)

    assert refused(own.set_priority, id_, 7)[0] == 400


def test_what_was_cancelled_is_redriven_to_another_endpoint(
    session: package.Session, own: Client, queue: Deployed, echo: Deployed
) -> None:
    id_ = invoke(session, queue, {"again": True}, Tags={"kept": "yes"})
    own.cancel(id_)

    anew = own.redrive(id_, endpoint=echo.name)

    done = own.wait(anew["id"], timeout_s=PATIENCE_S)
    assert (done["state"], done["endpoint"], done["redriven_from"]) == ("succeeded", echo.name, id_)
    assert done["tags"] == {"kept": "yes"}


def test_all_that_are_meant_are_redriven(session: package.Session, own: Client, queue: Deployed) -> None:
    ids = [invoke(session, queue) for _ in range(3)]
    own.cancel_all(endpoint=queue.name)

    redriven = own.redrive_all(endpoint=queue.name, state="cancelled")

    assert set(redriven) == set(ids)
    assert {own.get(id_)["state"] for id_ in redriven.values()} == {"queued"}


def test_what_is_queued_is_not_redriven(session: package.Session, own: Client, queue: Deployed) -> None:
    status, message = refused(own.redrive, invoke(session, queue))

    assert status == 400
    assert "is queued" in message


def test_an_endpoint_shows_its_queue_by_account(
    session: package.Session, own: Client, queue: Deployed
) -> None:
    invoke(session, queue)

    seen = own.endpoint(queue.name)

    assert (seen["queued"], seen["claimed"]) == (1, 0)
    assert seen["accounts"] == [{"account": "123456789012", "queued": 1, "claimed": 0}]
    assert seen["instances"] == {"in_service": 0, "starting": 0, "pending": 0}


def test_equal_requests_share_an_outcome_where_the_endpoint_is_told_to(
    session: package.Session, own: Client, queue: Deployed
) -> None:
    settings = {"deduplication": {"enabled": True, "retention_s": 60.0}}
    assert own.put_settings(queue.name, settings) == own.settings(queue.name) == settings

    first, equal = invoke(session, queue, "same"), invoke(session, queue, "same")
    apart = invoke(session, queue, "same", Deduplicate=False)

    assert first == equal
    assert apart != first


def test_an_output_that_was_removed_answers_no_equal_request(ebbtide: Ebbtide, own: Client) -> None:
    endpoint = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"})
    own.put_settings(endpoint.name, {"deduplication": {"enabled": True, "retention_s": 60.0}})
    request = {"EndpointName": endpoint.name, "Body": b"equal", "ContentType": "text/plain"}
    runtime, s3 = ebbtide.client("sagemaker-runtime"), ebbtide.client("s3")

    first = runtime.invoke_endpoint_async(**request)
    assert outcome(ebbtide, first)[0] == "output"
    assert runtime.invoke_endpoint_async(**request) | {"ResponseMetadata": 0} == first | {
        "ResponseMetadata": 0
    }
    bucket, _, key = first["OutputLocation"].removeprefix("s3://").partition("/")
    s3.delete_object(Bucket=bucket, Key=key)

    again = runtime.invoke_endpoint_async(**request)
    assert again["OutputLocation"] != first["OutputLocation"]
    assert outcome(ebbtide, again)[:2] == ("output", b"equal")


def test_what_was_replaced_while_it_waited_answers_no_equal_of_what_it_was(
    ebbtide: Ebbtide, session: package.Session, own: Client, tmp_path: Path
) -> None:
    endpoint = deploy(ebbtide, inference=TEACHABLE, max_concurrent=1)
    own.put_settings(endpoint.name, {"deduplication": {"enabled": True, "retention_s": 60.0}})
    s3, runtime = ebbtide.client("s3"), session.client("sagemaker-runtime")

    def ask(key: str, told: str) -> str:
        s3.put_object(Bucket=endpoint.bucket, Key=key, Body=json.dumps({"told": told}).encode())
        answer = runtime.invoke_endpoint_async(
            EndpointName=endpoint.name, InputLocation=f"s3://{endpoint.bucket}/{key}"
        )
        inference_id: str = answer["InferenceId"]
        return inference_id

    gate = tmp_path / "gate"
    before = invoke(session, endpoint, {"gate": str(gate)})
    first = ask("a", "one")
    s3.put_object(Bucket=endpoint.bucket, Key="a", Body=b'{"told": "two"}')
    gate.touch()
    own.wait(before)
    own.wait(first)
    again = ask("b", "one")
    equal = ask("c", "one")

    assert again != first
    assert own.wait(again)["state"] == "succeeded"
    assert equal == again


def test_an_inference_id_may_have_what_a_path_is_made_of(
    session: package.Session, own: Client, queue: Deployed
) -> None:
    name = "papers/2026 #1?a=%2F/cancel"
    invoke(session, queue, InferenceId=name)

    assert own.get(name)["inference_id"] == name
    assert own.cancel(name)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("call", "status", "named"),
    [
        pytest.param(lambda own: own.get("nobody"), 404, "nobody", id="an unknown invocation"),
        pytest.param(lambda own: own.cancel("nobody"), 404, "nobody", id="to cancel"),
        pytest.param(lambda own: own.endpoint("nobody"), 404, "nobody", id="an unknown endpoint"),
        pytest.param(lambda own: own.cancel_all(endpoint="nobody"), 404, "nobody", id="in a filter"),
        pytest.param(lambda own: own.get("x", wait_s=61), 400, "wait: ", id="too long a wait"),
        pytest.param(lambda own: own.set_priority("x", 101), 400, "priority: ", id="too high a priority"),
        pytest.param(lambda own: list(own.invocations(limit=1001)), 400, "limit: ", id="too long a page"),
        pytest.param(lambda own: list(own.invocations(state="done")), 400, "state.0: ", id="no such state"),
        pytest.param(lambda own: list(own.invocations(tag="x")), 400, "tag: ", id="half a tag"),
        pytest.param(
            lambda own: own.request("GET", "invocations", {"after": "x"}), 400, "after: ", id="no such page"
        ),
        pytest.param(
            lambda own: list(own.invocations(accepted_after="2026-01-01T00:00:00")),
            400,
            "accepted_after: ",
            id="a time without its offset",
        ),
        pytest.param(
            lambda own: list(own.invocations(accepted_after="86400")),
            400,
            "accepted_after: it is not a time",
            id="a number in place of a time",
        ),
        pytest.param(
            lambda own: own.cancel_all(colour="red"), 400, "colour: ", id="a filter that there is not"
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(own: Client, call: Any, status: int, named: str) -> None:
    answered, message = refused(call, own)

    assert answered == status
    assert named in message


def test_another_account_sees_nothing_of_it(
    ebbtide: Ebbtide, session: package.Session, own: Client, queue: Deployed
) -> None:
    id_ = invoke(session, queue)
    account = "444444444444"
    own.request("PUT", f"accounts/{account}", body={"joins": None})
    key = own.request("POST", "keys", body={"account": account})
    stranger = package.connect(
        ebbtide.url,
        aws_access_key_id=key["access_key_id"],
        aws_secret_access_key=key["secret_access_key"],
    ).ebbtide

    assert refused(stranger.get, id_)[0] == 404
    assert refused(stranger.endpoint, queue.name)[0] == 404
    assert list(stranger.invocations()) == []
    assert stranger.cancel_all() == 0


def test_events_tell_of_every_state_as_it_comes(
    session: package.Session, own: Client, echo: Deployed
) -> None:
    seen: dict[str, list[str]] = {}
    following = threading.Event()
    mine = str(uuid.uuid4())

    def follow() -> None:
        for event in own.events(endpoint=echo.name, on_open=following.set):
            seen.setdefault(event["id"], []).append(event["state"])
            if event["state"] == "succeeded":
                return

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    assert following.wait(PATIENCE_S)
    id_ = own.wait(invoke(session, echo, mine), timeout_s=PATIENCE_S)["id"]
    reader.join(PATIENCE_S)

    assert seen == {id_: ["queued", "claimed", "succeeded"]}


def test_events_of_one_invocation_begin_with_its_state(
    session: package.Session, own: Client, idle: Deployed
) -> None:
    id_ = invoke(session, idle)

    first = next(iter(own.events(invocation=id_)))

    assert (first["id"], first["state"], first["endpoint"]) == (id_, "queued", idle.name)


def test_a_stopping_server_ends_its_streams_and_long_polls(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ebbtide.cli.running import started

    # One that waited for them would be killed in the end, and its client told that the stream broke.
    monkeypatch.setenv("EBBTIDE_DRAIN_TIMEOUT_S", "3600")
    ended = threading.Event()
    with started(tmp_path) as server:
        own = server.own()
        following = threading.Event()

        def follow() -> None:
            for _ in own.events(on_open=following.set):
                pass
            ended.set()

        threading.Thread(target=follow, daemon=True).start()
        assert following.wait(PATIENCE_S)

    assert ended.wait(PATIENCE_S)
