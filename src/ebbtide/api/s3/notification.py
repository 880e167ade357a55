"""Whom a bucket tells of its objects. Source: PutBucketNotificationConfiguration, S3 2006-03-01."""

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.s3.access import owned_bucket
from ebbtide.errors import ServiceError
from ebbtide.notifications import bucket_configuration, object_events, queues, topics
from ebbtide.notifications.bucket_configuration import CONSUMER
from ebbtide.objects import buckets, events
from ebbtide.objects.buckets import Bucket
from ebbtide.objects.events import Watch
from ebbtide.objects.followers import Told


async def get_bucket_notification_configuration(params: Params, call: Call) -> Result:
    """The topics and queues that the bucket tells. Raises NoSuchBucket, AccessDenied."""
    bucket = await call.parts.database.read(lambda connection: owned_bucket(connection, params, call))
    return bucket_configuration.shown(events.watches_of(bucket, CONSUMER))


async def put_bucket_notification_configuration(params: Params, call: Call) -> Result:
    """Replace the configuration; every destination gets a test message, unless the request says not to look.

    Raises NoSuchBucket, NotImplemented, and InvalidArgument for a configuration that breaks a rule or whose
    destinations do not exist; then nothing changes.
    """
    given = params["NotificationConfiguration"]
    look = not params.get("SkipDestinationValidation", False)

    def work(connection: Connection) -> list[Told]:
        bucket = owned_bucket(connection, params, call)
        watches = bucket_configuration.parse(given, region=bucket.region)
        buckets.set_watches(connection, bucket.name, events.with_watches(bucket, CONSUMER, watches))
        if not look:
            return []
        _check_destinations(connection, watches, call)
        return _try(connection, bucket, watches, call)

    for told in await call.parts.database.write(work):
        told()
    return {}


def _try(connection: Connection, bucket: Bucket, watches: list[Watch], call: Call) -> list[Told]:
    """Send each destination the test message."""
    text = object_events.trial_message(bucket.name, request_id=call.request_id, now=call.now)
    notifier = object_events.Notifier(call.parts.deliveries)
    return [
        notifier.send(connection, target, text, call.now)
        for target in dict.fromkeys(watch.target for watch in watches)
    ]


def _check_destinations(connection: Connection, watches: list[Watch], call: Call) -> None:
    """Raises InvalidArgument naming each destination that is not there for the caller."""
    missing = {
        target: reason
        for target in dict.fromkeys(watch.target for watch in watches)
        if (reason := _missing(connection, target, call.account))
    }
    if missing:
        members: dict[str, str] = {}
        for number, (target, reason) in enumerate(missing.items(), start=1):
            members |= {f"ArgumentName{number}": f"{target}, null", f"ArgumentValue{number}": reason}
        raise ServiceError(
            "Unable to validate the following destination configurations",
            code="InvalidArgument",
            members=members,
        )


def _missing(connection: Connection, target: str, account: str) -> str | None:
    kind = {"sns": "topic", "sqs": "queue"}[target.split(":")[2]]
    found = topics.find(connection, target) if kind == "topic" else queues.find_arn(connection, target)
    if found is None:
        return f"The destination {kind} does not exist"
    if found.account != account:
        return (
            f"Permissions on the destination {kind} do not allow S3 to publish notifications from this bucket"
        )
    return None
