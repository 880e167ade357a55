"""S3 event notifications: what happened to objects, told to topics and queues in S3's own words.

Source: "Event message structure", Amazon S3 user guide, version 2.1.
"""

import json
from urllib.parse import quote_plus

from sqlalchemy import Connection

from ebbtide.errors import ServiceError
from ebbtide.notifications import queues, topics
from ebbtide.notifications.deliveries import Deliveries
from ebbtide.notifications.envelope import timestamp
from ebbtide.objects import buckets
from ebbtide.objects.buckets import Bucket
from ebbtide.objects.events import CREATED, ObjectEvent
from ebbtide.objects.followers import Told

SUBJECT = "Amazon S3 Notification"
SENDER = "s3.amazonaws.com"


class NoDestination(ServiceError):
    """The topic or queue that is to be told does not exist."""

    code = "NotFoundException"
    http_status = 404


class Notifier:
    """Tells topics and queues, and after the commit those who deliver to them or wait for them."""

    def __init__(self, deliveries: Deliveries) -> None:
        self._deliveries = deliveries

    def tell(self, connection: Connection, event: ObjectEvent, now: float) -> Told | None:
        """Publish or send the event's message. Raises NoDestination."""
        bucket = buckets.find_bucket(connection, event.bucket)
        if bucket is None:
            return None  # it was deleted after its last object, and its configuration with it
        return self.send(connection, event.target, message(event, bucket), now)

    def send(self, connection: Connection, target: str, text: str, now: float) -> Told:
        """Send one text to a topic or queue, by its ARN. Raises NoDestination."""
        if target.split(":")[2] == "sns":
            try:
                topics.publish(connection, target, text, subject=SUBJECT, at=now)
            except topics.TopicNotFound as error:
                raise NoDestination(f"The destination topic {target} does not exist") from error
            return self._deliveries.wake
        queue = queues.find_arn(connection, target)
        if queue is None:
            raise NoDestination(f"The destination queue {target} does not exist")
        queues.send(connection, queue, [queues.Draft(text, {}, sender=SENDER)], now)
        return lambda: self._deliveries.arrivals.notify(target)


def message(event: ObjectEvent, bucket: Bucket) -> str:
    """The JSON text about one event."""
    sequencer = f"{event.id:016X}"
    described: dict[str, object] = {"key": quote_plus(event.key, safe="/-_.*")}
    if event.name.startswith(CREATED):
        described |= {"size": event.size_bytes, "eTag": event.etag}
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": bucket.region,
        "eventTime": timestamp(event.at),
        "eventName": event.name,
        "userIdentity": {"principalId": event.cause.principal},
        "requestParameters": {"sourceIPAddress": event.cause.source_ip},
        "responseElements": {
            "x-amz-request-id": event.cause.request_id or sequencer,
            "x-amz-id-2": "ebbtide",
        },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": event.watch_id,
            "bucket": {
                "name": bucket.name,
                "ownerIdentity": {"principalId": bucket.account},
                "arn": f"arn:aws:s3:::{bucket.name}",
            },
            "object": described | {"sequencer": sequencer},
        },
    }
    return json.dumps({"Records": [record]}, separators=(",", ":"))


def trial_message(bucket: str, *, request_id: str, now: float) -> str:
    """What every destination of a new configuration gets."""
    return json.dumps(
        {
            "Service": "Amazon S3",
            "Event": "s3:TestEvent",
            "Time": timestamp(now),
            "Bucket": bucket,
            "RequestId": request_id,
            "HostId": "ebbtide",
        },
        separators=(",", ":"),
    )
