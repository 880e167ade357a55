"""Accounts, and the access keys that prove them.

Every key belongs to one account. An account works on resources of its own (buckets, endpoints, topics) or
joins another's: then its keys act on that account's resources, while what it submits is still counted as its
own, for its share of an endpoint's slots, for its quota and for its costs. The operator's key comes with the
data directory and is no row here; all other keys are in the database, and known to every server beside it.
"""

import asyncio
import math
import re
import secrets
import time
from dataclasses import dataclass

from sqlalchemy import (
    Column,
    Connection,
    Float,
    Index,
    Integer,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)

from ebbtide.database import Database, Statement, metadata
from ebbtide.errors import ServiceError
from ebbtide.identifiers import ACCOUNT
from ebbtide.settings import Credentials

REFRESH_S = 2.0
"""How long a key that another server beside the database removed may go unnoticed here."""

UNKNOWN_KEY_PACE_S = 0.2
"""How often at most the database is asked for keys that are not known here."""

MAX_WEIGHT = 1000.0
MAX_QUOTA = 2**31 - 1
MAX_NAME_LENGTH = 128

access_keys = Table(
    "access_keys",
    metadata,
    Column("id", String, primary_key=True),
    # As it is: a signature is checked with the secret itself, of which no hash would do.
    Column("secret", String, nullable=False),
    Column("account", String, nullable=False),
    Column("label", String, nullable=False),
    Column("created_at", Float, nullable=False),
)
Index("access_keys_of_account", access_keys.c.account)

accounts = Table(
    "accounts",
    metadata,
    Column("account", String, primary_key=True),
    Column("name", String, nullable=False),
    # Its part of an endpoint's slots, beside those of the other accounts that have something queued there.
    Column("weight", Float, nullable=False),
    # Most invocations it may have queued at once, at all endpoints; NULL for any number.
    Column("queued_quota", Integer),
    # Whose resources its keys act on; NULL for its own.
    Column("joins", String),
    Column("created_at", Float, nullable=False),
)


class InvalidAccount(ServiceError):
    """An account cannot be as it was described; the message names the field."""

    code = "ValidationError"


class AccountNotFound(ServiceError):
    """No account of that number was made."""

    code = "NotFound"
    http_status = 404


class KeyNotFound(ServiceError):
    """No access key of that id was made here."""

    code = "NotFound"
    http_status = 404


@dataclass(frozen=True, slots=True)
class Account:
    """Who submits work: a row of `accounts`. One without a row has weight 1 and no quota."""

    account: str
    name: str = ""
    weight: float = 1.0
    queued_quota: int | None = None
    joins: str | None = None
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Key:
    """An access key. `account` is whose resources it acts on, `submitter` whose work it is: the key's own
    account. The operator's key may also manage keys and accounts.
    """

    access_key_id: str
    secret_access_key: str
    account: str
    submitter: str
    operator: bool = False
    label: str = ""
    created_at: float = 0.0


def put_account(connection: Connection, wanted: Account) -> Account:
    """Make the account, or change it to what is wanted. Its time of creation stays.

    Raises InvalidAccount.
    """
    _check(wanted)
    values = {
        "name": wanted.name,
        "weight": wanted.weight,
        "queued_quota": wanted.queued_quota,
        "joins": wanted.joins,
    }
    changed = connection.execute(update(accounts).where(accounts.c.account == wanted.account).values(values))
    if not changed.rowcount:
        connection.execute(
            insert(accounts).values(account=wanted.account, created_at=wanted.created_at, **values)
        )
    return get_account(connection, wanted.account)


def get_account(connection: Connection, account: str) -> Account:
    """One account; the operator's is there from the start. Raises AccountNotFound."""
    row = connection.execute(select(accounts).where(accounts.c.account == account)).one_or_none()
    if row is not None:
        return Account(**row._mapping)
    if account == ACCOUNT:
        return Account(ACCOUNT)
    raise AccountNotFound(f"There is no account {account}.")


def all_accounts(connection: Connection) -> list[Account]:
    """Every account by number, the operator's among them."""
    made = [Account(**row._mapping) for row in connection.execute(select(accounts))]
    if all(one.account != ACCOUNT for one in made):
        made.append(Account(ACCOUNT))
    return sorted(made, key=lambda one: one.account)


def weights(connection: Connection) -> dict[str, float]:
    """Account -> its share of slots; accounts that are absent have 1.0."""
    return {row[0]: row[1] for row in connection.execute(select(accounts.c.account, accounts.c.weight))}


_QUEUED_QUOTAS = Statement("SELECT account, queued_quota FROM accounts WHERE queued_quota IS NOT NULL")


def queued_quotas(connection: Connection) -> dict[str, int]:
    """Account -> most invocations it may have queued; accounts that are absent have no limit."""
    return dict(_QUEUED_QUOTAS.execute(connection, ()))


