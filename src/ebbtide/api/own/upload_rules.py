"""Rules that invoke an endpoint for each object uploaded under a prefix."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from ebbtide import clock
from ebbtide.api.own.requests import Asking, NotFound, Server, Time, moment
from ebbtide.identifiers import time_ordered_id
from ebbtide.queue import upload_rules

router = APIRouter(tags=["upload rules"])


class NewRule(BaseModel):
    """Which uploads invoke which endpoint."""

    model_config = ConfigDict(extra="forbid")

    bucket: str
    prefix: str = Field("", max_length=1024, description="Of the objects' keys.")
    suffix: str = Field("", max_length=1024)
    endpoint: str
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="Of InvokeEndpointAsync, for all its invocations: "
        f"{', '.join(sorted(upload_rules.PARAMETERS))}.",
    )
    enabled: bool = True


class Numbered(BaseModel):
    id: str


class Rule(NewRule, Numbered):
    """A rule. Its invocations have the tag `upload-rule` with its id."""

    created_at: Time


class Rules(BaseModel):
    upload_rules: list[Rule]


class Switch(BaseModel):
    model_config = ConfigDict(extra="forbid")

    enabled: bool


class Standing(Rule):
    """A rule and what it has to do."""

    waiting: int = Field(description="Objects that are still to be invoked.")
    failing: int = Field(description="Those of them that have been tried in vain.")
    given_up: int
    last_error: str | None


@router.get("/upload-rules")
async def list_upload_rules(server: Server, caller: Asking) -> Rules:
    """The account's rules, oldest first."""
    found = await server.database.read(lambda connection: upload_rules.listed(connection, caller.account))
    return Rules(upload_rules=[Rule(**_rule(one)) for one in found])


@router.post("/upload-rules", status_code=201)
async def add_upload_rule(server: Server, caller: Asking, wanted: Annotated[NewRule, Body()]) -> Rule:
    """Add a rule, for objects that are uploaded from now on.

    One whose endpoint writes its results where they would invoke it again is refused.
    """
    now = clock.now()
    made = upload_rules.Rule(
        id=time_ordered_id(now),
        account=caller.account,
        submitter=caller.submitter,
        bucket=wanted.bucket,
        prefix=wanted.prefix,
        suffix=wanted.suffix,
        endpoint_name=wanted.endpoint,
        parameters=wanted.parameters,
        enabled=wanted.enabled,
        created_at=now,
    )
    await server.database.write(lambda connection: upload_rules.create(connection, made))
    return Rule(**_rule(made))


@router.get("/upload-rules/{rule_id}")
async def get_upload_rule(server: Server, caller: Asking, rule_id: str) -> Standing:
    """A rule and what it has to do."""

    def read(connection: Connection) -> Standing:
        rule = _get(connection, caller.account, rule_id)
        standing = upload_rules.standing(connection, rule)
        return Standing(
            **_rule(rule),
            waiting=standing.pending,
            failing=standing.failing,
            given_up=standing.abandoned,
            last_error=standing.last_error,
        )

    return await server.database.read(read)


@router.patch("/upload-rules/{rule_id}")
async def switch_upload_rule(
    server: Server, caller: Asking, rule_id: str, to: Annotated[Switch, Body()]
) -> Rule:
    """Let a rule act, or no more: objects that come meanwhile invoke nothing."""

    def switch(connection: Connection) -> upload_rules.Rule:
        rule = _get(connection, caller.account, rule_id)
        upload_rules.enable(connection, caller.account, rule.id, enabled=to.enabled)
        return upload_rules.get(connection, caller.account, rule.id)

    return Rule(**_rule(await server.database.write(switch)))


@router.delete("/upload-rules/{rule_id}", status_code=204)
async def remove_upload_rule(server: Server, caller: Asking, rule_id: str) -> None:
    """Remove a rule; what it has not invoked yet, it will not."""

    def remove(connection: Connection) -> None:
        rule = _get(connection, caller.account, rule_id)
        upload_rules.remove(connection, caller.account, rule.id)

    await server.database.write(remove)


def _get(connection: Connection, account: str, rule_id: str) -> upload_rules.Rule:
    try:
        return upload_rules.get(connection, account, rule_id)
    except upload_rules.RuleNotFound as error:
        raise NotFound(error.message) from error


def _rule(rule: upload_rules.Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "bucket": rule.bucket,
        "prefix": rule.prefix,
        "suffix": rule.suffix,
        "endpoint": rule.endpoint_name,
        "parameters": rule.parameters,
        "enabled": rule.enabled,
        "created_at": moment(rule.created_at),
    }
