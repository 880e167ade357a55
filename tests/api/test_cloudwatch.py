"""CloudWatch as boto3 sees it. Tests share the server, so each has a namespace or alarm name of its own."""

import copy
import json
import math
from datetime import UTC, datetime, timedelta

import botocore.session
import pytest
from botocore.exceptions import ClientError

DIMENSIONS = [{"Name": "EndpointName", "Value": "e"}, {"Name": "VariantName", "Value": "AllTraffic"}]
NOON = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)


@pytest.fixture
def cloudwatch(ebbtide):
    return ebbtide.client("cloudwatch")


@pytest.fixture(params=["json", "query", "smithy-rpc-v2-cbor"])
def client_of_protocol(ebbtide, request, tmp_path):
    """A client that speaks one protocol only, as older boto3 and other languages' SDKs do."""
    model = copy.deepcopy(botocore.session.Session().get_service_data("cloudwatch"))
    model["metadata"] |= {"protocol": request.param, "protocols": [request.param]}
    version = model["metadata"]["apiVersion"]
    (tmp_path / "cloudwatch" / version).mkdir(parents=True)
    (tmp_path / "cloudwatch" / version / "service-2.json").write_text(json.dumps(model))
    session = botocore.session.Session()
    session.set_config_variable("data_path", str(tmp_path))
    session.set_credentials(ebbtide.credentials.access_key_id, ebbtide.credentials.secret_access_key)
    return session.create_client("cloudwatch", region_name=ebbtide.region, endpoint_url=ebbtide.url)


@pytest.fixture
def namespace(request):
    return f"Test/{request.node.name}"[:255]


def put(cloudwatch, namespace, values, *, name="Level", step_s=60, **datum):
    cloudwatch.put_metric_data(
        Namespace=namespace,
        MetricData=[
            {
                "MetricName": name,
                "Dimensions": DIMENSIONS,
                "Timestamp": NOON + timedelta(seconds=index * step_s),
                "Value": value,
            }
            | datum
            for index, value in enumerate(values)
        ],
    )


def metric_stat(namespace, key="m1", stat="Average", period=60, name="Level", **query):
    metric = {"Namespace": namespace, "MetricName": name, "Dimensions": DIMENSIONS}
    return {"Id": key, "MetricStat": {"Metric": metric, "Period": period, "Stat": stat}} | query


def hour(**changed):
    return {"StartTime": NOON, "EndTime": NOON + timedelta(hours=1)} | changed


def code(error):
    return error.value.response["Error"]["Code"]


def test_metric_statistics_have_the_asked_statistics_and_the_unit(cloudwatch, namespace):
    put(cloudwatch, namespace, [1, 2, 6], step_s=20, Unit="Milliseconds")
    put(cloudwatch, namespace, [10], Timestamp=NOON + timedelta(minutes=2), Unit="Milliseconds")

    answer = cloudwatch.get_metric_statistics(
        Namespace=namespace,
        MetricName="Level",
        Dimensions=DIMENSIONS,
        Period=60,
        Statistics=["Average", "SampleCount"],
        ExtendedStatistics=["p100"],
        **hour(),
    )

    points = sorted(answer["Datapoints"], key=lambda point: point["Timestamp"])
    assert answer["Label"] == "Level"
    assert points == [
        {
            "Timestamp": NOON,
            "Average": 3,
            "SampleCount": 3,
            "ExtendedStatistics": {"p100": 6},
            "Unit": "Milliseconds",
        },
        {
            "Timestamp": NOON + timedelta(minutes=2),
            "Average": 10,
            "SampleCount": 1,
            "ExtendedStatistics": {"p100": 10},
            "Unit": "Milliseconds",
        },
    ]


