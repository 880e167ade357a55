"""SageMaker's control plane through boto3, against a running server."""

import json
import uuid
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.deployments import IMAGE, deploy
from tests.receivers import next_message

from ebbtide.pytest_plugin import Ebbtide

ECHO = {"HF_MODEL_ID": "ebbtide/echo"}
QUICK = {"Delay": 0.1, "MaxAttempts": 1800}


@pytest.fixture(scope="module")
def sagemaker(ebbtide: Ebbtide) -> Any:
    return ebbtide.client("sagemaker")


@pytest.fixture(scope="module")
def model(ebbtide, sagemaker) -> str:
    """A model that nothing is wrong with."""
    name = unique()
    create_model(ebbtide, name)
    return name


def unique() -> str:
    return f"n-{uuid.uuid4().hex[:12]}"


def create_model(ebbtide, name, **container) -> dict[str, Any]:
    return ebbtide.client("sagemaker").create_model(
        ModelName=name,
        ExecutionRoleArn=ebbtide.role_arn,
        PrimaryContainer={"Image": IMAGE, "Environment": ECHO} | container,
    )


def variant(model: str, **given) -> dict[str, Any]:
    return {"VariantName": "main", "ModelName": model, "InstanceType": "ml.m5.xlarge"} | given


def create_config(ebbtide, model: str, *, name: str | None = None, **given) -> str:
    """An asynchronous configuration that starts at zero instances, unless `given` says otherwise."""
    name = name or unique()
    config: dict[str, Any] = {
        "ProductionVariants": [variant(model)],
        "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://out/results"}},
    }
    ebbtide.client("sagemaker").create_endpoint_config(EndpointConfigName=name, **config | given)
    return name


def refused(call, **params) -> dict[str, Any]:
    """The answer's error, with its HTTP status."""
    with pytest.raises(ClientError) as error:
        call(**params)
    status = error.value.response["ResponseMetadata"]["HTTPStatusCode"]
    return error.value.response["Error"] | {"Status": status}


def in_service(sagemaker, name: str) -> dict[str, Any]:
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig=QUICK)
    return sagemaker.describe_endpoint(EndpointName=name)


# Models


def test_a_model_is_described_as_it_was_created(ebbtide, sagemaker):
    name = unique()

    ebbtide.client("s3").create_bucket(Bucket="models")
    ebbtide.client("s3").put_object(Bucket="models", Key="model.tar.gz")

    created = create_model(ebbtide, name, ModelDataUrl="s3://models/model.tar.gz")

    described = sagemaker.describe_model(ModelName=name)
    assert created["ModelArn"].endswith(f":123456789012:model/{name}")
    assert described["ModelArn"] == created["ModelArn"]
    assert described["PrimaryContainer"]["ModelDataUrl"] == "s3://models/model.tar.gz"
    assert described["ExecutionRoleArn"] == ebbtide.role_arn
    assert described["CreationTime"].tzinfo is not None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(
            {"ModelDataUrl": "s3://empty/"},
            "s3://empty/: The specified key does not exist.",
            id="an empty prefix",
        ),
        pytest.param(
            {"ModelDataUrl": "s3://none/m.tar.gz"}, "s3://none/m.tar.gz: The specified bucket", id="no bucket"
        ),
        pytest.param(
            {
                "ModelDataSource": {
                    "S3DataSource": {
                        "S3Uri": "s3://empty/a/",
                        "S3DataType": "S3Prefix",
                        "CompressionType": "None",
                    }
                }
            },
            "s3://empty/a/: no object's key begins so",
            id="nothing below a prefix",
        ),
    ],
)
def test_model_data_that_is_not_there_is_refused(ebbtide, data, message):
    ebbtide.client("s3").create_bucket(Bucket="empty")

    error = refused(create_model, ebbtide=ebbtide, name=unique(), **data)

    assert error["Code"] == "ValidationException"
    assert error["Message"].startswith(f"Could not find model data at {message}")


def test_a_model_name_is_taken_once(ebbtide, model):
    error = refused(create_model, ebbtide=ebbtide, name=model)

    assert error["Code"] == "ValidationException"
    assert error["Message"].startswith('Cannot create already existing model "arn:aws:sagemaker:')


