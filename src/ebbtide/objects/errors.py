"""S3's own failures: its codes, statuses and words."""

from ebbtide.errors import ServiceError


class NotOffered(ServiceError):
    """What S3 has and this store has not."""

    code = "NotImplemented"
    http_status = 501


class NoSuchConfiguration(ServiceError):
    """The bucket has no configuration of that kind, which has a code of its own."""

    http_status = 404

    def __init__(self, code: str, message: str, bucket: str) -> None:
        super().__init__(message, code=code, members={"BucketName": bucket})


class NoSuchBucket(ServiceError):
    code = "NoSuchBucket"
    http_status = 404

    def __init__(self, bucket: str) -> None:
        super().__init__("The specified bucket does not exist", members={"BucketName": bucket})


class NoSuchKey(ServiceError):
    code = "NoSuchKey"
    http_status = 404

    def __init__(self, key: str) -> None:
        super().__init__("The specified key does not exist.", members={"Key": key})


class NoSuchUpload(ServiceError):
    """No multipart upload of that id is open for that key: it was completed, aborted or never begun."""

    code = "NoSuchUpload"
    http_status = 404

    def __init__(self, upload_id: str) -> None:
        super().__init__(
            "The specified upload does not exist. The upload ID may be invalid, or the upload may have been "
            "aborted or completed.",
            members={"UploadId": upload_id},
        )


class BucketAlreadyOwnedByYou(ServiceError):
    code = "BucketAlreadyOwnedByYou"
    http_status = 409

    def __init__(self, bucket: str) -> None:
        super().__init__(
            "Your previous request to create the named bucket succeeded and you already own it.",
            members={"BucketName": bucket},
        )


class BucketAlreadyExists(ServiceError):
    """Another account has a bucket of that name."""

    code = "BucketAlreadyExists"
    http_status = 409

    def __init__(self, bucket: str) -> None:
        super().__init__(
            "The requested bucket name is not available. The bucket namespace is shared by all users of the "
            "system. Please select a different name and try again.",
            members={"BucketName": bucket},
        )


class BucketNotEmpty(ServiceError):
    code = "BucketNotEmpty"
    http_status = 409

    def __init__(self, bucket: str) -> None:
        super().__init__("The bucket you tried to delete is not empty", members={"BucketName": bucket})


class AccessDenied(ServiceError):
    """The bucket is another account's, not the account's that the caller expected, or closed to us."""

    code = "AccessDenied"
    http_status = 403

    def __init__(self, message: str = "Access Denied") -> None:
        super().__init__(message)


class PreconditionFailed(ServiceError):
    """A condition of the request does not hold. `condition` is the header that stated it."""

    code = "PreconditionFailed"
    http_status = 412

    def __init__(self, condition: str) -> None:
        super().__init__(
            "At least one of the pre-conditions you specified did not hold", members={"Condition": condition}
        )


class ContentLost(ServiceError):
    """An object's record is there and its bytes are not: its file was deleted behind our back, or damaged."""

    code = "InternalError"
    http_status = 500

    def __init__(self, cause: str) -> None:
        super().__init__(f"The bytes of the object are lost: {cause}.")


class InvalidRange(ServiceError):
    """No byte of the object lies in the range asked for."""

    code = "InvalidRange"
    http_status = 416

    def __init__(self, asked: str, size_bytes: int) -> None:
        super().__init__(
            "The requested range is not satisfiable",
            members={"RangeRequested": asked, "ActualObjectSize": str(size_bytes)},
        )


class BadDigest(ServiceError):
    """The bytes that arrived are not those the client computed its checksum of. `stated` names the header."""

    code = "BadDigest"

    def __init__(self, stated: str) -> None:
        super().__init__(
            f"The {stated} you specified did not match what we received."
            if stated == "Content-MD5"
            else f"The {stated} you specified did not match the calculated checksum."
        )


class InvalidRequest(ServiceError):
    code = "InvalidRequest"


class InvalidArgument(ServiceError):
    """A parameter whose value S3 refuses; `name` as the request has it."""

    code = "InvalidArgument"

    def __init__(self, message: str, name: str, value: str) -> None:
        super().__init__(message, members={"ArgumentName": name, "ArgumentValue": value})
