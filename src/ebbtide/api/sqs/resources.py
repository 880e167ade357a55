"""What requests name: a queue of the caller's account, by its URL."""

from urllib.parse import urlsplit

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params
from ebbtide.notifications import queues
from ebbtide.notifications.queues import Queue


def queue_of(connection: Connection, params: Params, call: Call) -> Queue:
    """The queue that QueueUrl names: its path ends in account and name, whatever the host.

    Raises QueueDoesNotExist.
    """
    _, _, rest = urlsplit(params["QueueUrl"]).path.rpartition(f"/{call.account}/")
    return queues.get(connection, call.account, rest or params["QueueUrl"])
