"""Deliveries as SNS writes them into CloudWatch Logs for topics that ask for it. Pure.

A topic asks with the attributes HTTPSuccessFeedbackRoleArn, HTTPSuccessFeedbackSampleRate (percent) and
HTTPFailureFeedbackRoleArn, and the same for SQS. The role is not used: the log groups are the account's own.
Source: Amazon SNS developer guide, "Message delivery status".
"""

import hashlib
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

from ebbtide.notifications.outbox import Attempt, Delivery

_FAMILIES = {"http": "HTTP", "https": "HTTP", "sqs": "SQS"}
_DELIVERIES = uuid.UUID("6f3b1d2e-5a0c-4f0e-9d55-7b9d2f1c8a40")


def wanted(topic_attributes: Mapping[str, str], protocol: str, *, success: bool, draw: float) -> bool:
    """Whether a delivery that ended is to be written. draw: random, from 0 up to but not including 1."""
    family = _FAMILIES.get(protocol)
    if family is None:
        return False
    if not success:
        return f"{family}FailureFeedbackRoleArn" in topic_attributes
    if f"{family}SuccessFeedbackRoleArn" not in topic_attributes:
        return False
    return draw * 100 < int(topic_attributes.get(f"{family}SuccessFeedbackSampleRate", "100"))


def log_group(topic_arn: str, *, success: bool) -> str:
    """sns/REGION/ACCOUNT/TOPIC, and /Failure behind it for what failed."""
    _, _, _, region, account, name = topic_arn.split(":", 5)
    return f"sns/{region}/{account}/{name}" + ("" if success else "/Failure")


def log_line(delivery: Delivery, destination: str, attempt: Attempt) -> str:
    """The JSON text of a delivery that ended with this attempt."""
    message = delivery.message
    dwell_s = max(0.0, attempt.at - attempt.duration_s - message.published_at)
    status_code = attempt.status_code
    if status_code is None and attempt.error is None:
        status_code = 200
    return json.dumps(
        {
            "notification": {
                "messageMD5Sum": hashlib.md5(message.message.encode(), usedforsecurity=False).hexdigest(),
                "messageId": message.id,
                "topicArn": message.topic_arn,
                "timestamp": datetime.fromtimestamp(message.published_at, UTC).strftime(
                    "%Y-%m-%d %H:%M:%S.%f"
                )[:-3],
            },
            "delivery": {
                "deliveryId": str(uuid.uuid5(_DELIVERIES, f"{message.id} {delivery.id}")),
                "destination": destination,
                "providerResponse": attempt.error or "",
                "dwellTimeMs": int(dwell_s * 1000),
                "attempts": delivery.attempt_count + 1,
                **({} if status_code is None else {"statusCode": status_code}),
            },
            "status": "SUCCESS" if attempt.error is None else "FAILURE",
        }
    )
