"""Carries out the deliveries that the outbox owes.

Each subscription with something due has a lane, a task of its own that takes its deliveries a batch at a
time: a receiver that is slow or gone delays nobody's messages but its own. A delivery counts as made only
after it was, so a crash between the two repeats it: at least once, as SNS promises. A second loop forgets
what is past its retention, a little at a time.
"""

import asyncio
import logging
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from ebbtide import clock, loops
from ebbtide.database import Database
from ebbtide.errors import Unavailable
from ebbtide.logs import LogStore
from ebbtide.notifications import (
    envelope,
    feedback,
    history,
    mail,
    outbox,
    queues,
    retries,
    subscriptions,
    topics,
)
from ebbtide.notifications.arrivals import Arrivals
from ebbtide.notifications.history import Chosen
from ebbtide.notifications.http import open_session, post
from ebbtide.notifications.outbox import Attempt, Delivery, Message, Undelivered
from ebbtide.notifications.signing import Signer
from ebbtide.notifications.subscriptions import Subscription
from ebbtide.notifications.topics import Topic
from ebbtide.settings import Settings
from ebbtide.values import value

if TYPE_CHECKING:
    from aiohttp import ClientSession

log = logging.getLogger(__name__)

BATCH_SIZES = {"sqs": 200, "http": 16, "https": 16, "email": 4, "email-json": 4}
"""Protocol -> deliveries attempted at once for one subscription."""

MAILERS = 4
"""Mails on their way to the mail server at once, of all subscriptions."""

LONGEST_WAIT_S = 3_600.0
SWEEP_INTERVAL_S = 600.0
AFTER_FAILED_BATCH_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Between the batches of a receiver that takes nothing; doubled from one to the next."""

MISSING_QUEUE = 400
"""The status that SQS answers for a queue that does not exist."""

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
        return retries.default_delay_s(failed_count, now - delivery.owed_at)


@value
class Parcel:
    """A delivery and what its receiver gets."""

    delivery: Delivery
    body: str

    @property
    def message(self) -> Message:
        return self.delivery.message


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt at a parcel went. `final`: another would fail the same way."""

    parcel: Parcel
    attempt: Attempt
    final: bool = False


@value
class Ended:
    """A delivery that was made or given up, and the attempt that did it."""

    delivery: Delivery
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Tally:
    """How many deliveries were attempted, and how many of those were made."""

    attempted: int
    made: int


