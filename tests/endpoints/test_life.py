"""An endpoint's life: what its owner and the fleet may do to it, and what becomes of it."""

from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Connection, create_engine

from ebbtide import endpoints
from ebbtide.database import metadata
from ebbtide.endpoints import catalogue, tables
from ebbtide.endpoints.states import LEGAL_MOVES
from ebbtide.errors import ServiceError

ACCOUNT, REGION = "123456789012", "us-east-1"
TABLES = [tables.models, tables.endpoint_configs, tables.endpoints, tables.tags]


def connect() -> Connection:
    connection = create_engine("sqlite://").connect()
    metadata.create_all(connection, tables=TABLES)
    return connection


@pytest.fixture
def connection():
    with connect() as connection:
        yield connection


def keep_config(connection: Connection, name: str = "config", **variant: Any) -> endpoints.EndpointConfig:
    """A configuration for asynchronous inference and its model, both created."""
    if not catalogue.all_models(connection, ACCOUNT):
        catalogue.create_model(
            connection,
            endpoints.Model(ACCOUNT, "model", "arn:model", {"ModelName": "model"}, created_at=0.0),
        )
    given = {
        "EndpointConfigName": name,
        "ProductionVariants": [
            {"VariantName": "main", "ModelName": "model", "InstanceType": "ml.m5.xlarge"} | variant
        ],
        "AsyncInferenceConfig": {"OutputConfig": {"S3OutputPath": "s3://out/results"}},
    }
    config = endpoints.EndpointConfig(ACCOUNT, name, f"arn:{name}", given, created_at=0.0)
    catalogue.create_endpoint_config(connection, config)
    return config


def create(connection: Connection, name: str = "summaries", **variant: Any) -> endpoints.Endpoint:
    config = keep_config(connection, f"config-of-{name}", **variant)
    return endpoints.create_endpoint(connection, config, name, region=REGION, at=1.0)


def update(connection: Connection, endpoint: endpoints.Endpoint, config, **given: Any) -> endpoints.Endpoint:
    given = {"retain_variant_properties": False, "excluded_properties": ()} | given
    return endpoints.update_endpoint(connection, endpoint, config, region=REGION, at=2.0, **given)


def again(connection: Connection, endpoint: endpoints.Endpoint) -> endpoints.Endpoint:
    return endpoints.get_endpoint(connection, ACCOUNT, endpoint.name)


def test_a_new_endpoint_is_creating_until_its_instances_are_there(connection):
    endpoint = create(connection, InitialInstanceCount=2)
    assert (endpoint.status, endpoint.generation) == ("Creating", 1)
    assert endpoint.variants[0].desired_instance_count == 2

    endpoints.settle(connection, endpoint.id, 1, at=3.0)

    assert again(connection, endpoint).status == "InService"
    assert again(connection, endpoint).modified_at == 3.0


def test_an_asynchronous_endpoint_starts_at_zero_when_no_count_is_given(connection):
    endpoint = create(connection)

    assert endpoint.variants[0].desired_instance_count == 0


def test_a_deployment_outlives_its_model_and_configuration(connection):
    config = keep_config(connection)
    endpoint = endpoints.create_endpoint(connection, config, "summaries", region=REGION, at=1.0)

    [model] = catalogue.all_models(connection, ACCOUNT)
    catalogue.delete_model(connection, model)
    catalogue.delete_endpoint_config(connection, config)

    kept = again(connection, endpoint)
    assert kept.config_name == "config"
    assert kept.variants[0].model == {"ModelName": "model"}
    assert kept.async_config is not None
    assert kept.async_config.output_uri == "s3://out/results"


def test_an_endpoint_name_is_taken_in_every_case_of_letters(connection):
    create(connection, "Summaries")

    with pytest.raises(ServiceError, match=r'already existing endpoint ".*endpoint/Summaries"'):
        create(connection, "sUMMARIES")


def test_an_endpoint_is_found_only_under_the_name_it_was_given(connection):
    create(connection, "Summaries")

    with pytest.raises(
        endpoints.EndpointNotFound, match="Endpoint summaries of account 123456789012 not found"
    ):
        endpoints.get_endpoint(connection, ACCOUNT, "summaries")


