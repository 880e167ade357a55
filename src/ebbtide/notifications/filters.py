"""Filter policies: which messages a subscription wants. Pure.

A policy's keys must all match, and a key matches when any of its conditions does. Source: Amazon SNS
developer guide, "Subscription filter policies".
"""

import ipaddress
import json
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ebbtide.errors import ServiceError
from ebbtide.wire.json_text import parse_json

MAX_KEYS = 5
MAX_COMBINATIONS = 150
MAX_DEPTH = 100

Policy = Mapping[str, Any]


def parse(text: str, scope: str) -> Policy:
    """Read and check a FilterPolicy attribute. `scope` is MessageAttributes or MessageBody.

    Raises ServiceError InvalidParameter, for more than five keys or 150 combinations of conditions too.
    """
    try:
        policy = parse_json(text)
    except ValueError as error:
        raise _invalid("failed to parse JSON.") from error
    if not isinstance(policy, dict):
        raise _invalid("Filter policy must be a JSON object")
    keys = list(_check(policy, nested=scope == "MessageBody"))
    combinations = 1
    for condition_count in keys:
        combinations *= condition_count
    if len(keys) > MAX_KEYS or combinations > MAX_COMBINATIONS:
        raise _invalid(
            f"Filter policy is too complex: {len(keys)} keys with {combinations} combinations, "
            f"of at most {MAX_KEYS} with {MAX_COMBINATIONS}"
        )
    return policy


def passes(settings: Mapping[str, str], message: str, attributes: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether a subscription with these attributes wants the message; one without a policy wants all."""
    text = settings.get("FilterPolicy")
    if not text:
        return True
    policy: Policy = parse_json(text)
    if settings.get("FilterPolicyScope") != "MessageBody":
        return _matches(policy, {name: _attribute_value(each) for name, each in attributes.items()})
    try:
        body = parse_json(message)
    except ValueError:
        return False
    return isinstance(body, dict) and _matches(policy, body)


def _attribute_value(attribute: Mapping[str, str]) -> Any:
    kind, value = attribute["Type"], attribute["Value"]
    if kind.startswith("Binary"):
        return None
    if kind in ("Number", "String.Array") or kind.startswith("Number."):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value


def _matches(policy: Policy, subject: Mapping[str, Any]) -> bool:
    return all(_key_matches(key, wanted, subject) for key, wanted in policy.items())


def _key_matches(key: str, wanted: Any, subject: Mapping[str, Any]) -> bool:
    if key == "$or":
        return any(_matches(alternative, subject) for alternative in wanted)
    if isinstance(wanted, dict):
        return any(isinstance(each, dict) and _matches(wanted, each) for each in _elements(subject.get(key)))
    present = key in subject
    values = list(_elements(subject[key])) if present else []
    return any(_condition_matches(condition, present, values) for condition in wanted)


def _elements(value: Any) -> Iterator[Any]:
    """The value, or where it is a list what that and the lists in it hold."""
    unseen = [value]
    while unseen:
        each = unseen.pop()
        if isinstance(each, list):
            unseen.extend(reversed(each))
        else:
            yield each


def _condition_matches(condition: Any, present: bool, values: list[Any]) -> bool:
    if isinstance(condition, dict) and "exists" in condition:
        return bool(condition["exists"]) == present
    return any(_value_matches(condition, value) for value in values)


def _value_matches(condition: Any, value: Any) -> bool:
    if not isinstance(condition, dict):
        return _equal(condition, value)
    [(name, operand)] = condition.items()
    return OPERATORS[name](operand, value)


def _equal(wanted: Any, value: Any) -> bool:
    # True is 1 to Python, and not to JSON.
    return isinstance(wanted, bool) == isinstance(value, bool) and bool(wanted == value)


def _text(match: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    return lambda operand, value: isinstance(value, str) and match(operand, value)


def _anything_but(operand: Any, value: Any) -> bool:
    refused = operand if isinstance(operand, list) else [operand]
    return not any(_value_matches(each, value) for each in refused)


def _numeric(operand: list[Any], value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    bounds = zip(operand[::2], operand[1::2], strict=True)
    return all(COMPARISONS[sign](value, bound) for sign, bound in bounds)


def _cidr(operand: str, value: str) -> bool:
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(operand, strict=False)
    except ValueError:
        return False


COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "prefix": _text(lambda operand, value: value.startswith(operand)),
    "suffix": _text(lambda operand, value: value.endswith(operand)),
    "equals-ignore-case": _text(lambda operand, value: value.casefold() == operand.casefold()),
    "cidr": _text(_cidr),
    "anything-but": _anything_but,
    "numeric": _numeric,
}
"""Operator -> whether a value meets it, given its operand. `exists` looks at the key and is not here."""


def _check(policy: Policy, *, nested: bool, depth: int = 0) -> Iterator[int]:
    """Yield each key's number of conditions. Raises ServiceError where the policy is malformed."""
    if depth > MAX_DEPTH:
        raise _invalid(f"Filter policy is nested more than {MAX_DEPTH} deep")
    for key, wanted in policy.items():
        if key == "$or":
            if not isinstance(wanted, list) or not all(isinstance(each, dict) for each in wanted):
                raise _invalid('"$or" must be an array of objects')
            for alternative in wanted:
                yield from _check(alternative, nested=nested, depth=depth + 1)
        elif isinstance(wanted, dict) and nested:
            yield from _check(wanted, nested=nested, depth=depth + 1)
        elif isinstance(wanted, list) and wanted:
            for condition in wanted:
                _check_condition(key, condition)
            yield len(wanted)
        else:
            expected = "a non-empty array or an object" if nested else "a non-empty array"
            raise _invalid(f'"{key}" must be {expected}')


def _check_condition(key: str, condition: Any) -> None:
    if isinstance(condition, list):
        raise _invalid(f'Match value of "{key}" must be String, number, true, false, or null')
    if not isinstance(condition, dict):
        return
    if len(condition) != 1:
        raise _invalid(f'Only one key allowed in match expression of "{key}"')
    [(name, operand)] = condition.items()
    if name == "exists":
        sound = isinstance(operand, bool)
    elif name == "numeric":
        sound = _is_range(operand)
    elif name == "anything-but":
        refused = operand if isinstance(operand, list) else [operand]
        sound = bool(refused)
        for each in refused:
            if isinstance(each, dict) and not each.keys() <= {"prefix", "suffix", "equals-ignore-case"}:
                sound = False
            else:
                _check_condition(key, each)
    elif name in OPERATORS:
        sound = isinstance(operand, str)
    else:
        raise _invalid(f"Unrecognized match type {name}")
    if not sound:
        raise _invalid(f'{json.dumps(operand)} is no operand of "{name}"')


def _is_range(operand: Any) -> bool:
    return (
        isinstance(operand, list)
        and len(operand) in (2, 4)
        and all(isinstance(sign, str) and sign in COMPARISONS for sign in operand[::2])
        and all(isinstance(bound, int | float) and not isinstance(bound, bool) for bound in operand[1::2])
    )


def _invalid(reason: str) -> ServiceError:
    return ServiceError(f"Invalid parameter: FilterPolicy: {reason}", code="InvalidParameterException")
