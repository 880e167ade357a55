"""What requests name: topics of the caller's account, by ARN."""

from sqlalchemy import Connection

from ebbtide.api.call import Call
from ebbtide.notifications import topics
from ebbtide.notifications.parameters import invalid
from ebbtide.notifications.topics import Topic


def get_topic(connection: Connection, topic_arn: str, call: Call) -> Topic:
    """Raises TopicNotFound, for another account's too, and ServiceError InvalidParameter."""
    check_arn("TopicArn", topic_arn)
    topic = topics.get(connection, topic_arn)
    if topic.account != call.account:
        raise topics.TopicNotFound("Topic does not exist")
    return topic


def check_arn(name: str, value: str) -> None:
    """Raises ServiceError InvalidParameter."""
    elements = value.count(":") + 1
    if elements < 6:
        raise invalid(f"{name} Reason: An ARN must have at least 6 elements, not {elements}")
