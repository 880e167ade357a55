"""Access keys and accounts, for the operator's key alone."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Path
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from ebbtide import accounts, clock
from ebbtide.accounts import MAX_NAME_LENGTH, MAX_QUOTA, MAX_WEIGHT
from ebbtide.api.own.requests import Operator, Server, Time, moment
from ebbtide.identifiers import ACCOUNT

router = APIRouter(tags=["keys and accounts"])

Number = Annotated[str, Path(description="The account, 12 digits.")]


class NewKey(BaseModel):
    """What a key is to be for."""

    model_config = ConfigDict(extra="forbid")

    account: str = Field(description="12 digits. One that is new is made, and joins the operator's account.")
    label: str = Field("", max_length=MAX_NAME_LENGTH, description="To know the key by.")


class Key(BaseModel):
    """An access key without its secret."""

    access_key_id: str
    account: str
    label: str
    created_at: Time


class KeyWithSecret(Key):
    """A new access key. Its secret is shown this once."""

    secret_access_key: str


class Keys(BaseModel):
    keys: list[Key]


class Numbered(BaseModel):
    account: str


class Terms(BaseModel):
    """What an account may do."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field("", max_length=MAX_NAME_LENGTH)
    weight: float = Field(
        1.0,
        gt=0,
        le=MAX_WEIGHT,
        allow_inf_nan=False,
        description="Its share of an endpoint's slots while other accounts wait there too.",
    )
    queued_quota: StrictInt | None = Field(
        None,
        ge=0,
        le=MAX_QUOTA,
        description="Most invocations it may have queued at a time; null for no limit.",
    )
    joins: str | None = Field(
        ACCOUNT,
        description="The account whose resources its keys act on; null for resources of its own. "
        "The operator's account has its own in any case.",
    )


class Account(Terms, Numbered):
    """An account and its terms."""


class Accounts(BaseModel):
    accounts: list[Account]


@router.get("/keys")
async def list_keys(server: Server, _operator: Operator) -> Keys:
    """The keys that were added, oldest first. The operator's own is not among them."""
    found = await server.database.read(accounts.all_keys)
    return Keys(keys=[Key(**_shown(key)) for key in found])


@router.post("/keys", status_code=201)
async def add_key(wanted: NewKey, server: Server, _operator: Operator) -> KeyWithSecret:
    """Make a key. It is good at once here, and within seconds at other servers beside the database."""
    now = clock.now()
    made = await server.database.write(
        lambda connection: accounts.add_key(connection, wanted.account, label=wanted.label, now=now)
    )
    await server.keyring.refresh()
    return KeyWithSecret(**_shown(made), secret_access_key=made.secret_access_key)


@router.delete("/keys/{access_key_id}", status_code=204)
async def remove_key(access_key_id: str, server: Server, _operator: Operator) -> None:
    """Remove a key; it is refused from now on. Its account and what that submitted stay."""
    await server.database.write(lambda connection: accounts.remove_key(connection, access_key_id))
    await server.keyring.refresh()


@router.get("/accounts")
async def list_accounts(server: Server, _operator: Operator) -> Accounts:
    """Every account by number, the operator's among them."""
    found = await server.database.read(accounts.all_accounts)
    return Accounts(accounts=[_account(one) for one in found])


@router.get("/accounts/{account}")
async def get_account(account: Number, server: Server, _operator: Operator) -> Account:
    """One account."""
    return _account(await server.database.read(lambda connection: accounts.get_account(connection, account)))


@router.put("/accounts/{account}")
async def put_account(
    account: Number, terms: Annotated[Terms, Body()], server: Server, _operator: Operator
) -> Account:
    """Make the account or change it; what is left out takes its default."""
    wanted = accounts.Account(
        account,
        name=terms.name,
        weight=terms.weight,
        queued_quota=terms.queued_quota,
        joins=None if account == ACCOUNT else terms.joins,
        created_at=clock.now(),
    )
    kept = await server.database.write(lambda connection: accounts.put_account(connection, wanted))
    await server.keyring.refresh()
    return _account(kept)


def _shown(key: accounts.Key) -> dict[str, Any]:
    return {
        "access_key_id": key.access_key_id,
        "account": key.submitter,
        "label": key.label,
        "created_at": moment(key.created_at),
    }


def _account(one: accounts.Account) -> Account:
    return Account(
        account=one.account, name=one.name, weight=one.weight, queued_quota=one.queued_quota, joins=one.joins
    )
