"""Subscriptions: made, confirmed, listed and ended."""

import uuid

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.sns.resources import check_arn, get_topic
from ebbtide.errors import ServiceError
from ebbtide.identifiers import arn
from ebbtide.notifications import envelope, outbox, parameters, subscriptions, topics
from ebbtide.notifications.parameters import invalid
from ebbtide.notifications.subscriptions import Subscription
from ebbtide.notifications.topics import PAGE


async def subscribe(params: Params, call: Call) -> Result:
    """Subscribe an endpoint to a topic. A queue receives at once; others are first asked to confirm.

    A second subscription of the same endpoint is the first one; while it is pending, it is asked again.
    Raises TopicNotFound.
    """
    topic_arn = params["TopicArn"]
    check_arn("TopicArn", topic_arn)
    await call.parts.database.read(lambda connection: get_topic(connection, topic_arn, call))
    wanted = _wanted(params, call)

    def add(connection: Connection) -> Subscription:
        get_topic(connection, topic_arn, call)
        found = subscriptions.find_endpoint(connection, topic_arn, wanted.protocol, wanted.endpoint)
        if found is None:
            subscriptions.add(connection, wanted)
        elif "Attributes" in params and found.attributes != wanted.attributes:
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
            question = envelope.confirmation_request(topic_arn)
            request = outbox.message(topic_arn, question, kind=envelope.CONFIRMATION, at=call.now)
            outbox.add(connection, request, [subscription.arn])
        return subscription

    subscription = await call.parts.database.write(add)
    call.parts.deliveries.wake()
    hidden = not subscription.confirmed and not params.get("ReturnSubscriptionArn", False)
    return {"SubscriptionArn": "pending confirmation" if hidden else subscription.arn}


def _wanted(params: Params, call: Call) -> Subscription:
    """What Subscribe asks for. Raises ServiceError InvalidParameter."""
    topic_arn, protocol, endpoint = params["TopicArn"], params["Protocol"], params.get("Endpoint", "")
    settings = call.parts.settings
    parameters.check_receiver(
        protocol, endpoint, private_delivery=settings.private_delivery, mail=settings.smtp_url is not None
    )
    attributes = parameters.check_subscription_attributes(protocol, params.get("Attributes", {}))
    parameters.check_dead_letter_queue(attributes, topic_arn)
    return Subscription(
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
    check_arn("SubscriptionArn", subscription_arn)

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
        get_topic(connection, topic_arn, call)
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


def _signed(call: Call) -> bool:
    """Whether the request was signed: links in messages are followed without a signature."""
    return bool(call.access_key_id)


def _own_subscription(connection: Connection, subscription_arn: str, call: Call) -> Subscription:
    check_arn("SubscriptionArn", subscription_arn)
    subscription = subscriptions.get(connection, subscription_arn)
    if subscription.account != call.account:
        raise subscriptions.SubscriptionNotFound("Subscription does not exist")
    return subscription


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
