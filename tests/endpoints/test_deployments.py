"""Which configurations can be deployed."""

import pytest

from ebbtide.endpoints.deployments import check_config, deploy
from ebbtide.endpoints.records import AsyncConfig, decode_deployment, encode_deployment
from ebbtide.errors import ServiceError

VARIANT = {
    "VariantName": "main",
    "ModelName": "model",
    "InstanceType": "ml.m5.xlarge",
    "InitialInstanceCount": 1,
}
ASYNC = {"OutputConfig": {"S3OutputPath": "s3://out/results"}}


def without(mapping, *names):
    return {name: value for name, value in mapping.items() if name not in names}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(
            {"ProductionVariants": [VARIANT, VARIANT]}, "names must be unique", id="two variants of one name"
        ),
        pytest.param(
            {"ProductionVariants": [without(VARIANT, "ModelName")]}, "ModelName is required", id="no model"
        ),
        pytest.param(
            {"ProductionVariants": [without(VARIANT, "InstanceType")]},
            "InstanceType is required",
            id="no instance type",
        ),
        pytest.param(
            {"ProductionVariants": [VARIANT | {"InitialInstanceCount": 0}]},
            "at least 1 without AsyncInferenceConfig",
            id="a real-time variant at zero",
        ),
        pytest.param(
            {"ProductionVariants": [VARIANT | {"ServerlessConfig": {}}], "AsyncInferenceConfig": ASYNC},
            "features are not supported using this configuration: ServerlessConfig",
            id="serverless and asynchronous",
        ),
        pytest.param(
            {"ProductionVariants": [VARIANT | {"ServerlessConfig": {}}]},
            "serverless inference is not supported",
            id="serverless",
        ),
        pytest.param(
            {
                "ProductionVariants": [VARIANT],
                "AsyncInferenceConfig": ASYNC,
                "ShadowProductionVariants": [VARIANT],
            },
            "features are not supported using this configuration: ShadowProductionVariants",
            id="a shadow of a queue",
        ),
        pytest.param(
            {"ProductionVariants": [VARIANT], "AsyncInferenceConfig": {"OutputConfig": {}}},
            "S3OutputPath is required",
            id="nowhere to write to",
        ),
        pytest.param(
            {
                "ProductionVariants": [VARIANT],
                "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3:///results"}},
            },
            "S3OutputPath: s3:///results names no bucket",
            id="an output path without a bucket",
        ),
    ],
)
def test_a_configuration_that_cannot_be_deployed_is_refused(given, message):
    with pytest.raises(ServiceError, match=message):
        check_config(given)


@pytest.mark.parametrize(
    "given",
    [
        pytest.param({"ProductionVariants": [VARIANT]}, id="real-time"),
        pytest.param({"ProductionVariants": [VARIANT], "AsyncInferenceConfig": ASYNC}, id="asynchronous"),
        pytest.param(
            {
                "ProductionVariants": [VARIANT | {"InitialInstanceCount": 0}],
                "AsyncInferenceConfig": ASYNC,
            },
            id="asynchronous at zero",
        ),
        pytest.param(
            {
                "ProductionVariants": [VARIANT | {"InstanceType": "ml.of-our-own"}],
                "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "https://out.s3.amazonaws.com/x"}},
            },
            id="an unknown instance type and an https path",
        ),
    ],
)
def test_a_configuration_that_can_be_deployed_passes(given):
    check_config(given)


def test_a_deployment_reads_back_as_it_was_kept():
    config = {
        "EndpointConfigName": "config",
        "ProductionVariants": [VARIANT],
        "AsyncInferenceConfig": ASYNC,
    }

    deployment = deploy(3, config, {"model": {"ModelName": "model"}}, at=1.5)

    assert decode_deployment(encode_deployment(deployment)) == deployment


def test_an_empty_notification_config_is_none():
    config = AsyncConfig.from_given({"OutputConfig": ASYNC["OutputConfig"] | {"NotificationConfig": {}}})

    assert config.topics == frozenset()
    assert config.include_response_in == frozenset()
    assert config.max_concurrent_invocations_per_instance is None