class Deliveries:
    """The loop over the outbox. `signer` signs its messages, `arrivals` tells who waits for a queue; what
    topics want to see of their deliveries is written to `logs`.

    Raises ValueError when `settings.smtp_url` is none.
    """

    def __init__(
        self,
        settings: Settings,
        database: Database,
        signer: Signer,
        logs: LogStore,
        arrivals: Arrivals | None = None,
    ) -> None:
        self.signer = signer
        self.arrivals = arrivals or Arrivals()
        self._settings = settings
        self._database = database
        self._logs = logs
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._woken = asyncio.Event()
        self._session: ClientSession | None = None
        self._mail_server = mail.parse_smtp_url(settings.smtp_url) if settings.smtp_url else None
        # Threads of its own: a mail server that hangs must not use up those that all the server shares.
        self._mailers = ThreadPoolExecutor(MAILERS, thread_name_prefix="mail")
        self._swept_to = ""

    def wake(self) -> None:
        """Look at the outbox now; called on the event loop after a commit that published something."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until told to stop; what is then under way gets 2 s, and is repeated after a restart."""
        await asyncio.gather(
            loops.run("deliveries", self.step, stop, self._woken),
            loops.run("delivery log", self.sweep, stop),
        )
        self.arrivals.close()
        await self.close()

    async def step(self, now: float) -> float:
        """Start a lane for each subscription with something due; the wait until the next is, in s."""
        due = await self._database.read(outbox.next_due)
        delay_s = LONGEST_WAIT_S
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
        return (await self._deliver(subscription_arn, now)).attempted

    async def _deliver(self, subscription_arn: str, now: float) -> Tally:
        batch = await self._database.read(lambda connection: _due_batch(connection, subscription_arn, now))
        if batch is None:
            return Tally(0, 0)
        parcels = await asyncio.to_thread(self._pack, batch)
        if batch.subscription.protocol == "sqs":
            ended = await self._database.write(
                lambda connection: _move_to_queue(connection, batch, parcels, now)
            )
            self.arrivals.notify(batch.subscription.endpoint)
        else:
            started = time.monotonic()
            outcomes = await asyncio.gather(*(self._attempt(batch, parcel, now) for parcel in parcels))
            ended_at = now + time.monotonic() - started
            ended = await self._database.write(
                lambda connection: _record(connection, batch, outcomes, ended_at)
            )
        if batch.subscription.redrive_arn is not None:
            self.arrivals.notify(batch.subscription.redrive_arn)
        self._feed_back(batch, ended, now)
        return Tally(len(parcels), sum(each.attempt.error is None for each in ended))

    async def replay(self, chosen: Chosen, now: float) -> int:
        """Owe the chosen messages again (`history.replay`); how many deliveries that makes."""
        count, after = 0, None
        while True:
            replayed = await self._database.write(
                partial(history.replay, chosen=chosen, now=now, after=after)
            )
            count += replayed.count
            self.wake()
            after = replayed.next_after
            if after is None:
                return count

    async def sweep(self, now: float) -> float:
        """Forget a little of what is past its retention; the wait until the next, in s."""
        before = now - self._settings.delivery_retention_s
        limit = history.FORGOTTEN_AT_ONCE
        if await self._database.write(lambda c: history.forget_attempts(c, before, limit)) == limit:
            return 0.0
        for arn in await self._database.read(history.stranded):
            if (
                await self._database.write(partial(history.give_up, subscription_arn=arn, limit=limit))
                == limit
            ):
                return 0.0
        expired = await self._database.read(lambda c: queues.expired(c, now, limit))
        if expired:
            await self._database.write(lambda c: queues.remove_messages(c, expired))
        old = await self._database.read(lambda c: history.forgettable(c, before, self._swept_to, limit))
        if old:
            await self._database.write(lambda c: history.forget(c, old, before))
        # On from there next time: what is older is still waited for, and there may be much of it.
        self._swept_to = old[-1] if len(old) == limit else ""
        return 0.0 if limit in (len(expired), len(old)) else SWEEP_INTERVAL_S

    async def _run_lane(self, arn: str) -> None:
        try:
            failed_count = 0
            while (tally := await self._deliver(arn, clock.now())).attempted:
                failed_count = 0 if tally.made else failed_count + 1
                if failed_count:
                    # Nobody is there, and there may be very much to try: the others need the machine too.
                    await asyncio.sleep(min(FIRST_PAUSE_S * 2 ** min(failed_count - 1, 8), LONGEST_PAUSE_S))
        except Unavailable as error:
            log.warning("deliveries to %s: not now: %s", arn, error)
            await asyncio.sleep(AFTER_FAILED_BATCH_S)
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

    async def _attempt(self, batch: Batch, parcel: Parcel, now: float) -> Outcome:
        """Try one delivery, from `now` on."""
        started = time.monotonic()
        status_code: int | None = None
        failure: Undelivered | None = None
        try:
            if batch.subscription.protocol in ("http", "https"):
                status_code = await self._post(batch, parcel)
            else:
                await asyncio.get_running_loop().run_in_executor(self._mailers, self._mail, batch, parcel)
        except Undelivered as undelivered:
            log.warning("Message %s to %s: %s", parcel.message.id, batch.subscription.arn, undelivered)
            failure, status_code = undelivered, undelivered.status_code
        took_s = time.monotonic() - started
        error = None if failure is None else str(failure)
        final = failure is not None and failure.final
        return Outcome(parcel, Attempt(now + took_s, took_s, status_code, error), final)

    def _feed_back(self, batch: Batch, ended: Sequence[Ended], now: float) -> None:
        """Write deliveries that ended into the topic's log groups, where it asks for it."""
        lines: dict[str, list[str]] = defaultdict(list)
        for each in ended:
            success = each.attempt.error is None
            if feedback.wanted(
                batch.topic.attributes,
                batch.subscription.protocol,
                success=success,
                draw=random.random(),  # noqa: S311  (a sample, no secret)
            ):
                group = feedback.log_group(batch.topic.arn, success=success)
                line = feedback.log_line(each.delivery, batch.subscription.endpoint, each.attempt)
                lines[group].append(line)
        logs = self._logs.of(batch.topic.account)
        for group, of_group in lines.items():
            day = datetime.fromtimestamp(now, UTC).strftime("%Y/%m/%d")
            logs.stream(group, day).write_all(of_group, now)

    async def _post(self, batch: Batch, parcel: Parcel) -> int:
        _, content_type = batch.policy
        headers = envelope.headers(parcel.message, batch.subscription, content_type)
        if self._session is None:
            self._session = open_session(private_delivery=self._settings.private_delivery)
        return await post(self._session, batch.subscription.endpoint, parcel.body, headers)

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


