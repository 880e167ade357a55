"""Notifications of a database that an earlier version wrote."""

from tests.earlier import fill_at

from ebbtide.database import Database
from ebbtide.migrations import migrate
from ebbtide.notifications import history, outbox
from ebbtide.notifications.history import Chosen

FIRST = """
INSERT INTO sns_topics VALUES ('arn:aws:sns:us-east-1:1:t', '1', '{}', '{}', 1.0);
INSERT INTO sns_subscriptions VALUES ('arn:aws:sns:us-east-1:1:t:s', 'arn:aws:sns:us-east-1:1:t', '1', 'http',
    'http://127.0.0.1:1/', '{}', 'http://127.0.0.1', TRUE, FALSE, 'token', 1.0, 1.0);
INSERT INTO sns_messages VALUES ('m-1', 'arn:aws:sns:us-east-1:1:t', 'Notification', 'A subject',
    '{"n": {"Type": "Number", "Value": "7"}}', NULL, 100.0, 'first');
INSERT INTO sns_messages VALUES ('m-2', 'arn:aws:sns:us-east-1:1:t', 'Notification', NULL,
    '{}', NULL, 101.0, 'second');
INSERT INTO sns_deliveries VALUES (1, 'm-1', 'arn:aws:sns:us-east-1:1:t:s',
    'pending', 3, 200.0, 'Answered 500');
INSERT INTO sns_deliveries VALUES (2, 'm-2', 'arn:aws:sns:us-east-1:1:t:s',
    'abandoned', 1, 150.0, 'Answered 404')
"""


async def test_what_was_owed_and_given_up_by_the_first_version_is_still(tmp_path):
    database = Database(tmp_path / "ebbtide.db")
    fill_at(database.engine, "0001", FIRST)

    migrate(database.engine)

    due = await database.read(lambda c: outbox.due(c, "arn:aws:sns:us-east-1:1:t:s", 200.0, 10))
    entries = (await database.read(lambda c: history.find(c, Chosen(account="1")))).entries
    database.close()
    [owed] = due
    assert (owed.message.message, owed.message.subject) == ("first", "A subject")
    assert owed.message.attributes == {"n": {"Type": "Number", "Value": "7"}}
    assert (owed.attempt_count, owed.owed_at) == (3, 100.0)
    assert [(entry.state, entry.last_error) for entry in entries] == [
        ("abandoned", "Answered 404"),
        ("pending", "Answered 500"),
    ]
