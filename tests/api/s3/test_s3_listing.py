"""S3's lists, as boto3 and the `aws` command see them."""

import subprocess

import pytest
from botocore.exceptions import ClientError

KEYS = ["a.txt", "papers/2021/x", "papers/2021/y", "papers/2022/z", "papers/index", "z ü+&<.txt"]


@pytest.fixture
def filled(s3, bucket):
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket


def keys(pages):
    return [item["Key"] for page in pages for item in page.get("Contents", [])]


def prefixes(pages):
    return [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("page_size", [1, 2, 1000])
def test_every_key_is_listed_once_whatever_the_page(s3, filled, operation, page_size):
    pages = s3.get_paginator(operation).paginate(Bucket=filled, PaginationConfig={"PageSize": page_size})

    assert keys(list(pages)) == KEYS


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("page_size", [1, 2, 1000])
def test_a_delimiter_rolls_keys_up_into_common_prefixes(s3, filled, operation, page_size):
    paginate = s3.get_paginator(operation).paginate
    size = {"PageSize": page_size}

    top = list(paginate(Bucket=filled, Delimiter="/", PaginationConfig=size))
    below = list(paginate(Bucket=filled, Prefix="papers/", Delimiter="/", PaginationConfig=size))

    assert (keys(top), prefixes(top)) == (["a.txt", "z ü+&<.txt"], ["papers/"])
    assert (keys(below), prefixes(below)) == (["papers/index"], ["papers/2021/", "papers/2022/"])


def test_a_listed_object_has_its_size_tag_and_time(s3, filled):
    first = s3.list_objects_v2(Bucket=filled, MaxKeys=1, FetchOwner=True)

    (item,) = first["Contents"]
    head = s3.head_object(Bucket=filled, Key="a.txt")
    assert first["IsTruncated"]
    assert first["KeyCount"] == 1
    assert (item["Size"], item["ETag"]) == (5, head["ETag"])
    assert item["LastModified"].replace(microsecond=0) == head["LastModified"]
    assert item["Owner"]["ID"]


def test_listing_begins_after_a_key(s3, filled):
    assert keys([s3.list_objects_v2(Bucket=filled, StartAfter="papers/2022/z")]) == KEYS[4:]
    assert keys([s3.list_objects(Bucket=filled, Marker="papers/2022/z")]) == KEYS[4:]


def test_an_empty_list_has_no_contents(s3, bucket):
    listed = s3.list_objects_v2(Bucket=bucket)

    assert "Contents" not in listed
    assert listed["KeyCount"] == 0
    assert not listed["IsTruncated"]


def test_an_empty_delimiter_is_none(s3, filled):
    for listed in (
        s3.list_objects(Bucket=filled, Delimiter=""),
        s3.list_objects_v2(Bucket=filled, Delimiter=""),
    ):
        assert keys([listed]) == KEYS
        assert "Delimiter" not in listed


def test_a_token_that_no_page_gave_is_refused(s3, bucket):
    with pytest.raises(ClientError) as failure:
        s3.list_objects_v2(Bucket=bucket, ContinuationToken="nonsense!")

    assert failure.value.response["Error"]["Code"] == "InvalidArgument"


def test_each_object_has_the_one_version_null(s3, filled):
    listed = s3.list_object_versions(Bucket=filled, Prefix="papers/2021/")

    versions = [(item["Key"], item["VersionId"], item["IsLatest"]) for item in listed["Versions"]]
    assert versions == [("papers/2021/x", "null", True), ("papers/2021/y", "null", True)]


def test_a_bucket_is_emptied_through_its_versions(ebbtide, s3, filled):
    bucket = ebbtide.session().resource("s3", endpoint_url=ebbtide.url).Bucket(filled)

    bucket.object_versions.delete()

    assert list(bucket.objects.all()) == []


def test_the_aws_command_copies_syncs_lists_and_removes(ebbtide, bucket, tmp_path):
    def aws(*arguments):
        command = ["aws", "s3", *arguments]
        done = subprocess.run(command, env=ebbtide.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "one.txt").write_text("one")
    (folder / "deep" / "two.txt").write_bytes(b"2" * 9_000_000)

    aws("sync", str(folder), f"s3://{bucket}/folder", "--no-progress")
    aws("cp", f"s3://{bucket}/folder/", str(tmp_path / "back"), "--recursive", "--no-progress")
    listed = aws("ls", f"s3://{bucket}/folder/")
    aws("rb", f"s3://{bucket}", "--force")

    assert (tmp_path / "back" / "deep" / "two.txt").read_bytes() == b"2" * 9_000_000
    assert "PRE deep/" in listed
    assert "3 one.txt" in listed


@pytest.mark.parametrize("page_size", [1, 2])
def test_keys_that_go_on_where_another_ends_are_on_the_next_page(s3, bucket, page_size):
    continued = ["a", "a\x01", "a b", "aa", "a\ud7ff", "a\U0001f600", "b"]
    for key in continued:
        s3.put_object(Bucket=bucket, Key=key, Body=b"")

    pages = s3.get_paginator("list_objects_v2").paginate(
        Bucket=bucket, PaginationConfig={"PageSize": page_size}
    )

    assert keys(pages) == continued