def test_every_protocol_of_the_service_reads_and_writes_the_same(client_of_protocol, namespace):
    put(client_of_protocol, namespace, [1, 2.5], Unit="Count")
    client_of_protocol.put_metric_alarm(**alarm(namespace))

    statistics = client_of_protocol.get_metric_statistics(
        Namespace=namespace,
        MetricName="Level",
        Dimensions=DIMENSIONS,
        Period=3600,
        Statistics=["Sum"],
        **hour(),
    )
    data = client_of_protocol.get_metric_data(MetricDataQueries=[metric_stat(namespace)], **hour())
    described = client_of_protocol.describe_alarms(AlarmNames=[namespace])

    assert statistics["Datapoints"] == [{"Timestamp": NOON, "Sum": 3.5, "Unit": "Count"}]
    assert data["MetricDataResults"][0]["Values"] == [2.5, 1]
    assert data["MetricDataResults"][0]["Timestamps"][1] == NOON
    assert described["MetricAlarms"][0].items() >= alarm(namespace).items()
    with pytest.raises(client_of_protocol.exceptions.ResourceNotFound):
        client_of_protocol.delete_alarms(AlarmNames=["never-made"])


def test_statistics_of_other_dimensions_are_of_another_metric(cloudwatch, namespace):
    put(cloudwatch, namespace, [1])

    answer = cloudwatch.get_metric_statistics(
        Namespace=namespace,
        MetricName="Level",
        Dimensions=DIMENSIONS[:1],
        Period=60,
        Statistics=["Sum"],
        **hour(),
    )

    assert answer["Datapoints"] == []


def test_values_with_counts_and_statistic_sets_are_samples_like_others(cloudwatch, namespace):
    metric = {"MetricName": "Level", "Dimensions": DIMENSIONS, "Timestamp": NOON}
    cloudwatch.put_metric_data(
        Namespace=namespace,
        MetricData=[
            metric | {"Values": [1, 5], "Counts": [3, 1]},
            metric | {"StatisticValues": {"SampleCount": 2, "Sum": 12, "Minimum": 4, "Maximum": 8}},
        ],
    )

    answer = cloudwatch.get_metric_statistics(
        Namespace=namespace,
        MetricName="Level",
        Dimensions=DIMENSIONS,
        Period=60,
        Statistics=["SampleCount", "Sum", "Maximum"],
        **hour(),
    )

    (point,) = answer["Datapoints"]
    assert (point["SampleCount"], point["Sum"], point["Maximum"]) == (6, 20, 8)


@pytest.mark.parametrize("coding", ["gzip", "GZIP"])
def test_a_large_batch_which_its_client_compresses_is_recorded_whole(ebbtide, namespace, coding):
    cloudwatch = ebbtide.session().client("cloudwatch", endpoint_url=ebbtide.url)
    cloudwatch.meta.events.register(
        "before-sign.cloudwatch.PutMetricData",
        lambda request, **_: request.headers.replace_header("Content-Encoding", coding),
    )
    put(cloudwatch, namespace, range(1000), step_s=1)

    answer = cloudwatch.get_metric_data(
        MetricDataQueries=[metric_stat(namespace, stat="Sum", period=3600)], **hour()
    )

    assert answer["MetricDataResults"][0]["Values"] == [499_500]


def test_points_of_different_units_are_not_added_up(cloudwatch, namespace):
    put(cloudwatch, namespace, [60_000], Unit="Milliseconds")
    put(cloudwatch, namespace, [60, 40], Unit="Seconds")

    any_unit, in_seconds = metric_stat(namespace, "any"), metric_stat(namespace, "seconds")
    for query in (any_unit, in_seconds):
        query["MetricStat"] |= {"Stat": "Sum", "Period": 3600}
    in_seconds["MetricStat"]["Unit"] = "Seconds"

    answer = cloudwatch.get_metric_data(MetricDataQueries=[any_unit, in_seconds], **hour())

    unsaid, seconds = answer["MetricDataResults"]

    assert unsaid["Values"] == [60_000]
    assert unsaid["Messages"] == [
        {"Code": "MultipleUnits", "Value": "Multiple units returned: '[Milliseconds, Seconds]'"}
    ]
    assert (seconds["Values"], seconds.get("Messages", [])) == ([100], [])


def test_metric_data_comes_newest_first_unless_asked_otherwise(cloudwatch, namespace):
    put(cloudwatch, namespace, [1, 2, 3])
    queries = [metric_stat(namespace)]

    descending = cloudwatch.get_metric_data(MetricDataQueries=queries, **hour())
    ascending = cloudwatch.get_metric_data(MetricDataQueries=queries, ScanBy="TimestampAscending", **hour())

    assert descending["MetricDataResults"][0]["Values"] == [3, 2, 1]
    (result,) = ascending["MetricDataResults"]
    assert result == {
        "Id": "m1",
        "Label": "Level",
        "Timestamps": [NOON + timedelta(minutes=minute) for minute in range(3)],
        "Values": [1, 2, 3],
        "StatusCode": "Complete",
    }


