"""Models and endpoint configurations: what there is to be deployed."""

from typing import Any

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import next_page
from ebbtide.api.sagemaker.containers import check_model_data, container_of
from ebbtide.api.sagemaker.resources import get_config, get_model, listed, resource_arn
from ebbtide.endpoints import EndpointConfig, Model, catalogue
from ebbtide.endpoints.deployments import check_config


async def create_model(params: Params, call: Call) -> Result:
    """Name a container with its model. Nothing is loaded before an endpoint deploys it.

    Raises ServiceError when the name is taken, and for what cannot be served: several containers, several
    models in one container, a model package, model data that is not there. Source: CreateModel.
    """
    await check_model_data(container_of(params), call)
    model = Model(
        call.account,
        params["ModelName"],
        resource_arn(call, "model", params["ModelName"]),
        _given(params),
        created_at=call.now,
    )

    def create(connection: Connection) -> None:
        catalogue.create_model(connection, model)
        catalogue.add_tags(connection, model.arn, params.get("Tags", ()))

    await call.parts.database.write(create)
    return {"ModelArn": model.arn}


async def describe_model(params: Params, call: Call) -> Result:
    """What CreateModel was given. Source: DescribeModel."""
    model = await call.parts.database.read(
        lambda connection: get_model(connection, call, params["ModelName"])
    )
    return {**model.given, "ModelArn": model.arn, "CreationTime": model.created_at}


async def list_models(params: Params, call: Call) -> Result:
    """Source: ListModels."""
    models = await call.parts.database.read(lambda connection: catalogue.all_models(connection, call.account))
    page, token = listed(models, params)
    summaries = [
        {"ModelName": model.name, "ModelArn": model.arn, "CreationTime": model.created_at} for model in page
    ]
    return {"Models": summaries} | next_page(token)


async def delete_model(params: Params, call: Call) -> Result:
    """Forget a model; endpoints that run it go on. Source: DeleteModel."""
    await call.parts.database.write(
        lambda connection: catalogue.delete_model(
            connection, get_model(connection, call, params["ModelName"])
        )
    )
    return {}


async def create_endpoint_config(params: Params, call: Call) -> Result:
    """Say how models are to be deployed.

    Raises ServiceError when the name is taken, a model is missing, or the parts do not go together.
    Source: CreateEndpointConfig.
    """
    given = _given(params)
    check_config(given)
    config = EndpointConfig(
        call.account,
        params["EndpointConfigName"],
        resource_arn(call, "endpoint-config", params["EndpointConfigName"]),
        given,
        created_at=call.now,
    )

    def create(connection: Connection) -> None:
        for variant in given["ProductionVariants"]:
            get_model(connection, call, variant["ModelName"])
        catalogue.create_endpoint_config(connection, config)
        catalogue.add_tags(connection, config.arn, params.get("Tags", ()))

    await call.parts.database.write(create)
    return {"EndpointConfigArn": config.arn}


async def describe_endpoint_config(params: Params, call: Call) -> Result:
    """What CreateEndpointConfig was given. Source: DescribeEndpointConfig."""
    config = await call.parts.database.read(
        lambda connection: get_config(connection, call, params["EndpointConfigName"])
    )
    return {**config.given, "EndpointConfigArn": config.arn, "CreationTime": config.created_at}


async def list_endpoint_configs(params: Params, call: Call) -> Result:
    """Source: ListEndpointConfigs."""
    configs = await call.parts.database.read(
        lambda connection: catalogue.all_endpoint_configs(connection, call.account)
    )
    page, token = listed(configs, params)
    summaries = [
        {
            "EndpointConfigName": config.name,
            "EndpointConfigArn": config.arn,
            "CreationTime": config.created_at,
        }
        for config in page
    ]
    return {"EndpointConfigs": summaries} | next_page(token)


async def delete_endpoint_config(params: Params, call: Call) -> Result:
    """Forget a configuration, even one in use: SDKs delete it before the endpoint.
    Source: DeleteEndpointConfig.
    """

    def delete(connection: Connection) -> None:
        config = get_config(connection, call, params["EndpointConfigName"])
        catalogue.delete_endpoint_config(connection, config)

    await call.parts.database.write(delete)
    return {}


def _given(params: Params) -> dict[str, Any]:
    """What is kept of a create operation, to be echoed: clients refuse to read empty members back."""
    return {name: value for name, value in params.items() if name != "Tags" and value not in ({}, [])}