def test_a_deleted_model_cannot_be_found(ebbtide, sagemaker):
    name = unique()
    create_model(ebbtide, name)

    sagemaker.delete_model(ModelName=name)

    error = refused(sagemaker.describe_model, ModelName=name)
    assert (error["Code"], error["Status"]) == ("ValidationException", 400)
    assert error["Message"] == (
        f'Could not find model "arn:aws:sagemaker:{ebbtide.region}:123456789012:model/{name}".'
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({}, "exactly one container", id="no container"),
        pytest.param(
            {"Containers": [{"Image": IMAGE}, {"Image": IMAGE}]},
            "inference pipelines are not supported",
            id="a pipeline",
        ),
        pytest.param(
            {"PrimaryContainer": {"ModelPackageName": "package"}},
            "ModelPackageName is not supported",
            id="a model package",
        ),
        pytest.param({"PrimaryContainer": {"Environment": {}}}, "no Image", id="no image"),
        pytest.param(
            {"PrimaryContainer": {"Image": IMAGE, "Mode": "MultiModel"}},
            "MultiModel is not supported",
            id="several models",
        ),
    ],
)
def test_a_model_that_cannot_be_served_is_refused(sagemaker, given, message):
    error = refused(sagemaker.create_model, ModelName=unique(), **given)

    assert error["Code"] == "ValidationException"
    assert message in error["Message"]


@pytest.mark.parametrize(
    "name",
    [pytest.param("a" * 64, id="too long"), pytest.param("with_underscore", id="outside its pattern")],
)
def test_a_bad_name_is_refused_in_awss_words(sagemaker, name):
    error = refused(sagemaker.create_model, ModelName=name, PrimaryContainer={"Image": IMAGE})

    assert error["Code"] == "ValidationException"
    assert f"1 validation error detected: Value '{name}' at 'modelName' failed" in error["Message"]


def test_an_unknown_operation_is_named(sagemaker):
    error = refused(sagemaker.list_clusters)

    assert error["Code"] == "UnknownOperationException"
    assert "ListClusters" in error["Message"]


# Configurations


def test_a_configuration_is_described_as_it_was_created_without_empty_members(ebbtide, sagemaker, model):
    name = create_config(
        ebbtide,
        model,
        ProductionVariants=[variant(model, InitialInstanceCount=1, InitialVariantWeight=2.0)],
        AsyncInferenceConfig={
            "OutputConfig": {"S3OutputPath": "s3://out/results", "NotificationConfig": {}},
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2},
        },
        Tags=[],
    )

    described = sagemaker.describe_endpoint_config(EndpointConfigName=name)

    assert described["ProductionVariants"] == [
        variant(model, InitialInstanceCount=1, InitialVariantWeight=2.0)
    ]
    assert described["AsyncInferenceConfig"]["ClientConfig"] == {"MaxConcurrentInvocationsPerInstance": 2}
    assert not {"Tags", "DataCaptureConfig", "VpcConfig"} & described.keys()


def test_a_configuration_needs_its_model(ebbtide):
    error = refused(create_config, ebbtide=ebbtide, model="no-such-model")

    assert error["Message"].startswith('Could not find model "arn:aws:sagemaker:')


def test_serverless_and_asynchronous_do_not_go_together(ebbtide, model):
    serverless = {
        "VariantName": "main",
        "ModelName": model,
        "ServerlessConfig": {"MemorySizeInMB": 2048, "MaxConcurrency": 5},
    }

    error = refused(create_config, ebbtide=ebbtide, model=model, ProductionVariants=[serverless])

    assert error["Code"] == "ValidationException"
    assert error["Message"].startswith(
        "One or more endpoint features are not supported using this configuration"
    )


def test_a_missing_configuration_is_named(sagemaker):
    error = refused(sagemaker.describe_endpoint_config, EndpointConfigName="missing")

    assert error["Message"].startswith('Could not find endpoint configuration "arn:aws:sagemaker:')


def test_an_instance_type_of_our_own_is_accepted(ebbtide, sagemaker, model):
    name = create_config(ebbtide, model, ProductionVariants=[variant(model, InstanceType="ml.laptop")])

    described = sagemaker.describe_endpoint_config(EndpointConfigName=name)

    assert described["ProductionVariants"][0]["InstanceType"] == "ml.laptop"


# Lists and tags


def test_lists_are_paged_sorted_and_filtered(ebbtide, sagemaker):
    prefix = unique()
    names = [f"{prefix}-{number}" for number in range(5)]
    for name in names:
        create_model(ebbtide, name)

    pages = sagemaker.get_paginator("list_models").paginate(
        NameContains=prefix, SortBy="Name", SortOrder="Ascending", PaginationConfig={"PageSize": 2}
    )
    newest = sagemaker.list_models(NameContains=prefix, MaxResults=1)

    assert [[each["ModelName"] for each in page["Models"]] for page in pages] == [
        names[:2],
        names[2:4],
        names[4:],
    ]
    assert [each["ModelName"] for each in newest["Models"]] == names[-1:]


