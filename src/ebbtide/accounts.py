"""Accounts: who shares the server, in what proportion, and how much of it each may queue.

An account without a row has weight 1 and no quota.
"""

from sqlalchemy import Column, Connection, Float, Integer, String, Table, select

from ebbtide.database import metadata

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
)


def weights(connection: Connection) -> dict[str, float]:
    """Account -> weight, for those that were given one."""
    rows = connection.execute(select(accounts.c.account, accounts.c.weight))
    return {account: weight for account, weight in rows}


def queued_quotas(connection: Connection) -> dict[str, int]:
    """Account -> most queued invocations, for those that are limited."""
    rows = connection.execute(
        select(accounts.c.account, accounts.c.queued_quota).where(accounts.c.queued_quota.is_not(None))
    )
    return {account: quota for account, quota in rows}
