"""Pages, places and visibility of invocations, on every database."""

from collections.abc import Mapping
from typing import Any

import pytest
from sqlalchemy import Connection, text

from ebbtide import accounts
from ebbtide.accounts import Account
from ebbtide.database import Database
from ebbtide.endpoints import tables
from ebbtide.identifiers import time_ordered_id
from ebbtide.queue import invocations, listing
from ebbtide.queue.fairness import Waiting, share
from ebbtide.queue.invocations import Invocation
from ebbtide.queue.listing import Filter, Seen, served_between

OPERATOR, ECONOMICS, LAW = "123456789012", "222222222222", "333333333333"
T0 = 1_750_000_000.0


def an_endpoint(connection: Connection, name: str, account: str = OPERATOR) -> str:
    values = {
        "id": f"id-of-{name}",
        "account": account,
        "name": name,
        "folded_name": name,
        "arn": f"arn:{name}",
        "status": "InService",
        "live": "{}",
        "last_generation": 1,
        "created_at": T0,
        "modified_at": T0,
    }
    connection.execute(tables.endpoints.insert().values(values))
    return f"id-of-{name}"


def accept(
    connection: Connection,
    endpoint_id: str,
    *,
    at: float = T0,
    count: int = 1,
    tags: Mapping[str, str] | None = None,
    **changes: Any,
) -> list[str]:
    """Queue so many, a millisecond apart; their ids."""
    made = []
    for n in range(count):
        accepted_at = at + n / 1000
        id_ = time_ordered_id(accepted_at)
        fields = {
            "id": id_,
            "inference_id": id_,
            "account": OPERATOR,
            "endpoint_id": endpoint_id,
            "accepted_at": accepted_at,
            "expires_at": accepted_at + 3600,
            "timeout_s": 900,
            "input_uri": "s3://in/x",
            "content_type": None,
            "accept": None,
            "custom_attributes": None,
            "output_uri": f"s3://out/{id_}",
            "failure_uri": None,
            "body": None,
        }
        made.append(Invocation(**fields | changes))
    invocations.accept(connection, made, {one.id: tags for one in made} if tags else {})
    return [one.id for one in made]


def move(connection: Connection, ids: list[str], state: str) -> None:
    for id_ in ids:
        connection.execute(
            text("UPDATE invocations SET state = :state WHERE id = :id"), {"id": id_, "state": state}
        )


def paged(connection: Connection, seen: Seen, wanted: Filter, *, limit: int) -> list[str]:
    """The ids of all pages."""
    ids, after = [], None
    while True:
        page = listing.page(connection, seen, wanted, limit=limit, after=after)
        assert len(page.invocations) <= limit
        ids += [one.id for one in page.invocations]
        after = page.after
        if after is None:
            return ids


@pytest.fixture
def connection(database: Database):
    with database.engine.connect() as connection, connection.begin():
        yield connection


def operator_sees(connection: Connection) -> Seen:
    return listing.seen_by(connection, OPERATOR, OPERATOR)


@pytest.mark.parametrize("limit", [1, 3, 250])
def test_pages_hold_every_invocation_once_newest_first(connection: Connection, limit: int):
    a, b = an_endpoint(connection, "a"), an_endpoint(connection, "b")
    ids = accept(connection, a, count=4) + accept(connection, b, at=T0 + 1, count=3)
    move(connection, ids[1:2], "succeeded")
    move(connection, ids[4:5], "failed")

    assert paged(connection, operator_sees(connection), Filter(), limit=limit) == ids[::-1]


def test_invocations_of_one_moment_are_all_shown(connection: Connection):
    a = an_endpoint(connection, "a")
    ids = {accept(connection, a)[0] for _ in range(20)}

    shown = paged(connection, operator_sees(connection), Filter(), limit=3)

    assert len(shown) == 20
    assert set(shown) == ids


@pytest.mark.parametrize("many_endpoints", [False, True], ids=["few endpoints", "many endpoints"])
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(Filter(endpoint_id="id-of-b"), [4, 3], id="by endpoint"),
        pytest.param(Filter(states=frozenset({"failed", "succeeded"})), [4, 1, 0], id="by states"),
        pytest.param(Filter(accepted_after=T0 + 1), [4, 3, 2], id="accepted after, that moment included"),
        pytest.param(Filter(accepted_before=T0 + 1), [1, 0], id="accepted before, that moment left out"),
        pytest.param(Filter(tags={"project": "x"}), [3, 1], id="by tag"),
        pytest.param(Filter(tags={"project": "x", "run": "2"}), [3], id="by all of several tags"),
        pytest.param(Filter(tags={"project": "x"}, endpoint_id="id-of-a"), [1], id="by tag and endpoint"),
        pytest.param(Filter(account=ECONOMICS), [2], id="by account"),
        pytest.param(Filter(inference_id="mine"), [4, 0], id="by inference id"),
        pytest.param(Filter(inference_id="nobody's"), [], id="by one that nobody has"),
        pytest.param(Filter(states=frozenset({"expired"})), [], id="by a state that none has"),
    ],
)
def test_a_filter_leaves_what_it_names(
    connection: Connection, wanted: Filter, expected: list[int], many_endpoints: bool
):
    a, b = an_endpoint(connection, "a"), an_endpoint(connection, "b")
    if many_endpoints:
        for n in range(listing.MAX_INDEX_SCANS):
            an_endpoint(connection, f"other-{n}")
    ids = [
        *accept(connection, a, at=T0, inference_id="mine"),
        *accept(connection, a, at=T0 + 0.5, tags={"project": "x", "run": "1"}),
        *accept(connection, a, at=T0 + 1, account=ECONOMICS),
        *accept(connection, b, at=T0 + 2, tags={"project": "x", "run": "2"}),
        *accept(connection, b, at=T0 + 3, inference_id="mine", tags={"project": "y"}),
    ]
    move(connection, [ids[0], ids[1]], "succeeded")
    move(connection, [ids[4]], "failed")

    shown = paged(connection, operator_sees(connection), wanted, limit=2)

    assert [ids.index(id_) for id_ in shown] == expected