def test_a_token_that_no_list_gave_is_refused(sagemaker):
    assert refused(sagemaker.list_models, NextToken="made up")["Code"] == "ValidationException"


def test_tags_belong_to_a_resource_and_go_with_it(ebbtide, sagemaker):
    name = unique()
    resource = sagemaker.create_model(
        ModelName=name, PrimaryContainer={"Image": IMAGE}, Tags=[{"Key": "team", "Value": "a"}]
    )["ModelArn"]

    sagemaker.add_tags(
        ResourceArn=resource, Tags=[{"Key": "team", "Value": "b"}, {"Key": "cost", "Value": "1"}]
    )
    assert sagemaker.list_tags(ResourceArn=resource, MaxResults=50)["Tags"] == [
        {"Key": "cost", "Value": "1"},
        {"Key": "team", "Value": "b"},
    ]

    sagemaker.delete_tags(ResourceArn=resource, TagKeys=["cost"])
    assert sagemaker.list_tags(ResourceArn=resource)["Tags"] == [{"Key": "team", "Value": "b"}]

    sagemaker.delete_model(ModelName=name)
    assert "Could not find" in refused(sagemaker.list_tags, ResourceArn=resource)["Message"]


# Endpoints


def test_an_endpoint_comes_into_service_and_is_described(ebbtide, sagemaker):
    deployed = deploy(ebbtide, environment=ECHO)

    described = in_service(sagemaker, deployed.name)

    [main] = described["ProductionVariants"]
    assert described["EndpointConfigName"] == deployed.name
    assert (main["CurrentInstanceCount"], main["DesiredInstanceCount"]) == (1, 1)
    assert (main["CurrentWeight"], main["DesiredWeight"]) == (1.0, 1.0)
    assert main["DeployedImages"][0]["SpecifiedImage"] == IMAGE
    assert "VariantStatus" not in main
    assert described["AsyncInferenceConfig"]["OutputConfig"]["S3OutputPath"].endswith("/results")
    assert not {"FailureReason", "DataCaptureConfig", "PendingDeploymentSummary"} & described.keys()
    sagemaker.delete_endpoint(EndpointName=deployed.name)


def test_an_endpoint_is_deleted_with_its_configuration_and_model_gone_before_it(ebbtide, sagemaker):
    deployed = deploy(ebbtide, environment=ECHO)
    sagemaker.delete_endpoint_config(EndpointConfigName=deployed.name)
    sagemaker.delete_model(ModelName=deployed.name)
    assert sagemaker.describe_endpoint(EndpointName=deployed.name)["EndpointStatus"] == "InService"

    sagemaker.delete_endpoint(EndpointName=deployed.name)

    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=deployed.name, WaiterConfig=QUICK)
    error = refused(sagemaker.describe_endpoint, EndpointName=deployed.name)
    assert error["Message"].startswith('Could not find endpoint "arn:aws:sagemaker:')


def test_an_endpoint_name_is_taken_in_every_case_of_letters(ebbtide, sagemaker, model):
    config, name = create_config(ebbtide, model), f"Case-{unique()}"
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=config)

    error = refused(sagemaker.create_endpoint, EndpointName=name.upper(), EndpointConfigName=config)

    assert error["Message"].startswith('Cannot create already existing endpoint "arn:aws:sagemaker:')
    assert name in error["Message"]


def test_an_endpoint_whose_model_cannot_be_loaded_fails_with_the_reason(ebbtide, sagemaker):
    deployed = deploy(
        ebbtide, inference="def model_fn(model_dir): raise RuntimeError('no weights here')", wait=False
    )

    with pytest.raises(Exception, match="Waiter EndpointInService failed"):
        in_service(sagemaker, deployed.name)

    described = sagemaker.describe_endpoint(EndpointName=deployed.name)
    assert described["EndpointStatus"] == "Failed"
    assert "no weights here" in described["FailureReason"]
    error = refused(sagemaker.update_endpoint, EndpointName=deployed.name, EndpointConfigName=deployed.name)
    assert "can only be deleted" in error["Message"]
    sagemaker.delete_endpoint(EndpointName=deployed.name)
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=deployed.name, WaiterConfig=QUICK)