@pytest.mark.parametrize(
    ("asked", "labels"),
    [
        pytest.param([("Sum", 60)], ["Level"], id="alone"),
        pytest.param([("Sum", 60), ("Minimum", 60)], ["Level Sum", "Level Minimum"], id="statistics"),
        pytest.param([("Sum", 60), ("Sum", 30)], ["Level 60", "Level 30"], id="periods"),
        pytest.param([("Sum", 60), ("Minimum", 30)], ["Level Sum 60", "Level Minimum 30"], id="both"),
        pytest.param([("Sum", 60), ("Sum", 60)], ["Level", "Level"], id="nothing"),
    ],
)
def test_the_labels_of_one_metric_tell_in_what_its_series_differ(cloudwatch, namespace, asked, labels):
    queries = [
        metric_stat(namespace, f"m{number}", stat, period) for number, (stat, period) in enumerate(asked)
    ]

    answer = cloudwatch.get_metric_data(MetricDataQueries=queries, **hour())

    assert [result["Label"] for result in answer["MetricDataResults"]] == labels


def test_expressions_work_on_metrics_and_on_each_other(cloudwatch, namespace):
    put(cloudwatch, namespace, [10, 20], name="Backlog")
    put(cloudwatch, namespace, [2, 0], name="Instances")
    answer = cloudwatch.get_metric_data(
        MetricDataQueries=[
            {"Id": "filled", "Expression": "FILL(ratio, 0)", "Label": "backlog per instance [max: ${MAX}]"},
            {"Id": "ratio", "Expression": "backlog / instances", "ReturnData": False},
            metric_stat(namespace, "backlog", name="Backlog", ReturnData=False),
            metric_stat(namespace, "instances", name="Instances", ReturnData=False),
        ],
        ScanBy="TimestampAscending",
        StartTime=NOON,
        EndTime=NOON + timedelta(minutes=3),
    )

    (result,) = answer["MetricDataResults"]
    assert result["Values"] == [5, 0, 0]
    assert result["Label"] == "backlog per instance [max: 5]"


def test_metric_data_pages_hold_at_most_the_asked_number_of_values(cloudwatch, namespace):
    put(cloudwatch, namespace, range(7))
    put(cloudwatch, namespace, range(7), name="Other")
    queries = [metric_stat(namespace), metric_stat(namespace, "m2", name="Other")]

    pages = list(
        cloudwatch.get_paginator("get_metric_data").paginate(
            MetricDataQueries=queries, PaginationConfig={"PageSize": 3}, **hour()
        )
    )

    values = {"m1": [], "m2": []}
    for page in pages:
        assert sum(len(result["Values"]) for result in page["MetricDataResults"]) <= 3
        for result in page["MetricDataResults"]:
            values[result["Id"]] += result["Values"]
    assert values == {"m1": [6, 5, 4, 3, 2, 1, 0], "m2": [6, 5, 4, 3, 2, 1, 0]}
    assert pages[0]["MetricDataResults"][0]["StatusCode"] == "PartialData"


def test_metrics_are_listed_by_namespace_name_and_dimensions(cloudwatch, namespace):
    put(cloudwatch, namespace, [1])
    put(cloudwatch, namespace, [1], name="Other", Dimensions=[])

    listed = cloudwatch.list_metrics(Namespace=namespace)["Metrics"]
    of_endpoint = cloudwatch.list_metrics(
        Namespace=namespace, Dimensions=[{"Name": "EndpointName", "Value": "e"}], RecentlyActive="PT3H"
    )["Metrics"]

    assert [metric["MetricName"] for metric in listed] == ["Level", "Other"]
    assert of_endpoint == [{"Namespace": namespace, "MetricName": "Level", "Dimensions": DIMENSIONS}]


