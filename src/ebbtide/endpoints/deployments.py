"""What a deployment is made of: rules of configurations, and the snapshot taken from one. No I/O."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ebbtide.endpoints.records import Deployment, Variant
from ebbtide.errors import ServiceError
from ebbtide.identifiers import parse_location

NOT_WITH_ASYNC = ("ShadowProductionVariants", "ExplainerConfig", "CrossRegionTrafficConfig")

MAX_INSTANCE_COUNT = 1_000
"""Most instances a variant may ask for: a slip of the keyboard is not to fill the table of instances."""


def check_config(given: Mapping[str, Any]) -> None:
    """Refuse a configuration that no deployment could follow. Raises ServiceError (ValidationException).

    given: CreateEndpointConfig's input, already valid against the service model.
    Source: CreateEndpointConfig; SageMaker Developer Guide, async-inference.
    """
    variants = given["ProductionVariants"]
    names = [variant["VariantName"] for variant in variants]
    if len(set(names)) < len(names):
        raise ServiceError(f"Production variant names must be unique within the configuration: {names}")
    asynchronous = "AsyncInferenceConfig" in given
    if asynchronous:
        _check_async_config(given)
    for variant in variants:
        _check_variant(variant, asynchronous)


def _check_async_config(given: Mapping[str, Any]) -> None:
    refused = [name for name in NOT_WITH_ASYNC if given.get(name)]
    refused += [
        "ServerlessConfig" for variant in given["ProductionVariants"] if "ServerlessConfig" in variant
    ]
    if refused:
        raise ServiceError(
            "One or more endpoint features are not supported using this configuration: "
            f"{', '.join(refused)} with AsyncInferenceConfig"
        )
    output = given["AsyncInferenceConfig"]["OutputConfig"]
    if "S3OutputPath" not in output:
        raise ServiceError("AsyncInferenceConfig.OutputConfig.S3OutputPath is required: outputs need a place")
    for member in ("S3OutputPath", "S3FailurePath"):
        if member in output:
            try:
                parse_location(output[member])
            except ValueError as error:
                raise ServiceError(f"AsyncInferenceConfig.OutputConfig.{member}: {error}") from error


def _check_variant(variant: Mapping[str, Any], asynchronous: bool) -> None:
    name = variant["VariantName"]
    if "ServerlessConfig" in variant:
        raise ServiceError(f"Production variant {name}: serverless inference is not supported")
    if "ModelName" not in variant:
        raise ServiceError(
            f"Production variant {name}: ModelName is required; inference components are not supported"
        )
    if "InstanceType" not in variant:
        raise ServiceError(f"Production variant {name}: InstanceType is required")
    if variant.get("InitialInstanceCount", 0) > MAX_INSTANCE_COUNT:
        raise ServiceError(
            f"Production variant {name}: InitialInstanceCount must be at most {MAX_INSTANCE_COUNT}"
        )
    managed = variant.get("ManagedInstanceScaling", {})
    if managed.get("MinInstanceCount", 0) > managed.get("MaxInstanceCount", MAX_INSTANCE_COUNT):
        raise ServiceError(
            f"Production variant {name}: MinInstanceCount of ManagedInstanceScaling must not be above its "
            "MaxInstanceCount"
        )
    if not asynchronous and not variant.get("InitialInstanceCount"):
        raise ServiceError(
            f"Production variant {name}: InitialInstanceCount must be at least 1 without AsyncInferenceConfig"
        )


def deploy(
    generation: int,
    config: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    *,
    at: float,
) -> Deployment:
    """Snapshot a configuration that passed `check_config`.

    models: model name -> CreateModel's input, with each model that the configuration names.
    An absent InitialInstanceCount of an asynchronous variant means 0: botocore refuses to send a 0, and an
    endpoint that starts at zero instances is what we are for.
    """
    variants = tuple(
        Variant(
            name=variant["VariantName"],
            model=models[variant["ModelName"]],
            config=variant,
            instance_type=variant["InstanceType"],
            desired_instance_count=variant.get("InitialInstanceCount", 0),
            desired_weight=variant.get("InitialVariantWeight", 1.0),
            current_weight=variant.get("InitialVariantWeight", 1.0),
        )
        for variant in config["ProductionVariants"]
    )
    return Deployment(generation, config, variants, started_at=at)


def retain(new: Deployment, old: Deployment, excluded: Collection[str]) -> Deployment:
    """Give the new deployment's variants the live counts and weights of the old one's of the same name.

    excluded: the VariantPropertyTypes that follow the new configuration all the same.
    Source: UpdateEndpoint, RetainAllVariantProperties and ExcludeRetainedVariantProperties.
    """
    variants = []
    for variant in new.variants:
        if (former := old.variant(variant.name)) is not None:
            if "DesiredInstanceCount" not in excluded:
                variant = replace(variant, desired_instance_count=former.desired_instance_count)
            if "DesiredWeight" not in excluded:
                variant = replace(
                    variant, desired_weight=former.desired_weight, current_weight=former.current_weight
                )
        variants.append(variant)
    return replace(new, variants=tuple(variants))


def rescale(
    deployment: Deployment, counts: Mapping[str, int], weights: Mapping[str, float] | None = None
) -> Deployment:
    """The deployment with other instance counts and weights, by variant name; the rest stays."""
    weights = weights or {}
    return replace(
        deployment,
        variants=tuple(
            replace(
                variant,
                desired_instance_count=counts.get(variant.name, variant.desired_instance_count),
                desired_weight=weights.get(variant.name, variant.desired_weight),
            )
            for variant in deployment.variants
        ),
    )


def settled(deployment: Deployment) -> Deployment:
    """The deployment once its instances are there: its weights are in effect."""
    return replace(
        deployment,
        variants=tuple(
            replace(variant, current_weight=variant.desired_weight) for variant in deployment.variants
        ),
    )
