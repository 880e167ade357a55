"""Constraints of the models, in the words of AWS."""

import pytest

from ebbtide.api import SERVICES
from ebbtide.wire import models
from ebbtide.wire.validate import SHOWN_CHARACTERS, pattern, validate

NAME_PATTERN = "[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}"


def message(service: str, operation: str, params: dict) -> str | None:
    return validate(models.load(service).operation(operation), params)


def constraint(value: str, path: str, rule: str) -> str:
    where = f"Value {value} at '{path}'"
    return f"1 validation error detected: {where} failed to satisfy constraint: Member must {rule}"


ENDPOINT = {"EndpointName": "e", "EndpointConfigName": "c"}
VARIANT = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.m5.xlarge", "InitialInstanceCount": 1}


@pytest.mark.parametrize(
    ("service", "operation", "params", "expected"),
    [
        pytest.param("sagemaker", "CreateEndpoint", ENDPOINT, None, id="what keeps them"),
        pytest.param(
            "sagemaker",
            "CreateEndpoint",
            {"EndpointConfigName": "c"},
            constraint("null", "endpointName", "not be null"),
            id="required",
        ),
        pytest.param(
            "sagemaker",
            "CreateEndpoint",
            {**ENDPOINT, "EndpointName": "a_b"},
            constraint("'a_b'", "endpointName", f"satisfy regular expression pattern: {NAME_PATTERN}"),
            id="pattern",
        ),
        pytest.param(
            "sagemaker",
            "CreateEndpointConfig",
            {
                "EndpointConfigName": "c",
                "ProductionVariants": [VARIANT, {**VARIANT, "InitialInstanceCount": -1}],
            },
            constraint(
                "'-1'",
                "productionVariants.2.member.initialInstanceCount",
                "have value greater than or equal to 0",
            ),
            id="a range, in a list",
        ),
        pytest.param(
            "cloudwatch",
            "GetMetricStatistics",
            {"Namespace": "n", "MetricName": "m", "StartTime": 0.0, "EndTime": 60.0, "Period": 2**31},
            constraint("'2147483648'", "period", "have value less than or equal to 2147483647"),
            id="more than the type holds",
        ),
        pytest.param(
            "sagemaker",
            "CreateEndpointConfig",
            {"EndpointConfigName": "c", "ProductionVariants": []},
            constraint("'[]'", "productionVariants", "have length greater than or equal to 1"),
            id="a list's length",
        ),
        pytest.param(
            "sagemaker",
            "CreateEndpointConfig",
            {"EndpointConfigName": "c", "ProductionVariants": [{**VARIANT, "InstanceType": "my.laptop"}]},
            None,
            id="an instance type that the model does not know",
        ),
        pytest.param(
            "sagemaker",
            "ListEndpoints",
            {"SortOrder": "Sideways"},
            constraint("'Sideways'", "sortOrder", "satisfy enum value set: [Ascending, Descending]"),
            id="enumeration",
        ),
        pytest.param(
            "sagemaker",
            "CreateModel",
            {
                "ModelName": "m",
                "PrimaryContainer": {"Environment": {"bad name": "x"}},
                "ExecutionRoleArn": "arn:aws:iam::123456789012:role/r",
            },
            constraint(
                "'bad name'",
                "primaryContainer.environment.key",
                "satisfy regular expression pattern: [a-zA-Z_][a-zA-Z0-9_]*",
            ),
            id="a map's key",
        ),
        pytest.param(
            "sagemaker-runtime",
            "InvokeEndpointAsync",
            {"EndpointName": "e", "RequestTTLSeconds": 59},
            constraint("'59'", "requestTTLSeconds", "have value greater than or equal to 60"),
            id="a header",
        ),
        pytest.param(
            "s3", "PutObject", {"Bucket": "b", "Key": "k"}, None, id="a streamed payload is not looked at"
        ),
        pytest.param(
            "sagemaker",
            "CreateEndpoint",
            {**ENDPOINT, "Tags": [None]},
            constraint("null", "tags.1.member", "not be null"),
            id="null in a list",
        ),
        pytest.param("sagemaker", "ListEndpoints", {"MaxResults": None}, None, id="null is absent"),
    ],
)
def test_messages_name_value_place_and_rule(service, operation, params, expected):
    assert message(service, operation, params) == expected


def test_all_that_is_broken_is_counted_and_listed():
    text = message("sagemaker", "CreateEndpoint", {"EndpointName": "-" * 64})

    assert text is not None
    assert text.startswith("3 validation errors detected: ")
    assert "Value null at 'endpointConfigName'" in text
    assert "length less than or equal to 63" in text
    assert NAME_PATTERN in text


def test_a_long_value_is_not_repeated_whole():
    text = message("sagemaker", "CreateEndpoint", {**ENDPOINT, "EndpointName": "x" * 100_000})

    assert text is not None
    assert len(text) < 3 * SHOWN_CHARACTERS


@pytest.mark.parametrize("service", SERVICES)
def test_every_pattern_of_a_model_has_its_expression(service):
    shapes = models.load(service)._raw_shapes.values()

    for source in {shape["pattern"] for shape in shapes if "pattern" in shape}:
        assert pattern(source)


@pytest.mark.parametrize(
    ("source", "value", "matches"),
    [
        (r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$", "Größe 名 ١", True),
        (r"^([\p{L}\p{Z}\p{N}_.:/=+\-@]*)$", "a;b", False),
        (r"[\p{L}\p{M}\p{S}\p{N}\p{P}]+", "a€!", True),
        (r"[\p{L}\p{M}\p{S}\p{N}\p{P}]+", "a b", False),
        (r"\p{ASCII}*", "plain", True),
        (r"\p{ASCII}*", "é", False),
        (r"\A\S[\p{Print}]*\z", "id with blanks", True),
        (r"\A\S[\p{Print}]*\z", " id", False),
        (r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\r\n\t]*", "text\n😀", True),
        (r"[\u0020-\uD7FF\uE000-\uFFFD\uD800\uDC00-\uDBFF\uDFFF\r\n\t]*", "\x00", False),
        (r"[\w-_]*", "a-b_c", True),
        (r"([\p{L}\p{Z}\p{N}_.:\/=+\-@]*)${1,128}", "ok", True),
        (r"^(https|s3)://([^/]+)/?(.*)$", "s3://b/k\n", False),
    ],
)
def test_patterns_mean_what_they_mean_in_java(source, value, matches):
    assert bool(pattern(source).fullmatch(value)) is matches
