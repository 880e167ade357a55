"""The resource classes that version 3 of the sagemaker SDK stands on (sagemaker-core), over the same server.

They turn each reply into typed objects, and refuse one whose members are not what the service model says.
"""

import pytest
from botocore.exceptions import ClientError
from tests.deployments import IMAGE

NAME = "resources"


@pytest.fixture(scope="module")
def core(ebbtide):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ebbtide.environment().items():
            patch.setenv(name, value)
        from sagemaker_core.main import resources

        yield resources


@pytest.fixture(scope="module")
def endpoint(core, summaries):
    from sagemaker_core.main import shapes

    container = shapes.ContainerDefinition(image=IMAGE, environment={"HF_MODEL_ID": "ebbtide/extractive"})
    model = core.Model.create(model_name=NAME, primary_container=container)
    output = shapes.AsyncInferenceOutputConfig(
        s3_output_path=f"s3://{summaries.bucket}/out", s3_failure_path=f"s3://{summaries.bucket}/failed"
    )
    config = core.EndpointConfig.create(
        endpoint_config_name=NAME,
        production_variants=[
            shapes.ProductionVariant(
                variant_name="all", model_name=NAME, instance_type="ml.m5.xlarge", initial_instance_count=1
            )
        ],
        async_inference_config=shapes.AsyncInferenceConfig(output_config=output),
    )
    made = core.Endpoint.create(
        endpoint_name=NAME, endpoint_config_name=config, tags=[shapes.Tag(key="team", value="tides")]
    )
    made.wait_for_status("InService", poll=1, timeout=300)
    yield made
    made.delete()
    made.wait_for_delete(poll=1, timeout=300)
    config.delete()
    model.delete()


def test_an_endpoint_of_resources_answers_an_invocation(ebbtide, endpoint, article):
    answer = endpoint.invoke_async(input_location=article, content_type="application/json")

    bucket, key = answer.output_location.removeprefix("s3://").split("/", 1)
    s3 = ebbtide.client("s3")
    s3.get_waiter("object_exists").wait(Bucket=bucket, Key=key, WaiterConfig={"Delay": 1})
    assert b"summary_text" in s3.get_object(Bucket=bucket, Key=key)["Body"].read()


def test_resources_are_read_back_listed_and_tagged(core, endpoint):
    assert endpoint.refresh().production_variants[0].current_instance_count == 1
    assert NAME in [found.endpoint_name for found in core.Endpoint.get_all(name_contains=NAME)]
    assert NAME in [found.endpoint_config_name for found in core.EndpointConfig.get_all(name_contains=NAME)]
    assert NAME in [found.model_name for found in core.Model.get_all(name_contains=NAME)]
    assert [(tag.key, tag.value) for tag in core.Tag.get_all(resource_arn=endpoint.endpoint_arn)] == [
        ("team", "tides")
    ]


def test_what_is_not_there_is_said_with_its_name(core):
    with pytest.raises(ClientError, match=r"Could not find endpoint .*/absent"):
        core.Endpoint.get(endpoint_name="absent")
