"""Which messages a filter policy lets pass."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.errors import ServiceError
from ebbtide.notifications import filters


def text(value):
    return {"Type": "String", "Value": value}


def number(value):
    return {"Type": "Number", "Value": str(value)}


def array(*values):
    return {"Type": "String.Array", "Value": json.dumps(values)}


BY_ATTRIBUTES = [
    pytest.param({"kind": ["a", "b"]}, {"kind": text("b")}, True, id="any of a key's values matches"),
    pytest.param({"kind": ["a"]}, {"kind": text("c")}, False, id="another value does not match"),
    pytest.param({"kind": ["a"]}, {}, False, id="a missing attribute does not match"),
    pytest.param({"kind": ["a"], "size": [1]}, {"kind": text("a")}, False, id="every key must match"),
    pytest.param({}, {"kind": text("a")}, True, id="an empty policy lets all pass"),
    pytest.param({"kind": [{"prefix": "ab"}]}, {"kind": text("abc")}, True, id="prefix"),
    pytest.param({"kind": [{"suffix": "bc"}]}, {"kind": text("abc")}, True, id="suffix"),
    pytest.param({"kind": [{"suffix": "x"}]}, {"kind": text("abc")}, False, id="another suffix"),
    pytest.param({"kind": [{"equals-ignore-case": "ABC"}]}, {"kind": text("aBc")}, True, id="case ignored"),
    pytest.param({"kind": [{"anything-but": ["a", "b"]}]}, {"kind": text("c")}, True, id="anything but"),
    pytest.param({"kind": [{"anything-but": ["a", "b"]}]}, {"kind": text("b")}, False, id="but not that"),
    pytest.param({"kind": [{"anything-but": ["a"]}]}, {}, False, id="anything but nothing"),
    pytest.param({"kind": [{"anything-but": {"prefix": "a"}}]}, {"kind": text("ab")}, False, id="but prefix"),
    pytest.param({"size": [{"numeric": [">", 1, "<=", 5]}]}, {"size": number(5)}, True, id="in a range"),
    pytest.param({"size": [{"numeric": [">", 1, "<=", 5]}]}, {"size": number(1)}, False, id="out of a range"),
    pytest.param({"size": [{"numeric": ["=", 5]}]}, {"size": number("5.0")}, True, id="5.0 is 5"),
    pytest.param({"size": [{"numeric": ["=", 5]}]}, {"size": text("5")}, False, id="a text is no number"),
    pytest.param({"size": [5]}, {"size": number(5)}, True, id="an exact number"),
    pytest.param({"kind": [{"exists": True}]}, {"kind": text("a")}, True, id="exists"),
    pytest.param({"kind": [{"exists": False}]}, {}, True, id="exists not"),
    pytest.param({"kind": [{"exists": False}]}, {"kind": text("a")}, False, id="exists though"),
    pytest.param({"kind": ["b"]}, {"kind": array("a", "b")}, True, id="any element of an array matches"),
    pytest.param({"kind": [True]}, {"kind": array(True)}, True, id="true in an array"),
    pytest.param({"kind": [1]}, {"kind": array(True)}, False, id="true is not 1"),
    pytest.param({"from": [{"cidr": "10.0.0.0/8"}]}, {"from": text("10.1.2.3")}, True, id="within a network"),
    pytest.param({"from": [{"cidr": "10.0.0.0/8"}]}, {"from": text("nobody")}, False, id="no address"),
    pytest.param({"$or": [{"a": [1]}, {"b": [1]}]}, {"b": number(1)}, True, id="either alternative"),
    pytest.param({"$or": [{"a": [1]}, {"b": [1]}]}, {"b": number(2)}, False, id="neither alternative"),
]


@pytest.mark.parametrize(("policy", "attributes", "passes"), BY_ATTRIBUTES)
def test_a_policy_on_attributes(policy, attributes, passes):
    settings = {"FilterPolicy": json.dumps(policy)}

    assert filters.parse(settings["FilterPolicy"], "MessageAttributes") == policy
    assert filters.passes(settings, "any message", attributes) is passes


BY_BODY = [
    pytest.param({"invocationStatus": ["Failed"]}, {"invocationStatus": "Failed"}, True, id="a member"),
    pytest.param({"a": {"b": [{"prefix": "x"}]}}, {"a": {"b": "xy"}}, True, id="a nested member"),
    pytest.param({"a": {"b": ["x"]}}, {"a": {"c": "x"}}, False, id="a nested member that is missing"),
    pytest.param({"a": {"b": ["x"]}}, {"a": [{"b": "y"}, {"b": "x"}]}, True, id="a list of objects"),
    pytest.param({"a": [None]}, {"a": None}, True, id="null"),
    pytest.param({"a": [{"exists": False}]}, {"b": 1}, True, id="a member that must not exist"),
    pytest.param({"a": ["x"]}, ["a", "x"], False, id="a body that is no object"),
]


@pytest.mark.parametrize(("policy", "body", "passes"), BY_BODY)
def test_a_policy_on_the_body(policy, body, passes):
    settings = {"FilterPolicy": json.dumps(policy), "FilterPolicyScope": "MessageBody"}

    assert filters.parse(settings["FilterPolicy"], "MessageBody") == policy
    assert filters.passes(settings, json.dumps(body), {}) is passes


def test_a_policy_on_the_body_stops_messages_that_are_not_json():
    settings = {"FilterPolicy": '{"a": [1]}', "FilterPolicyScope": "MessageBody"}

    assert not filters.passes(settings, "plain words", {})
    assert not filters.passes(settings, "[" * 100_000, {})


def test_lists_in_lists_are_looked_through_however_many_there_are():
    settings = {"FilterPolicy": '{"a": [1]}', "FilterPolicyScope": "MessageBody"}
    nested = "[" * 800 + "1" + "]" * 800

    assert filters.passes(settings, f'{{"a": [0, {nested}, []]}}', {})


def test_a_policy_is_not_nested_without_end():
    policy = '{"a":' * 200 + '["x"]' + "}" * 200

    with pytest.raises(ServiceError, match="nested more than 100 deep"):
        filters.parse(policy, "MessageBody")


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        pytest.param("{", "failed to parse JSON", id="no JSON"),
        pytest.param("[]", "must be a JSON object", id="no object"),
        pytest.param("[" * 100_000, "failed to parse JSON", id="nested without end"),
        pytest.param('{"a": "x"}', "non-empty array", id="a bare value"),
        pytest.param('{"a": []}', "non-empty array", id="no condition"),
        pytest.param('{"a": {"b": ["x"]}}', "non-empty array", id="nesting, on attributes"),
        pytest.param('{"a": [{"like": "x"}]}', "Unrecognized match type like", id="an unknown operator"),
        pytest.param('{"a": [{"prefix": 1}]}', 'no operand of "prefix"', id="a wrong operand"),
        pytest.param('{"a": [{"numeric": [">"]}]}', 'no operand of "numeric"', id="half a range"),
        pytest.param('{"a": [{"numeric": ["~", 1]}]}', 'no operand of "numeric"', id="an unknown sign"),
        pytest.param('{"a": [{"prefix": "x", "suffix": "y"}]}', "Only one key", id="two operators"),
        pytest.param('{"a": [["x"]]}', "Match value", id="a list in a list"),
        pytest.param('{"a": [{"anything-but": {"exists": true}}]}', "no operand", id="anything but exists"),
        pytest.param('{"$or": {"a": [1]}}', "must be an array", id="an or of one object"),
    ],
)
def test_a_malformed_policy_is_refused_with_the_reason(policy, says):
    with pytest.raises(ServiceError, match=says) as raised:
        filters.parse(policy, "MessageAttributes")

    assert raised.value.code == "InvalidParameterException"


@pytest.mark.parametrize(
    "policy",
    [
        pytest.param({str(i): ["x"] for i in range(6)}, id="six keys"),
        pytest.param({"a": list(range(16)), "b": list(range(10))}, id="160 combinations"),
    ],
)
def test_a_policy_over_the_limits_is_refused(policy):
    with pytest.raises(ServiceError) as raised:
        filters.parse(json.dumps(policy), "MessageAttributes")

    assert raised.value.code == "InvalidParameterException"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
)
def test_whatever_is_accepted_can_be_matched_against_whatever_is_sent(policy, body):
    try:
        filters.parse(json.dumps(policy), "MessageBody")
    except ServiceError:
        return
    settings = {"FilterPolicy": json.dumps(policy), "FilterPolicyScope": "MessageBody"}

    assert filters.passes(settings, json.dumps(body), {}) in (True, False)
