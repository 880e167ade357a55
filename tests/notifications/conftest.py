"""An outbox to deliver from, and receivers, with time as an argument."""

import pytest
from sqlalchemy import func, select
from tests.receivers import HttpReceiver, MailReceiver, running

from ebbtide.logs import LogStore
from ebbtide.notifications import history, queues, subscriptions, tables, topics
from ebbtide.notifications.deliveries import Deliveries
from ebbtide.notifications.history import Chosen
from ebbtide.notifications.signing import Signer
from ebbtide.notifications.subscriptions import Subscription
from ebbtide.notifications.topics import Topic
from ebbtide.settings import Settings

TOPIC = Topic("arn:aws:sns:us-east-1:123456789012:results", "123456789012", {}, {}, 0.0)
NOW = 1_700_000_000.0


@pytest.fixture(scope="module")
def signer(tmp_path_factory):
    return Signer(tmp_path_factory.mktemp("data") / "sns")


class Outbox:
    """A topic, its subscriptions and the deliveries that serve them."""

    def __init__(self, database, signer, settings):
        self.database = database
        self.settings = settings
        self.signer = signer
        self.logs = LogStore(settings.data / "logs")
        self.use(settings)

    def use(self, settings):
        """Serve the same outbox with other settings."""
        self.deliveries = Deliveries(settings, self.database, self.signer, self.logs)

    async def subscribe(self, protocol, endpoint, **attributes):
        subscription = Subscription(
            arn=f"{TOPIC.arn}:{protocol}-{endpoint}",
            topic_arn=TOPIC.arn,
            account=TOPIC.account,
            protocol=protocol,
            endpoint=endpoint,
            attributes=attributes,
            base_url="http://127.0.0.1:8377",
            confirmed=True,
            authenticated_unsubscribe=False,
            token="token",
            token_expires_at=NOW,
            created_at=NOW,
        )
        await self.database.write(lambda c: subscriptions.add(c, subscription))
        return subscription.arn

    async def create_queue(self, name):
        queue = queues.Queue(
            f"arn:aws:sqs:us-east-1:123456789012:{name}", TOPIC.account, name, {}, {}, NOW, NOW
        )
        await self.database.write(lambda c: queues.create(c, queue))
        return queue

    async def publish(self, message="hello", **parts):
        return await self.database.write(
            lambda c: topics.publish(c, TOPIC.arn, message, **{"at": NOW} | parts)
        )

    async def owed(self):
        """State, attempts, seconds from NOW until due and last error of each delivery that was not made."""
        columns = tables.deliveries.c
        shown = select(columns.state, columns.attempt_count, columns.due_at - NOW, columns.last_error)
        rows = await self.database.read(
            lambda c: c.execute(shown.where(columns.state != "delivered").order_by(columns.id)).all()
        )
        return [tuple(row) for row in rows]

    async def message_count(self):
        return await self.database.read(
            lambda c: c.execute(select(func.count()).select_from(tables.messages)).scalar()
        )

    async def find(self, **chosen):
        """The deliveries chosen, latest message first."""
        found = await self.database.read(lambda c: history.find(c, Chosen(**chosen)))
        return found.entries

    async def letters(self, queue):
        """What lies in a queue."""
        taken, _ = await self.database.write(lambda c: queues.receive(c, queue, 10, 30, NOW + 86_400))
        return taken

    async def received(self, queue):
        taken, _ = await self.database.write(lambda c: queues.receive(c, queue, 10, 30, NOW))
        return [each.body for each in taken]


@pytest.fixture
async def outbox(tmp_path, database, signer):
    await database.write(lambda c: topics.create(c, TOPIC))
    outbox = Outbox(database, signer, Settings(data=tmp_path))
    yield outbox
    await outbox.deliveries.close()


@pytest.fixture
def receiver():
    with running(HttpReceiver()) as receiver:
        yield receiver


@pytest.fixture
def mail():
    with running(MailReceiver()) as mail:
        yield mail