def test_a_creation_that_fails_says_why_and_can_only_be_deleted(connection):
    endpoint = create(connection)

    endpoints.fail(connection, endpoint.id, 1, "no such model on the Hub", at=2.0)

    failed = again(connection, endpoint)
    assert (failed.status, failed.failure_reason) == ("Failed", "no such model on the Hub")
    with pytest.raises(endpoints.EndpointBusy, match="can only be deleted"):
        update(connection, failed, keep_config(connection, "next"))
    endpoints.begin_delete(connection, failed, at=3.0)
    endpoints.remove(connection, failed.id)
    assert endpoints.find_endpoint(connection, failed.id) is None


def test_an_update_serves_the_old_generation_until_the_new_one_is_there(connection):
    endpoint = create(connection, InitialInstanceCount=1)
    endpoints.settle(connection, endpoint.id, 1, at=1.5)

    updating = update(
        connection, again(connection, endpoint), keep_config(connection, "next", InitialInstanceCount=3)
    )
    assert updating.status == "Updating"
    assert (updating.config_name, updating.generation) == ("config-of-summaries", 1)
    assert updating.target is not None
    assert (updating.target.config_name, updating.target.generation) == ("next", 2)

    endpoints.settle(connection, endpoint.id, 2, at=3.0)
    updated = again(connection, endpoint)
    assert (updated.status, updated.config_name, updated.generation) == ("InService", "next", 2)
    assert updated.target is None
    assert updated.variants[0].desired_instance_count == 3


def test_an_update_that_fails_returns_to_the_old_generation_and_its_number_is_not_used_again(connection):
    endpoint = create(connection)
    endpoints.settle(connection, endpoint.id, 1, at=1.5)
    update(connection, again(connection, endpoint), keep_config(connection, "broken"))

    endpoints.fail(connection, endpoint.id, 2, "the model exits", at=3.0)

    restored = again(connection, endpoint)
    assert (restored.status, restored.failure_reason) == ("InService", "the model exits")
    assert (restored.generation, restored.target) == (1, None)
    next_update = update(connection, restored, keep_config(connection, "mended"))
    assert next_update.target is not None
    assert next_update.target.generation == 3


def test_an_update_does_not_turn_an_asynchronous_endpoint_into_a_real_time_one(connection):
    endpoint = create(connection)
    endpoints.settle(connection, endpoint.id, 1, at=1.5)
    config = keep_config(connection, "next", InitialInstanceCount=1)
    del config.given["AsyncInferenceConfig"]

    with pytest.raises(ServiceError, match="cannot change between asynchronous and real-time"):
        update(connection, again(connection, endpoint), config)


@pytest.mark.parametrize(
    ("excluded", "count", "weight"),
    [
        pytest.param((), 4, 2.5, id="everything retained"),
        pytest.param(("DesiredInstanceCount",), 1, 2.5, id="the count follows the new configuration"),
        pytest.param(("DesiredWeight",), 4, 1.0, id="the weight follows the new configuration"),
    ],
)
def test_an_update_can_keep_live_counts_and_weights(connection, excluded, count, weight):
    endpoint = create(connection, InitialInstanceCount=1)
    endpoints.settle(connection, endpoint.id, 1, at=1.5)
    endpoints.rescale(connection, again(connection, endpoint), {"main": 4}, {"main": 2.5}, at=1.6)
    endpoints.settle(connection, endpoint.id, 1, at=1.7)

    updating = update(
        connection,
        again(connection, endpoint),
        keep_config(connection, "next", InitialInstanceCount=1),
        retain_variant_properties=True,
        excluded_properties=excluded,
    )

    assert updating.target is not None
    [variant] = updating.target.variants
    assert (variant.desired_instance_count, variant.desired_weight) == (count, weight)


def test_counts_may_change_again_before_the_fleet_has_settled(connection):
    endpoint = create(connection)
    endpoints.settle(connection, endpoint.id, 1, at=1.5)

    endpoints.set_desired_instance_counts(connection, endpoint.id, {"main": 1}, at=2.0)
    endpoints.set_desired_instance_counts(connection, endpoint.id, {"main": 5}, at=2.1)

    assert again(connection, endpoint).status == "Updating"
    assert again(connection, endpoint).variants[0].desired_instance_count == 5


def test_the_same_counts_change_nothing(connection):
    endpoint = create(connection, InitialInstanceCount=2)
    endpoints.settle(connection, endpoint.id, 1, at=1.5)

    endpoints.set_desired_instance_counts(connection, endpoint.id, {"main": 2}, at=2.0)

    assert again(connection, endpoint).status == "InService"


