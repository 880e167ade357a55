"""S3's multipart uploads, as boto3 sees them."""

import base64
import hashlib
import zlib

import pytest
from botocore.exceptions import ClientError

MIB = 1024 * 1024


@pytest.fixture
def begin(s3, bucket):
    """Begin an upload of the key `k`; gives the parameters that its operations take."""

    def begin(**wishes):
        answer = s3.create_multipart_upload(Bucket=bucket, Key="k", **wishes)
        return {"Bucket": bucket, "Key": "k", "UploadId": answer["UploadId"]}

    return begin


def code(failure) -> str:
    return failure.value.response["Error"]["Code"]


def put_parts(s3, upload, *bodies, **wishes):
    """Upload the bodies as parts 1, 2, ...; gives the list that completes the upload."""
    listed = []
    for number, body in enumerate(bodies, start=1):
        answer = s3.upload_part(**upload, PartNumber=number, Body=body, **wishes)
        sums = {name: value for name, value in answer.items() if name.startswith("Checksum")}
        listed.append({"PartNumber": number, "ETag": answer["ETag"], **sums})
    return {"Parts": listed}


def test_the_parts_become_one_object(s3, bucket, begin):
    upload = begin(ContentType="text/plain", Metadata={"a": "1"})
    parts = put_parts(s3, upload, b"1" * 5 * MIB, b"2" * 5 * MIB, b"3")

    done = s3.complete_multipart_upload(**upload, MultipartUpload=parts)

    found = s3.get_object(Bucket=bucket, Key="k")
    digests = [hashlib.md5(body).digest() for body in (b"1" * 5 * MIB, b"2" * 5 * MIB, b"3")]
    assert done["ETag"] == found["ETag"] == f'"{hashlib.md5(b"".join(digests)).hexdigest()}-3"'
    assert found["Body"].read() == b"1" * 5 * MIB + b"2" * 5 * MIB + b"3"
    assert (found["ContentType"], found["Metadata"]) == ("text/plain", {"a": "1"})


def test_a_range_may_span_parts_and_a_part_may_be_read_alone(s3, bucket, begin):
    upload = begin()
    parts = put_parts(s3, upload, b"1" * 5 * MIB, b"2" * 5 * MIB, b"345")
    s3.complete_multipart_upload(**upload, MultipartUpload=parts)

    across = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={5 * MIB - 2}-{10 * MIB + 1}")
    last = s3.get_object(Bucket=bucket, Key="k", PartNumber=3)

    assert across["Body"].read() == b"11" + b"2" * 5 * MIB + b"34"
    assert (last["Body"].read(), last["PartsCount"]) == (b"345", 3)
    assert last["ContentRange"] == f"bytes {10 * MIB}-{10 * MIB + 2}/{10 * MIB + 3}"


def test_the_object_is_there_only_when_the_upload_is_complete(s3, bucket, begin):
    upload = begin()
    parts = put_parts(s3, upload, b"text")

    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket=bucket, Key="k")
    s3.complete_multipart_upload(**upload, MultipartUpload=parts)

    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"text"
    with pytest.raises(s3.exceptions.NoSuchUpload):
        s3.upload_part(**upload, PartNumber=2, Body=b"late")


def test_completing_again_answers_the_same(s3, begin):
    upload = begin()
    parts = put_parts(s3, upload, b"text")

    first = s3.complete_multipart_upload(**upload, MultipartUpload=parts)
    again = s3.complete_multipart_upload(**upload, MultipartUpload=parts)

    assert again["ETag"] == first["ETag"]


def test_a_part_sent_again_replaces_the_first(s3, bucket, begin):
    upload = begin()
    put_parts(s3, upload, b"first", b"unlisted")
    parts = put_parts(s3, upload, b"second")

    s3.complete_multipart_upload(**upload, MultipartUpload=parts)

    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"second"


def test_lists_that_do_not_fit_the_parts_are_refused_and_the_upload_goes_on(s3, begin):
    upload = begin()
    parts = put_parts(s3, upload, b"1", b"2")["Parts"]

    def complete(listed):
        with pytest.raises(ClientError) as failure:
            s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": listed})
        return code(failure)

    assert complete(parts) == "EntityTooSmall"
    assert complete(parts[::-1]) == "InvalidPartOrder"
    assert complete([{"PartNumber": 9, "ETag": '"x"'}]) == "InvalidPart"
    assert complete([parts[0] | {"ETag": '"other"'}]) == "InvalidPart"
    assert complete([]) == "MalformedXML"
    assert s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts[:1]})


def test_an_aborted_upload_is_gone(s3, bucket, begin):
    upload = begin()
    put_parts(s3, upload, b"x" * 100_000)

    s3.abort_multipart_upload(**upload)

    with pytest.raises(s3.exceptions.NoSuchUpload):
        s3.list_parts(**upload)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("number", [0, 10_001])