def test_more_metrics_than_a_page_are_listed_page_by_page(cloudwatch, namespace):
    cloudwatch.put_metric_data(
        Namespace=namespace,
        MetricData=[{"MetricName": f"M{number:03}", "Value": 1} for number in range(501)],
    )

    pages = list(cloudwatch.get_paginator("list_metrics").paginate(Namespace=namespace))

    names = [metric["MetricName"] for page in pages for metric in page["Metrics"]]
    assert [len(page["Metrics"]) for page in pages] == [500, 1]
    assert names == [f"M{number:03}" for number in range(501)]


@pytest.mark.parametrize(
    ("datum", "expected"),
    [
        pytest.param({"Value": math.nan}, "InvalidParameterValue", id="not a number"),
        pytest.param({"Value": math.inf}, "InvalidParameterValue", id="infinite"),
        pytest.param({}, "MissingParameter", id="no value"),
        pytest.param({"Value": 1.0, "Values": [1.0]}, "InvalidParameterCombination", id="two kinds of value"),
        pytest.param({"Values": []}, "InvalidParameterValue", id="no values"),
        pytest.param({"Values": [1.0, 2.0], "Counts": [1.0]}, "InvalidParameterValue", id="a count too few"),
        pytest.param({"Value": 1.0, "StorageResolution": 7}, "InvalidParameterValue", id="odd resolution"),
        pytest.param(
            {"Value": 1.0, "Timestamp": NOON - timedelta(days=20)}, "InvalidParameterValue", id="too old"
        ),
        pytest.param(
            {"Value": 1.0, "Timestamp": NOON + timedelta(days=1)}, "InvalidParameterValue", id="too new"
        ),
        pytest.param(
            {"StatisticValues": {"SampleCount": 0, "Sum": 0, "Minimum": 0, "Maximum": 0}},
            "InvalidParameterValue",
            id="a set without samples",
        ),
    ],
)
def test_a_datum_that_says_nothing_clear_is_refused(cloudwatch, namespace, datum, expected):
    with pytest.raises(ClientError) as error:
        cloudwatch.put_metric_data(Namespace=namespace, MetricData=[{"MetricName": "Level"} | datum])

    assert code(error) == expected
    assert cloudwatch.list_metrics(Namespace=namespace)["Metrics"] == []


def test_the_namespaces_of_aws_are_not_for_clients(cloudwatch):
    with pytest.raises(ClientError) as error:
        cloudwatch.put_metric_data(Namespace="AWS/SageMaker", MetricData=[{"MetricName": "m", "Value": 1}])

    assert code(error) == "InvalidParameterValue"


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({"EndTime": NOON}, "InvalidParameterValue", id="an empty range"),
        pytest.param({"Period": 7}, "InvalidParameterValue", id="an odd period"),
        pytest.param({"Statistics": None}, "MissingParameter", id="no statistics"),
        pytest.param({"ExtendedStatistics": ["median"]}, "InvalidParameterValue", id="an unknown one"),
        pytest.param(
            {"EndTime": NOON + timedelta(days=2)}, "InvalidParameterCombination", id="too many datapoints"
        ),
    ],
)
def test_statistics_that_cannot_be_given_are_refused(cloudwatch, changed, expected):
    request = hour(Namespace="n", MetricName="m", Period=60, Statistics=["Sum"]) | changed
    request = {name: value for name, value in request.items() if value is not None}

    with pytest.raises(ClientError) as error:
        cloudwatch.get_metric_statistics(**request)

    assert code(error) == expected


def test_metric_data_of_a_range_that_ends_before_it_begins_is_refused(cloudwatch):
    with pytest.raises(ClientError, match="StartTime must be less than") as error:
        cloudwatch.get_metric_data(MetricDataQueries=[metric_stat("n")], **hour(EndTime=NOON))

    assert code(error) == "ValidationError"