def test_counts_do_not_change_while_an_update_or_the_creation_is_under_way(connection):
    endpoint = create(connection)
    with pytest.raises(
        endpoints.EndpointBusy, match=r'Cannot update in-progress endpoint ".*endpoint/summaries"'
    ):
        endpoints.set_desired_instance_counts(connection, endpoint.id, {"main": 1}, at=2.0)

    endpoints.settle(connection, endpoint.id, 1, at=2.1)
    update(connection, again(connection, endpoint), keep_config(connection, "next"))
    with pytest.raises(endpoints.EndpointBusy):
        endpoints.set_desired_instance_counts(connection, endpoint.id, {"main": 1}, at=2.2)


def test_news_of_a_generation_that_is_not_awaited_changes_nothing(connection):
    endpoint = create(connection)
    endpoints.settle(connection, endpoint.id, 1, at=1.5)
    updating = update(connection, again(connection, endpoint), keep_config(connection, "next"))

    endpoints.settle(connection, endpoint.id, 1, at=3.0)
    endpoints.fail(connection, endpoint.id, 1, "late", at=3.0)

    assert again(connection, endpoint) == updating


class EndpointLife(RuleBasedStateMachine):
    """Whatever owner, scaler and fleet do in whatever order, only legal moves happen."""

    def __init__(self) -> None:
        super().__init__()
        self.connection = connect()
        self.at = 0.0
        self.configs = 0
        self.endpoint: endpoints.Endpoint | None = create(self.connection)

    def teardown(self) -> None:
        self.connection.close()

    @invariant()
    def moves_are_legal(self) -> None:
        before = self.endpoint
        if before is None:
            return
        after = endpoints.find_endpoint(self.connection, before.id)
        self.endpoint = after
        if after is None:
            assert before.status == "Deleting"
        elif after.status != before.status:
            assert after.status in LEGAL_MOVES[before.status]
            assert (after.target is None) or after.status == "Updating"

    @precondition(lambda self: self.endpoint)
    @rule(count=st.integers(0, 5))
    def the_scaler_changes_the_count(self, count: int) -> None:
        self.tolerating_busy(
            endpoints.set_desired_instance_counts, self.connection, self.endpoint.id, {"main": count}, self.at
        )

    @precondition(lambda self: self.endpoint)
    @rule()
    def the_owner_updates(self) -> None:
        self.configs += 1
        self.tolerating_busy(
            update, self.connection, self.endpoint, keep_config(self.connection, f"next-{self.configs}")
        )

    @precondition(lambda self: self.endpoint)
    @rule()
    def the_owner_deletes(self) -> None:
        self.tolerating_busy(endpoints.begin_delete, self.connection, self.endpoint, self.at)

    @precondition(lambda self: self.endpoint)
    @rule(generation=st.integers(1, 4))
    def the_fleet_settles(self, generation: int) -> None:
        endpoints.settle(self.connection, self.endpoint.id, generation, self.at)

    @precondition(lambda self: self.endpoint)
    @rule(generation=st.integers(1, 4))
    def the_fleet_fails(self, generation: int) -> None:
        endpoints.fail(self.connection, self.endpoint.id, generation, "why", self.at)

    @precondition(lambda self: self.endpoint and self.endpoint.status == "Deleting")
    @rule()
    def the_fleet_removes(self) -> None:
        endpoints.remove(self.connection, self.endpoint.id)

    @precondition(lambda self: self.endpoint is None)
    @rule()
    def the_name_is_used_again(self) -> None:
        self.configs += 1
        self.endpoint = endpoints.create_endpoint(
            self.connection,
            keep_config(self.connection, f"next-{self.configs}"),
            "summaries",
            region=REGION,
            at=self.at,
        )

    def tolerating_busy(self, act: Any, *arguments: Any) -> None:
        self.at += 1.0
        try:
            act(*arguments)
        except endpoints.EndpointBusy:
            assert endpoints.find_endpoint(self.connection, self.endpoint.id) == self.endpoint


TestEndpointLife = EndpointLife.TestCase
TestEndpointLife.settings = hypothesis_settings(max_examples=40, stateful_step_count=20, deadline=None)
