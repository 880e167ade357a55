"""Which forms a policy allows."""

import base64
import json

import pytest

from ebbtide.errors import ServiceError
from ebbtide.wire.post_policy import Sizes, check

NOW = 1_800_000_000.0
LATER = "2027-12-01T12:00:00.000Z"
FIELDS = {"bucket": "b", "key": "user/ann/k", "content-type": "text/plain"}


def policy(*conditions, **members):
    document = {"expiration": LATER, "conditions": list(conditions)} | members
    kept = {name: value for name, value in document.items() if value is not None}
    return base64.b64encode(json.dumps(kept).encode()).decode()


BUCKET, KEY, TYPE = (
    {"bucket": "b"},
    ["starts-with", "$key", "user/ann/"],
    ["eq", "$Content-Type", "text/plain"],
)


@pytest.mark.parametrize(
    ("conditions", "fields"),
    [
        pytest.param([BUCKET, KEY, TYPE], {}, id="each field has its condition"),
        pytest.param([{"bUcKeT": "b"}, ["StArTs-WiTh", "$KeY", "user"], TYPE], {}, id="in any case"),
        pytest.param([BUCKET, KEY, TYPE], {"x-ignore-a": "1"}, id="ignored fields need none"),
        pytest.param([BUCKET, KEY, ["starts-with", "$Content-Type", ""]], {}, id="any value"),
        pytest.param(
            [BUCKET, KEY, ["starts-with", "$content-type", "image/"]],
            {"content-type": "image/png, image/jpeg"},
            id="each of a list of types",
        ),
    ],
)
def test_a_form_that_meets_every_condition_is_allowed(conditions, fields):
    assert check(policy(*conditions), FIELDS | fields, now=NOW) == Sizes()


@pytest.mark.parametrize(
    ("conditions", "fields"),
    [
        pytest.param([KEY, TYPE], {}, id="nothing is said of the bucket"),
        pytest.param([BUCKET, {"key": "USER/ann/k"}, TYPE], {}, id="values have their case"),
        pytest.param([BUCKET, KEY, TYPE, ["starts-with", "$acl", ""]], {}, id="a field is missing"),
        pytest.param(
            [BUCKET, KEY, ["starts-with", "$content-type", "image/"]],
            {"content-type": "image/png,text/html"},
            id="one of a list of types",
        ),
    ],
)
def test_a_form_that_breaks_a_condition_is_denied(conditions, fields):
    with pytest.raises(ServiceError, match="Invalid according to Policy") as refused:
        check(policy(*conditions), FIELDS | fields, now=NOW)

    assert refused.value.code == "AccessDenied"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("e30", id="no base64"),
        pytest.param(base64.b64encode(b"[]").decode(), id="no object"),
        pytest.param(base64.b64encode(b"[" * 100_000).decode(), id="nested without end"),
        pytest.param(policy(expiration=None), id="no expiration"),
        pytest.param(policy(expiration="2027-12-01 12:00:00+00:00"), id="another form of time"),
        pytest.param(policy(expiration="2027-13-01T12:00:00Z"), id="no such time"),
        pytest.param(policy(conditions=None), id="no conditions"),
        pytest.param(policy({}), id="an empty condition"),
        pytest.param(policy({"bucket": "b", "key": "k"}), id="two in one"),
        pytest.param(policy(["in", "$key", "x"]), id="an unknown operator"),
        pytest.param(policy(["eq", "key", "x"]), id="a name without its sign"),
        pytest.param(policy({"key": 1}), id="a number for a text"),
        pytest.param(policy(["content-length-range", "a", 5]), id="no length"),
        pytest.param(policy(["content-length-range", None, 5]), id="a missing length"),
        pytest.param(policy(["content-length-range", 1, float("inf")]), id="an endless length"),
        pytest.param(policy(7), id="no condition at all"),
    ],
)
def test_a_policy_that_cannot_be_read_is_refused(text):
    with pytest.raises(ServiceError) as refused:
        check(text, FIELDS, now=NOW)

    assert refused.value.code == "InvalidPolicyDocument"


def test_sizes_are_those_of_the_range():
    allowed = check(policy(BUCKET, KEY, TYPE, ["content-length-range", "1", 9]), FIELDS, now=NOW)

    assert allowed == Sizes(1, 9)
