"""Amazon SNS: topics, subscriptions and publishing. Source: SNS service model 2010-03-31."""

import json
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn
from ebbtide.notifications import envelope, outbox, parameters, subscriptions, topics
from ebbtide.notifications.parameters import invalid
from ebbtide.notifications.subscriptions import Subscription
from ebbtide.notifications.topics import PAGE, Topic

__all__ = [
    "confirm_subscription",
    "create_topic",
    "delete_topic",
    "get_subscription_attributes",
    "get_topic_attributes",
    "list_subscriptions",
    "list_subscriptions_by_topic",
    "list_tags_for_resource",
    "list_topics",
    "publish",
    "publish_batch",
    "set_subscription_attributes",
    "set_topic_attributes",
    "subscribe",
    "tag_resource",
    "unsubscribe",
    "untag_resource",
]

MAX_BATCH_ENTRIES = 10
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

    _check_arn("TopicArn", topic_arn)
    await call.parts.database.write(delete)
    return {}


async def list_topics(params: Params, call: Call) -> Result:
    """An account's topics, a hundred a page."""
    after = params.get("NextToken", "")
    found = await call.parts.database.read(lambda c: topics.listed(c, call.account, after))
    return _page("Topics", [{"TopicArn": each} for each in found], "TopicArn")


async def get_topic_attributes(params: Params, call: Call) -> Result:
    """What was set of a topic, and its subscriptions' numbers. Raises TopicNotFound."""

    def get(connection: Connection) -> tuple[Topic, tuple[int, int]]:
        topic = _own_topic(connection, params["TopicArn"], call)
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
        topic = _own_topic(connection, params["TopicArn"], call)
        kept = {key: text for key, text in topic.attributes.items() if key != name}
        topics.set_attributes(connection, topic.arn, kept | checked)

    await call.parts.database.write(change)
    return {}


async def subscribe(params: Params, call: Call) -> Result:
    """Subscribe an endpoint to a topic. A queue receives at once; others are first asked to confirm.

    A second subscription of the same endpoint is the first one; while it is pending, it is asked again.
    Raises TopicNotFound.
    """
    topic_arn = params["TopicArn"]
    _check_arn("TopicArn", topic_arn)
    await call.parts.database.read(lambda connection: _own_topic(connection, topic_arn, call))
    protocol, endpoint = params["Protocol"], params.get("Endpoint", "")
    settings = call.parts.settings
    parameters.check_receiver(
        protocol, endpoint, private_delivery=settings.private_delivery, mail=settings.smtp_url is not None
    )
    attributes = parameters.check_subscription_attributes(protocol, params.get("Attributes", {}))
    parameters.check_dead_letter_queue(attributes, topic_arn)
    wanted = Subscription(
        arn=f"{topic_arn}:{uuid.uuid4()}",
        topic_arn=topic_arn,
        account=call.account,
        protocol=protocol,
        endpoint=endpoint,
        attributes=attributes,
        base_url=call.base_url,
        confirmed=protocol == "sqs",
        authenticated_unsubscribe=False,
        token=subscriptions.new_token(),
        token_expires_at=call.now + subscriptions.TOKEN_LIFETIME_S,
        created_at=call.now,
    )

    def add(connection: Connection) -> Subscription:
        _own_topic(connection, topic_arn, call)
        found = subscriptions.find_endpoint(connection, topic_arn, protocol, endpoint)
        if found is None:
            subscriptions.add(connection, wanted)
        elif "Attributes" in params and found.attributes != attributes:
            raise invalid("Attributes Reason: Subscription already exists with different attributes")
        elif not found.confirmed:
            subscriptions.renew_token(
                connection,
                found.arn,
                wanted.token,
                expires_at=wanted.token_expires_at,
                base_url=wanted.base_url,
            )
        subscription = found or wanted
        if not subscription.confirmed:
            request = outbox.message(
                topic_arn,
                envelope.confirmation_request(topic_arn),
                kind=envelope.CONFIRMATION,
                at=call.now,
            )
            outbox.add(connection, request, [subscription.arn])
        return subscription

    subscription = await call.parts.database.write(add)
    call.parts.deliveries.wake()
    hidden = not subscription.confirmed and not params.get("ReturnSubscriptionArn", False)
    return {"SubscriptionArn": "pending confirmation" if hidden else subscription.arn}


