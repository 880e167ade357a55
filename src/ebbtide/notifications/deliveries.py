"""Carries out the deliveries that the outbox owes.

Each subscription with something due has a lane, a task of its own that takes its deliveries a batch at a
time: a receiver that is slow or gone delays nobody's messages but its own. A delivery is removed only
after it was made, so a crash between the two repeats it: at least once, as SNS promises.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from ebbtide import clock, loops
from ebbtide.database import Database
from ebbtide.notifications import envelope, mail, outbox, queues, retries, subscriptions, topics
from ebbtide.notifications.arrivals import Arrivals
from ebbtide.notifications.http import open_session, post
from ebbtide.notifications.outbox import Delivery, Message, Undelivered
from ebbtide.notifications.signing import Signer
from ebbtide.notifications.subscriptions import Subscription
from ebbtide.notifications.topics import Topic
from ebbtide.settings import Settings

if TYPE_CHECKING:
    from aiohttp import ClientSession

log = logging.getLogger(__name__)

BATCH_SIZES = {"sqs": 200, "http": 16, "https": 16, "email": 4, "email-json": 4}
"""Protocol -> deliveries attempted at once for one subscription."""

MAILERS = 4
"""Mails on their way to the mail server at once, of all subscriptions."""

SWEEP_INTERVAL_S = 3_600.0
AFTER_FAILED_BATCH_S = 5.0
CLOSE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Batch:
    """One subscription's deliveries to attempt now, and what governs them."""

    topic: Topic
    subscription: Subscription
    deliveries: Sequence[Delivery]

    @property
    def policy(self) -> tuple[retries.DeliveryPolicy | None, str | None]:
        """The retry policy and Content-Type for HTTP: the subscription's own, else the topic's."""
        for attributes in (self.subscription.attributes, self.topic.attributes):
            if text := attributes.get("DeliveryPolicy"):
                return retries.parse_delivery_policy(text)
        return None, None

    def retry_delay_s(self, delivery: Delivery, now: float) -> float | None:
        """The wait after one more failed attempt; None when it was the last."""
        failed_count = delivery.attempt_count + 1
        policy, _ = self.policy
        if policy is not None and self.subscription.protocol in ("http", "https"):
            return policy.delay_s(failed_count)
        return retries.default_delay_s(failed_count, now - delivery.message.published_at)


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery and what its receiver gets."""

    delivery: Delivery
    body: str

    @property
    def message(self) -> Message:
        return self.delivery.message


class Deliveries:
    """The loop over the outbox. `signer` signs its messages, `arrivals` tells who waits for a queue.

    Raises ValueError when `settings.smtp_url` is none.
    """

    def __init__(self, settings: Settings, database: Database, signer: Signer) -> None:
        self.signer = signer
        self.arrivals = Arrivals()
        self._settings = settings
        self._database = database
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self._session: ClientSession | None = None
        self._mail_server = mail.parse_smtp_url(settings.smtp_url) if settings.smtp_url else None
        # Threads of its own: a mail server that hangs must not use up those that all the server shares.
        self._mailers = ThreadPoolExecutor(MAILERS, thread_name_prefix="mail")
        self._swept_at = 0.0

    def wake(self) -> None:
        """Look at the outbox now; called on the event loop after a commit that published something."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until told to stop; what is then under way gets 2 s, and is repeated after a restart."""
        await loops.run("deliveries", self.step, stop, self._woken)
        self.arrivals.close()
        await self.close()

    async def step(self, now: float) -> float:
        """Start a lane for each subscription with something due; the wait until the next is, in s."""
        if now - self._swept_at >= SWEEP_INTERVAL_S:
            self._swept_at = now
            await self._database.write(lambda connection: _sweep(connection, now))
        due = await self._database.read(outbox.next_due)
        delay_s = SWEEP_INTERVAL_S
        for arn, due_at in due.items():
            # A lane looks for more before it ends, and wakes this loop after.
            if arn in self._lanes:
                continue
            if due_at <= now:
                self._lanes[arn] = asyncio.create_task(self._run_lane(arn))
            else:
                delay_s = min(delay_s, due_at - now)
        return delay_s

    async def deliver(self, subscription_arn: str, now: float) -> int:
        """Attempt one batch of a subscription's due deliveries; how many those were."""
        batch = await self._database.read(lambda connection: _due_batch(connection, subscription_arn, now))
        if batch is None:
            return 0
        parcels = await asyncio.to_thread(self._pack, batch)
        if batch.subscription.protocol == "sqs":
            await self._database.write(lambda connection: _move_to_queue(connection, batch, parcels, now))
            self.arrivals.notify(batch.subscription.endpoint)
        else:
            started = time.monotonic()
            failures = await asyncio.gather(*(self._attempt(batch, parcel) for parcel in parcels))
            attempts = list(zip(parcels, failures, strict=True))
            ended_at = now + time.monotonic() - started
            await self._database.write(lambda connection: _record(connection, batch, attempts, ended_at))
        if batch.subscription.redrive_arn is not None:
            self.arrivals.notify(batch.subscription.redrive_arn)
        return len(parcels)

    async def _run_lane(self, arn: str) -> None:
        try:
            while await self.deliver(arn, clock.now()):
                pass
        except Exception:
            # Another lane is started at the next step; the pause keeps a lasting fault from spinning.
            log.exception("A batch of deliveries to %s failed", arn)
            await asyncio.sleep(AFTER_FAILED_BATCH_S)
        finally:
            del self._lanes[arn]
            self.wake()

    def _pack(self, batch: Batch) -> list[Parcel]:
        version = batch.topic.attributes.get("SignatureVersion", "1")
        return [
            Parcel(each, envelope.body(each.message, batch.subscription, version, self.signer.sign))
            for each in batch.deliveries
        ]

    async def _attempt(self, batch: Batch, parcel: Parcel) -> Undelivered | None:
        """Make one delivery; why it failed, if it did."""
        try:
            if batch.subscription.protocol in ("http", "https"):
                await self._post(batch, parcel)
            else:
                await asyncio.get_running_loop().run_in_executor(self._mailers, self._mail, batch, parcel)
        except Undelivered as failure:
            log.warning("Message %s to %s: %s", parcel.message.id, batch.subscription.arn, failure)
            return failure
        return None

    async def _post(self, batch: Batch, parcel: Parcel) -> None:
        _, content_type = batch.policy
        headers = envelope.headers(parcel.message, batch.subscription, content_type)
        if self._session is None:
            self._session = open_session(private_delivery=self._settings.private_delivery)
        await post(self._session, batch.subscription.endpoint, parcel.body, headers)

    def _mail(self, batch: Batch, parcel: Parcel) -> None:
        if self._mail_server is None:
            raise Undelivered("this server has no mail server (EBBTIDE_SMTP_URL)")
        subject, sender_name = parcel.message.subject or mail.DEFAULT_SUBJECT, mail.SENDER_NAME
        if parcel.message.type == envelope.CONFIRMATION:
            subject = mail.CONFIRMATION_SUBJECT
        else:
            sender_name = batch.topic.attributes.get("DisplayName") or sender_name
        recipient = batch.subscription.endpoint
        mail.send(self._mail_server, recipient, subject, parcel.body, sender_name=sender_name)

    async def close(self) -> None:
        """Wait 2 s for attempts under way, then cut them off."""
        lanes = list(self._lanes.values())
        if lanes:
            await asyncio.wait(lanes, timeout=CLOSE_TIMEOUT_S)
        for lane in lanes:
            lane.cancel()
        for lane in lanes:
            with suppress(asyncio.CancelledError):
                await lane
        if self._session is not None:
            await self._session.close()
        self._mailers.shutdown(wait=False, cancel_futures=True)


