"""Who may use a bucket, and which wishes of a request are refused."""

import hashlib

from sqlalchemy import Connection

from ebbtide.api.call import Call, Params, Result
from ebbtide.api.s3.outside import refuse_outside
from ebbtide.objects.buckets import Bucket, get_bucket
from ebbtide.objects.errors import InvalidArgument, NotOffered
from ebbtide.objects.events import Cause

_ONLY: dict[str, tuple[object, ...]] = {
    "ACL": ("private", "bucket-owner-full-control"),
    "BucketKeyEnabled": (False,),
    "BucketNamespace": ("global",),
    "CopySourceSSECustomerAlgorithm": (),
    "GrantFullControl": (),
    "GrantRead": (),
    "GrantReadACP": (),
    "GrantWrite": (),
    "GrantWriteACP": (),
    "IfMatchLastModifiedTime": (),
    "IfMatchSize": (),
    "LastModifiedTime": (),
    "ObjectLockEnabledForBucket": (False,),
    "ObjectLockEventHold": (),
    "ObjectLockLegalHoldStatus": ("OFF",),
    "ObjectLockMode": (),
    "ObjectOwnership": ("BucketOwnerEnforced",),
    "SSECustomerAlgorithm": (),
    "SSEKMSKeyId": (),
    "ServerSideEncryption": (),
    "Size": (),
    "StorageClass": ("STANDARD",),
    "WebsiteRedirectLocation": (),
    "WriteOffsetBytes": (),
}
"""Parameters of which only these values are what the store does anyway."""


def owned_bucket(connection: Connection, params: Params, call: Call) -> Bucket:
    """The bucket that the request names. Raises NoSuchBucket, AccessDenied, NotImplemented if outside."""
    refuse_outside(params["Bucket"], call)
    return get_bucket(connection, params["Bucket"], call.account, params.get("ExpectedBucketOwner"))


def cause(call: Call, action: str) -> Cause:
    """By which request something happens to an object."""
    return Cause(action, f"AWS:{call.access_key_id}", call.request_id, call.source_ip)


def tell_followers(bucket: Bucket, call: Call) -> None:
    """Let those who watch the bucket know soon that something happened in it; after the commit."""
    if bucket.watches:
        call.parts.followers.wake()


def refuse_unsupported(params: Params) -> None:
    """Raises NotImplemented for what the store does not do, InvalidArgument for a version of an object:
    buckets have no versioning, so the only one is `null`.
    """
    for name, allowed in _ONLY.items():
        if name in params and params[name] not in allowed:
            raise NotOffered(
                f"A parameter you provided implies functionality that is not implemented: {name} "
                f"{params[name]!r}.",
                members={"Parameter": name},
            )
    if params.get("VersionId", "null") != "null":
        raise InvalidArgument("Invalid version id specified", "versionId", params["VersionId"])


def refuse_access_list(params: Params) -> None:
    """Raises NotImplemented for any access list but that the owner may do all."""
    if "AccessControlPolicy" in params:
        raise NotOffered(
            "Access lists are not implemented: the owner of a bucket may do all, nobody else anything.",
        )
    refuse_unsupported(params)


def owner(account: str) -> Result:
    """The account as S3 shows it: by its canonical user id."""
    return {"ID": hashlib.sha256(account.encode()).hexdigest(), "DisplayName": account}


def access_list(account: str) -> Result:
    """The access list that everything has: the owner may do all, nobody else anything."""
    grantee = owner(account) | {"Type": "CanonicalUser"}
    return {"Owner": owner(account), "Grants": [{"Grantee": grantee, "Permission": "FULL_CONTROL"}]}