async def confirm_subscription(params: Params, call: Call) -> Result:
    """Confirm a pending subscription with the token that its endpoint received; may be unsigned.

    Raises TopicNotFound, or ServiceError InvalidParameter for a token that is unknown or two days old.
    """
    topic_arn, token = params["TopicArn"], params["Token"]
    # Only a signed call can ask that unsubscribing be signed too.
    authenticated = _signed(call) and params.get("AuthenticateOnUnsubscribe", "").lower() == "true"

    def confirm(connection: Connection) -> Subscription:
        topics.get(connection, topic_arn)
        subscription = subscriptions.find_token(connection, topic_arn, token)
        if subscription is None:
            raise invalid("Token")
        if not subscription.confirmed:
            if subscription.token_expires_at <= call.now:
                raise invalid("Token Reason: the token has expired; subscribe again for a new one")
            subscriptions.confirm(connection, subscription.arn, authenticated_unsubscribe=authenticated)
        return subscription

    subscription = await call.parts.database.write(confirm)
    return {"SubscriptionArn": subscription.arn}


async def unsubscribe(params: Params, call: Call) -> Result:
    """End a subscription; one that is not there is fine. May be unsigned, unless the confirmation asked
    for authentication.
    """
    subscription_arn = params["SubscriptionArn"]
    _check_arn("SubscriptionArn", subscription_arn)

    def remove(connection: Connection) -> None:
        subscription = subscriptions.find(connection, subscription_arn)
        if subscription is None:
            return
        owns = _signed(call) and subscription.account == call.account
        if subscription.authenticated_unsubscribe and not owns:
            raise ServiceError(
                "Ending this subscription must be signed by its owner",
                code="AuthorizationErrorException",
                http_status=403,
            )
        subscriptions.remove(connection, subscription)

    await call.parts.database.write(remove)
    return {}


async def list_subscriptions(params: Params, call: Call) -> Result:
    """An account's subscriptions, a hundred a page."""
    after = params.get("NextToken", "")
    found = await call.parts.database.read(lambda c: subscriptions.listed(c, call.account, after))
    return _subscriptions_page(found)


async def list_subscriptions_by_topic(params: Params, call: Call) -> Result:
    """A topic's subscriptions, a hundred a page. Raises TopicNotFound."""
    topic_arn, after = params["TopicArn"], params.get("NextToken", "")

    def listed(connection: Connection) -> list[Subscription]:
        _own_topic(connection, topic_arn, call)
        return subscriptions.listed(connection, call.account, after, topic_arn=topic_arn)

    return _subscriptions_page(await call.parts.database.read(listed))


async def get_subscription_attributes(params: Params, call: Call) -> Result:
    """What is known of a subscription. Raises SubscriptionNotFound."""
    subscription = await call.parts.database.read(
        lambda connection: _own_subscription(connection, params["SubscriptionArn"], call)
    )
    shown = {
        "SubscriptionArn": subscription.arn,
        "TopicArn": subscription.topic_arn,
        "Owner": subscription.account,
        "Protocol": subscription.protocol,
        "Endpoint": subscription.endpoint,
        "PendingConfirmation": str(not subscription.confirmed).lower(),
        "ConfirmationWasAuthenticated": str(
            subscription.protocol == "sqs" or subscription.authenticated_unsubscribe
        ).lower(),
        "SubscriptionPrincipal": arn("iam", "", subscription.account, "root"),
        "RawMessageDelivery": "false",
    }
    if "FilterPolicy" in subscription.attributes:
        shown["FilterPolicyScope"] = "MessageAttributes"
    return {"Attributes": shown | dict(subscription.attributes)}


async def set_subscription_attributes(params: Params, call: Call) -> Result:
    """Set one attribute of a subscription; an empty value takes it back to its default.

    Raises SubscriptionNotFound.
    """
    name, value = params["AttributeName"], params.get("AttributeValue", "")

    def change(connection: Connection) -> None:
        subscription = _own_subscription(connection, params["SubscriptionArn"], call)
        # All of them again: a new FilterPolicyScope can make the FilterPolicy there already wrong.
        checked = parameters.check_subscription_attributes(
            subscription.protocol, {**subscription.attributes, name: value}
        )
        parameters.check_dead_letter_queue(checked, subscription.topic_arn)
        subscriptions.set_attributes(connection, subscription.arn, checked)

    await call.parts.database.write(change)
    return {}


async def publish(params: Params, call: Call) -> Result:
    """Send a message to a topic's subscribers: it is owed to each of them once this answers.

    Raises TopicNotFound, or ServiceError InvalidParameter for a message that breaks a rule.
    """
    topic_arn = _target(params)
    send = _publication(params, topic_arn, call)
    message_id = await call.parts.database.write(send)
    call.parts.deliveries.wake()
    return {"MessageId": message_id}


