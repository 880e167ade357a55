"""CloudWatch Logs as boto3 sees it. Tests share the server, so each has a log group of its own."""

import time
import uuid

import pytest
from botocore.exceptions import ClientError

NOW_MS = int(time.time() * 1000)


@pytest.fixture
def logs(ebbtide):
    return ebbtide.client("logs")


@pytest.fixture
def group(logs, request):
    name = f"/test/{request.node.name}".translate(str.maketrans("[] ", "---"))
    logs.create_log_group(logGroupName=name)
    return name


def put(logs, group, stream, messages, *, start_ms=NOW_MS, step_ms=1000):
    logs.create_log_stream(logGroupName=group, logStreamName=stream)
    events = [
        {"timestamp": start_ms + index * step_ms, "message": message}
        for index, message in enumerate(messages)
    ]
    return logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=events)


def messages(answer):
    return [event["message"] for event in answer["events"]]


def code(error):
    return error.value.response["Error"]["Code"]


def test_the_newest_events_come_unless_the_head_is_asked_for(logs, group):
    put(logs, group, "s", [f"line {number}" for number in range(5)])

    newest = logs.get_log_events(logGroupName=group, logStreamName="s", limit=2)
    oldest = logs.get_log_events(logGroupName=group, logStreamName="s", limit=2, startFromHead=True)

    assert messages(newest) == ["line 3", "line 4"]
    assert messages(oldest) == ["line 0", "line 1"]
    assert newest["events"][1]["timestamp"] == NOW_MS + 4000


def test_the_same_forward_token_back_means_the_end_for_now(logs, group):
    put(logs, group, "s", [f"line {number}" for number in range(5)])
    seen, token = [], None
    while True:
        more = {"nextToken": token} if token else {}
        page = logs.get_log_events(logGroupName=group, logStreamName="s", limit=2, startFromHead=True, **more)
        seen += messages(page)
        if page["nextForwardToken"] == token:
            break
        token = page["nextForwardToken"]

    logs.put_log_events(
        logGroupName=group,
        logStreamName="s",
        logEvents=[{"timestamp": NOW_MS + 9000, "message": "later"}],
    )
    after = logs.get_log_events(logGroupName=group, logStreamName="s", startFromHead=True, nextToken=token)

    assert seen == [f"line {number}" for number in range(5)]
    assert messages(after) == ["later"]


def test_the_backward_token_leads_to_the_beginning(logs, group):
    put(logs, group, "s", [f"line {number}" for number in range(5)])

    newest = logs.get_log_events(logGroupName=group, logStreamName="s", limit=3)
    before = logs.get_log_events(
        logGroupName=group, logStreamName="s", limit=3, nextToken=newest["nextBackwardToken"]
    )
    end = logs.get_log_events(logGroupName=group, logStreamName="s", nextToken=before["nextBackwardToken"])

    assert messages(before) == ["line 0", "line 1"]
    assert end["events"] == []
    assert end["nextBackwardToken"] == before["nextBackwardToken"]


def test_a_time_range_takes_its_start_and_not_its_end(logs, group):
    put(logs, group, "s", ["0", "1", "2", "3"])

    answer = logs.get_log_events(
        logGroupName=group, logStreamName="s", startTime=NOW_MS + 1000, endTime=NOW_MS + 3000
    )

    assert messages(answer) == ["1", "2"]


def test_a_search_goes_through_all_streams_by_time_page_by_page(logs, group):
    put(logs, group, "AllTraffic/a", ["ERROR 0", "INFO 2", "ERROR 4"], step_ms=2000)
    put(logs, group, "AllTraffic/b", ["ERROR 1", "ERROR 3"], start_ms=NOW_MS + 1000, step_ms=2000)
    put(logs, group, "Other/c", ["ERROR elsewhere"])

    pages = list(
        logs.get_paginator("filter_log_events").paginate(
            logGroupName=group,
            logStreamNamePrefix="AllTraffic/",
            filterPattern="ERROR",
            PaginationConfig={"PageSize": 2},
        )
    )

    found = [event for page in pages for event in page["events"]]
    assert [event["message"] for event in found] == ["ERROR 0", "ERROR 1", "ERROR 3", "ERROR 4"]
    assert [event["logStreamName"][-1] for event in found] == ["a", "b", "b", "a"]
    assert len({event["eventId"] for event in found}) == 4


def test_streams_are_listed_by_name_or_by_their_last_event(logs, group):
    put(logs, group, "a", ["late"], start_ms=NOW_MS + 5000)
    put(logs, group, "b", ["early", "later"])
    logs.create_log_stream(logGroupName=group, logStreamName="c")

    by_name = logs.describe_log_streams(logGroupName=group)["logStreams"]
    by_time = logs.describe_log_streams(logGroupName=group, orderBy="LastEventTime", descending=True)
    pages = logs.get_paginator("describe_log_streams").paginate(
        logGroupName=group, PaginationConfig={"PageSize": 2}
    )

    assert [stream["logStreamName"] for stream in by_name] == ["a", "b", "c"]
    assert by_name[1]["firstEventTimestamp"] == NOW_MS
    assert by_name[1]["lastEventTimestamp"] == NOW_MS + 1000
    assert [stream["logStreamName"] for stream in by_time["logStreams"]] == ["a", "b", "c"]
    assert [len(page["logStreams"]) for page in pages] == [2, 1]