def test_an_update_moves_the_endpoint_to_another_configuration(ebbtide, sagemaker):
    deployed = deploy(ebbtide, environment=ECHO)
    config = create_config(
        ebbtide, deployed.name, ProductionVariants=[variant(deployed.name, InitialInstanceCount=1)]
    )

    sagemaker.update_endpoint(EndpointName=deployed.name, EndpointConfigName=config)
    error = refused(sagemaker.update_endpoint, EndpointName=deployed.name, EndpointConfigName=config)
    updating = sagemaker.describe_endpoint(EndpointName=deployed.name)

    assert error["Message"].startswith('Cannot update in-progress endpoint "arn:aws:sagemaker:')
    assert updating["EndpointStatus"] == "Updating"
    assert updating["PendingDeploymentSummary"]["EndpointConfigName"] == config
    updated = in_service_after_update(sagemaker, deployed.name)
    assert updated["EndpointConfigName"] == config
    assert updated["ProductionVariants"][0]["VariantName"] == "main"
    sagemaker.delete_endpoint(EndpointName=deployed.name)


def in_service_after_update(sagemaker, name: str) -> dict[str, Any]:
    described = in_service(sagemaker, name)
    assert "PendingDeploymentSummary" not in described
    return described


def test_instance_counts_and_weights_can_be_changed_down_to_zero(ebbtide, sagemaker):
    deployed = deploy(ebbtide, environment=ECHO)

    sagemaker.update_endpoint_weights_and_capacities(
        EndpointName=deployed.name,
        DesiredWeightsAndCapacities=[{"VariantName": "v", "DesiredInstanceCount": 0, "DesiredWeight": 3.0}],
    )

    [v] = in_service(sagemaker, deployed.name)["ProductionVariants"]
    assert (v["CurrentInstanceCount"], v["DesiredInstanceCount"]) == (0, 0)
    assert (v["CurrentWeight"], v["DesiredWeight"]) == (3.0, 3.0)
    sagemaker.delete_endpoint(EndpointName=deployed.name)


def test_the_capacity_of_a_variant_not_there_or_named_twice_cannot_be_changed(ebbtide, sagemaker, model):
    name = unique()
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=create_config(ebbtide, model))
    in_service(sagemaker, name)

    error = refused(
        sagemaker.update_endpoint_weights_and_capacities,
        EndpointName=name,
        DesiredWeightsAndCapacities=[{"VariantName": "other", "DesiredInstanceCount": 1}],
    )
    twice = refused(
        sagemaker.update_endpoint_weights_and_capacities,
        EndpointName=name,
        DesiredWeightsAndCapacities=[{"VariantName": "v", "DesiredInstanceCount": n} for n in (1, 2)],
    )

    assert 'Variant "other" is not a variant of endpoint' in error["Message"]
    assert 'The variant name "v" was non-unique within the request.' in twice["Message"]


def test_endpoints_are_listed_by_status(ebbtide, sagemaker, model):
    name = unique()
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=create_config(ebbtide, model))
    in_service(sagemaker, name)

    listed = sagemaker.list_endpoints(NameContains=name, StatusEquals="InService")["Endpoints"]
    others = sagemaker.list_endpoints(NameContains=name, StatusEquals="Failed")["Endpoints"]

    assert [each["EndpointName"] for each in listed] == [name]
    assert others == []


def test_topics_get_a_test_notification_when_an_endpoint_is_created(ebbtide, sagemaker, model):
    sns, sqs = ebbtide.client("sns"), ebbtide.client("sqs")
    topic = sns.create_topic(Name=unique())["TopicArn"]
    queue_url = sqs.create_queue(QueueName=unique())["QueueUrl"]
    queue = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]
    sns.subscribe(
        TopicArn=topic,
        Protocol="sqs",
        Endpoint=queue["QueueArn"],
        Attributes={"RawMessageDelivery": "true"},
    )
    output = {"S3OutputPath": "s3://out/results", "NotificationConfig": {"SuccessTopic": topic}}

    sagemaker.create_endpoint(
        EndpointName=unique(),
        EndpointConfigName=create_config(ebbtide, model, AsyncInferenceConfig={"OutputConfig": output}),
    )

    assert json.loads(next_message(sqs, queue_url)) == {
        "eventVersion": "1.0",
        "eventSource": "aws:sagemaker",
        "eventName": "TestNotification",
    }


def test_an_endpoint_whose_topic_is_missing_fails_and_says_so(ebbtide, sagemaker, model):
    topic = f"arn:aws:sns:{ebbtide.region}:123456789012:no-such-topic"
    output = {"S3OutputPath": "s3://out/results", "NotificationConfig": {"ErrorTopic": topic}}
    name = unique()

    sagemaker.create_endpoint(
        EndpointName=name,
        EndpointConfigName=create_config(ebbtide, model, AsyncInferenceConfig={"OutputConfig": output}),
    )

    described = sagemaker.describe_endpoint(EndpointName=name)
    assert described["EndpointStatus"] == "Failed"
    assert topic in described["FailureReason"]
    assert "sns:Publish" in described["FailureReason"]
