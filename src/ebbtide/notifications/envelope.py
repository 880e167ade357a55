"""The documents in which messages travel. Pure: the signature is a function given.

Source: Amazon SNS developer guide, "Parsing Amazon SNS message formats".
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlencode

from ebbtide.notifications.outbox import Message
from ebbtide.notifications.signing import CERTIFICATE_PATH, text_to_sign
from ebbtide.notifications.subscriptions import Subscription

NOTIFICATION = "Notification"
CONFIRMATION = "SubscriptionConfirmation"

Sign = Callable[[str, str], str]
"""Text and signature version -> the signature in base64."""


def body(message: Message, subscription: Subscription, version: str, sign: Sign) -> str:
    """What the receiver gets: the envelope; with raw delivery the bare message; by mail a readable text."""
    mailed = subscription.protocol == "email"
    if message.type == CONFIRMATION:
        if mailed:
            return f"{message.message}\n\n{confirm_url(subscription)}\n"
        return json.dumps(
            _signed(_confirmation(message, subscription), subscription, version, sign), indent=2
        )
    if mailed:
        return text_for(message, subscription.protocol) + _footer(subscription)
    if subscription.raw:
        return text_for(message, subscription.protocol)
    document = _signed(_notification(message, subscription), subscription, version, sign)
    document["UnsubscribeURL"] = unsubscribe_url(subscription)
    if message.attributes:
        document["MessageAttributes"] = message.attributes
    return json.dumps(document, indent=2)


def headers(message: Message, subscription: Subscription, content_type: str | None) -> dict[str, str]:
    """The headers of an HTTP delivery."""
    sent = {
        "Content-Type": content_type or "text/plain; charset=UTF-8",
        "User-Agent": "Amazon Simple Notification Service Agent",
        "x-amz-sns-message-type": message.type,
        "x-amz-sns-message-id": message.id,
        "x-amz-sns-topic-arn": message.topic_arn,
    }
    if message.type == NOTIFICATION:
        sent["x-amz-sns-subscription-arn"] = subscription.arn
        if subscription.raw:
            sent["x-amz-sns-rawdelivery"] = "true"
    return sent


def confirmation_request(topic_arn: str) -> str:
    """What a message that asks for confirmation says."""
    return (
        f"You have chosen to subscribe to the topic {topic_arn}.\n"
        "To confirm the subscription, visit the SubscribeURL included in this message."
    )


def text_for(message: Message, protocol: str) -> str:
    """The message's text for one protocol; what is no text for it counts as absent, as in SNS."""
    if message.structure != "json":
        return message.message
    texts = json.loads(message.message)
    text = texts.get(protocol)
    return str(text if isinstance(text, str) else texts["default"])


def confirm_url(subscription: Subscription) -> str:
    """The link that confirms a subscription; anyone who has it may."""
    query = {
        "Action": "ConfirmSubscription",
        "TopicArn": subscription.topic_arn,
        "Token": subscription.token,
    }
    return f"{subscription.base_url}/?{urlencode(query)}"


def unsubscribe_url(subscription: Subscription) -> str:
    """The link that ends a subscription."""
    query = {"Action": "Unsubscribe", "SubscriptionArn": subscription.arn}
    return f"{subscription.base_url}/?{urlencode(query)}"


def timestamp(at: float) -> str:
    """ISO 8601 in UTC with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _notification(message: Message, subscription: Subscription) -> dict[str, object]:
    subject = {} if message.subject is None else {"Subject": message.subject}
    return {
        "Type": NOTIFICATION,
        "MessageId": message.id,
        "TopicArn": message.topic_arn,
        **subject,
        "Message": text_for(message, subscription.protocol),
        "Timestamp": timestamp(message.published_at),
    }


def _confirmation(message: Message, subscription: Subscription) -> dict[str, object]:
    return {
        "Type": CONFIRMATION,
        "MessageId": message.id,
        "Token": subscription.token,
        "TopicArn": message.topic_arn,
        "Message": message.message,
        "SubscribeURL": confirm_url(subscription),
        "Timestamp": timestamp(message.published_at),
    }


def _signed(
    document: dict[str, object], subscription: Subscription, version: str, sign: Sign
) -> dict[str, object]:
    return document | {
        "SignatureVersion": version,
        "Signature": sign(text_to_sign(document), version),
        "SigningCertURL": f"{subscription.base_url}{CERTIFICATE_PATH}",
    }


def _footer(subscription: Subscription) -> str:
    return (
        "\n\n--\nIf you wish to stop receiving notifications from the topic "
        f"{subscription.topic_arn}, please visit the link below to unsubscribe:\n"
        f"{unsubscribe_url(subscription)}\n"
    )
