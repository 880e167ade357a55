"""S3's operations on objects, as boto3 sees them."""

import base64
import gzip
import hashlib
import io
import os
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from functools import partial
from http.client import HTTPConnection
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.client import Config
from botocore.exceptions import ClientError


def code(failure) -> str:
    return failure.value.response["Error"]["Code"]


def status(failure) -> int:
    return failure.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_an_object_comes_back_with_its_bytes_headers_and_metadata(s3, bucket):
    body = b'{"inputs": "text"}'
    s3.put_object(
        Bucket=bucket,
        Key="papers/one.json",
        Body=body,
        ContentType="application/json",
        CacheControl="no-cache",
        ContentDisposition="attachment",
        ContentLanguage="en",
        Metadata={"Source": "arxiv"},
    )

    found = s3.get_object(Bucket=bucket, Key="papers/one.json")

    assert found["Body"].read() == body
    assert found["ContentType"] == "application/json"
    assert found["ContentLength"] == 18
    assert found["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert found["CacheControl"] == "no-cache"
    assert found["ContentDisposition"] == "attachment"
    assert found["ContentLanguage"] == "en"
    assert found["Metadata"] == {"source": "arxiv"}
    assert abs(found["LastModified"] - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_object_without_a_type_is_binary(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")

    head = s3.head_object(Bucket=bucket, Key="k")

    assert head["ContentType"] == "binary/octet-stream"
    assert head["ContentLength"] == 1


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(0, id="nothing"),
        pytest.param(16 * 1024, id="the most that lies in a row"),
        pytest.param(16 * 1024 + 1, id="the least that lies in a file"),
        pytest.param(3 * 1024 * 1024 + 7, id="several blocks"),
    ],
)
def test_objects_of_every_size_come_back_whole(s3, bucket, size):
    body = bytes(range(256)) * (size // 256 + 1)

    s3.put_object(Bucket=bucket, Key="k", Body=body[:size])

    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == body[:size]


@pytest.mark.parametrize(
    "key", ["a b+c", "../../etc/passwd", "/x//y/", "ünï/日本語", "a%2Fb?c=d&e#f", "x" * 1024, "."]
)
def test_any_key_names_an_object(s3, bucket, key):
    s3.put_object(Bucket=bucket, Key=key, Body=key.encode())

    assert s3.get_object(Bucket=bucket, Key=key)["Body"].read() == key.encode()
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]


def test_a_key_over_1024_bytes_is_refused(s3, bucket):
    with pytest.raises(ClientError) as failure:
        s3.put_object(Bucket=bucket, Key="ü" * 513, Body=b"")

    assert code(failure) == "KeyTooLongError"


def test_a_missing_object_is_no_such_key(s3, bucket):
    with pytest.raises(s3.exceptions.NoSuchKey) as failure:
        s3.get_object(Bucket=bucket, Key="absent")
    with pytest.raises(ClientError) as headless:
        s3.head_object(Bucket=bucket, Key="absent")

    assert status(failure) == 404
    assert failure.value.response["Error"]["Key"] == "absent"
    assert code(headless) == "404"


def test_a_missing_bucket_is_no_such_bucket_before_the_body_is_taken(s3):
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.put_object(Bucket="no-such-bucket-here", Key="k", Body=b"x" * 10_000_000)
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.get_object(Bucket="no-such-bucket-here", Key="k")


@pytest.mark.parametrize(
    ("asked", "answered", "content_range"),
    [
        pytest.param("bytes=0-0", b"0", "bytes 0-0/10", id="the first byte"),
        pytest.param("bytes=2-4", b"234", "bytes 2-4/10", id="a middle"),
        pytest.param("bytes=7-", b"789", "bytes 7-9/10", id="from an offset on"),
        pytest.param("bytes=-3", b"789", "bytes 7-9/10", id="the last three"),
        pytest.param("bytes=5-500", b"56789", "bytes 5-9/10", id="beyond the end"),
    ],
)
def test_a_range_is_a_206(s3, bucket, asked, answered, content_range):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")

    found = s3.get_object(Bucket=bucket, Key="k", Range=asked)

    assert found["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert found["Body"].read() == answered
    assert found["ContentRange"] == content_range


@pytest.mark.parametrize("asked", ["bytes=5-2", "lines=1-2", "bytes=0-1,3-4"])
def test_a_range_that_is_none_is_ignored(s3, bucket, asked):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")

    found = s3.get_object(Bucket=bucket, Key="k", Range=asked)

    assert found["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert found["Body"].read() == b"0123456789"


def test_a_download_that_is_resumed_is_whole_when_the_object_has_changed_meanwhile(s3, bucket):
    old = s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")["ETag"]
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    resumed = {"Range": "bytes=5-", "If-Range": old}

    with urllib.request.urlopen(urllib.request.Request(url, headers=resumed)) as answer:
        same = answer.status, answer.read()
    s3.put_object(Bucket=bucket, Key="k", Body=b"abcdefghij")
    with urllib.request.urlopen(urllib.request.Request(url, headers=resumed)) as answer:
        changed = answer.status, answer.read()

    assert same == (206, b"56789")
    assert changed == (200, b"abcdefghij")


def test_a_range_past_the_end_is_a_416(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"0123456789")

    with pytest.raises(ClientError) as failure:
        s3.get_object(Bucket=bucket, Key="k", Range="bytes=10-")

    assert (code(failure), status(failure)) == ("InvalidRange", 416)
    assert failure.value.response["Error"]["ActualObjectSize"] == "10"


def test_a_reader_that_has_the_object_gets_a_304(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]

    for condition in ({"IfNoneMatch": etag}, {"IfModifiedSince": modified}):
        with pytest.raises(ClientError) as failure:
            s3.get_object(Bucket=bucket, Key="k", **condition)
        assert (code(failure), status(failure)) == ("304", 304)


def test_conditions_that_do_not_hold_are_a_412(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    yesterday = datetime.now(UTC) - timedelta(days=1)

    for condition in ({"IfMatch": '"other"'}, {"IfUnmodifiedSince": yesterday}):
        with pytest.raises(ClientError) as failure:
            s3.get_object(Bucket=bucket, Key="k", **condition)
        assert (code(failure), status(failure)) == ("PreconditionFailed", 412)


def test_a_conditional_put_creates_once_and_replaces_only_what_was_read(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"first", IfNoneMatch="*")["ETag"]

    with pytest.raises(ClientError) as created_again:
        s3.put_object(Bucket=bucket, Key="k", Body=b"second", IfNoneMatch="*")
    replaced = s3.put_object(Bucket=bucket, Key="k", Body=b"third", IfMatch=etag)
    with pytest.raises(ClientError) as replaced_again:
        s3.put_object(Bucket=bucket, Key="k", Body=b"fourth", IfMatch=etag)

    assert code(created_again) == code(replaced_again) == "PreconditionFailed"
    assert s3.head_object(Bucket=bucket, Key="k")["ETag"] == replaced["ETag"]
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"third"


@pytest.mark.parametrize("algorithm", ["CRC32", "SHA1", "SHA256"])
def test_the_checksum_the_client_sent_is_kept_and_given_back(s3, bucket, algorithm):
    put = s3.put_object(Bucket=bucket, Key="k", Body=b"text", ChecksumAlgorithm=algorithm)

    plain = s3.head_object(Bucket=bucket, Key="k")
    head = s3.head_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")

    member = f"Checksum{algorithm}"
    assert member not in plain
    assert head[member] == put[member]
    assert head["ChecksumType"] == "FULL_OBJECT"


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"ChecksumSHA256": base64.b64encode(b"\0" * 32).decode()}, id="a checksum"),
        pytest.param({"ChecksumCRC32C": base64.b64encode(b"\0" * 4).decode()}, id="one of our own making"),
        pytest.param({"ContentMD5": base64.b64encode(b"\0" * 16).decode()}, id="the MD5"),
    ],
)
def test_bytes_that_are_not_those_the_client_hashed_are_refused(s3, bucket, wrong):
    with pytest.raises(ClientError) as failure:
        s3.put_object(Bucket=bucket, Key="k", Body=b"text" * 10_000, **wrong)

    assert (code(failure), status(failure)) == ("BadDigest", 400)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_an_md5_that_is_none_is_refused(s3, bucket):
    with pytest.raises(ClientError) as failure:
        s3.put_object(Bucket=bucket, Key="k", Body=b"text", ContentMD5="short")

    assert code(failure) == "InvalidDigest"