@pytest.mark.parametrize(
    ("queries", "words"),
    [
        pytest.param([{"Id": "m1"}], "either MetricStat or Expression", id="neither metric nor expression"),
        pytest.param([{"Id": "M1", "Expression": "1"}], "lowercase letter", id="an id in capitals"),
        pytest.param([metric_stat("n"), metric_stat("n")], "used by several", id="an id twice"),
        pytest.param([{"Id": "e1", "Expression": "m9"}], "undefined variable m9", id="an unknown id"),
        pytest.param([{"Id": "e1", "Expression": "e1 + 1"}], "refers to itself", id="a circle"),
        pytest.param([{"Id": "e1", "Expression": "1 + 1"}], "is a number", id="a number as result"),
        pytest.param([metric_stat("n", stat="median")], "median is not supported", id="an unknown statistic"),
        pytest.param([metric_stat("n", period=61)], "Period 61", id="an odd period"),
        pytest.param([metric_stat("n", AccountId="333333333333")], "for account 333", id="another account"),
        pytest.param([metric_stat("n", period=60 * 2**70)], "eriod", id="a period beyond all integers"),
    ],
)
def test_metric_data_queries_that_make_no_sense_say_why(cloudwatch, queries, words):
    with pytest.raises(ClientError) as error:
        cloudwatch.get_metric_data(MetricDataQueries=queries, **hour())

    assert code(error) == "ValidationError"
    assert words in error.value.response["Error"]["Message"]


def alarm(name, **changed):
    return {
        "AlarmName": name,
        "Namespace": "AWS/SageMaker",
        "MetricName": "HasBacklogWithoutCapacity",
        "Dimensions": DIMENSIONS[:1],
        "Statistic": "Average",
        "Period": 60,
        "EvaluationPeriods": 2,
        "DatapointsToAlarm": 2,
        "Threshold": 1,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "missing",
    } | changed


def test_an_alarm_is_described_as_it_was_put(cloudwatch):
    cloudwatch.put_metric_alarm(**alarm("described", AlarmActions=["arn:aws:sns:us-east-1:123456789012:t"]))

    (described,) = cloudwatch.describe_alarms(AlarmNames=["described"])["MetricAlarms"]

    assert described.items() >= alarm("described").items()
    assert described["AlarmArn"].endswith(":alarm:described")
    assert described["StateValue"] == "INSUFFICIENT_DATA"
    assert described["ActionsEnabled"] is True
    cloudwatch.get_waiter("alarm_exists").wait(AlarmNames=["described"])


def test_alarms_are_found_by_prefix_state_action_and_metric(cloudwatch):
    topic = "arn:aws:sns:us-east-1:123456789012:found"
    cloudwatch.put_metric_alarm(**alarm("found-1", OKActions=[topic]))
    cloudwatch.put_metric_alarm(**alarm("found-2", MetricName="FoundMetric", TreatMissingData="ignore"))
    cloudwatch.set_alarm_state(AlarmName="found-2", StateValue="OK", StateReason="drill")

    def names(**filters):
        answer = cloudwatch.describe_alarms(AlarmNamePrefix="found-", **filters)
        return [found["AlarmName"] for found in answer["MetricAlarms"]]

    of_metric = cloudwatch.describe_alarms_for_metric(
        Namespace="AWS/SageMaker", MetricName="FoundMetric", Dimensions=DIMENSIONS[:1]
    )
    assert names() == ["found-1", "found-2"]
    assert names(StateValue="OK") == ["found-2"]
    assert names(ActionPrefix=topic) == ["found-1"]
    assert [found["AlarmName"] for found in of_metric["MetricAlarms"]] == ["found-2"]
    pages = cloudwatch.get_paginator("describe_alarms").paginate(
        AlarmNamePrefix="found-", PaginationConfig={"PageSize": 1}
    )
    assert [len(page["MetricAlarms"]) for page in pages] == [1, 1]


def test_a_state_set_by_hand_is_shown_with_its_reason_and_in_the_history(cloudwatch):
    cloudwatch.put_metric_alarm(**alarm("drilled", TreatMissingData="ignore"))

    cloudwatch.set_alarm_state(
        AlarmName="drilled", StateValue="ALARM", StateReason="drill", StateReasonData='{"version": "1.0"}'
    )

    (described,) = cloudwatch.describe_alarms(AlarmNames=["drilled"])["MetricAlarms"]
    history = cloudwatch.describe_alarm_history(AlarmName="drilled")["AlarmHistoryItems"]
    assert (described["StateValue"], described["StateReason"]) == ("ALARM", "drill")
    assert [item["HistoryItemType"] for item in history] == ["StateUpdate", "ConfigurationUpdate"]
    assert history[0]["HistorySummary"] == "Alarm updated from INSUFFICIENT_DATA to ALARM"
    states = json.loads(history[0]["HistoryData"])
    assert (states["oldState"]["stateValue"], states["newState"]["stateValue"]) == (
        "INSUFFICIENT_DATA",
        "ALARM",
    )


