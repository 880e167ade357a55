"""What endpoints cost, from the records of instances and invocations, on every database."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Any

import pytest
from sqlalchemy import Connection, update
from tests.queue.accepted import invocation

from ebbtide.costs.report import Amount, report
from ebbtide.database import Database
from ebbtide.identifiers import time_ordered_id
from ebbtide.instances import records
from ebbtide.instances.records import Instance, State
from ebbtide.instances.types import InstanceTypes
from ebbtide.queue import invocations, tables

OPERATOR, ECONOMICS, LAW = "123456789012", "222222222222", "333333333333"
DAY = date(2026, 3, 1)
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
NOON = MIDNIGHT + 43_200
NOW = MIDNIGHT + 3 * 86_400


def run(
    connection: Connection,
    name: str = "i-1",
    *,
    at: float = NOON,
    starting_s: float = 10,
    for_s: float = 100,
    instance_type: str | None = "ml.m5.xlarge",
    endpoint: str = "summaries",
    account: str = OPERATOR,
) -> None:
    """An instance that started then, and ended so long after."""
    records.add(
        connection,
        Instance(
            id=name,
            endpoint_id=f"id-of-{endpoint}",
            generation=1,
            variant="v",
            state=State.STOPPED,
            cause="",
            instance_type=instance_type,
            model_digest="m",
            peak_memory_bytes=None,
            pid=None,
            created_at=at,
            starting_at=at,
            in_service_at=at + starting_s,
            ended_at=at + for_s,
            account=account,
            endpoint_name=endpoint,
        ),
    )


def hold(
    connection: Connection,
    begin: float,
    end: float,
    *,
    on: str = "i-1",
    account: str = OPERATOR,
    endpoint: str = "summaries",
    tags: dict[str, str] | None = None,
    state: str = "succeeded",
) -> str:
    """An invocation that was accepted and claimed at `begin`, and ended at `end`, in s after noon."""
    at = NOON + begin
    id_ = time_ordered_id(at)
    one = invocation(id_, f"id-of-{endpoint}", at, account=account)
    invocations.accept(connection, [one], {id_: tags} if tags else {})
    connection.execute(
        update(tables.invocations)
        .where(tables.invocations.c.id == id_)
        .values(state=state, instance_id=on, claimed_at=at, finished_at=NOON + end, claim_count=1)
    )
    return id_


@pytest.fixture
def costs(database: Database) -> Callable[..., Any]:
    """The report of what the function given has put into the database."""

    async def costs(fill: Callable[[Connection], Any], *by: str, **asked: Any) -> dict[Any, Amount]:
        await database.write(fill)
        asked = {"since": DAY, "until": DAY, "now": NOW} | asked
        found = await database.read(
            lambda connection: report(connection, InstanceTypes(), OPERATOR, by=by, **asked)
        )
        return {key[0] if len(key) == 1 else key: amount for key, amount in found.rows.items()}

    return costs


async def test_an_instances_time_is_its_start_its_work_and_the_rest(costs):
    def fill(connection: Connection) -> None:
        run(connection)
        hold(connection, 20, 50)

    found = (await costs(fill, "endpoint"))["summaries"]

    assert (found.starting_s, found.busy_s, found.idle_s, found.instance_s) == (10, 30, 60, 100)
    assert (found.invocations, found.cold_start_share, found.idle_share) == (1, 0.1, 0.6)
    assert found.cost == pytest.approx(100 / 3600 * 0.23)


async def test_accounts_bear_starts_and_idle_time_as_they_worked(costs):
    def fill(connection: Connection) -> None:
        run(connection)
        hold(connection, 20, 50, account=ECONOMICS)
        hold(connection, 60, 70, account=LAW)

    found = await costs(fill, "account")

    assert found[ECONOMICS].instance_s == pytest.approx(75)
    assert found[LAW].instance_s == pytest.approx(25)
    assert found[ECONOMICS].starting_s == pytest.approx(7.5)
    assert found[LAW].idle_s == pytest.approx(12.5)


async def test_each_way_to_add_up_comes_to_the_same_sums(costs):
    def fill(connection: Connection) -> None:
        run(connection, "i-1", at=NOON, for_s=50_000)
        run(connection, "i-2", at=NOON + 5, for_s=90)
        run(connection, "i-3", at=NOON + 5, for_s=40)
        for number in range(12):
            on, account = ("i-1", ECONOMICS) if number % 3 else ("i-2", LAW)
            tags = {"project": "trends"} if number % 2 else None
            hold(connection, 20 + 3 * number, 30 + 3 * number, on=on, account=account, tags=tags)

    asked = {"until": date(2026, 3, 2)}
    sums = []
    for by in (["endpoint"], ["day"], ["account"], ["tag:project"], ["invocation"], ["day", "account"]):
        total = Amount()
        for amount in (await costs(fill if not sums else lambda _: None, *by, **asked)).values():
            total.add(amount)
        sums.append(asdict(total))

    assert all(each == pytest.approx(sums[0]) for each in sums)
    assert sums[0]["invocations"] == 12
    assert sums[0]["starting_s"] + sums[0]["busy_s"] + sums[0]["idle_s"] == pytest.approx(50_130)


async def test_time_that_served_nobody_is_nobodys(costs):
    found = await costs(run, "account")

    assert found.keys() == {None}
    assert found[None].instance_s == 100


async def test_a_day_has_its_own_part_of_what_runs_over_midnight(costs):
    def fill(connection: Connection) -> None:
        run(connection, at=MIDNIGHT + 86_400 - 30, for_s=100)
        hold(connection, 43_200 - 10, 43_200 + 20)

    found = await costs(fill, "day", until=date(2026, 3, 2))

    assert [(amount.instance_s, amount.busy_s) for amount in found.values()] == [(30, 10), (70, 20)]
    assert [amount.invocations for amount in found.values()] == [0, 1]


async def test_always_on_is_the_most_instances_from_the_first_on(costs):
    def fill(connection: Connection) -> None:
        run(connection, "i-1", at=NOON, for_s=100)
        run(connection, "i-2", at=NOON + 50, for_s=100)

    found = (await costs(fill, "endpoint"))["summaries"]

    # The endpoint is gone with its last instance.
    assert found.always_on_s == 2 * 150
    assert found.always_on_cost == pytest.approx(300 / 3600 * 0.23)


async def test_the_minimum_is_one_start_and_the_work(costs):
    def fill(connection: Connection) -> None:
        run(connection, "i-1", starting_s=10)
        run(connection, "i-2", starting_s=4)
        hold(connection, 20, 50, on="i-1")
        hold(connection, 20, 40, on="i-2")

    assert (await costs(fill, "endpoint"))["summaries"].minimum_s == 4 + 50


async def test_an_instance_that_runs_costs_up_to_now(costs):
    def fill(connection: Connection) -> None:
        run(connection)
        connection.execute(update(records.instances).values(ended_at=None, state=State.IN_SERVICE))
        hold(connection, 20, 30)

    found = (await costs(fill, "endpoint", now=NOON + 60))["summaries"]

    assert found.instance_s == 60


async def test_attempts_that_ended_without_an_outcome_are_paid_for(costs):
    def fill(connection: Connection) -> None:
        run(connection)
        id_ = hold(connection, 60, 70)
        connection.execute(
            tables.attempts.insert().values(
                invocation_id=id_,
                claim_count=1,
                instance_id="i-1",
                claimed_at=NOON + 20,
                ended_at=NOON + 50,
                reason="the model server died",
            )
        )

    found = (await costs(fill, "endpoint"))["summaries"]

    assert (found.busy_s, found.invocations) == (40, 1)


async def test_a_type_without_a_price_has_no_cost_rather_than_a_low_one(costs):
    def fill(connection: Connection) -> None:
        run(connection, "i-1")
        run(connection, "i-2", instance_type="ml.unheard.of")

    found = (await costs(fill, "endpoint"))["summaries"]

    assert found.instance_s == 200
    assert found.cost is None


async def test_other_accounts_endpoints_are_not_shown(costs):
    assert await costs(lambda connection: run(connection, account=LAW), "endpoint") == {}


async def test_a_filter_leaves_one_submitters_part(costs):
    def fill(connection: Connection) -> None:
        run(connection)
        hold(connection, 20, 50, account=ECONOMICS)
        hold(connection, 60, 70, account=LAW)

    found = await costs(fill, "endpoint", submitter=LAW)

    assert found["summaries"].instance_s == pytest.approx(25)
