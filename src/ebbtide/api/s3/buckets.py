"""S3's operations on buckets."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.pages import page
from ebbtide.api.s3.access import (
    access_list,
    owned_bucket,
    owner,
    refuse_access_list,
    refuse_unsupported,
)
from ebbtide.api.s3.outside import outside_bucket
from ebbtide.api.s3.uploading import checked_tags
from ebbtide.errors import ServiceError
from ebbtide.objects import buckets, lifecycle, records, uploads
from ebbtide.objects.buckets import Bucket
from ebbtide.objects.errors import (
    BucketAlreadyExists,
    BucketAlreadyOwnedByYou,
    BucketNotEmpty,
    NoSuchConfiguration,
    NotOffered,
)

Operation = Callable[[Params, Call], Awaitable[Result]]

CLASSIC_REGION = "us-east-1"
"""Where creating one's own bucket again succeeds, and whose location is null."""

LIST_LIMIT = 10_000
MOST_TAGS = 50

_PUBLIC_ACCESS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")

_NAME = re.compile(r"^(?!\d+\.\d+\.\d+\.\d+$)(?!xn--|sthree-|amzn-s3-demo-)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
_RESERVED_ENDINGS = ("-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3")


async def create_bucket(params: Params, call: Call) -> Result:
    """Create a bucket in the region of LocationConstraint, else in the one the request is signed for.

    Raises InvalidBucketName, BucketAlreadyExists, BucketAlreadyOwnedByYou. Source: CreateBucket; bucket
    naming rules, S3 user guide.
    """
    name = params["Bucket"]
    if not _NAME.match(name) or ".." in name or name.endswith(_RESERVED_ENDINGS):
        raise ServiceError(
            "The specified bucket is not valid.", code="InvalidBucketName", members={"BucketName": name}
        )
    refuse_unsupported(params)
    if call.parts.objects.outside(name):
        raise BucketAlreadyExists(name)
    configuration = params.get("CreateBucketConfiguration", {})
    constraint = configuration.get("LocationConstraint")
    region = "eu-west-1" if constraint == "EU" else constraint or call.region
    tags = _checked_tags(configuration.get("Tags", [])) or None
    bucket = Bucket(name, call.account, region, call.now, tags=tags)
    try:
        await call.parts.database.write(lambda connection: buckets.create_bucket(connection, bucket))
    except BucketAlreadyOwnedByYou:
        if call.region != CLASSIC_REGION:
            raise
    return {"Location": f"/{name}"}


async def head_bucket(params: Params, call: Call) -> Result:
    """Say that the bucket is there and the caller's. Raises NoSuchBucket, AccessDenied."""
    if outside := outside_bucket(params, call):
        return {"BucketRegion": outside.bucket.region or call.region, "AccessPointAlias": False}
    bucket = await _owned(params, call)
    return {"BucketRegion": bucket.region, "AccessPointAlias": False}


async def list_buckets(params: Params, call: Call) -> Result:
    """The caller's buckets by name. Raises InvalidArgument for a token that no page gave."""
    found = await call.parts.database.read(lambda connection: buckets.all_buckets(connection, call.account))
    prefix, region = params.get("Prefix", ""), params.get("BucketRegion")
    chosen = [b for b in found if b.name.startswith(prefix) and region in (None, b.region)]
    listed, token = page(
        chosen,
        lambda bucket: (bucket.name,),
        limit=params.get("MaxBuckets", LIST_LIMIT),
        token=params.get("ContinuationToken"),
        error_code="InvalidArgument",
    )
    return {
        "Buckets": [
            {"Name": bucket.name, "CreationDate": bucket.created_at, "BucketRegion": bucket.region}
            for bucket in listed
        ],
        "Owner": owner(call.account),
        "ContinuationToken": token,
        "Prefix": params.get("Prefix"),
    }


async def delete_bucket(params: Params, call: Call) -> Result:
    """Delete an empty bucket, with the uploads begun in it. Raises NoSuchBucket, BucketNotEmpty."""
    refuse_unsupported(params)
    name = params["Bucket"]

    def work(connection: Connection) -> None:
        owned_bucket(connection, params, call)
        if records.scan_objects(connection, name, "", limit=1):
            raise BucketNotEmpty(name)
        for upload in uploads.open_uploads(connection, name):
            uploads.abort(connection, upload, at=call.now)
        lifecycle.set_rules(connection, name, [])
        buckets.remove_bucket(connection, name)

    await call.parts.database.write(work)
    return {}


async def get_bucket_location(params: Params, call: Call) -> Result:
    """The bucket's region; null stands for us-east-1."""
    bucket = await _owned(params, call)
    return {} if bucket.region == CLASSIC_REGION else {"LocationConstraint": bucket.region}


async def get_bucket_acl(params: Params, call: Call) -> Result:
    """The owner's full control."""
    await _owned(params, call)
    return access_list(call.account)


async def put_bucket_acl(params: Params, call: Call) -> Result:
    """Accept the access list that every bucket has. Raises NotImplemented for another."""
    refuse_access_list(params)
    await _owned(params, call)
    return {}


async def put_bucket_versioning(params: Params, call: Call) -> Result:
    """Accept that there are no versions. Raises NotImplemented where there are to be some."""
    await _owned(params, call)
    given = params["VersioningConfiguration"]
    if given.get("Status") == "Enabled" or given.get("MFADelete") == "Enabled":
        raise NotOffered(
            "Versioning is not implemented: this store keeps the newest version of each object only.",
        )
    return {}


async def put_bucket_ownership_controls(params: Params, call: Call) -> Result:
    """Accept that the owner of a bucket owns what is in it. Raises NotImplemented for another rule."""
    for rule in params["OwnershipControls"]["Rules"]:
        refuse_unsupported(rule)
    await _owned(params, call)
    return {}


async def put_bucket_tagging(params: Params, call: Call) -> Result:
    """Give the bucket these tags in place of its old ones. Raises NoSuchBucket, InvalidTag, BadRequest."""
    tags = _checked_tags(params["Tagging"]["TagSet"])
    await _set_tags(params, call, tags)
    return {}


async def get_bucket_tagging(params: Params, call: Call) -> Result:
    """The bucket's tags. Raises ServiceError NoSuchTagSet where it has none."""
    bucket = await _owned(params, call)
    if not bucket.tags:
        raise NoSuchConfiguration("NoSuchTagSet", "The TagSet does not exist", bucket.name)
    return {"TagSet": [{"Key": key, "Value": value} for key, value in bucket.tags.items()]}


async def delete_bucket_tagging(params: Params, call: Call) -> Result:
    """Take the bucket's tags away, if it has any. Raises NoSuchBucket."""
    await _set_tags(params, call, None)
    return {}


async def put_public_access_block(params: Params, call: Call) -> Result:
    """Keep which public access is blocked, for whoever asks: none is ever given. Raises NoSuchBucket."""
    given = params["PublicAccessBlockConfiguration"]
    await _set_public_access_block(params, call, {name: given.get(name, False) for name in _PUBLIC_ACCESS})
    return {}


async def get_public_access_block(params: Params, call: Call) -> Result:
    """What was put. Raises NoSuchBucket, ServiceError where nothing was."""
    bucket = await _owned(params, call)
    if bucket.public_access_block is None:
        raise NoSuchConfiguration(
            "NoSuchPublicAccessBlockConfiguration",
            "The public access block configuration was not found",
            bucket.name,
        )
    return {"PublicAccessBlockConfiguration": dict(bucket.public_access_block)}


async def delete_public_access_block(params: Params, call: Call) -> Result:
    """Forget what was put, if anything was. Raises NoSuchBucket."""
    await _set_public_access_block(params, call, None)
    return {}


async def _set_public_access_block(params: Params, call: Call, block: dict[str, bool] | None) -> None:
    def work(connection: Connection) -> None:
        buckets.set_public_access_block(connection, owned_bucket(connection, params, call).name, block)

    await call.parts.database.write(work)


async def _set_tags(params: Params, call: Call, tags: dict[str, str] | None) -> None:
    def work(connection: Connection) -> None:
        buckets.set_tags(connection, owned_bucket(connection, params, call).name, tags)

    await call.parts.database.write(work)


def _checked_tags(given: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return checked_tags([(tag["Key"], tag["Value"]) for tag in given], most=MOST_TAGS, whose="Bucket")


async def _owned(params: Params, call: Call) -> Bucket:
    return await call.parts.database.read(lambda connection: owned_bucket(connection, params, call))


def _always(answer: dict[str, Any]) -> Operation:
    """A configuration that no bucket here can have, where S3 answers so."""

    async def operation(params: Params, call: Call) -> Result:
        await _owned(params, call)
        return answer

    return operation


def _never(code: str, message: str) -> Operation:
    """A configuration that no bucket here can have, where S3 answers that it is not there."""

    async def operation(params: Params, call: Call) -> Result:
        await _owned(params, call)
        raise NoSuchConfiguration(code, message, params["Bucket"])

    return operation


get_bucket_accelerate_configuration = _always({})
get_bucket_logging = _always({})
get_bucket_ownership_controls = _always(
    {"OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}}
)
get_bucket_request_payment = _always({"Payer": "BucketOwner"})
get_bucket_versioning = _always({})

delete_bucket_encryption = _always({})
delete_bucket_policy = _always({})
delete_bucket_replication = _always({})
delete_bucket_website = _always({})

get_bucket_encryption = _never(
    "ServerSideEncryptionConfigurationNotFoundError",
    "The server side encryption configuration was not found",
)
get_bucket_policy = _never("NoSuchBucketPolicy", "The bucket policy does not exist")
get_bucket_replication = _never(
    "ReplicationConfigurationNotFoundError", "The replication configuration was not found"
)
get_bucket_website = _never(
    "NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration"
)
get_object_lock_configuration = _never(
    "ObjectLockConfigurationNotFoundError", "Object Lock configuration does not exist for this bucket"
)
