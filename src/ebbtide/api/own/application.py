"""The routes of our own API put together, and the form of their failures."""

import logging
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from ebbtide import __version__
from ebbtide.api.call import Parts
from ebbtide.api.own import (
    costs,
    deliveries,
    endpoints,
    events,
    invocations,
    keys,
    scaling,
    steering,
    upload_rules,
)
from ebbtide.errors import ServiceError

logger = logging.getLogger(__name__)

DESCRIPTION = """\
What the AWS APIs lack: see and steer invocations, keys and accounts.

Requests are signed with AWS Signature Version 4 for any of the service names `ebbtide`, `sagemaker` and
`execute-api`, in the Authorization header or presigned in the query string. Times are RFC 3339 in UTC,
durations in seconds.
"""

CODES = {404: "NotFound", 405: "MethodNotAllowed"}

SIGNATURE = APIKeyHeader(
    name="Authorization",
    scheme_name="SigV4",
    description="AWS Signature Version 4, in this header or presigned in the query string.",
    auto_error=False,
)


class Failure(BaseModel):
    """Why a request was not carried out."""

    code: str = Field(description="A word for programs.", examples=["ValidationError"])
    message: str = Field(description="The fact, for people.")


def create(parts: Parts) -> FastAPI:
    """The ASGI application. Each request's scope holds its `caller` in `state`: `mount` has checked it."""
    application = FastAPI(
        title="ebbtide",
        version=__version__,
        description=DESCRIPTION,
        openapi_url="/_ebbtide/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        exception_handlers={
            ServiceError: _service_error,
            RequestValidationError: _invalid,
            HTTPException: _http_error,
            Exception: _defect,
        },
        responses={
            400: {"model": Failure, "description": "A parameter is wrong; the message names it."},
            403: {"model": Failure, "description": "The signature proves no identity, or not one that may."},
            404: {
                "model": Failure,
                "description": "There is nothing of that name, or it is another account's.",
            },
            "default": {"model": Failure, "description": "Any other failure."},
        },
    )
    application.state.parts = parts
    api = APIRouter(prefix="/_ebbtide", dependencies=[Security(SIGNATURE)])
    for module in (invocations, steering, endpoints, scaling, costs, events, deliveries, upload_rules, keys):
        api.include_router(module.router)
    application.include_router(api)
    return application


async def _service_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return _answer(error.http_status, error.code, error.message)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(400, "ValidationError", "; ".join(_told(each) for each in error.errors()))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        # Starlette names the methods of the first route that has the path, not of all.
        error.headers = {"Allow": ", ".join(_methods(request))}
    code = CODES.get(error.status_code, "ValidationError")
    message = "There is no such page." if error.status_code == 404 else error.detail
    return _answer(error.status_code, code, message, error.headers)


def _methods(request: Request) -> list[str]:
    """What may be done at the request's path."""
    paths = request.app.openapi()["paths"]
    here = [paths[path] for path in paths if compile_path(path)[0].match(request.scope["path"])]
    return sorted({method.upper() for operations in here for method in operations})


async def _defect(request: Request, error: Exception) -> Response:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(500, "InternalFailure", "We encountered an internal error. Please try again.")


def _answer(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"code": code, "message": message}, status, headers)


def _told(error: Mapping[str, Any]) -> str:
    """One of pydantic's findings, with the field by the name its sender knows."""
    if error["type"] == "json_invalid":
        return "The body is not valid JSON."
    # The first step of a location is where the field was: in the query, the path or the body.
    steps = [str(step) for step in error["loc"][1:]]
    return f"{'.'.join(steps) or error['loc'][0]}: {error['msg'].removeprefix('Value error, ')}"
