"""What no agent ends: requests that waited too long, and claims whose agent is gone."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.queue.accepted import invocation

from ebbtide import endpoints
from ebbtide.database import Database
from ebbtide.endpoints import EndpointConfig, Model, catalogue
from ebbtide.identifiers import ACCOUNT
from ebbtide.metrics import query
from ebbtide.objects.buckets import Bucket, create_bucket
from ebbtide.objects.store import ObjectStore
from ebbtide.queue import invocations
from ebbtide.queue.changes import Changes
from ebbtide.queue.invocations import Backlog, Claim, Invocation
from ebbtide.queue.reaper import Reaper
from ebbtide.queue.wakeups import Wakeups
from ebbtide.settings import Settings

ACCEPTED_AT = 1_800_000_000.0


@dataclass
class Here:
    """Agents, by their instances, and the ids of what they work on."""

    instances: set[str] = field(default_factory=set)
    in_work: set[str] = field(default_factory=set)

    def holds(self, claim: Claim) -> bool:
        return claim.invocation.id in self.in_work

    def has(self, instance_id: str) -> bool:
        return instance_id in self.instances


@dataclass
class Place:
    """A database with one endpoint and one request, and the reaper over it.

    here: the agents that there are.
    """

    database: Database
    objects: ObjectStore
    reaper: Reaper
    request: Invocation
    here: Here

    async def failure(self) -> str:
        """The failure object's message."""
        _, chunks = await self.objects.open("b", "failures/a-error.out")
        return str(json.loads(b"".join([chunk async for chunk in chunks]))["message"])

    async def state(self) -> str:
        return str(
            await self.database.read(
                lambda connection: connection.execute(text("SELECT state FROM invocations")).scalar_one()
            )
        )

    async def claim_and_let_lapse(self, *, alone: bool) -> None:
        await self.database.write(
            lambda connection: invocations.claim(
                connection,
                endpoint_id=self.request.endpoint_id,
                instance_id="i-1",
                limit=1,
                lease_s=30.0,
                now=ACCEPTED_AT + 1,
                alone=alone,
            )
        )
        await self.reaper.step(ACCEPTED_AT + 32)


@pytest.fixture
async def place(tmp_path: Path, database: Database) -> Place:
    variant = {"VariantName": "v", "ModelName": "m", "InstanceType": "ml.m5.xlarge"}
    output = {"S3OutputPath": "s3://b/out", "S3FailurePath": "s3://b/failures"}
    given = {
        "EndpointConfigName": "c",
        "ProductionVariants": [variant],
        "AsyncInferenceConfig": {"OutputConfig": output},
    }
    model = Model(ACCOUNT, "m", "m", {"ModelName": "m", "PrimaryContainer": {"Image": "x"}}, 0.0)
    config = EndpointConfig(ACCOUNT, "c", "c", given, 0.0)
    with database.engine.begin() as connection:
        create_bucket(connection, Bucket("b", ACCOUNT, "us-east-1", 0.0))
        catalogue.create_model(connection, model)
        catalogue.create_endpoint_config(connection, config)
        endpoint = endpoints.create_endpoint(connection, config, "e", region="us-east-1", at=0.0)
    request = invocation(
        "a",
        endpoint.id,
        ACCEPTED_AT,
        inference_id="given",
        expires_at=ACCEPTED_AT + 60,
        input_uri="s3://b/in",
        output_uri="s3://b/out/a.out",
        failure_uri="s3://b/failures/a-error.out",
    )
    await database.write(lambda connection: invocations.accept(connection, [request]))
    objects = ObjectStore(tmp_path / "objects", database)
    settings = Settings(tmp_path, max_claim_count=2)
    here = Here()
    changes = Changes()
    reaper = Reaper(
        settings,
        database,
        objects,
        Wakeups(),
        changes,
        lambda: None,
        here,
    )
    return Place(database, objects, reaper, request, here)


async def test_a_request_past_its_ttl_ends_expired_with_a_failure_object_that_says_so(place: Place) -> None:
    await place.reaper.step(ACCEPTED_AT + 59.9)
    before = await place.state()

    await place.reaper.step(ACCEPTED_AT + 60)

    assert (before, await place.state()) == ("queued", "expired")
    assert "waited in the queue for longer than its RequestTTLSeconds" in await place.failure()


async def test_an_expiry_is_counted(place: Place) -> None:
    await place.reaper.step(ACCEPTED_AT + 60)

    names = await place.database.read(
        lambda connection: {
            found.name for found in query.find(connection, ACCOUNT, namespace="AWS/SageMaker")
        }
    )
    assert {"ExpiredRequests", "InvocationFailures", "TimeInBacklog"} <= names


async def test_a_claim_whose_agent_is_gone_is_put_back_when_its_lease_is_over(place: Place) -> None:
    await place.claim_and_let_lapse(alone=False)

    backlog = await place.database.read(
        lambda connection: invocations.backlog(connection, place.request.endpoint_id)
    )
    assert backlog == Backlog(queued=1, claimed=0, oldest_accepted_at=ACCEPTED_AT)


async def test_a_claim_whose_lease_could_not_be_renewed_stays_with_the_agent_that_works_on_it(
    place: Place,
) -> None:
    place.here.instances.add("i-1")
    place.here.in_work.add(place.request.id)

    await place.claim_and_let_lapse(alone=False)

    assert await place.state() == "claimed"


async def test_a_claim_that_its_agent_never_learnt_of_is_put_back_and_blames_nobody(place: Place) -> None:
    place.here.instances.add("i-1")

    await place.claim_and_let_lapse(alone=False)
    await place.claim_and_let_lapse(alone=False)
    await place.claim_and_let_lapse(alone=False)

    assert await place.state() == "queued"


async def test_a_request_whose_agents_die_again_and_again_fails_with_the_reason(place: Place) -> None:
    await place.claim_and_let_lapse(alone=False)
    await place.claim_and_let_lapse(alone=True)

    assert await place.state() == "failed"
    assert "died 2 times" in await place.failure()


async def test_a_request_without_a_failure_path_expires_all_the_same(place: Place) -> None:
    other = replace(place.request, id="b", failure_uri=None)
    await place.database.write(lambda connection: connection.execute(text("DELETE FROM invocations")))
    await place.database.write(lambda connection: invocations.accept(connection, [other]))

    await place.reaper.step(ACCEPTED_AT + 61)

    assert await place.state() == "expired"
