"""Rules that invoke an endpoint for each object uploaded under a prefix.

A rule watches its bucket (`objects.events`). Each object that comes into being there becomes one invocation
with the object as its input, queued in the transaction that removes the event: exactly one for each version
of the object, whoever dies. What an endpoint writes must not invoke it again, so a rule that would close a
circle is refused when it is made; where a circle has come about since, its objects invoke nothing.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from ebbtide.database import metadata
from ebbtide.endpoints import Endpoint, EndpointNotFound, get_endpoint
from ebbtide.errors import ServiceError
from ebbtide.identifiers import Location, parse_location
from ebbtide.objects import buckets, events
from ebbtide.objects.events import CREATED, ObjectEvent, Standing, Watch
from ebbtide.objects.followers import Refused, Told
from ebbtide.queue.intake import Intake
from ebbtide.queue.invocations import Invocation
from ebbtide.wire import models
from ebbtide.wire.validate import validate

CONSUMER = "upload-rule"
"""The watches' consumer for `ebbtide.objects.followers`."""

TAG = "upload-rule"
"""The tag of invocations that a rule has made; its value is the rule's id."""

MOST_RULES = 100
"""For each account."""

PARAMETERS = frozenset(
    (
        "ContentType",
        "Accept",
        "CustomAttributes",
        "RequestTTLSeconds",
        "InvocationTimeoutSeconds",
        "S3OutputPathExtension",
    )
)
"""Parameters of InvokeEndpointAsync that a rule may set for all its invocations."""

OUTPUT_ENDING = ".out"
"""What the keys of outputs and failures of a rule's invocations end in."""

