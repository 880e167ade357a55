"""Topics: made, described, tagged and removed."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.sns.resources import check_arn, get_topic
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn
from ebbtide.notifications import parameters, subscriptions, topics
from ebbtide.notifications.parameters import invalid
from ebbtide.notifications.topics import PAGE, Topic

MAX_TAGS = 50


async def create_topic(params: Params, call: Call) -> Result:
    """Make a topic, or find the one that was made with the same name, attributes and tags."""
    name = params["Name"]
    parameters.check_topic_name(name)
    attributes = parameters.check_topic_attributes(params.get("Attributes", {}))
    tags = _tags(params.get("Tags", []))
    wanted = Topic(arn("sns", call.region, call.account, name), call.account, attributes, tags, call.now)

    def create(connection: Connection) -> None:
        found = topics.find(connection, wanted.arn)
        if found is None:
            topics.create(connection, wanted)
        elif any(found.attributes.get(name) != value for name, value in attributes.items()):
            raise invalid("Attributes Reason: Topic already exists with different attributes")
        elif "Tags" in params and found.tags != tags:
            raise invalid("Tags Reason: Topic already exists with different tags")

    await call.parts.database.write(create)
    return {"TopicArn": wanted.arn}


async def delete_topic(params: Params, call: Call) -> Result:
    """Remove a topic with its subscriptions and undelivered messages; one that is not there is fine."""
    topic_arn = params["TopicArn"]

    def delete(connection: Connection) -> None:
        found = topics.find(connection, topic_arn)
        if found is not None and found.account == call.account:
            topics.remove(connection, topic_arn)

    check_arn("TopicArn", topic_arn)
    await call.parts.database.write(delete)
    return {}


async def list_topics(params: Params, call: Call) -> Result:
    """An account's topics, a hundred a page."""
    after = params.get("NextToken", "")
    found = await call.parts.database.read(lambda c: topics.listed(c, call.account, after))
    page: Result = {"Topics": [{"TopicArn": each} for each in found[:PAGE]]}
    if len(found) > PAGE:
        page["NextToken"] = found[PAGE - 1]
    return page


async def get_topic_attributes(params: Params, call: Call) -> Result:
    """What was set of a topic, and its subscriptions' numbers. Raises TopicNotFound."""

    def get(connection: Connection) -> tuple[Topic, tuple[int, int]]:
        topic = get_topic(connection, params["TopicArn"], call)
        return topic, subscriptions.counts(connection, topic.arn)

    topic, (confirmed, pending) = await call.parts.database.read(get)
    shown = {
        "TopicArn": topic.arn,
        "Owner": topic.account,
        "DisplayName": "",
        "Policy": _default_policy(topic),
        "SubscriptionsConfirmed": str(confirmed),
        "SubscriptionsPending": str(pending),
        "SubscriptionsDeleted": "0",
    }
    return {"Attributes": shown | dict(topic.attributes)}


async def set_topic_attributes(params: Params, call: Call) -> Result:
    """Set one attribute of a topic; an empty value takes it back to its default. Raises TopicNotFound."""
    name, value = params["AttributeName"], params.get("AttributeValue", "")
    checked = parameters.check_topic_attributes({name: value})

    def change(connection: Connection) -> None:
        topic = get_topic(connection, params["TopicArn"], call)
        kept = {key: text for key, text in topic.attributes.items() if key != name}
        topics.set_attributes(connection, topic.arn, kept | checked)

    await call.parts.database.write(change)
    return {}


async def tag_resource(params: Params, call: Call) -> Result:
    """Add tags to a topic, replacing values of keys it has."""

    def tag(connection: Connection) -> None:
        topic = _tagged(connection, params["ResourceArn"], call)
        tags = {**topic.tags, **_tags(params["Tags"])}
        if len(tags) > MAX_TAGS:
            raise ServiceError(
                f"Could not complete request: tag quota of {MAX_TAGS} per resource exceeded",
                code="TagLimitExceededException",
            )
        topics.set_tags(connection, topic.arn, tags)

    await call.parts.database.write(tag)
    return {}


async def untag_resource(params: Params, call: Call) -> Result:
    """Remove tags of a topic by their keys."""

    def untag(connection: Connection) -> None:
        topic = _tagged(connection, params["ResourceArn"], call)
        kept = {key: value for key, value in topic.tags.items() if key not in params["TagKeys"]}
        topics.set_tags(connection, topic.arn, kept)

    await call.parts.database.write(untag)
    return {}


async def list_tags_for_resource(params: Params, call: Call) -> Result:
    """A topic's tags."""
    topic = await call.parts.database.read(lambda c: _tagged(c, params["ResourceArn"], call))
    return {"Tags": [{"Key": key, "Value": value} for key, value in topic.tags.items()]}


def _tagged(connection: Connection, resource_arn: str, call: Call) -> Topic:
    topic = topics.find(connection, resource_arn)
    if topic is None or topic.account != call.account:
        raise ServiceError("Resource does not exist", code="ResourceNotFoundException", http_status=404)
    return topic


def _tags(given: list[Params]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in given}


def _default_policy(topic: Topic) -> str:
    """The policy that AWS gives a new topic. Shown only: every key of an account may use its topics."""
    statement: Mapping[str, Any] = {
        "Sid": "__default_statement_ID",
        "Effect": "Allow",
        "Principal": {"AWS": "*"},
        "Action": [
            "SNS:GetTopicAttributes",
            "SNS:SetTopicAttributes",
            "SNS:AddPermission",
            "SNS:RemovePermission",
            "SNS:DeleteTopic",
            "SNS:Subscribe",
            "SNS:ListSubscriptionsByTopic",
            "SNS:Publish",
        ],
        "Resource": topic.arn,
        "Condition": {"StringEquals": {"AWS:SourceOwner": topic.account}},
    }
    document = {"Version": "2008-10-17", "Id": "__default_policy_ID", "Statement": [statement]}
    return json.dumps(document, separators=(",", ":"))
