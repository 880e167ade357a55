"""SageMaker, 2017-07-24: models, endpoint configurations, endpoints and their tags.

What is missing or in the wrong state is a ValidationException with AWS's own words around the ARN: this
service models no other error for it, and waiters, SDKs and terraform match on both.
"""

from ebbtide.api.sagemaker.catalogue import (
    create_endpoint_config,
    create_model,
    delete_endpoint_config,
    delete_model,
    describe_endpoint_config,
    describe_model,
    list_endpoint_configs,
    list_models,
)
from ebbtide.api.sagemaker.endpoints import (
    create_endpoint,
    delete_endpoint,
    describe_endpoint,
    list_endpoints,
    update_endpoint,
    update_endpoint_weights_and_capacities,
)
from ebbtide.api.sagemaker.tags import add_tags, delete_tags, list_tags

__all__ = [
    "add_tags",
    "create_endpoint",
    "create_endpoint_config",
    "create_model",
    "delete_endpoint",
    "delete_endpoint_config",
    "delete_model",
    "delete_tags",
    "describe_endpoint",
    "describe_endpoint_config",
    "describe_model",
    "list_endpoint_configs",
    "list_endpoints",
    "list_models",
    "list_tags",
    "update_endpoint",
    "update_endpoint_weights_and_capacities",
]
