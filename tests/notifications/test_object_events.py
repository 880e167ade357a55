"""Events of watched buckets on their way to topics and queues, with time as an argument."""

import json

import pytest
from sqlalchemy import event

from ebbtide.notifications import bucket_configuration, queues
from ebbtide.notifications.object_events import Notifier
from ebbtide.objects import batches, buckets, events, records
from ebbtide.objects.batches import Publication
from ebbtide.objects.buckets import Bucket
from ebbtide.objects.contents import Staged
from ebbtide.objects.events import Watch
from ebbtide.objects.followers import GIVE_UP_AFTER_S, Followers

NOW = 1_700_000_000.0
ACCOUNT = "123456789012"
QUEUE_ARN = f"arn:aws:sqs:us-east-1:{ACCOUNT}:told"


def staged(name):
    return Staged(name, 1, "etag", {}, None, b"x")


@pytest.fixture
async def watched(outbox):
    """A bucket that tells a queue, which does not exist yet."""
    bucket = Bucket("b", ACCOUNT, "us-east-1", NOW)
    watch = Watch("all", bucket_configuration.CONSUMER, QUEUE_ARN, ("ObjectCreated:*",))

    def make(connection):
        buckets.create_bucket(connection, bucket)
        watches = events.with_watches(bucket, bucket_configuration.CONSUMER, [watch])
        buckets.set_watches(connection, bucket.name, watches)

    await outbox.database.write(make)
    return outbox


def followers(outbox):
    return Followers(outbox.database, {bucket_configuration.CONSUMER: Notifier(outbox.deliveries).tell})


async def publish(outbox, *keys):
    """As the queue publishes results: many at once, in one transaction."""
    publications = [Publication(ACCOUNT, "b", key, staged(key), None, NOW) for key in keys]
    await outbox.database.write(lambda c: batches.publish_many(c, publications))


async def told(outbox, queue):
    bodies = [json.loads(letter.body) for letter in await outbox.letters(queue)]
    return sorted(body["Records"][0]["s3"]["object"]["key"] for body in bodies)


async def test_results_that_are_published_together_are_told_one_by_one(watched):
    queue = await watched.create_queue("told")
    await publish(watched, "a", "b")
    await publish(watched, "a", "c")

    await followers(watched).step(NOW)
    await followers(watched).step(NOW)

    assert await told(watched, queue) == ["a", "a", "b", "c"]


async def test_an_event_waits_for_its_destination(watched):
    await publish(watched, "a")
    await followers(watched).step(NOW)
    standing = await watched.database.read(lambda c: events.standing(c, QUEUE_ARN))
    queue = await watched.create_queue("told")

    await followers(watched).step(NOW + 2)

    assert (standing.pending, standing.failing) == (1, 1)
    assert "does not exist" in standing.last_error
    assert await told(watched, queue) == ["a"]


async def test_an_event_without_a_destination_is_given_up_and_forgotten_in_the_end(watched):
    await publish(watched, "a")

    await followers(watched).step(NOW + GIVE_UP_AFTER_S)
    given_up = await watched.database.read(lambda c: events.standing(c, QUEUE_ARN))
    await followers(watched).step(NOW + 2 * GIVE_UP_AFTER_S + 60)
    forgotten = await watched.database.read(lambda c: events.standing(c, QUEUE_ARN))

    assert given_up.abandoned == 1
    assert forgotten.abandoned == 0


async def test_an_object_whose_publication_is_undone_is_not_told_of(watched):
    queue = await watched.create_queue("told")

    def fail(connection):
        records.publish(connection, "b", "a", staged("a"), content_type=None, at=NOW)
        raise ValueError("undone")

    with pytest.raises(ValueError, match="undone"):
        await watched.database.write(fail)
    await followers(watched).step(NOW)

    assert await told(watched, queue) == []


async def test_a_bucket_that_nobody_watches_costs_no_statement(watched):
    """Who watches is read with the bucket, which every publication looks up."""
    statements = []
    event.listen(watched.database.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    plain = Bucket("plain", ACCOUNT, "us-east-1", NOW)
    await watched.database.write(lambda c: buckets.create_bucket(c, plain))
    statements.clear()

    await watched.database.write(
        lambda c: records.publish(c, "plain", "a", staged("plain-a"), content_type=None, at=NOW)
    )

    assert not [each for each in statements if "object_events" in each]
    assert len([each for each in statements if "buckets" in each]) == 1


async def test_a_queue_that_waits_is_woken_when_the_event_has_come(watched):
    queue = await watched.create_queue("told")
    await publish(watched, "a")

    with watched.deliveries.arrivals.watch(QUEUE_ARN) as arrived:
        await followers(watched).step(NOW)

        assert arrived.is_set()
    assert (await watched.database.read(lambda c: queues.counts(c, queue, NOW))).visible == 1
