"""The main job through the sagemaker SDK, version 2, with no more than `ebbtide env` exports."""

import threading

import pytest

from ebbtide import connect

TEXT = (
    "The tide rises and the tide falls. Boats in the harbour rise and fall with it. Fishermen wait for the "
    "flood to leave the harbour. At the ebb nobody works, and nobody is paid for waiting. Every day the tide "
    "returns an hour later than the day before."
)


@pytest.fixture(scope="module")
def sdk(ebbtide):
    """The SDK, imported under the server's environment: it reads its configuration then."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ebbtide.environment().items():
            patch.setenv(name, value)
        patch.setenv("SAGEMAKER_SUPPRESS_V2_WARNING", "1")
        import sagemaker
        import sagemaker.async_inference
        import sagemaker.huggingface

        before = set(threading.enumerate())
        yield sagemaker
        # Its polls of outcomes go on in threads; the server must outlive them.
        for poll in set(threading.enumerate()) - before:
            poll.join()


@pytest.fixture(scope="module")
def every_second(sdk):
    return sdk.async_inference.WaiterConfig(max_attempts=120, delay=1)


@pytest.fixture(scope="module")
def predictor(sdk, ebbtide):
    model = sdk.huggingface.HuggingFaceModel(
        env={"HF_MODEL_ID": "ebbtide/extractive", "HF_TASK": "summarization"},
        transformers_version="4.49.0",
        pytorch_version="2.6.0",
        py_version="py312",
    )
    # The SDK's own wait sleeps 30 s before its first look.
    made = model.deploy(
        initial_instance_count=1,
        instance_type="ml.m5.xlarge",
        async_inference_config=sdk.async_inference.AsyncInferenceConfig(),
        wait=False,
    )
    sagemaker = ebbtide.client("sagemaker")
    sagemaker.get_waiter("endpoint_in_service").wait(
        EndpointName=made.endpoint_name, WaiterConfig={"Delay": 1}
    )
    yield made
    come_to_be(ebbtide, made.endpoint_name)
    made.delete_model()
    made.delete_endpoint()


def come_to_be(ebbtide, endpoint):
    """Make the outcomes that there are not: the SDK polls for both of each invocation, and goes on."""
    s3 = ebbtide.client("s3")
    for one in connect(data=ebbtide.data).ebbtide.invocations(endpoint=endpoint):
        for location in (one["output_location"], one["failure_location"]):
            bucket, _, key = location.removeprefix("s3://").partition("/")
            s3.put_object(Bucket=bucket, Key=key, Body=b"")


def test_predict_waits_for_the_summary(predictor, every_second):
    answer = predictor.predict({"inputs": TEXT}, waiter_config=every_second)

    assert answer[0]["summary_text"].startswith("The tide rises")


def test_predict_async_answers_at_once_and_the_result_comes_later(predictor, every_second):
    result = predictor.predict_async({"inputs": TEXT, "parameters": {"max_length": 30}})

    assert result.output_path.startswith("s3://sagemaker-us-east-1-")
    assert result.get_result(every_second)[0]["summary_text"]


def test_a_failed_inference_raises_with_the_models_reason(sdk, predictor, every_second):
    result = predictor.predict_async({"inputs": TEXT, "parameters": {"max_length": "long"}})

    with pytest.raises(sdk.exceptions.AsyncInferenceModelError, match="max_length"):
        result.get_result(every_second)