def _move_to_queue(
    connection: Connection, batch: Batch, parcels: Sequence[Parcel], now: float
) -> list[Ended]:
    """Deliver to a queue of ours: in one transaction, so exactly once."""
    queue = queues.find_arn(connection, batch.subscription.endpoint)
    if queue is None:
        missing = Attempt(now, 0.0, MISSING_QUEUE, "the queue does not exist")
        log.warning("%s: %s", batch.subscription.arn, missing.error)
        outcomes = [Outcome(parcel, missing, final=True) for parcel in parcels]
        return _record(connection, batch, outcomes, now)
    owed = outbox.still_owed(connection, batch.deliveries)
    drafts = {parcel.delivery.id: _draft(batch, parcel) for parcel in parcels}
    queues.send(connection, queue, [drafts[delivery.id] for delivery in owed], now)
    made = Attempt(now, 0.0)
    outbox.delivered(connection, [(delivery, made) for delivery in owed])
    return [Ended(delivery, made) for delivery in owed]


def _record(connection: Connection, batch: Batch, outcomes: Sequence[Outcome], now: float) -> list[Ended]:
    """Keep what the attempts came to; those that were the last."""
    made, put_off, given_up = [], [], []
    for outcome in outcomes:
        delivery, attempt = outcome.parcel.delivery, outcome.attempt
        if attempt.error is None:
            made.append((delivery, attempt))
            continue
        delay_s = None if outcome.final else batch.retry_delay_s(delivery, now)
        if delay_s is not None:
            put_off.append((delivery, attempt, now + delay_s))
        else:
            given_up.append(outcome)
    outbox.delivered(connection, made)
    outbox.put_off(connection, put_off)
    dead_letter_arn = _dead_letter(connection, batch, given_up, now)
    outbox.abandon(
        connection,
        [
            (each.parcel.delivery, each.attempt, dead_letter_arn if _is_letter(each.parcel) else None)
            for each in given_up
        ],
    )
    return [Ended(delivery, attempt) for delivery, attempt in made] + [
        Ended(each.parcel.delivery, each.attempt) for each in given_up
    ]


def _dead_letter(connection: Connection, batch: Batch, given_up: Sequence[Outcome], now: float) -> str | None:
    """Send what was given up to the subscription's dead-letter queue; its ARN, if there is one."""
    arn = batch.subscription.redrive_arn
    if arn is None or not given_up:
        return None
    queue = queues.find_arn(connection, arn)
    if queue is None:
        log.warning("%s: its dead-letter queue %s does not exist", batch.subscription.arn, arn)
        return None
    letters = [each for each in given_up if _is_letter(each.parcel)]
    queues.send(connection, queue, [_letter(batch, each) for each in letters], now)
    return arn


def _is_letter(parcel: Parcel) -> bool:
    """Requests to confirm a subscription are nobody's to read later."""
    return parcel.message.type == envelope.NOTIFICATION


def _letter(batch: Batch, outcome: Outcome) -> queues.Draft:
    """What the receiver would have got, and in attributes why it did not."""
    draft = _draft(batch, outcome.parcel)
    reasons = {
        "RequestID": {"DataType": "String", "StringValue": outcome.parcel.message.id},
        "ErrorCode": {"DataType": "String", "StringValue": str(outcome.attempt.status_code or "")},
        "ErrorMessage": {"DataType": "String", "StringValue": outcome.attempt.error or ""},
    }
    given = {name: each for name, each in reasons.items() if each["StringValue"]}
    return replace(draft, attributes={**draft.attributes, **given})


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
