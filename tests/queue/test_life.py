"""The queue's rules as a state machine: whatever agents, users, crashes and time do, in whatever order."""

import asyncio
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule
from sqlalchemy import select
from tests.queue.accepted import invocation

from ebbtide.database import Database, metadata
from ebbtide.endpoints import EndpointConfig, Model, catalogue, create_endpoint
from ebbtide.queue import intake, invocations, steering, tables
from ebbtide.queue.intake import Request
from ebbtide.queue.invocations import Claim, Ending, Invocation, Phases
from ebbtide.queue.tables import MOVES

OWNER = "123456789012"
NAME = "summaries"
LEASE_S = 30.0
TTL_S = 100.0


@dataclass
class Expected:
    """What the model says of one invocation."""

    account: str
    expires_at: float
    claimed_at: float = 0.0
    state: str = "queued"
    claim_count: int = 0
    lost_count: int = 0
    lease_until: float = 0.0
    outcomes: list[str] = field(default_factory=list)


def deploy(connection):
    """An asynchronous endpoint."""
    variant = {"VariantName": "v", "ModelName": NAME, "InstanceType": "ml.m5.large"}
    output = {"OutputConfig": {"S3OutputPath": "s3://out"}}
    given = {"EndpointConfigName": NAME, "ProductionVariants": [variant], "AsyncInferenceConfig": output}
    model = {"ModelName": NAME, "PrimaryContainer": {"Image": "x"}}
    catalogue.create_model(connection, Model(OWNER, NAME, "arn:model", model, 0.0))
    config = EndpointConfig(OWNER, NAME, "arn:config", given, 0.0)
    catalogue.create_endpoint_config(connection, config)
    return create_endpoint(connection, config, NAME, region="us-east-1", at=0.0)


