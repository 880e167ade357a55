"""Models, endpoint configurations and endpoints: records and their states.

CreateEndpoint snapshots a configuration and its models into a deployment, generation 1; UpdateEndpoint
builds the next generation beside it. What instances should run is read from here, what became of them is
reported back. `states` has the life of an endpoint, `deployments` the rules, `life` and `catalogue` the SQL.
"""

from ebbtide.endpoints.life import (
    EndpointBusy,
    EndpointNotFound,
    all_endpoints,
    begin_delete,
    create_endpoint,
    fail,
    find_endpoint,
    get_endpoint,
    remove,
    rescale,
    set_desired_instance_counts,
    settle,
    update_endpoint,
)
from ebbtide.endpoints.records import AsyncConfig, Deployment, Endpoint, EndpointConfig, Model, Variant

__all__ = [
    "AsyncConfig",
    "Deployment",
    "Endpoint",
    "EndpointBusy",
    "EndpointConfig",
    "EndpointNotFound",
    "Model",
    "Variant",
    "all_endpoints",
    "begin_delete",
    "create_endpoint",
    "fail",
    "find_endpoint",
    "get_endpoint",
    "remove",
    "rescale",
    "set_desired_instance_counts",
    "settle",
    "update_endpoint",
]