def _due_batch(connection: Connection, arn: str, now: float) -> Batch | None:
    subscription = subscriptions.find(connection, arn)
    if subscription is None:
        return None
    deliveries = outbox.due(connection, arn, now, BATCH_SIZES[subscription.protocol])
    if not deliveries:
        return None
    return Batch(topics.get(connection, subscription.topic_arn), subscription, deliveries)


def _move_to_queue(connection: Connection, batch: Batch, parcels: Sequence[Parcel], now: float) -> None:
    """Deliver to a queue of ours: in one transaction, so exactly once."""
    queue = queues.find_arn(connection, batch.subscription.endpoint)
    if queue is None:
        missing = Undelivered("the queue does not exist", final=True)
        log.warning("%s: %s", batch.subscription.arn, missing)
        _record(connection, batch, [(parcel, missing) for parcel in parcels], now)
        return
    queues.send(connection, queue, [_draft(batch, parcel) for parcel in parcels], now)
    outbox.delivered(connection, batch.deliveries)


def _record(
    connection: Connection,
    batch: Batch,
    attempts: Sequence[tuple[Parcel, Undelivered | None]],
    now: float,
) -> None:
    """Remove what was delivered; put the rest off, or give it up to the dead-letter queue if there is one."""
    outbox.delivered(connection, [parcel.delivery for parcel, failure in attempts if failure is None])
    for parcel, failure in attempts:
        if failure is None:
            continue
        delay_s = None if failure.final else batch.retry_delay_s(parcel.delivery, now)
        if delay_s is not None:
            outbox.put_off(connection, parcel.delivery, now + delay_s, str(failure))
        elif not _dead_letter(connection, batch, parcel, now):
            outbox.abandon(connection, parcel.delivery, now, str(failure))


def _dead_letter(connection: Connection, batch: Batch, parcel: Parcel, now: float) -> bool:
    arn = batch.subscription.redrive_arn
    queue = None if arn is None else queues.find_arn(connection, arn)
    if queue is None or parcel.message.type != envelope.NOTIFICATION:
        return False
    queues.send(connection, queue, [_draft(batch, parcel)], now)
    outbox.delivered(connection, [parcel.delivery])
    return True


def _draft(batch: Batch, parcel: Parcel) -> queues.Draft:
    """A queue's message; with raw delivery the attributes travel as the queue's own kind."""
    attributes = {}
    if batch.subscription.raw:
        attributes = {
            name: {
                "DataType": each["Type"],
                "BinaryValue" if each["Type"].startswith("Binary") else "StringValue": each["Value"],
            }
            for name, each in parcel.message.attributes.items()
        }
    return queues.Draft(parcel.body, attributes, sender=batch.topic.arn)


def _sweep(connection: Connection, now: float) -> None:
    outbox.forget_abandoned(connection, now)
    queues.expire(connection, now)