@pytest.mark.parametrize(
    "wish",
    [
        {"ServerSideEncryption": "aws:kms"},
        {"StorageClass": "GLACIER"},
        {"ACL": "public-read"},
        {"ObjectLockMode": "GOVERNANCE"},
    ],
)
def test_what_the_store_does_not_do_is_refused_not_ignored(s3, bucket, wish):
    with pytest.raises(ClientError) as failure:
        s3.put_object(Bucket=bucket, Key="k", Body=b"x", **wish)

    assert (code(failure), status(failure)) == ("NotImplemented", 501)
    assert next(iter(wish)) in failure.value.response["Error"]["Message"]


def test_an_operation_that_ebbtide_lacks_is_not_implemented(s3, bucket):
    with pytest.raises(ClientError) as failure:
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})

    assert (code(failure), status(failure)) == ("NotImplemented", 501)


def test_a_content_encoding_is_the_objects_own(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=gzip.compress(b"text"), ContentEncoding="gzip")

    found = s3.get_object(Bucket=bucket, Key="k", ResponseContentType="text/plain")

    assert found["ContentEncoding"] == "gzip"
    assert found["ContentType"] == "text/plain"
    assert gzip.decompress(found["Body"].read()) == b"text"


def test_deleting_is_final_and_may_be_repeated(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")

    s3.delete_object(Bucket=bucket, Key="k")
    s3.delete_object(Bucket=bucket, Key="k")

    with pytest.raises(s3.exceptions.NoSuchKey):
        s3.get_object(Bucket=bucket, Key="k")


def test_many_are_deleted_at_once_each_with_its_own_outcome(s3, bucket):
    for key in ("a", "b", "c"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")

    answer = s3.delete_objects(
        Bucket=bucket,
        Delete={"Objects": [{"Key": "a"}, {"Key": "absent"}, {"Key": "b", "VersionId": "7"}]},
    )
    quiet = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "b"}], "Quiet": True})

    assert [item["Key"] for item in answer["Deleted"]] == ["a", "absent"]
    assert [(item["Key"], item["Code"]) for item in answer["Errors"]] == [("b", "InvalidArgument")]
    assert "Deleted" not in quiet
    assert [item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["c"]


def test_a_copy_keeps_type_metadata_and_tags_unless_they_are_replaced(s3, bucket):
    s3.put_object(
        Bucket=bucket,
        Key="from ü+1",
        Body=b"text" * 10_000,
        ContentType="text/plain",
        Metadata={"a": "1"},
        Tagging="kind=paper",
    )
    source = {"Bucket": bucket, "Key": "from ü+1"}

    kept = s3.copy_object(Bucket=bucket, Key="kept", CopySource=source)
    s3.copy_object(
        Bucket=bucket,
        Key="replaced",
        CopySource=source,
        MetadataDirective="REPLACE",
        ContentType="text/markdown",
        Metadata={"b": "2"},
    )

    original = s3.head_object(Bucket=bucket, Key="from ü+1")
    copy = s3.get_object(Bucket=bucket, Key="kept")
    other = s3.head_object(Bucket=bucket, Key="replaced")
    assert kept["CopyObjectResult"]["ETag"] == original["ETag"] == copy["ETag"]
    assert copy["Body"].read() == b"text" * 10_000
    assert (copy["ContentType"], copy["Metadata"], copy["TagCount"]) == ("text/plain", {"a": "1"}, 1)
    assert (other["ContentType"], other["Metadata"]) == ("text/markdown", {"b": "2"})


def test_a_copy_is_made_only_of_what_the_conditions_allow(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    source = f"{bucket}/k"

    with pytest.raises(ClientError) as unmatched:
        s3.copy_object(Bucket=bucket, Key="to", CopySource=source, CopySourceIfMatch="other")
    with pytest.raises(ClientError) as onto_itself:
        s3.copy_object(Bucket=bucket, Key="k", CopySource=source)
    with pytest.raises(ClientError) as missing:
        s3.copy_object(Bucket=bucket, Key="to", CopySource=f"{bucket}/absent")

    assert code(unmatched) == "PreconditionFailed"
    assert code(onto_itself) == "InvalidRequest"
    assert code(missing) == "NoSuchKey"
    s3.copy_object(Bucket=bucket, Key="k", CopySource=source, StorageClass="STANDARD")


def test_tags_are_put_read_and_deleted(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", Tagging="a=1&b")

    given = s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"]
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "c", "Value": "3"}]})
    replaced = s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"]
    s3.delete_object_tagging(Bucket=bucket, Key="k")

    assert given == [{"Key": "a", "Value": "1"}, {"Key": "b", "Value": ""}]
    assert replaced == [{"Key": "c", "Value": "3"}]
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []


@pytest.mark.parametrize(
    ("stated", "kept"),
    [
        ("gzip, aws-chunked", "gzip"),
        ("aws-chunked,gzip", "gzip"),
        ("aws-chunked", None),
        ("br, gzip", "br, gzip"),
    ],
)
def test_how_a_body_travelled_is_no_encoding_of_the_object(s3, bucket, stated, kept):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ContentEncoding=stated)

    assert s3.head_object(Bucket=bucket, Key="k").get("ContentEncoding") == kept


def test_a_deletion_on_conditions_that_are_not_checked_is_refused(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")

    with pytest.raises(ClientError) as sized:
        s3.delete_object(Bucket=bucket, Key="k", IfMatchSize=9)
    among_others = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "k", "Size": 9}]})

    assert code(sized) == among_others["Errors"][0]["Code"] == "NotImplemented"
    assert s3.head_object(Bucket=bucket, Key="k")["ContentLength"] == 1


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param("Content-MD5", "", (400, "InvalidDigest"), id="an empty digest"),
        pytest.param("Authorization", "", (403, "AccessDenied"), id="an empty signature"),
    ],
)
def test_a_header_without_a_value_is_not_as_good_as_none(ebbtide, bucket, name, value, expected):
    s3 = ebbtide.session().client("s3", endpoint_url=ebbtide.url)

    def empty(request, **_):
        if name in request.headers:
            del request.headers[name]
        request.headers[name] = value

    s3.meta.events.register(
        "before-send.s3.PutObject" if name == "Authorization" else "before-sign.s3", empty
    )

    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="k", Body=b"x")

    assert (status(refused), code(refused)) == expected


