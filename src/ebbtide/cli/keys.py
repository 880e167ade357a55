"""`ebbtide keys` and `ebbtide accounts`: for the operator, who has the server's own key."""

import shlex
from typing import Annotated, Any

import typer

from ebbtide.cli.options import Json, OfServer

keys = typer.Typer(no_args_is_help=True, help="Access keys for others: add, list, remove.")
accounts = typer.Typer(no_args_is_help=True, help="Accounts: their shares, quotas and resources.")

Account = Annotated[str, typer.Option(help="12 digits.")]
Name = Annotated[str | None, typer.Option(help="What the account is called.")]
Weight = Annotated[
    float | None, typer.Option(help="Its share of an endpoint's slots while others wait too. [default: 1]")
]
Quota = Annotated[
    int | None, typer.Option(min=0, help="Most invocations it may have queued. [default: any number]")
]
Separate = Annotated[
    bool | None,
    typer.Option(
        "--separate/--joined",
        help="Endpoints, buckets and topics of its own, or the operator's. [default: joined]",
    ),
]


@keys.command("add")
def add_key(
    account: Account,
    label: Annotated[str, typer.Option(help="To know the key by.")] = "",
    name: Name = None,
    weight: Weight = None,
    quota: Quota = None,
    separate: Separate = None,
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Make a key for an account, and the account if it is new. Its secret is shown this once."""
    from ebbtide.cli.running import choose
    from ebbtide.cli.shown import print_json

    server = choose(data)
    own = server.own()
    _put(own, account, name, weight, quota, separate)
    key = own.request("POST", "keys", body={"account": account, "label": label})
    if json:
        print_json(key)
        return
    variables = {
        "AWS_ENDPOINT_URL": server.url,
        "AWS_REGION": server.region,
        "AWS_DEFAULT_REGION": server.region,
        "AWS_ACCESS_KEY_ID": key["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": key["secret_access_key"],
    }
    for variable, value in variables.items():
        typer.echo(f"export {variable}={shlex.quote(value)}")
    typer.echo("The secret is not shown again.", err=True)


@keys.command("list")
def list_keys(data: OfServer = None, json: Json = False) -> None:
    """List the keys that were added."""
    from ebbtide.cli.running import choose
    from ebbtide.cli.shown import clock_time, print_json, print_rows

    found = choose(data).own().request("GET", "keys")["keys"]
    if json:
        print_json(found)
        return
    rows = [
        (one["access_key_id"], one["account"], clock_time(one["created_at"]), one["label"]) for one in found
    ]
    print_rows(("Key", "Account", "Made", "Label"), rows)


@keys.command("remove")
def remove_key(
    access_key_ids: Annotated[list[str], typer.Argument(help="The ids of the keys.")], data: OfServer = None
) -> None:
    """Remove keys: they are refused at once."""
    from ebbtide.cli.running import choose

    own = choose(data).own()
    for access_key_id in access_key_ids:
        own.request("DELETE", f"keys/{access_key_id}")
        typer.echo(f"{access_key_id} is removed")


@accounts.command("list")
def list_accounts(data: OfServer = None, json: Json = False) -> None:
    """List the accounts and their terms."""
    from ebbtide.cli.running import choose
    from ebbtide.cli.shown import print_json, print_rows

    found = choose(data).own().request("GET", "accounts")["accounts"]
    if json:
        print_json(found)
        return
    rows = [
        (
            one["account"],
            f"{one['weight']:g}",
            "" if one["queued_quota"] is None else str(one["queued_quota"]),
            "its own" if one["joins"] is None else f"of {one['joins']}",
            one["name"],
        )
        for one in found
    ]
    print_rows(("Account", "Weight", "Quota", "Resources", "Name"), rows)


@accounts.command("set")
def set_account(
    account: Annotated[str, typer.Argument(help="12 digits.")],
    name: Name = None,
    weight: Weight = None,
    quota: Quota = None,
    no_quota: Annotated[bool, typer.Option("--no-quota", help="Lift the quota.")] = False,
    separate: Separate = None,
    data: OfServer = None,
    json: Json = False,
) -> None:
    """Make an account or change its terms; what is not named stays."""
    from ebbtide.cli.running import choose
    from ebbtide.cli.shown import print_json

    changed = _put(choose(data).own(), account, name, weight, quota, separate, no_quota=no_quota)
    if json:
        print_json(changed)
    else:
        typer.echo(f"Account {account} is set")


def _put(
    own: Any,
    account: str,
    name: str | None,
    weight: float | None,
    quota: int | None,
    separate: bool | None,
    *,
    no_quota: bool = False,
) -> dict[str, Any]:
    """Make the account or change what is named of its terms; they are the answer."""
    from botocore.exceptions import ClientError

    from ebbtide.identifiers import ACCOUNT

    try:
        terms = own.request("GET", f"accounts/{account}")
        del terms["account"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NotFound":
            raise
        terms = {}
    given = {
        "name": name,
        "weight": weight,
        "queued_quota": quota,
        "joins": None if separate is None or separate else ACCOUNT,
    }
    terms |= {field: value for field, value in given.items() if value is not None}
    if separate:
        terms["joins"] = None
    if no_quota:
        terms["queued_quota"] = None
    changed: dict[str, Any] = own.request("PUT", f"accounts/{account}", body=terms)
    return changed
