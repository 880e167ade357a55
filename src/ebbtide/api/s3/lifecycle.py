"""S3's operations on buckets' lifecycles."""

import uuid
from typing import Any

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.s3.access import owned_bucket
from ebbtide.errors import ServiceError
from ebbtide.objects import lifecycle
from ebbtide.objects.errors import InvalidArgument, InvalidRequest, NotOffered
from ebbtide.objects.lifecycle import DAY_S, Rule

MOST_RULES = 1000
LONGEST_ID = 255

_LACKING = {
    "Transitions": "other storage classes",
    "NoncurrentVersionTransitions": "versions of objects",
    "NoncurrentVersionExpiration": "versions of objects",
}


async def put_bucket_lifecycle_configuration(params: Params, call: Call) -> Result:
    """Replace the bucket's rules. Raises NoSuchBucket, MalformedXML, InvalidArgument, InvalidRequest, and
    NotImplemented for rules on versions and storage classes. Source: PutBucketLifecycleConfiguration.
    """
    given = params.get("LifecycleConfiguration", {}).get("Rules", [])
    if len(given) > MOST_RULES:
        raise _malformed()
    rules = [_parse(rule) for rule in given]
    if len({rule.id for rule in rules}) < len(rules):
        raise InvalidArgument(
            "Rule ID must be unique. Found same ID for more than one rule", "ID", "duplicate"
        )

    def work(connection: Connection) -> None:
        lifecycle.set_rules(connection, owned_bucket(connection, params, call).name, rules)

    await call.parts.database.write(work)
    return {}


async def get_bucket_lifecycle_configuration(params: Params, call: Call) -> Result:
    """The bucket's rules. Raises NoSuchBucket, NoSuchLifecycleConfiguration."""

    bucket = await call.parts.database.read(lambda connection: owned_bucket(connection, params, call))
    rules = lifecycle.rules_of(bucket)
    if not rules:
        raise ServiceError(
            "The lifecycle configuration does not exist",
            code="NoSuchLifecycleConfiguration",
            http_status=404,
            members={"BucketName": params["Bucket"]},
        )
    return {"Rules": [_shown(rule) for rule in rules]}


async def delete_bucket_lifecycle(params: Params, call: Call) -> Result:
    """Take the bucket's rules away, if it has any. Raises NoSuchBucket."""

    def work(connection: Connection) -> None:
        lifecycle.set_rules(connection, owned_bucket(connection, params, call).name, [])

    await call.parts.database.write(work)
    return {}


def _parse(given: dict[str, Any]) -> Rule:
    for member, lacking in _LACKING.items():
        if given.get(member):
            raise NotOffered(
                f"{member} is not implemented: this store has no {lacking}.",
            )
    if "Filter" not in given and "Prefix" not in given:
        raise _malformed()
    chosen = given.get("Filter", {})
    both = chosen.get("And")
    if both is not None and len(chosen) > 1:
        raise _malformed()
    chosen = chosen if both is None else both
    tags = chosen.get("Tags", [chosen["Tag"]] if "Tag" in chosen else [])
    rule = Rule(
        id=given.get("ID") or str(uuid.uuid4()),
        enabled=given["Status"] == "Enabled",
        prefix=chosen.get("Prefix", given.get("Prefix", "")),
        tags={tag["Key"]: tag["Value"] for tag in tags},
        larger_than=chosen.get("ObjectSizeGreaterThan"),
        smaller_than=chosen.get("ObjectSizeLessThan"),
        days=given.get("Expiration", {}).get("Days"),
        date=given.get("Expiration", {}).get("Date"),
        abort_days=given.get("AbortIncompleteMultipartUpload", {}).get("DaysAfterInitiation"),
        unfiltered="Filter" not in given,
    )
    _check(rule, given)
    return rule


def _check(rule: Rule, given: dict[str, Any]) -> None:
    expiration = given.get("Expiration")
    if expiration is None and rule.abort_days is None:
        raise InvalidRequest("At least one action needs to be specified in a rule")
    if len(rule.id) > LONGEST_ID:
        raise InvalidArgument(f"ID length should not exceed allowed limit of {LONGEST_ID}", "ID", rule.id)
    if expiration is not None and "ExpiredObjectDeleteMarker" in expiration:
        raise NotOffered(
            "ExpiredObjectDeleteMarker is not implemented: this store has no versions of objects.",
        )
    if expiration is not None and (rule.days is None) == (rule.date is None):
        raise _malformed()
    for name, days in (("Days", rule.days), ("DaysAfterInitiation", rule.abort_days)):
        if days is not None and days <= 0:
            raise InvalidArgument(f"'{name}' must be a positive integer", name, str(days))
    if rule.date is not None and rule.date % DAY_S:
        raise InvalidArgument("'Date' must be at midnight GMT", "Date", str(rule.date))
    if rule.abort_days is not None and (rule.tags or rule.larger_than or rule.smaller_than):
        raise InvalidRequest("AbortIncompleteMultipartUpload cannot be specified with Tags or sizes.")


def _shown(rule: Rule) -> Result:
    tags = [{"Key": key, "Value": value} for key, value in rule.tags.items()]
    parts: Result = {
        "Prefix": rule.prefix or None,
        "Tags": tags or None,
        "ObjectSizeGreaterThan": rule.larger_than,
        "ObjectSizeLessThan": rule.smaller_than,
    }
    parts = {name: value for name, value in parts.items() if value is not None}
    chosen: Result = {"And": parts}
    if len(parts) <= 1 and len(tags) <= 1:
        chosen = {"Tag": tags[0]} if tags else parts or {"Prefix": ""}
    expires = {"Days": rule.days, "Date": rule.date}
    aborts = {"DaysAfterInitiation": rule.abort_days}
    return {
        "ID": rule.id,
        "Prefix": rule.prefix if rule.unfiltered else None,
        "Filter": None if rule.unfiltered else chosen,
        "Status": "Enabled" if rule.enabled else "Disabled",
        "Expiration": expires if rule.days is not None or rule.date is not None else None,
        "AbortIncompleteMultipartUpload": aborts if rule.abort_days is not None else None,
    }


def _malformed() -> ServiceError:
    return ServiceError(
        "The XML you provided was not well-formed or did not validate against our published schema",
        code="MalformedXML",
    )