def test_an_alarms_tags_are_its_own_whatever_it_is_put_as_again(cloudwatch):
    tags = [{"Key": "team", "Value": "law"}, {"Key": "cost", "Value": "1"}]
    cloudwatch.put_metric_alarm(**alarm("tagged", Tags=tags))
    [described] = cloudwatch.describe_alarms(AlarmNames=["tagged"])["MetricAlarms"]
    arn = described["AlarmArn"]

    cloudwatch.tag_resource(ResourceARN=arn, Tags=[{"Key": "team", "Value": "arts"}])
    cloudwatch.untag_resource(ResourceARN=arn, TagKeys=["cost"])
    cloudwatch.put_metric_alarm(**alarm("tagged", Tags=[{"Key": "ignored", "Value": "once it exists"}]))

    assert cloudwatch.list_tags_for_resource(ResourceARN=arn)["Tags"] == [{"Key": "team", "Value": "arts"}]
    with pytest.raises(cloudwatch.exceptions.ResourceNotFoundException):
        cloudwatch.list_tags_for_resource(ResourceARN=f"{arn}-other")


def test_actions_can_be_disabled_and_enabled(cloudwatch):
    cloudwatch.put_metric_alarm(**alarm("silent"))

    cloudwatch.disable_alarm_actions(AlarmNames=["silent"])
    disabled = cloudwatch.describe_alarms(AlarmNames=["silent"])["MetricAlarms"][0]["ActionsEnabled"]
    cloudwatch.enable_alarm_actions(AlarmNames=["silent"])
    enabled = cloudwatch.describe_alarms(AlarmNames=["silent"])["MetricAlarms"][0]["ActionsEnabled"]

    assert (disabled, enabled) == (False, True)


def test_deleting_alarms_deletes_all_of_them_or_none(cloudwatch):
    cloudwatch.put_metric_alarm(**alarm("deleted"))

    with pytest.raises(ClientError) as error:
        cloudwatch.delete_alarms(AlarmNames=["deleted", "never-made"])
    kept = cloudwatch.describe_alarms(AlarmNames=["deleted"])["MetricAlarms"]
    cloudwatch.delete_alarms(AlarmNames=["deleted"])

    assert code(error) in ("ResourceNotFound", "ResourceNotFoundException")
    assert len(kept) == 1
    assert cloudwatch.describe_alarms(AlarmNames=["deleted"])["MetricAlarms"] == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        pytest.param({"Statistic": None}, "Exactly one of Statistic", id="no statistic"),
        pytest.param({"MetricName": None}, "MetricName is required", id="no metric"),
        pytest.param({"Threshold": None}, "Threshold is required", id="no threshold"),
        pytest.param({"DatapointsToAlarm": 3}, "DatapointsToAlarm", id="more datapoints than periods"),
        pytest.param({"TreatMissingData": "guess"}, "TreatMissingData", id="an unknown treatment"),
        pytest.param({"Period": 45}, "Period 45", id="an odd period"),
        pytest.param({"EvaluationPeriods": 20_000}, "EvaluationPeriods", id="more than seven days"),
        pytest.param({"AlarmActions": ["arn:aws:lambda:x"]}, "neither an SNS topic", id="an action we lack"),
        pytest.param({"ThresholdMetricId": "e1"}, "not supported", id="anomaly detection"),
    ],
)
def test_an_alarm_that_makes_no_sense_says_why(cloudwatch, changed, words):
    request = {name: value for name, value in (alarm("refused") | changed).items() if value is not None}

    with pytest.raises(ClientError) as error:
        cloudwatch.put_metric_alarm(**request)

    assert code(error) == "ValidationError"
    assert words in error.value.response["Error"]["Message"]


def test_setting_the_state_of_an_alarm_that_does_not_exist_is_not_found(cloudwatch):
    with pytest.raises(cloudwatch.exceptions.ResourceNotFound):
        cloudwatch.set_alarm_state(AlarmName="never-made", StateValue="OK", StateReason="drill")
