"""Models, endpoint configurations and endpoints as values, and their form in the database."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Model:
    """A created model. `given` is CreateModel's input without its tags."""

    account: str
    name: str
    arn: str
    given: Mapping[str, Any]
    created_at: float


@dataclass(frozen=True, slots=True)
class EndpointConfig:
    """A created endpoint configuration. `given` is CreateEndpointConfig's input without its tags."""

    account: str
    name: str
    arn: str
    given: Mapping[str, Any]
    created_at: float

    @property
    def asynchronous(self) -> bool:
        return "AsyncInferenceConfig" in self.given


@dataclass(frozen=True, slots=True)
class Variant:
    """One of a deployment's production variants.

    `model` is CreateModel's input as it was at deployment: clients delete the model right after. `config`
    is the ProductionVariant as given.
    """

    name: str
    model: Mapping[str, Any]
    config: Mapping[str, Any]
    instance_type: str
    desired_instance_count: int
    desired_weight: float
    current_weight: float

    @property
    def container(self) -> Mapping[str, Any]:
        """The model's one container: Image, Environment, ModelDataUrl or ModelDataSource."""
        container: Mapping[str, Any] = self.model.get("PrimaryContainer") or self.model["Containers"][0]
        return container


@dataclass(frozen=True, slots=True)
class AsyncConfig:
    """Where an asynchronous endpoint puts its outcomes and whom it tells.

    The URIs are as given (s3:// or https://, with or without a closing slash). `include_response_in` holds
    SUCCESS_NOTIFICATION_TOPIC, ERROR_NOTIFICATION_TOPIC or both. Source: AsyncInferenceConfig.
    """

    output_uri: str
    failure_uri: str | None
    success_topic: str | None
    error_topic: str | None
    include_response_in: frozenset[str]
    max_concurrent_invocations_per_instance: int | None

    @classmethod
    def from_given(cls, given: Mapping[str, Any]) -> "AsyncConfig":
        """given: AsyncInferenceConfig, already valid against the service model."""
        output = given["OutputConfig"]
        notification = output.get("NotificationConfig", {})
        return cls(
            output_uri=output["S3OutputPath"],
            failure_uri=output.get("S3FailurePath"),
            success_topic=notification.get("SuccessTopic"),
            error_topic=notification.get("ErrorTopic"),
            include_response_in=frozenset(notification.get("IncludeInferenceResponseIn", ())),
            max_concurrent_invocations_per_instance=given.get("ClientConfig", {}).get(
                "MaxConcurrentInvocationsPerInstance"
            ),
        )

    @property
    def topics(self) -> frozenset[str]:
        return frozenset(topic for topic in (self.success_topic, self.error_topic) if topic)


@dataclass(frozen=True, slots=True)
class Deployment:
    """A generation of an endpoint: snapshots of its configuration and models, and how much of each is wanted.

    `config` is CreateEndpointConfig's input as it was at deployment.
    """

    generation: int
    config: Mapping[str, Any]
    variants: tuple[Variant, ...]
    started_at: float

    @property
    def config_name(self) -> str:
        name: str = self.config["EndpointConfigName"]
        return name

    @property
    def async_config(self) -> AsyncConfig | None:
        """None for an endpoint that answers at once (InvokeEndpoint)."""
        given = self.config.get("AsyncInferenceConfig")
        return None if given is None else AsyncConfig.from_given(given)

    def variant(self, name: str) -> Variant | None:
        return next((variant for variant in self.variants if variant.name == name), None)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint: the deployment that serves, and beside it the one that an update is building."""

    id: str
    account: str
    name: str
    arn: str
    status: str
    failure_reason: str | None
    live: Deployment
    target: Deployment | None
    async_config: AsyncConfig | None
    created_at: float
    modified_at: float

    @property
    def generation(self) -> int:
        return self.live.generation

    @property
    def config_name(self) -> str:
        return self.live.config_name

    @property
    def variants(self) -> tuple[Variant, ...]:
        return self.live.variants


def encode_deployment(deployment: Deployment) -> str:
    """The deployment as JSON text, for one column."""
    return json.dumps(
        {
            "generation": deployment.generation,
            "started_at": deployment.started_at,
            "config": deployment.config,
            "variants": [
                {
                    "model": variant.model,
                    "config": variant.config,
                    "desired_instance_count": variant.desired_instance_count,
                    "desired_weight": variant.desired_weight,
                    "current_weight": variant.current_weight,
                }
                for variant in deployment.variants
            ],
        },
        separators=(",", ":"),
    )


# Every accepted invocation reads its endpoint; a deployment changes seldom, and equal text is an equal value.
@lru_cache(maxsize=1024)
def decode_deployment(text: str) -> Deployment:
    """Read back what `encode_deployment` wrote. The result is shared: its mappings are not to be changed."""
    kept = json.loads(text)
    return Deployment(
        generation=kept["generation"],
        started_at=kept["started_at"],
        config=kept["config"],
        variants=tuple(
            Variant(
                name=variant["config"]["VariantName"],
                model=variant["model"],
                config=variant["config"],
                instance_type=variant["config"]["InstanceType"],
                desired_instance_count=variant["desired_instance_count"],
                desired_weight=variant["desired_weight"],
                current_weight=variant["current_weight"],
            )
            for variant in kept["variants"]
        ),
    )
