"""Rules that invoke an endpoint for each object uploaded under a prefix."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import select, update

from ebbtide import accounts
from ebbtide.api.sagemaker_runtime import invocation
from ebbtide.endpoints import EndpointConfig, Model, catalogue, create_endpoint
from ebbtide.errors import ServiceError
from ebbtide.objects import buckets, events, records
from ebbtide.objects.buckets import Bucket
from ebbtide.objects.contents import Staged
from ebbtide.objects.followers import GIVE_UP_AFTER_S, Followers
from ebbtide.queue import upload_rules
from ebbtide.queue.changes import Changes
from ebbtide.queue.intake import Intake
from ebbtide.queue.tables import invocations, tags
from ebbtide.queue.upload_rules import InvalidRule, Rule, RuleNotFound, Uploads
from ebbtide.queue.wakeups import Wakeups

NOW = 1_700_000_000.0
ACCOUNT = "123456789012"
RULE = Rule("rule-1", ACCOUNT, ACCOUNT, "papers", "in/", ".txt", "summaries", {}, True, NOW)


class Followed:
    """A bucket, and what follows its uploads."""

    def __init__(self, database):
        self.database = database
        self.restart()

    def restart(self):
        """What a server that starts again on the same database has."""
        intake = Intake(self.database, Wakeups(), Changes(), lease_s=30.0)
        self.followers = Followers(self.database, {upload_rules.CONSUMER: Uploads(intake, invocation).invoke})

    async def add(self, rule):
        await self.database.write(lambda c: upload_rules.create(c, rule))

    async def upload(self, key, *, at=NOW, bucket="papers", content="x"):
        staged = Staged(f"{bucket}/{key}/{content}/{at}", 1, "etag", {}, None, b"x")
        await self.database.write(lambda c: records.publish(c, bucket, key, staged, content_type=None, at=at))

    async def invoked(self):
        """Inputs of the invocations there are, in order."""
        query = select(invocations.c.input_uri).order_by(invocations.c.id)
        return await self.database.read(lambda c: list(c.execute(query).scalars()))

    async def standing(self, rule=RULE):
        return await self.database.read(lambda c: upload_rules.standing(c, rule))


@pytest.fixture
async def followed(database):
    followed = Followed(database)
    bucket = Bucket("papers", ACCOUNT, "us-east-1", NOW)
    await database.write(lambda c: buckets.create_bucket(c, bucket))
    return followed


async def deploy(followed, name="summaries", output="s3://results/out", failure="s3://results/failed"):
    """An endpoint that writes there."""
    model = {"ModelName": name, "PrimaryContainer": {"Image": "x"}}
    config = {
        "EndpointConfigName": name,
        "ProductionVariants": [
            {"VariantName": "v", "ModelName": name, "InstanceType": "ml.m5.large", "InitialVariantWeight": 1}
        ],
        "AsyncInferenceConfig": {
            "OutputConfig": {"S3OutputPath": output, "S3FailurePath": failure},
        },
    }

    def make(connection):
        catalogue.create_model(connection, Model(ACCOUNT, name, f"arn:model/{name}", model, NOW))
        made = EndpointConfig(ACCOUNT, name, f"arn:config/{name}", config, NOW)
        catalogue.create_endpoint_config(connection, made)
        create_endpoint(connection, made, name, region="us-east-1", at=NOW)

    await followed.database.write(make)


async def test_each_object_under_the_prefix_invokes_the_endpoint_once(followed):
    await deploy(followed)
    await followed.add(RULE)
    for key in ("in/a.txt", "in/b.pdf", "out/c.txt", "in/deep/d.txt"):
        await followed.upload(key)

    await followed.followers.step(NOW)
    await followed.followers.step(NOW + 60)

    assert sorted(await followed.invoked()) == ["s3://papers/in/a.txt", "s3://papers/in/deep/d.txt"]
    assert await followed.standing() == events.Standing(0, 0, 0, None)


async def test_each_version_of_an_object_is_one_invocation(followed):
    await deploy(followed)
    await followed.add(RULE)
    for n in range(3):
        await followed.upload("in/a.txt", content=str(n))

    await followed.followers.step(NOW)

    assert await followed.invoked() == ["s3://papers/in/a.txt"] * 3


async def test_an_invocation_is_what_its_rule_says(followed):
    await deploy(followed)
    parameters = {
        "ContentType": "text/plain",
        "Accept": "application/json",
        "CustomAttributes": "from=rule",
        "RequestTTLSeconds": 120,
        "S3OutputPathExtension": "papers",
    }
    await followed.add(replace(RULE, submitter="210987654321", parameters=parameters))
    await followed.upload("in/a.txt")

    await followed.followers.step(NOW)

    [row] = await followed.database.read(lambda c: c.execute(select(invocations)).all())
    assert (row.content_type, row.accept, row.custom_attributes) == (
        "text/plain",
        "application/json",
        "from=rule",
    )
    assert row.expires_at == NOW + 120
    assert row.account == "210987654321"
    assert row.output_uri == f"s3://results/out/papers/{row.id}.out"
    tagged = await followed.database.read(
        lambda c: c.execute(select(tags.c.key, tags.c.value).where(tags.c.invocation_id == row.id)).all()
    )
    assert [tuple(tag) for tag in tagged] == [("upload-rule", RULE.id)]


async def test_an_upload_waits_for_its_endpoint_and_says_so(followed):
    await followed.add(RULE)
    await followed.upload("in/a.txt")
    await followed.followers.step(NOW)
    waiting = await followed.standing()
    await deploy(followed)
    await followed.followers.step(NOW + 0.5)
    too_early = await followed.invoked()

    await followed.followers.step(NOW + 1.5)

    assert (waiting.pending, waiting.failing) == (1, 1)
    assert "summaries" in waiting.last_error
    assert too_early == []
    assert await followed.invoked() == ["s3://papers/in/a.txt"]


async def test_an_upload_over_the_quota_is_queued_when_there_is_room(followed):
    await deploy(followed)
    await followed.add(RULE)
    account = accounts.Account(ACCOUNT, "papers", queued_quota=1)
    await followed.database.write(lambda c: accounts.put_account(c, account))
    for key in ("in/a.txt", "in/b.txt"):
        await followed.upload(key)
    await followed.followers.step(NOW)
    queued, standing = await followed.invoked(), await followed.standing()
    await followed.database.write(lambda c: c.execute(update(invocations).values(state="succeeded")))

    await followed.followers.step(NOW + 2)

    assert len(queued) == 1
    assert (standing.pending, standing.failing) == (1, 1)
    assert "ThrottlingException" in standing.last_error
    assert len(await followed.invoked()) == 2


async def test_an_upload_whose_endpoint_never_comes_is_given_up_in_the_end(followed):
    await followed.add(RULE)
    await followed.upload("in/a.txt")

    await followed.followers.step(NOW + GIVE_UP_AFTER_S)

    standing = await followed.standing()
    assert (standing.pending, standing.abandoned) == (0, 1)
    assert "summaries" in standing.last_error


async def test_an_upload_before_a_crash_is_invoked_after_it_and_once(followed):
    await deploy(followed)
    await followed.add(RULE)
    await followed.upload("in/a.txt")

    for _ in range(2):
        followed.restart()
        await followed.followers.step(NOW)

    assert await followed.invoked() == ["s3://papers/in/a.txt"]


async def test_two_servers_that_look_at_once_invoke_once(followed):
    await deploy(followed)
    await followed.add(RULE)
    await followed.upload("in/a.txt")
    first = followed.followers
    followed.restart()

    await asyncio.gather(first.step(NOW), followed.followers.step(NOW))

    assert await followed.invoked() == ["s3://papers/in/a.txt"]


@pytest.mark.parametrize(
    ("rule", "output", "failure"),
    [
        pytest.param(
            {"prefix": "in/", "suffix": ""}, "s3://papers/in/results", "s3://x/f", id="output under prefix"
        ),
        pytest.param({"prefix": "", "suffix": ""}, "s3://papers/out", "s3://x/f", id="the whole bucket"),
        pytest.param({"prefix": "out/a", "suffix": ""}, "s3://papers/out", "s3://x/f", id="below the output"),
        pytest.param({"prefix": "", "suffix": "out"}, "s3://papers", "s3://x/f", id="the suffix of results"),
        pytest.param(
            {"prefix": "in/", "suffix": "-error.out"}, "s3://x/o", "s3://papers/in/failed", id="failure path"
        ),
    ],
)
async def test_a_rule_that_its_own_results_would_meet_is_refused(followed, rule, output, failure):
    await deploy(followed, output=output, failure=failure)

    with pytest.raises(InvalidRule, match="for what that writes itself"):
        await followed.add(replace(RULE, **rule))

    bucket = await followed.database.read(lambda c: buckets.find_bucket(c, "papers"))
    assert not bucket.watches


@pytest.mark.parametrize(
    ("rule", "output"),
    [
        pytest.param({"prefix": "", "suffix": ".txt"}, "s3://papers/out", id="a suffix that results lack"),
        pytest.param({"prefix": "in/", "suffix": ""}, "s3://papers/out", id="another prefix"),
        pytest.param({"prefix": "in", "suffix": ""}, "s3://others/in", id="another bucket"),
    ],
)
async def test_a_rule_whose_objects_are_no_results_is_taken(followed, rule, output):
    await deploy(followed, output=output)

    await followed.add(replace(RULE, **rule))

    assert len(await followed.database.read(lambda c: upload_rules.listed(c, ACCOUNT))) == 1


async def test_a_circle_of_two_rules_is_refused(followed):
    await deploy(followed, "first", output="s3://papers/middle", failure="s3://x/f")
    await deploy(followed, "second", output="s3://papers/in", failure="s3://x/f")
    await followed.add(replace(RULE, suffix="", endpoint_name="first"))

    with pytest.raises(InvalidRule, match="second writes to s3://papers/in/, then first writes to"):
        await followed.add(replace(RULE, id="rule-2", prefix="middle/", suffix="", endpoint_name="second"))


async def test_results_invoke_nothing_where_the_endpoint_came_later(followed):
    await followed.add(replace(RULE, suffix=""))
    await deploy(followed, output="s3://papers/in/results")
    await followed.upload("in/results/1.out")

    await followed.followers.step(NOW)

    standing = await followed.standing()
    assert await followed.invoked() == []
    assert standing.abandoned == 1
    assert "writes its own results" in standing.last_error


async def test_a_rule_that_is_switched_off_or_removed_invokes_nothing(followed):
    await deploy(followed)
    await followed.add(RULE)
    await followed.database.write(lambda c: upload_rules.enable(c, ACCOUNT, RULE.id, enabled=False))
    await followed.upload("in/off.txt")
    await followed.database.write(lambda c: upload_rules.enable(c, ACCOUNT, RULE.id, enabled=True))
    await followed.upload("in/on.txt")
    await followed.followers.step(NOW)
    await followed.upload("in/late.txt")
    await followed.database.write(lambda c: upload_rules.remove(c, ACCOUNT, RULE.id))
    await followed.upload("in/gone.txt")

    await followed.followers.step(NOW)

    assert await followed.invoked() == ["s3://papers/in/on.txt"]
    with pytest.raises(RuleNotFound):
        await followed.database.read(lambda c: upload_rules.get(c, ACCOUNT, RULE.id))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"bucket": "missing"}, "NoSuchBucket"),
        ({"account": "999999999999"}, "AccessDenied"),
        ({"parameters": {"Filename": "x"}}, "ValidationException"),
        ({"parameters": {"RequestTTLSeconds": 1}}, "ValidationException"),
        ({"endpoint_name": "not a name!"}, "ValidationException"),
    ],
)
async def test_a_rule_that_cannot_be_meant_is_refused(followed, change, error):
    with pytest.raises(ServiceError) as failure:
        await followed.add(replace(RULE, **change))

    assert failure.value.code == error


async def test_rules_are_their_accounts_own(followed):
    await followed.add(RULE)

    assert await followed.database.read(lambda c: upload_rules.listed(c, "999999999999")) == []
    with pytest.raises(RuleNotFound):
        await followed.database.write(lambda c: upload_rules.remove(c, "999999999999", RULE.id))
