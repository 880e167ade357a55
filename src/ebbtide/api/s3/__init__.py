"""S3, 2006-03-01: buckets and objects of the embedded store.

A request's bucket must be the caller's; its body streams into the store while it is hashed. What S3 can be
told that this store does not do (encryption, other storage classes, locks, access lists) is refused, not
ignored: a client that asked for it would believe that it has it.
"""

from ebbtide.api.s3.buckets import (
    create_bucket,
    delete_bucket,
    get_bucket_accelerate_configuration,
    get_bucket_acl,
    get_bucket_cors,
    get_bucket_encryption,
    get_bucket_location,
    get_bucket_logging,
    get_bucket_ownership_controls,
    get_bucket_policy,
    get_bucket_replication,
    get_bucket_request_payment,
    get_bucket_tagging,
    get_bucket_versioning,
    get_bucket_website,
    get_object_lock_configuration,
    get_public_access_block,
    head_bucket,
    list_buckets,
)
from ebbtide.api.s3.lifecycle import (
    delete_bucket_lifecycle,
    get_bucket_lifecycle_configuration,
    put_bucket_lifecycle_configuration,
)
from ebbtide.api.s3.listing import (
    list_multipart_uploads,
    list_object_versions,
    list_objects,
    list_objects_v2,
    list_parts,
)
from ebbtide.api.s3.multipart import (
    abort_multipart_upload,
    complete_multipart_upload,
    create_multipart_upload,
    upload_part,
    upload_part_copy,
)
from ebbtide.api.s3.notification import (
    get_bucket_notification_configuration,
    put_bucket_notification_configuration,
)
from ebbtide.api.s3.objects import (
    copy_object,
    delete_object,
    delete_object_tagging,
    delete_objects,
    get_object,
    get_object_acl,
    get_object_attributes,
    get_object_tagging,
    head_object,
    put_object,
    put_object_tagging,
)

__all__ = [
    "abort_multipart_upload",
    "complete_multipart_upload",
    "copy_object",
    "create_bucket",
    "create_multipart_upload",
    "delete_bucket",
    "delete_bucket_lifecycle",
    "delete_object",
    "delete_object_tagging",
    "delete_objects",
    "get_bucket_accelerate_configuration",
    "get_bucket_acl",
    "get_bucket_cors",
    "get_bucket_encryption",
    "get_bucket_lifecycle_configuration",
    "get_bucket_location",
    "get_bucket_logging",
    "get_bucket_notification_configuration",
    "get_bucket_ownership_controls",
    "get_bucket_policy",
    "get_bucket_replication",
    "get_bucket_request_payment",
    "get_bucket_tagging",
    "get_bucket_versioning",
    "get_bucket_website",
    "get_object",
    "get_object_acl",
    "get_object_attributes",
    "get_object_lock_configuration",
    "get_object_tagging",
    "get_public_access_block",
    "head_bucket",
    "head_object",
    "list_buckets",
    "list_multipart_uploads",
    "list_object_versions",
    "list_objects",
    "list_objects_v2",
    "list_parts",
    "put_bucket_lifecycle_configuration",
    "put_bucket_notification_configuration",
    "put_object",
    "put_object_tagging",
    "upload_part",
    "upload_part_copy",
]