class Life(RuleBasedStateMachine):
    """Invocations of one endpoint, on a real database; `expected` is the model of what is allowed."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp())
        self.database = Database(self.directory / "ebbtide.db")
        with self.database.engine.begin() as connection:
            metadata.create_all(connection)
        self.endpoint = self.write(deploy)
        self.now = 1000.0
        self.expected: dict[str, Expected] = {}

    def teardown(self) -> None:
        self.database.close()
        self.loop.close()
        shutil.rmtree(self.directory)

    def write(self, work):
        return self.loop.run_until_complete(self.database.write(work))

    @rule(seconds=st.sampled_from([1.0, 31.0, 101.0]))
    def time_passes(self, seconds):
        self.now += seconds

    def made(self, account, priority):
        """One more invocation, that the model knows of."""
        id_ = f"{len(self.expected):06}"
        self.expected[id_] = Expected(account, self.now + TTL_S)
        return invocation(
            id_,
            self.endpoint.id,
            self.now,
            account=account,
            expires_at=self.now + TTL_S,
            priority=priority,
        )

    @rule(account=st.sampled_from(["a", "b"]), priority=st.integers(-1, 1))
    def accept(self, account, priority):
        accepted = self.made(account, priority)
        self.write(lambda connection: invocations.accept(connection, [accepted]))

    @rule(
        target=claims,
        asked=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(-1, 1)), min_size=1, max_size=3),
        slots=st.integers(1, 3),
        alone=st.booleans(),
        instance=st.sampled_from("xy"),
    )
    def accept_with_slots_free(self, asked, slots, alone, instance):
        """The claims come with the acceptance, by the rules of any others."""
        made = [self.made(*each) for each in asked]
        requests = [Request(OWNER, NAME, lambda _, one=one: one, {}, may_share=True) for one in made]
        claim = partial(
            invocations.claim,
            endpoint_id=self.endpoint.id,
            instance_id=instance,
            limit=slots,
            lease_s=LEASE_S,
            now=self.now,
            alone=alone,
        )
        outcomes, [taken] = self.write(lambda connection: intake.accept(connection, requests, [claim]))
        assert all(isinstance(each, Invocation) for each in outcomes)
        return self.took(taken, limit=slots, alone=alone)

    @rule(target=claims, limit=st.integers(1, 3), alone=st.booleans(), instance=st.sampled_from("xy"))
    def claim(self, limit, alone, instance):
        taken = self.write(
            lambda connection: invocations.claim(
                connection,
                endpoint_id=self.endpoint.id,
                instance_id=instance,
                limit=limit,
                lease_s=LEASE_S,
                now=self.now,
                alone=alone,
            )
        )
        return self.took(taken, limit=limit, alone=alone)

    def took(self, taken, *, limit, alone):
        """Check what was claimed, and have the model follow."""
        assert len(taken) <= limit
        suspects = [held for held in taken if held.lost_count]
        assert not suspects or (alone and len(taken) == 1), "a suspect comes alone, to who has nothing else"
        waiting = [e for e in self.expected.values() if e.state == "queued" and e.expires_at > self.now]
        if alone and waiting:
            assert taken, "an instance that has nothing gets something while there is something"
        for held in taken:
            one = self.expected[held.invocation.id]
            assert one.state == "queued"
            assert one.expires_at > self.now
            one.state, one.claimed_at, one.lease_until = "claimed", self.now, self.now + LEASE_S
            one.claim_count += 1
            assert (held.count, held.lost_count) == (one.claim_count, one.lost_count)
        return multiple(*taken)

    def put_back(self, one, *, lost):
        """The model's own release: the time to live goes on where it stood."""
        one.state = "queued"
        one.expires_at += self.now - one.claimed_at
        one.lost_count += lost

    def holds(self, held: Claim) -> bool:
        one = self.expected[held.invocation.id]
        return one.state == "claimed" and one.claim_count == held.count

    @rule(held=claims)
    def renew(self, held):
        lost = self.write(
            lambda connection: invocations.renew(connection, [held], lease_s=LEASE_S, now=self.now)
        )
        assert (lost == []) == self.holds(held)
        if not lost:
            self.expected[held.invocation.id].lease_until = self.now + LEASE_S

    @rule(held=claims, state=st.sampled_from(["succeeded", "failed"]))
    def finish(self, held, state):
        """Also late, long after the claim was lost, and more than once."""

        def work(connection):
            mine = invocations.still_held(connection, [held])
            endings = [Ending(held, state, None, Phases(), self.now)] if mine else []
            invocations.finish(connection, endings)
            return bool(mine)

        assert self.write(work) == self.holds(held)
        one = self.expected[held.invocation.id]
        if self.holds(held):
            one.state = state
            one.outcomes.append(state)

    @rule(held=consumes(claims), lost=st.booleans())
    def release(self, held, lost):
        put_back = self.write(
            lambda connection: invocations.release(connection, held, reason="r", now=self.now, lost=lost)
        )
        assert put_back == self.holds(held)
        if put_back:
            self.put_back(self.expected[held.invocation.id], lost=lost)

    @rule()
    def reap(self):
        for held, _ in self.write(lambda connection: invocations.lapsed(connection, now=self.now, limit=100)):
            one = self.expected[held.invocation.id]
            assert self.holds(held)
            assert one.lease_until <= self.now
            self.write(
                lambda connection, held=held: invocations.release(
                    connection, held, reason="r", now=self.now, lost=True
                )
            )
            self.put_back(one, lost=True)
        assert not any(e.state == "claimed" and e.lease_until <= self.now for e in self.expected.values()), (
            "no claim outlives its lease"
        )

    @rule()
    def expire(self):
        due = self.write(lambda connection: invocations.expiring(connection, now=self.now, limit=100))
        assert {each.id for each in due} == {
            id_ for id_, e in self.expected.items() if e.state == "queued" and e.expires_at <= self.now
        }, "waiting counts against the TTL, work does not"
        for each in due:
            assert self.write(
                lambda connection, each=each: invocations.expire(connection, each, "late", now=self.now)
            )
            self.expected[each.id].state = "expired"
            self.expected[each.id].outcomes.append("expired")

    @rule()
    def restart(self):
        self.write(lambda connection: invocations.release_all(connection, now=self.now))
        for one in self.expected.values():
            if one.state == "claimed":
                self.put_back(one, lost=False)

    @rule(place=st.integers(0, 1000))
    def cancel(self, place):
        if not self.expected:
            return
        id_ = sorted(self.expected)[place % len(self.expected)]
        one = self.expected[id_]
        values = {"id": id_, "now": self.now, "reason": "cancelled"}
        changed = self.write(lambda connection: connection.execute(steering.CANCEL, values).rowcount)
        assert bool(changed) == (one.state in ("queued", "claimed"))
        if changed:
            one.state = "cancelled"
            one.outcomes.append("cancelled")

    @invariant()
    def each_is_where_the_model_says_and_has_at_most_one_outcome(self):
        table = tables.invocations
        columns = (table.c.id, table.c.state, table.c.claim_count, table.c.lost_count)
        rows = self.write(lambda connection: connection.execute(select(*columns)).all())
        assert {tuple(row) for row in rows} == {
            (id_, e.state, e.claim_count, e.lost_count) for id_, e in self.expected.items()
        }
        for one in self.expected.values():
            assert len(one.outcomes) == (0 if MOVES[one.state] else 1)

    @invariant()
    def the_counted_backlog_is_the_real_one(self):
        counted = self.write(lambda connection: connection.execute(select(tables.depths)).mappings().all())
        real = Counter((e.account, e.state) for e in self.expected.values())
        suspects = Counter(e.account for e in self.expected.values() if e.state == "queued" and e.lost_count)
        for row in counted:
            account = row["account"]
            assert row["queued"] == real[account, "queued"]
            assert row["claimed"] == real[account, "claimed"]
            assert row["suspect"] == suspects[account]


Life.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
