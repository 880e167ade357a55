"""Which requests of other sites' pages a bucket's rules allow."""

import pytest

from ebbtide.errors import ServiceError
from ebbtide.objects.cors import answer, check

OURS = {
    "AllowedOrigins": ["https://*.ours.example"],
    "AllowedMethods": ["GET", "PUT"],
    "AllowedHeaders": ["Content-*"],
    "ExposeHeaders": ["ETag", "x-amz-request-id"],
    "MaxAgeSeconds": 60,
}
ANYBODYS = {"AllowedOrigins": ["*"], "AllowedMethods": ["GET"]}


@pytest.mark.parametrize(
    ("origin", "method", "headers", "allowed"),
    [
        pytest.param("https://a.ours.example", "PUT", (), "https://a.ours.example", id="by the pattern"),
        pytest.param("https://a.ours.example", "PUT", ["content-type"], "https://a.ours.example", id="head"),
        pytest.param("https://a.ours.example", "PUT", ["x-other"], None, id="a header that is not listed"),
        pytest.param("https://a.ours.example", "DELETE", (), None, id="a method that is not listed"),
        pytest.param("https://theirs.example", "GET", (), "*", id="by the second rule"),
        pytest.param("https://theirs.example", "PUT", (), None, id="another site"),
        pytest.param("https://.ours.exampl", "PUT", (), None, id="shorter than the pattern"),
    ],
)
def test_the_first_rule_that_fits_allows_the_request(origin, method, headers, allowed):
    found = answer([OURS, ANYBODYS], origin, method, headers)

    assert (found and found["access-control-allow-origin"]) == allowed


def test_an_answer_tells_the_browser_what_the_rule_says():
    assert answer([OURS], "https://a.ours.example", "PUT", ["Content-Type"]) == {
        "access-control-allow-origin": "https://a.ours.example",
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, PUT",
        "access-control-allow-headers": "content-type",
        "access-control-expose-headers": "ETag, x-amz-request-id",
        "access-control-max-age": "60",
        "vary": "Origin, Access-Control-Request-Headers, Access-Control-Request-Method",
    }


@pytest.mark.parametrize(
    ("rules", "code"),
    [
        pytest.param([], "MalformedXML", id="none"),
        pytest.param([ANYBODYS] * 101, "MalformedXML", id="too many"),
        pytest.param([ANYBODYS | {"AllowedMethods": ["PATCH"]}], "InvalidRequest", id="a method"),
        pytest.param([ANYBODYS | {"AllowedOrigins": ["*.*"]}], "InvalidRequest", id="two wildcards"),
        pytest.param([ANYBODYS | {"ExposeHeaders": ["x-*"]}], "InvalidRequest", id="a wildcard to expose"),
    ],
)
def test_rules_that_mean_nothing_are_refused(rules, code):
    with pytest.raises(ServiceError) as refused:
        check(rules)

    assert refused.value.code == code