async def publish_batch(params: Params, call: Call) -> Result:
    """Send up to ten messages; each succeeds or fails for itself. Raises TopicNotFound."""
    topic_arn, entries = params["TopicArn"], params["PublishBatchRequestEntries"]
    _check_batch(entries)

    def send(connection: Connection) -> tuple[list[Result], list[Result]]:
        _own_topic(connection, topic_arn, call)
        successful, failed = [], []
        for entry in entries:
            try:
                message_id = _publication(entry, topic_arn, call)(connection)
            except ServiceError as error:
                # An entry's code is as errors have it on the wire, where the shapes' suffix is left out.
                code = error.code.removesuffix("Exception")
                failed.append(
                    {"Id": entry["Id"], "Code": code, "Message": error.message, "SenderFault": True}
                )
            else:
                successful.append({"Id": entry["Id"], "MessageId": message_id})
        return successful, failed

    successful, failed = await call.parts.database.write(send)
    call.parts.deliveries.wake()
    return {"Successful": successful, "Failed": failed}


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


def _signed(call: Call) -> bool:
    """Whether the request was signed: links in messages are followed without a signature."""
    return bool(call.access_key_id)


def _check_arn(name: str, value: str) -> None:
    elements = value.count(":") + 1
    if elements < 6:
        raise invalid(f"{name} Reason: An ARN must have at least 6 elements, not {elements}")


def _own_topic(connection: Connection, topic_arn: str, call: Call) -> Topic:
    _check_arn("TopicArn", topic_arn)
    topic = topics.get(connection, topic_arn)
    if topic.account != call.account:
        raise topics.TopicNotFound("Topic does not exist")
    return topic


def _own_subscription(connection: Connection, subscription_arn: str, call: Call) -> Subscription:
    _check_arn("SubscriptionArn", subscription_arn)
    subscription = subscriptions.get(connection, subscription_arn)
    if subscription.account != call.account:
        raise subscriptions.SubscriptionNotFound("Subscription does not exist")
    return subscription


def _tagged(connection: Connection, resource_arn: str, call: Call) -> Topic:
    topic = topics.find(connection, resource_arn)
    if topic is None or topic.account != call.account:
        raise ServiceError("Resource does not exist", code="ResourceNotFoundException", http_status=404)
    return topic


def _target(params: Params) -> str:
    if "PhoneNumber" in params:
        raise invalid("PhoneNumber Reason: text messages are not supported; publish to a topic")
    given = [params[name] for name in ("TopicArn", "TargetArn") if name in params]
    if len(given) != 1:
        raise invalid("TopicArn or TargetArn Reason: exactly one of them is needed")
    return str(given[0])


def _publication(params: Params, topic_arn: str, call: Call) -> Callable[[Connection], str]:
    """The work that publishes one message, after its parameters were checked."""
    attributes = parameters.envelope_attributes(params.get("MessageAttributes", {}))
    message, subject, structure = params["Message"], params.get("Subject"), params.get("MessageStructure")
    if "MessageDeduplicationId" in params:
        raise invalid("MessageDeduplicationId Reason: only FIFO topics take it, which are not supported")

    def send(connection: Connection) -> str:
        topic = _own_topic(connection, topic_arn, call)
        limit = int(topic.attributes.get("MaximumMessageSize", parameters.MAX_MESSAGE_BYTES))
        parameters.check_message(
            message, subject=subject, structure=structure, attributes=attributes, limit_bytes=limit
        )
        return topics.publish(
            connection,
            topic_arn,
            message,
            subject=subject,
            attributes=attributes,
            structure=structure,
            at=call.now,
        )

    return send


def _check_batch(entries: list[Params]) -> None:
    if not entries:
        raise ServiceError(
            "The batch request doesn't contain any entries.", code="EmptyBatchRequestException"
        )
    if len(entries) > MAX_BATCH_ENTRIES:
        raise ServiceError(
            "The batch request contains more entries than permissible.",
            code="TooManyEntriesInBatchRequestException",
        )
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise ServiceError(
            "Two or more batch entries in the request have the same Id.",
            code="BatchEntryIdsNotDistinctException",
        )
    size_bytes = sum(len(entry["Message"].encode()) for entry in entries)
    if size_bytes > parameters.MAX_MESSAGE_BYTES:
        raise ServiceError(
            f"The messages of the batch take {size_bytes} bytes, of {parameters.MAX_MESSAGE_BYTES} at most.",
            code="BatchRequestTooLongException",
        )


def _tags(given: list[Params]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in given}


def _page(member: str, found: list[Any], key: str) -> Result:
    """One page of what was found, with the last one's `key` as the token of the next."""
    page: Result = {member: found[:PAGE]}
    if len(found) > PAGE:
        page["NextToken"] = page[member][-1][key]
    return page


def _subscriptions_page(found: list[Subscription]) -> Result:
    page: Result = {
        "Subscriptions": [
            {
                "SubscriptionArn": each.arn if each.confirmed else "PendingConfirmation",
                "Owner": each.account,
                "Protocol": each.protocol,
                "Endpoint": each.endpoint,
                "TopicArn": each.topic_arn,
            }
            for each in found[:PAGE]
        ]
    }
    if len(found) > PAGE:
        page["NextToken"] = found[PAGE - 1].arn
    return page


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