def test_groups_are_listed_by_prefix_with_their_retention(logs, group):
    logs.put_retention_policy(logGroupName=group, retentionInDays=14)

    (listed,) = logs.describe_log_groups(logGroupNamePrefix=group)["logGroups"]

    assert listed["logGroupName"] == group
    assert listed["retentionInDays"] == 14
    assert listed["arn"].endswith(f":log-group:{group}:*")


def test_a_groups_tags_are_kept_set_and_taken_away_beside_its_retention(logs):
    name = f"/tagged/{uuid.uuid4()}"
    logs.create_log_group(logGroupName=name, tags={"team": "press", "stage": "test"})
    resource = logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"][0]["logGroupArn"]

    logs.tag_resource(resourceArn=resource, tags={"stage": "live"})
    logs.put_retention_policy(logGroupName=name, retentionInDays=14)
    logs.tag_log_group(logGroupName=name, tags={"by": "an older client"})
    logs.untag_resource(resourceArn=resource, tagKeys=["team"])

    tags = logs.list_tags_for_resource(resourceArn=resource)["tags"]
    assert tags == {"stage": "live", "by": "an older client"}
    assert logs.list_tags_log_group(logGroupName=name)["tags"] == tags
    assert logs.describe_log_groups(logGroupNamePrefix=name)["logGroups"][0]["retentionInDays"] == 14
    with pytest.raises(logs.exceptions.TooManyTagsException):
        logs.tag_resource(resourceArn=resource, tags={str(number): "" for number in range(49)})


@pytest.mark.parametrize(
    "asked", [{"kmsKeyId": "k"}, {"logGroupClass": "DELIVERY"}, {"deletionProtectionEnabled": True}]
)
def test_a_group_is_not_made_with_what_it_cannot_have(logs, asked):
    with pytest.raises(ClientError, match="is not supported") as error:
        logs.create_log_group(logGroupName="/never/made", **asked)

    assert code(error) == "InvalidParameterException"


def test_events_too_old_are_left_out_and_the_answer_says_so(logs, group):
    month_ago = NOW_MS - 30 * 86_400_000

    answer = put(logs, group, "s", ["old"], start_ms=month_ago)

    assert answer["rejectedLogEventsInfo"] == {"tooOldLogEventEndIndex": 1}
    assert logs.get_log_events(logGroupName=group, logStreamName="s")["events"] == []


def test_events_out_of_order_are_refused(logs, group):
    with pytest.raises(logs.exceptions.InvalidParameterException, match="chronological order"):
        put(logs, group, "s", ["1", "0"], step_ms=-1000)


def test_a_deleted_stream_is_gone(logs, group):
    put(logs, group, "s", ["line"])

    logs.delete_log_stream(logGroupName=group, logStreamName="s")

    with pytest.raises(logs.exceptions.ResourceNotFoundException, match="log stream does not exist"):
        logs.get_log_events(logGroupName=group, logStreamName="s")


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        ("describe_log_streams", {}),
        ("get_log_events", {"logStreamName": "s"}),
        ("filter_log_events", {}),
        ("create_log_stream", {"logStreamName": "s"}),
        ("delete_log_group", {}),
        ("put_log_events", {"logStreamName": "s", "logEvents": [{"timestamp": NOW_MS, "message": "m"}]}),
        ("put_retention_policy", {"retentionInDays": 1}),
    ],
)
def test_a_group_that_does_not_exist_is_not_found(logs, operation, request_):
    with pytest.raises(logs.exceptions.ResourceNotFoundException, match="log group does not exist"):
        getattr(logs, operation)(logGroupName="/never/made", **request_)


@pytest.mark.parametrize(
    ("operation", "request_"),
    [
        pytest.param("get_log_events", {"logStreamName": "s", "nextToken": "x"}, id="a made-up token"),
        pytest.param("filter_log_events", {"startFromHead": False}, id="a search from the end"),
        pytest.param("filter_log_events", {"nextToken": "x"}, id="a made-up search token"),
        pytest.param("filter_log_events", {"filterPattern": "{ $.a = 1 }"}, id="a pattern on JSON"),
        pytest.param("put_retention_policy", {"retentionInDays": 2}, id="an odd retention"),
        pytest.param(
            "filter_log_events", {"logStreamNames": ["s"], "logStreamNamePrefix": "s"}, id="names twice"
        ),
    ],
)
def test_what_is_not_specified_correctly_is_refused(logs, group, operation, request_):
    put(logs, group, "s", ["line"])

    with pytest.raises(ClientError) as error:
        getattr(logs, operation)(logGroupName=group, **request_)

    assert code(error) == "InvalidParameterException"