def test_attributes_are_those_asked_for(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"text", ChecksumAlgorithm="SHA256")

    found = s3.get_object_attributes(
        Bucket=bucket, Key="k", ObjectAttributes=["ETag", "Checksum", "ObjectSize"]
    )

    assert found["ObjectSize"] == 4
    assert found["ETag"] == hashlib.md5(b"text").hexdigest()
    assert found["Checksum"]["ChecksumSHA256"]
    assert "StorageClass" not in found


def test_attributes_must_be_asked_for(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"text")

    with pytest.raises(ClientError) as raised:
        s3.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=[])

    assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


@pytest.mark.parametrize("version", [pytest.param("s3", id="boto3's default"), "s3v4"])
def test_a_presigned_url_gives_and_takes_without_credentials(ebbtide, bucket, version):
    s3 = ebbtide.session().client("s3", endpoint_url=ebbtide.url, config=Config(signature_version=version))
    where = {"Bucket": bucket, "Key": "by link"}
    put_url = s3.generate_presigned_url("put_object", Params=where)
    get_url = s3.generate_presigned_url("get_object", Params=where)

    # A type is part of what the older version signs; urllib would add one unasked.
    untyped = urllib.request.Request(put_url, b"text", {"Content-Type": ""}, method="PUT")
    urllib.request.urlopen(untyped).close()

    with urllib.request.urlopen(get_url) as answer:
        assert answer.read() == b"text"


def test_headers_that_a_presigned_url_carries_count_as_headers(ebbtide, s3, bucket):
    signer = ebbtide.session().client("s3", endpoint_url=ebbtide.url, config=Config(signature_version="s3"))
    put_url = signer.generate_presigned_url(
        "put_object",
        Params={"Bucket": bucket, "Key": "k", "Metadata": {"venue": "123"}, "Tagging": "a=1"},
    )

    request = urllib.request.Request(put_url, b"text", {"Content-Type": ""}, method="PUT")
    urllib.request.urlopen(request).close()

    assert s3.head_object(Bucket=bucket, Key="k")["Metadata"] == {"venue": "123"}
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "a", "Value": "1"}]


@pytest.mark.parametrize("version", ["s3", "s3v4"])
def test_a_presigned_upload_cannot_be_made_a_copy_of_another_object(ebbtide, bucket, version):
    s3 = ebbtide.session().client("s3", endpoint_url=ebbtide.url, config=Config(signature_version=version))
    ebbtide.client("s3").put_object(Bucket=bucket, Key="private", Body=b"secret")
    put_url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "by link"})
    headers = {"Content-Type": "", "x-amz-copy-source": f"{bucket}/private"}

    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(put_url, b"", headers, method="PUT"))

    assert caught.value.code == 403
    caught.value.close()


