"""What an operation is given beside its parameters."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ebbtide.settings import Settings
from ebbtide.values import value

if TYPE_CHECKING:
    from ebbtide.accounts import Keyring
    from ebbtide.database import Database
    from ebbtide.instances.fleet import Fleet
    from ebbtide.logs import AccountLogs, LogStore
    from ebbtide.notifications.deliveries import Deliveries
    from ebbtide.notifications.move_tasks import MoveTasks
    from ebbtide.objects.followers import Followers
    from ebbtide.objects.store import ObjectStore
    from ebbtide.peers import Peers
    from ebbtide.queue.changes import Changes
    from ebbtide.queue.intake import Intake
    from ebbtide.queue.steering import Steering
    from ebbtide.queue.wakeups import Wakeups
    from ebbtide.scaling.scaler import Scaler

Params = dict[str, Any]
"""An operation's input: checked against the service model, members under the model's names."""

Result = dict[str, Any]
"""An operation's output: members under the model's names. `ResponseMetadata`, as botocore shows it, may set
`HTTPStatusCode` and `HTTPHeaders` where the answer differs from the model's (a 206, say)."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The server's parts that operations use; `server.py` builds them. `stopping` is set when the server
    stops: who waits for something then answers with what there is.
    """

    settings: Settings
    stopping: asyncio.Event
    database: "Database"
    peers: "Peers | None"
    keyring: "Keyring"
    objects: "ObjectStore"
    wakeups: "Wakeups"
    changes: "Changes"
    intake: "Intake"
    steering: "Steering"
    deliveries: "Deliveries"
    move_tasks: "MoveTasks"
    followers: "Followers"
    logs: "LogStore"
    fleet: "Fleet"
    scaler: "Scaler"


@value
class Call:
    """One request's circumstances. `account` is whose resources it uses, `submitter` the key's own account,
    for which its invocations are counted. `base_url` is the scheme and host by which the client reached us.
    `source_ip` is the address that it, or a proxy before us, has. `client_gone` returns once the client has
    closed its side, for operations whose body is not streamed.
    """

    parts: Parts
    account: str
    submitter: str
    access_key_id: str
    region: str
    base_url: str
    request_id: str
    now: float
    headers: Mapping[str, str]
    source_ip: str
    client_gone: Callable[[], Awaitable[None]]

    @property
    def logs(self) -> "AccountLogs":
        return self.parts.logs.of(self.account)
