"""S3's CORS: a bucket's rules, browsers' questions before a request, and what answers say to other sites."""

from collections.abc import Mapping

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.s3.access import owned_bucket
from ebbtide.database import Database
from ebbtide.errors import ServiceError
from ebbtide.objects import buckets, cors
from ebbtide.objects.errors import NoSuchConfiguration
from ebbtide.wire.request import Response


async def put_bucket_cors(params: Params, call: Call) -> Result:
    """Replace the bucket's rules. Raises NoSuchBucket, InvalidRequest. Source: PutBucketCors."""
    rules = params["CORSConfiguration"]["CORSRules"]
    cors.check(rules)

    def put(connection: Connection) -> None:
        buckets.set_cors(connection, owned_bucket(connection, params, call).name, rules)

    await call.parts.database.write(put)
    return {}


async def get_bucket_cors(params: Params, call: Call) -> Result:
    """The bucket's rules. Raises ServiceError where it has none."""
    bucket = await call.parts.database.read(lambda connection: owned_bucket(connection, params, call))
    if not bucket.cors:
        raise NoSuchConfiguration(
            "NoSuchCORSConfiguration", "The CORS configuration does not exist", bucket.name
        )
    return {"CORSRules": [dict(rule) for rule in bucket.cors]}


async def delete_bucket_cors(params: Params, call: Call) -> Result:
    """Take the bucket's rules away, if it has any. Raises NoSuchBucket."""

    def clear(connection: Connection) -> None:
        buckets.set_cors(connection, owned_bucket(connection, params, call).name, None)

    await call.parts.database.write(clear)
    return {}


async def preflight(headers: Mapping[str, str], bucket: str, key: str, database: Database) -> Response:
    """Answer a browser's question whether a page may send a request. It bears no signature.

    Raises ServiceError BadRequest, AccessForbidden.
    """
    origin, method = headers.get("origin"), headers.get("access-control-request-method")
    if origin is None:
        raise ServiceError("Insufficient information. Origin request header needed.", code="BadRequest")
    found = await database.read(lambda connection: buckets.find_bucket(connection, bucket))
    about = {"Method": method or "OPTIONS", "ResourceType": "OBJECT" if key else "BUCKET"}
    if found is None or not found.cors:
        # Of a bucket without rules, nobody is told whether there is one.
        raise _forbidden("CORS is not enabled for this bucket.", about | {"ResourceType": "BUCKET"})
    if method not in cors.METHODS:
        raise ServiceError(f"Invalid Access-Control-Request-Method: {method}", code="BadRequest")
    asked = [name.strip() for name in headers.get("access-control-request-headers", "").split(",")]
    allowed = cors.answer(found.cors, origin, method, [name for name in asked if name])
    if allowed is None:
        raise _forbidden(
            "This CORS request is not allowed: no rule of the bucket allows this origin to send this method "
            "with these headers.",
            about,
        )
    return Response(200, allowed)


def _forbidden(message: str, about: dict[str, str]) -> ServiceError:
    return ServiceError(f"CORSResponse: {message}", code="AccessForbidden", http_status=403, members=about)


async def answer_headers(
    headers: Mapping[str, str], method: str, bucket: str, database: Database
) -> dict[str, str]:
    """What the answer to a page of another site says besides; nothing where no rule allows it."""
    found = await database.read(lambda connection: buckets.find_bucket(connection, bucket))
    rules = () if found is None else found.cors or ()
    return cors.answer(rules, headers["origin"], method) or {}