upload_rules = Table(
    "upload_rules",
    metadata,
    Column("id", String, primary_key=True),
    Column("account", String, nullable=False),
    Column("submitter", String, nullable=False),
    Column("bucket", String, nullable=False),
    Column("prefix", String, nullable=False),
    Column("suffix", String, nullable=False),
    Column("endpoint_name", String, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("upload_rules_of_account", "account", "id"),
)


class RuleNotFound(ServiceError):
    """The account has no rule of that id."""

    code = "ResourceNotFoundException"
    http_status = 404


class InvalidRule(ServiceError):
    """The rule cannot be meant; the message says what is wrong."""

    code = "ValidationException"


@dataclass(frozen=True, slots=True)
class Rule:
    """Objects of `bucket` whose keys have that prefix and suffix invoke the endpoint.

    account: whose bucket and endpoint they are. submitter: for whom the invocations count. parameters: those
    of PARAMETERS, under InvokeEndpointAsync's names.
    """

    id: str
    account: str
    submitter: str
    bucket: str
    prefix: str
    suffix: str
    endpoint_name: str
    parameters: Mapping[str, Any]
    enabled: bool
    created_at: float

    @property
    def watch(self) -> Watch:
        return Watch(self.id, CONSUMER, self.id, (f"{CREATED}:*",), self.prefix, self.suffix)

    def covers(self, output: Location) -> bool:
        """Whether what a rule's invocation writes under that path can be an object of this rule."""
        if self.bucket != output.bucket:
            return False
        if self.suffix and not (OUTPUT_ENDING.endswith(self.suffix) or self.suffix.endswith(OUTPUT_ENDING)):
            return False
        folder = _folder(output)
        return folder.startswith(self.prefix) or self.prefix.startswith(folder)


Make = Callable[[dict[str, Any], Endpoint, str, float], Invocation]
"""InvokeEndpointAsync's parameters, the endpoint, the submitter and the time -> what they ask for."""


class Uploads:
    """Acts on the events of watched uploads."""

    def __init__(self, intake: Intake, make: Make) -> None:
        self._intake = intake
        self._make = make

    def invoke(self, connection: Connection, event: ObjectEvent, now: float) -> Told | None:
        """Queue the invocation for one object.

        Raises EndpointNotFound, QuotaExceeded and what InvokeEndpointAsync raises, to be tried again; Refused
        where the object is the endpoint's own.
        """
        rule = _find(connection, event.target)
        if rule is None or not rule.enabled:
            return None
        endpoint = get_endpoint(connection, rule.account, rule.endpoint_name)
        object_at = Location(event.bucket, event.key)
        for output in _outputs(endpoint):
            if output.bucket == event.bucket and event.key.startswith(_folder(output)):
                raise Refused(f"{object_at.uri} lies where endpoint {endpoint.name} writes its own results.")
        if circle := _circle(connection, rule):
            raise Refused(circle)
        parameters = dict(rule.parameters) | {
            "EndpointName": rule.endpoint_name,
            "InputLocation": object_at.uri,
        }
        return self._intake.accept_within(
            connection,
            rule.account,
            rule.endpoint_name,
            lambda found: self._make(parameters, found, rule.submitter, now),
            tags={TAG: rule.id},
        )


def create(connection: Connection, rule: Rule) -> None:
    """Add a rule. An endpoint that does not exist yet is fine: its objects wait, for 14 days.

    Raises NoSuchBucket, AccessDenied, and InvalidRule for parameters that InvokeEndpointAsync would refuse,
    for a rule too many, and for one whose endpoint's results would invoke it again.
    """
    buckets.get_bucket(connection, rule.bucket, rule.account)
    _check_parameters(rule)
    if len(listed(connection, rule.account)) >= MOST_RULES:
        raise InvalidRule(f"Account {rule.account} has {MOST_RULES} upload rules, and may have no more.")
    if rule.enabled and (circle := _circle(connection, rule)):
        raise InvalidRule(circle)
    connection.execute(insert(upload_rules).values(**{name: getattr(rule, name) for name in Rule.__slots__}))
    _rewatch(connection, rule, enabled=rule.enabled)


def get(connection: Connection, account: str, rule_id: str) -> Rule:
    """The account's rule of that id. Raises RuleNotFound."""
    rule = _find(connection, rule_id)
    if rule is None or rule.account != account:
        raise RuleNotFound(f"Account {account} has no upload rule {rule_id}.")
    return rule


def listed(connection: Connection, account: str) -> list[Rule]:
    """The account's rules, in the order in which they were made."""
    query = select(upload_rules).where(upload_rules.c.account == account)
    rows = connection.execute(query.order_by(upload_rules.c.created_at, upload_rules.c.id))
    return [Rule(**row._mapping) for row in rows]


def standing(connection: Connection, rule: Rule) -> Standing:
    """How many of a rule's objects wait to be invoked, fail to, or were given up, and the last error."""
    return events.standing(connection, rule.id)


def enable(connection: Connection, account: str, rule_id: str, *, enabled: bool) -> None:
    """Let a rule act from now on, or no more: objects that come meanwhile invoke nothing.

    Raises RuleNotFound, and InvalidRule for one that would close a circle.
    """
    rule = get(connection, account, rule_id)
    if enabled and (circle := _circle(connection, rule)):
        raise InvalidRule(circle)
    connection.execute(update(upload_rules).where(upload_rules.c.id == rule_id).values(enabled=enabled))
    _rewatch(connection, rule, enabled=enabled)


def remove(connection: Connection, account: str, rule_id: str) -> None:
    """Remove a rule; what it has not invoked yet, it will not. Raises RuleNotFound."""
    rule = get(connection, account, rule_id)
    connection.execute(delete(upload_rules).where(upload_rules.c.id == rule_id))
    _rewatch(connection, rule, enabled=False)


def _rewatch(connection: Connection, rule: Rule, *, enabled: bool) -> None:
    bucket = buckets.find_bucket(connection, rule.bucket)
    if bucket is None:
        return
    others = [watch for watch in events.watches_of(bucket, CONSUMER) if watch.id != rule.id]
    watches = [*others, rule.watch] if enabled else others
    buckets.set_watches(connection, bucket.name, events.with_watches(bucket, CONSUMER, watches))


def _find(connection: Connection, rule_id: str) -> Rule | None:
    row = connection.execute(select(upload_rules).where(upload_rules.c.id == rule_id)).one_or_none()
    return None if row is None else Rule(**row._mapping)


def _check_parameters(rule: Rule) -> None:
    if unknown := rule.parameters.keys() - PARAMETERS:
        raise InvalidRule(
            f"A rule cannot set {', '.join(sorted(unknown))}, only {', '.join(sorted(PARAMETERS))}."
        )
    operation = models.load("sagemaker-runtime").operation("InvokeEndpointAsync")
    whole = {"EndpointName": rule.endpoint_name, "InputLocation": f"s3://{rule.bucket}/key"}
    if broken := validate(operation, whole | dict(rule.parameters)):
        raise InvalidRule(broken)


def _circle(connection: Connection, rule: Rule) -> str | None:
    """How the results of what a rule invokes would come back to it; None if they do not."""
    rules = {each.id: each for each in listed(connection, rule.account) if each.enabled} | {rule.id: rule}
    names = {each.endpoint_name for each in rules.values()}
    outputs = {name: _outputs_of(connection, rule.account, name) for name in names}
    way = next(_ways_back(rule, rules.values(), outputs), None)
    if way is None:
        return None
    return (
        "The rule would invoke its endpoint for what that writes itself: "
        f"{', then '.join(way)}. Choose another prefix, or a suffix that results do not have."
    )


def _ways_back(
    rule: Rule, rules: Collection[Rule], outputs: Mapping[str, Collection[Location]]
) -> Iterator[list[str]]:
    """The steps from the rule's objects back to them, through whatever rules."""
    open_ends: list[tuple[Rule, list[str]]] = [(rule, [])]
    seen: set[str] = set()
    while open_ends:
        at, way = open_ends.pop()
        for output in outputs[at.endpoint_name]:
            here = [*way, f"{at.endpoint_name} writes to s3://{output.bucket}/{_folder(output)}"]
            for following in rules:
                if not following.covers(output):
                    continue
                if following.id == rule.id:
                    yield here
                elif following.id not in seen:
                    seen.add(following.id)
                    open_ends.append((following, here))


def _outputs_of(connection: Connection, account: str, endpoint_name: str) -> list[Location]:
    try:
        return _outputs(get_endpoint(connection, account, endpoint_name))
    except EndpointNotFound:
        return []


def _outputs(endpoint: Endpoint) -> list[Location]:
    """Where the endpoint writes results and failures."""
    config = endpoint.async_config
    if config is None:
        return []
    return [parse_location(uri) for uri in (config.output_uri, config.failure_uri) if uri is not None]


def _folder(output: Location) -> str:
    """What the keys of all that is written to an output path begin with."""
    folder = output.key.rstrip("/")
    return f"{folder}/" if folder else ""