def test_part_numbers_are_1_to_10000(s3, begin, number):
    with pytest.raises(ClientError) as failure:
        s3.upload_part(**begin(), PartNumber=number, Body=b"x")

    assert code(failure) == "InvalidArgument"


def test_parts_and_uploads_are_listed_in_pages(s3, bucket, begin):
    first, second = begin(), begin()
    put_parts(s3, first, b"1", b"22", b"333")
    s3.create_multipart_upload(Bucket=bucket, Key="folder/x")

    parts = s3.get_paginator("list_parts").paginate(**first, PaginationConfig={"PageSize": 2})
    paged = list(
        s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, PaginationConfig={"PageSize": 1})
    )
    rolled = s3.list_multipart_uploads(Bucket=bucket, Delimiter="/")

    assert [[part["Size"] for part in page["Parts"]] for page in parts] == [[1, 2], [3]]
    listed = [item for page in paged for item in page["Uploads"]]
    assert [item["Key"] for item in listed] == ["folder/x", "k", "k"]
    assert [item["UploadId"] for item in listed[1:]] == [first["UploadId"], second["UploadId"]]
    assert rolled["CommonPrefixes"] == [{"Prefix": "folder/"}]
    assert len(rolled["Uploads"]) == 2


def test_a_checksum_of_the_parts_is_composite_by_default(s3, bucket, begin):
    upload = begin(ChecksumAlgorithm="SHA256")
    parts = put_parts(s3, upload, b"1" * 5 * MIB, b"2", ChecksumAlgorithm="SHA256")

    done = s3.complete_multipart_upload(**upload, MultipartUpload=parts)

    digests = hashlib.sha256(b"1" * 5 * MIB).digest() + hashlib.sha256(b"2").digest()
    expected = base64.b64encode(hashlib.sha256(digests).digest()).decode()
    assert (done["ChecksumSHA256"], done["ChecksumType"]) == (f"{expected}-2", "COMPOSITE")
    assert s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")["ChecksumSHA256"] == f"{expected}-2"


def test_a_checksum_of_the_whole_is_put_together_from_the_parts(s3, begin):
    upload = begin(ChecksumAlgorithm="CRC32", ChecksumType="FULL_OBJECT")
    parts = put_parts(s3, upload, b"1" * 5 * MIB, b"22", ChecksumAlgorithm="CRC32")
    whole = base64.b64encode(zlib.crc32(b"1" * 5 * MIB + b"22").to_bytes(4, "big")).decode()

    with pytest.raises(ClientError) as failure:
        s3.complete_multipart_upload(**upload, MultipartUpload=parts, ChecksumCRC32="AAAAAA==")
    done = s3.complete_multipart_upload(**upload, MultipartUpload=parts, ChecksumCRC32=whole)

    assert code(failure) == "BadDigest"
    assert (done["ChecksumCRC32"], done["ChecksumType"]) == (whole, "FULL_OBJECT")


def test_a_part_may_be_a_range_of_another_object(s3, bucket, begin):
    s3.put_object(Bucket=bucket, Key="source", Body=b"0123456789")
    upload = begin()
    source = {"CopySource": {"Bucket": bucket, "Key": "source"}}

    part = s3.upload_part_copy(**upload, PartNumber=1, **source, CopySourceRange="bytes=2-5")
    listed = {"Parts": [{"PartNumber": 1, "ETag": part["CopyPartResult"]["ETag"]}]}
    s3.complete_multipart_upload(**upload, MultipartUpload=listed)
    with pytest.raises(ClientError) as failure:
        s3.upload_part_copy(**begin(), PartNumber=1, **source, CopySourceRange="bytes=2-10")

    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"2345"
    assert code(failure) == "InvalidArgument"


def test_completing_may_be_conditional(s3, bucket, begin):
    s3.put_object(Bucket=bucket, Key="k", Body=b"there")
    upload = begin()
    parts = put_parts(s3, upload, b"new")

    with pytest.raises(ClientError) as failure:
        s3.complete_multipart_upload(**upload, MultipartUpload=parts, IfNoneMatch="*")

    assert code(failure) == "PreconditionFailed"
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"there"


@pytest.mark.parametrize(("algorithm", "kind"), [("SHA256", "COMPOSITE"), ("CRC32", "FULL_OBJECT")])
def test_each_part_of_an_object_keeps_its_checksum(s3, bucket, begin, algorithm, kind):
    upload = begin(ChecksumAlgorithm=algorithm, ChecksumType=kind)
    parts = put_parts(s3, upload, b"1" * 5 * MIB, b"2", ChecksumAlgorithm=algorithm)
    s3.complete_multipart_upload(**upload, MultipartUpload=parts)

    read = s3.get_object(Bucket=bucket, Key="k", PartNumber=2)
    listed = s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ObjectParts"])

    name = f"Checksum{algorithm}"
    sums = [part[name] for part in parts["Parts"]]
    assert (read[name], read["ChecksumType"], read["Body"].read()) == (sums[1], kind, b"2")
    assert [part[name] for part in listed["ObjectParts"]["Parts"]] == sums