def add_key(connection: Connection, account: str, *, label: str, now: float) -> Key:
    """Make a key of the account, and the account if it is new: one that joins the operator's.

    Raises InvalidAccount.
    """
    if len(label) > MAX_NAME_LENGTH:
        raise InvalidAccount(f"label has {len(label)} characters; at most {MAX_NAME_LENGTH} are allowed.")
    try:
        owner = get_account(connection, account)
    except AccountNotFound:
        owner = put_account(connection, Account(account, joins=ACCOUNT, created_at=now))
    made = Key(
        f"AKIA{secrets.token_hex(8).upper()}",
        secrets.token_urlsafe(30),
        owner.joins or account,
        account,
        label=label,
        created_at=now,
    )
    connection.execute(
        insert(access_keys).values(
            id=made.access_key_id,
            secret=made.secret_access_key,
            account=account,
            label=label,
            created_at=now,
        )
    )
    return made


def remove_key(connection: Connection, access_key_id: str) -> None:
    """Forget a key; its account stays. Raises KeyNotFound."""
    if not connection.execute(delete(access_keys).where(access_keys.c.id == access_key_id)).rowcount:
        raise KeyNotFound(f"There is no key {access_key_id} that was added here.")


def all_keys(connection: Connection) -> list[Key]:
    """Every key that was added, oldest first; the operator's is not among them."""
    rows = connection.execute(
        select(
            access_keys.c.id,
            access_keys.c.secret,
            access_keys.c.account,
            access_keys.c.label,
            access_keys.c.created_at,
            accounts.c.joins,
        )
        .join_from(access_keys, accounts, access_keys.c.account == accounts.c.account, isouter=True)
        .order_by(access_keys.c.created_at, access_keys.c.id)
    )
    return [
        Key(row.id, row.secret, row.joins or row.account, row.account, False, row.label, row.created_at)
        for row in rows
    ]


class Keyring:
    """Every key, in memory: each request looks its own up.

    shared: other servers add keys to the database as well, and one that is not known may be new.
    """

    def __init__(self, operator: Credentials, database: Database, *, shared: bool = False) -> None:
        self.operator = Key(
            operator.access_key_id,
            operator.secret_access_key,
            operator.account,
            operator.account,
            operator=True,
        )
        self._database = database
        self._shared = shared
        self._added: dict[str, Key] = {}
        self._reading = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._read_at = -math.inf

    async def find(self, access_key_id: str) -> Key | None:
        """The key of that id; None for an unknown one. Raises Unavailable while the database cannot tell."""
        if access_key_id == self.operator.access_key_id:
            return self.operator
        found = self._added.get(access_key_id)
        if found is None and self._shared:
            await self._read_after(time.monotonic())
            found = self._added.get(access_key_id)
        return found

    async def _read_after(self, asked_at: float) -> None:
        """Have the keys as they were at `asked_at` or later."""
        async with self._asking:
            if self._read_at < asked_at:
                # Whoever guesses at keys is not to keep the database busy.
                await asyncio.sleep(self._read_at + UNKNOWN_KEY_PACE_S - time.monotonic())
                await self.refresh()

    async def refresh(self) -> None:
        """Read the keys; to be called after each change of them, before it is answered."""
        # One at a time: of two reads the one begun earlier could end later, and bring a removed key back.
        async with self._reading:
            began_at = time.monotonic()
            keys = await self._database.read(all_keys)
            self._added = {key.access_key_id: key for key in keys}
            self._read_at = began_at

    async def step(self, _now: float) -> float:
        """Follow what other servers changed; returns the delay until the next step, in s."""
        await self.refresh()
        return REFRESH_S


def _check(wanted: Account) -> None:
    _check_number("account", wanted.account)
    if wanted.joins is not None:
        _check_number("joins", wanted.joins)
        if wanted.account in (ACCOUNT, wanted.joins):
            raise InvalidAccount(f"joins: account {wanted.account} has resources of its own.")
    if not 0 < wanted.weight <= MAX_WEIGHT:
        raise InvalidAccount(f"weight is {wanted.weight:g}; it must be above 0 and at most {MAX_WEIGHT:g}.")
    if wanted.queued_quota is not None and wanted.queued_quota < 0:
        raise InvalidAccount(f"queued_quota is {wanted.queued_quota}; it must not be below 0.")
    if len(wanted.name) > MAX_NAME_LENGTH:
        raise InvalidAccount(
            f"name has {len(wanted.name)} characters; at most {MAX_NAME_LENGTH} are allowed."
        )


def _check_number(field: str, account: str) -> None:
    if not re.fullmatch(r"[0-9]{12}", account, re.ASCII):
        raise InvalidAccount(f"{field} is {account!r}; an account is 12 digits.")