def test_a_body_of_unknown_length_is_not_taken_in(ebbtide, bucket):
    s3 = ebbtide.session().client("s3", endpoint_url=ebbtide.url, config=Config(signature_version="s3v4"))
    parts = urlsplit(s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "endless"}))
    connection = HTTPConnection(parts.netloc)

    connection.request("PUT", f"{parts.path}?{parts.query}", iter([b"a", b"b"]))
    answer = connection.getresponse()

    assert answer.status == 411
    assert b"<Code>MissingContentLength</Code>" in answer.read()
    connection.close()


def test_a_wrong_secret_is_refused(ebbtide, bucket):
    stranger = boto3.client(
        "s3",
        endpoint_url=ebbtide.url,
        region_name=ebbtide.region,
        aws_access_key_id=ebbtide.credentials.access_key_id,
        aws_secret_access_key="wrong",
    )

    with pytest.raises(ClientError) as failure:
        stranger.put_object(Bucket=bucket, Key="k", Body=b"x")

    assert (code(failure), status(failure)) == ("SignatureDoesNotMatch", 403)


def test_the_bucket_may_be_in_the_hosts_name(ebbtide, bucket):
    port = int(ebbtide.url.rpartition(":")[2])
    virtual = ebbtide.session().client(
        "s3", endpoint_url=f"http://localhost:{port}", config=Config(s3={"addressing_style": "virtual"})
    )
    virtual.meta.events.register("before-send.s3", partial(send_to, port))

    virtual.put_object(Bucket=bucket, Key="k", Body=b"x")

    assert ebbtide.client("s3").get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"


def send_to(port, request, **_):
    """Send a request to the loopback address whatever host it names: not every resolver knows *.localhost."""
    url = urlsplit(request.url)
    assert url.hostname.endswith(".localhost")
    connection = HTTPConnection("127.0.0.1", port)
    headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
    connection.request(request.method, url.path, request.body, headers | {"Host": url.netloc})
    answer = connection.getresponse()
    raw = io.BytesIO(answer.read())
    raw.stream = lambda: iter([raw.getvalue()])
    return AWSResponse(request.url, answer.status, answer.headers, raw)


def test_boto3s_transfers_carry_a_large_file_there_and_back(s3, bucket, tmp_path):
    body = bytes(range(251)) * 80_000

    s3.upload_fileobj(io.BytesIO(body), bucket, "large", ExtraArgs={"ContentType": "application/gzip"})
    s3.copy({"Bucket": bucket, "Key": "large"}, bucket, "copied")
    s3.download_file(bucket, "copied", str(tmp_path / "back"))

    assert (tmp_path / "back").read_bytes() == body
    assert s3.head_object(Bucket=bucket, Key="copied")["ContentType"] == "application/gzip"


def test_an_object_whose_file_was_deleted_is_told_of_before_any_byte(ebbtide, s3, bucket):
    before = set((ebbtide.data / "objects").iterdir())
    s3.put_object(Bucket=bucket, Key="lost", Body=os.urandom(100_000))
    [file] = set((ebbtide.data / "objects").iterdir()) - before
    file.unlink()

    with pytest.raises(ClientError, match="The bytes of the object are lost") as caught:
        s3.get_object(Bucket=bucket, Key="lost")

    assert caught.value.response["Error"]["Code"] == "InternalError"


def test_a_key_with_nul_is_refused(s3, bucket):
    """XML could not show it, and not every database could hold it."""
    with pytest.raises(ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="a\0b", Body=b"")

    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400
    assert "must not contain the character U+0000" in refused.value.response["Error"]["Message"]


def test_checksums_are_given_to_readers_who_ask_in_small_letters(s3, bucket):
    """As the SDK for C++ does, by which Arrow reads."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"hello", ChecksumAlgorithm="SHA256")

    read = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="enabled")

    assert read["ChecksumSHA256"] == "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="


@pytest.mark.parametrize("encoded", ["a+b%2B.txt", "a%20b%2B.txt"])
def test_a_copys_source_is_named_with_either_encoding_of_a_space(ebbtide, bucket, encoded):
    s3 = ebbtide.session().client("s3", endpoint_url=ebbtide.url)
    s3.put_object(Bucket=bucket, Key="a b+.txt", Body=b"hello")

    def name(params, **_):
        params["headers"]["x-amz-copy-source"] = f"{bucket}/{encoded}"

    s3.meta.events.register("before-call.s3.CopyObject", name)
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/replaced")

    assert s3.get_object(Bucket=bucket, Key="copy")["Body"].read() == b"hello"