def test_a_page_looks_at_a_bounded_number_of_rows(connection: Connection, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listing, "MAX_SCANNED", 10)
    a = an_endpoint(connection, "a")
    (rare,) = accept(connection, a, account=LAW)
    accept(connection, a, at=T0 + 1, count=120)
    seen, wanted = operator_sees(connection), Filter(account=LAW)

    first = listing.page(connection, seen, wanted, limit=5, after=None)

    assert (first.invocations, first.after is not None) == ([], True)
    assert paged(connection, seen, wanted, limit=5) == [rare]


@pytest.mark.parametrize("token", ["", "x", "1.0~", "~", "nan", "1.0~'; DROP TABLE invocations"])
def test_a_token_that_no_page_gave_is_refused(connection: Connection, token: str):
    with pytest.raises(ValueError):
        listing.page(connection, operator_sees(connection), Filter(), limit=5, after=token)


def test_an_account_sees_what_is_its_own_or_at_its_endpoints(connection: Connection):
    mine, theirs = an_endpoint(connection, "mine"), an_endpoint(connection, "theirs", account=LAW)
    ours = accept(connection, mine, count=2)
    (foreign,) = accept(connection, theirs, at=T0 + 1, account=LAW)
    (own_elsewhere,) = accept(connection, theirs, at=T0 + 2)
    seen = operator_sees(connection)

    assert paged(connection, seen, Filter(), limit=10) == [own_elsewhere, *ours[::-1]]
    assert listing.find(connection, seen, foreign) is None
    assert listing.find(connection, seen, own_elsewhere) is not None


def test_an_invocation_is_found_by_its_id_and_the_newest_by_its_inference_id(connection: Connection):
    a = an_endpoint(connection, "a")
    older, newer = accept(connection, a, count=2, inference_id="same")
    seen = operator_sees(connection)

    by_id, by_inference_id = listing.find(connection, seen, older), listing.find(connection, seen, "same")

    assert by_id is not None
    assert by_inference_id is not None
    assert (by_id.id, by_inference_id.id) == (older, newer)
    assert listing.find(connection, seen, "other") is None


def test_a_position_counts_higher_priorities_and_older_ones(connection: Connection):
    a = an_endpoint(connection, "a")
    first, second = accept(connection, a, count=2)
    (urgent,) = accept(connection, a, at=T0 + 1, priority=5)
    (late,) = accept(connection, a, at=T0 + 2, priority=-5)
    seen = operator_sees(connection)

    order = [urgent, first, second, late]

    for place, id_ in enumerate(order):
        shown = listing.find(connection, seen, id_)
        assert shown is not None
        found = listing.position(connection, shown)
        assert found is not None
        assert (found.ahead, found.exact) == (place, True)


def test_a_position_counts_other_accounts_turns(connection: Connection):
    a = an_endpoint(connection, "a")
    accounts.put_account(connection, Account(ECONOMICS))
    accept(connection, a, count=50)
    (lone,) = accept(connection, a, at=T0 + 1, account=ECONOMICS)
    shown = listing.find(connection, operator_sees(connection), lone)
    assert shown is not None

    found = listing.position(connection, shown)

    assert found is not None
    assert found.ahead <= 1


def test_what_is_not_queued_has_no_position(connection: Connection):
    a = an_endpoint(connection, "a")
    ids = accept(connection, a)
    move(connection, ids, "claimed")
    shown = listing.find(connection, operator_sees(connection), ids[0])
    assert shown is not None

    assert listing.position(connection, shown) is None


@pytest.mark.parametrize(
    "waiting",
    [
        pytest.param([Waiting("a", 5, 0.0), Waiting("b", 5, 0.0)], id="equals"),
        pytest.param([Waiting("a", 9, 3.0), Waiting("b", 2, 0.0)], id="one served long ago"),
        pytest.param(
            [Waiting("a", 9, 0.0, 2.0), Waiting("b", 7, 1.5), Waiting("c", 1, 0.5, 0.25)], id="weights"
        ),
    ],
)
def test_turns_ahead_are_those_that_sharing_gives(waiting: list[Waiting]):
    """Of every account's every invocation: as many of others come before it as `share` hands out, give or
    take one of an equal turn.
    """
    table = {each.account: (each.queued, each.turn, each.weight) for each in waiting}
    total = sum(each.queued for each in waiting)
    for each in waiting:
        for own in range(each.queued):
            told = served_between(table, each.account, own) + own
            slots = next(
                n
                for n in range(1, total + 1)
                if any(s.account == each.account and s.count > own for s in share(waiting, n))
            )
            assert abs(told - (slots - 1)) <= len(waiting) - 1
