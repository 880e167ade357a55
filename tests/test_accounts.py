"""Accounts and keys: whose resources, whose work, and when a key is known."""

import pytest
from sqlalchemy import Connection

from ebbtide import accounts
from ebbtide.accounts import Account, InvalidAccount, Keyring
from ebbtide.database import Database
from ebbtide.identifiers import ACCOUNT
from ebbtide.settings import Credentials

ECONOMICS, LAW = "222222222222", "333333333333"


@pytest.fixture
def connection(database: Database):
    with database.engine.connect() as connection, connection.begin():
        yield connection


def test_a_new_accounts_key_acts_on_the_operators_resources_in_its_own_name(connection: Connection):
    key = accounts.add_key(connection, ECONOMICS, label="laptop", now=5.0)

    assert (key.account, key.submitter, key.operator) == (ACCOUNT, ECONOMICS, False)
    assert accounts.all_keys(connection) == [key]


def test_a_separate_accounts_key_acts_on_its_own_resources(connection: Connection):
    accounts.put_account(connection, Account(LAW, joins=None))

    key = accounts.add_key(connection, LAW, label="", now=5.0)

    assert (key.account, key.submitter) == (LAW, LAW)


def test_keys_follow_their_account_when_it_separates(connection: Connection):
    accounts.add_key(connection, ECONOMICS, label="", now=5.0)

    accounts.put_account(connection, Account(ECONOMICS, joins=None))

    assert [key.account for key in accounts.all_keys(connection)] == [ECONOMICS]


def test_weights_and_quotas_are_told_for_the_queue(connection: Connection):
    accounts.put_account(connection, Account(ECONOMICS, weight=2.0, queued_quota=100))
    accounts.put_account(connection, Account(LAW))

    assert accounts.weights(connection) == {ECONOMICS: 2.0, LAW: 1.0}
    assert accounts.queued_quotas(connection) == {ECONOMICS: 100}


def test_a_changed_account_keeps_its_time_of_creation(connection: Connection):
    accounts.put_account(connection, Account(ECONOMICS, created_at=5.0))

    changed = accounts.put_account(connection, Account(ECONOMICS, weight=3.0, created_at=9.0))

    assert (changed.weight, changed.created_at) == (3.0, 5.0)


def test_the_operators_account_is_there_from_the_start(connection: Connection):
    assert accounts.all_accounts(connection) == [Account(ACCOUNT)]
    assert accounts.get_account(connection, ACCOUNT) == Account(ACCOUNT)


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        pytest.param(Account("22"), "account", id="an account is 12 digits"),
        pytest.param(Account("22222222222٣"), "account", id="ASCII ones"),
        pytest.param(Account(LAW, joins="x"), "joins", id="so is the one it joins"),
        pytest.param(Account(LAW, joins=LAW), "joins", id="nobody joins himself"),
        pytest.param(Account(ACCOUNT, joins=LAW), "joins", id="the operator joins nobody"),
        pytest.param(Account(LAW, weight=0.0), "weight", id="a weight is above 0"),
        pytest.param(Account(LAW, weight=float("nan")), "weight", id="and a number"),
        pytest.param(Account(LAW, weight=1e9), "weight", id="and bounded"),
        pytest.param(Account(LAW, queued_quota=-1), "queued_quota", id="a quota is not negative"),
        pytest.param(Account(LAW, name="x" * 129), "name", id="a name has 128 characters"),
    ],
)
def test_an_account_that_cannot_be_names_its_field(connection: Connection, wanted: Account, named: str):
    with pytest.raises(InvalidAccount, match=f"^{named}"):
        accounts.put_account(connection, wanted)


async def test_a_keyring_knows_keys_from_their_refresh_to_their_removal(database: Database):
    keyring = Keyring(Credentials("AKIAOPERATOR", "secret"), database)
    added = await database.write(lambda c: accounts.add_key(c, ECONOMICS, label="", now=5.0))

    unknown = await keyring.find(added.access_key_id)
    await keyring.refresh()
    known = await keyring.find(added.access_key_id)
    await database.write(lambda c: accounts.remove_key(c, added.access_key_id))
    await keyring.refresh()

    assert (unknown, known, await keyring.find(added.access_key_id)) == (None, added, None)


async def test_the_operators_key_is_always_known(database: Database):
    keyring = Keyring(Credentials("AKIAOPERATOR", "secret"), database)

    key = await keyring.find("AKIAOPERATOR")

    assert key is not None
    assert (key.account, key.submitter, key.operator) == (ACCOUNT, ACCOUNT, True)
