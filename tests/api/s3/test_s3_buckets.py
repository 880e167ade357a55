"""S3's operations on buckets, as boto3 sees them."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from botocore.exceptions import ClientError


def code(failure) -> str:
    return failure.value.response["Error"]["Code"]


def status(failure) -> int:
    return failure.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_bucket_is_listed_with_its_creation_date(s3, bucket):
    found = {item["Name"]: item for item in s3.list_buckets()["Buckets"]}

    assert abs(found[bucket]["CreationDate"] - datetime.now(UTC)) < timedelta(minutes=1)


def test_buckets_are_listed_in_pages(s3):
    prefix = f"paged-{uuid.uuid4()}"
    for number in range(3):
        s3.create_bucket(Bucket=f"{prefix}{number}")

    pages = list(s3.get_paginator("list_buckets").paginate(Prefix=prefix, PaginationConfig={"PageSize": 2}))

    assert [[item["Name"][-1] for item in page["Buckets"]] for page in pages] == [["0", "1"], ["2"]]


def test_creating_ones_own_bucket_again_succeeds_in_us_east_1(s3, bucket):
    again = s3.create_bucket(Bucket=bucket)

    assert again["Location"] == f"/{bucket}"


def test_creating_ones_own_bucket_again_fails_elsewhere(ebbtide):
    s3 = ebbtide.session().client("s3", endpoint_url=ebbtide.url, region_name="eu-west-1")
    name, where = f"bucket-{uuid.uuid4()}", {"LocationConstraint": "eu-west-1"}
    s3.create_bucket(Bucket=name, CreateBucketConfiguration=where)

    with pytest.raises(s3.exceptions.BucketAlreadyOwnedByYou) as failure:
        s3.create_bucket(Bucket=name, CreateBucketConfiguration=where)

    assert status(failure) == 409
    assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] == "eu-west-1"
    assert s3.head_bucket(Bucket=name)["BucketRegion"] == "eu-west-1"


def test_the_location_of_a_bucket_in_us_east_1_is_null(s3, bucket):
    assert s3.get_bucket_location(Bucket=bucket)["LocationConstraint"] is None


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("Upper-case", id="capitals"),
        pytest.param("10.0.0.1", id="an address"),
        pytest.param("two..dots", id="two dots together"),
        pytest.param("-begins", id="a hyphen in front"),
        pytest.param("_ebbtide", id="an underscore"),
        pytest.param("xn--bucket", id="a reserved beginning"),
    ],
)
def test_a_name_outside_the_rules_is_refused(s3, name):
    with pytest.raises(ClientError) as failure:
        s3.create_bucket(Bucket=name)

    assert (code(failure), status(failure)) == ("InvalidBucketName", 400)


def test_values_that_s3_does_not_know_are_refused_in_its_words(s3, bucket):
    nowhere = {"LocationConstraint": "us-east-1"}
    calls = {
        "InvalidLocationConstraint": lambda: s3.create_bucket(
            Bucket="in-no-region", CreateBucketConfiguration=nowhere
        ),
        "InvalidStorageClass": lambda: s3.put_object(Bucket=bucket, Key="k", StorageClass="CELLAR"),
        "MalformedXML": lambda: s3.delete_objects(Bucket=bucket, Delete={"Objects": []}),
    }

    for expected, call in calls.items():
        with pytest.raises(ClientError) as failure:
            call()
        assert (code(failure), status(failure)) == (expected, 400)


def test_a_missing_bucket_is_a_404_everywhere(s3):
    with pytest.raises(ClientError) as head:
        s3.head_bucket(Bucket="no-such-bucket-here")
    with pytest.raises(s3.exceptions.NoSuchBucket) as listing:
        s3.list_objects_v2(Bucket="no-such-bucket-here")
    with pytest.raises(s3.exceptions.NoSuchBucket):
        s3.delete_bucket(Bucket="no-such-bucket-here")

    assert (code(head), status(head)) == ("404", 404)
    assert listing.value.response["Error"]["BucketName"] == "no-such-bucket-here"


def test_a_bucket_of_another_owner_than_expected_is_a_403(s3, bucket, ebbtide):
    with pytest.raises(ClientError) as failure:
        s3.head_bucket(Bucket=bucket, ExpectedBucketOwner="999999999999")

    assert status(failure) == 403
    assert s3.head_bucket(Bucket=bucket, ExpectedBucketOwner=ebbtide.credentials.account)


def test_only_an_empty_bucket_is_deleted(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    with pytest.raises(ClientError) as failure:
        s3.delete_bucket(Bucket=bucket)
    s3.delete_object(Bucket=bucket, Key="k")
    s3.create_multipart_upload(Bucket=bucket, Key="begun")

    s3.delete_bucket(Bucket=bucket)

    assert (code(failure), status(failure)) == ("BucketNotEmpty", 409)
    with pytest.raises(ClientError):
        s3.head_bucket(Bucket=bucket)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("get_bucket_cors", "NoSuchCORSConfiguration"),
        ("get_bucket_encryption", "ServerSideEncryptionConfigurationNotFoundError"),
        ("get_bucket_policy", "NoSuchBucketPolicy"),
        ("get_bucket_replication", "ReplicationConfigurationNotFoundError"),
        ("get_bucket_tagging", "NoSuchTagSet"),
        ("get_bucket_website", "NoSuchWebsiteConfiguration"),
        ("get_object_lock_configuration", "ObjectLockConfigurationNotFoundError"),
        ("get_public_access_block", "NoSuchPublicAccessBlockConfiguration"),
    ],
)
def test_what_is_not_configured_is_said_as_s3_says_it(s3, bucket, operation, expected):
    with pytest.raises(ClientError) as failure:
        getattr(s3, operation)(Bucket=bucket)

    assert (code(failure), status(failure)) == (expected, 404)


def test_an_unconfigured_bucket_has_no_versions_no_logs_and_one_grant(s3, bucket):
    assert "Status" not in s3.get_bucket_versioning(Bucket=bucket)
    assert "LoggingEnabled" not in s3.get_bucket_logging(Bucket=bucket)
    assert "QueueConfigurations" not in s3.get_bucket_notification_configuration(Bucket=bucket)
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    assert [grant["Permission"] for grant in s3.get_bucket_acl(Bucket=bucket)["Grants"]] == ["FULL_CONTROL"]


def test_what_is_said_of_public_access_is_kept(s3, bucket):
    s3.put_public_access_block(
        Bucket=bucket, PublicAccessBlockConfiguration={"BlockPublicAcls": True, "IgnorePublicAcls": True}
    )

    kept = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    s3.delete_public_access_block(Bucket=bucket)

    assert kept == {
        "BlockPublicAcls": True,
        "IgnorePublicAcls": True,
        "BlockPublicPolicy": False,
        "RestrictPublicBuckets": False,
    }
    with pytest.raises(ClientError, match="NoSuchPublicAccessBlockConfiguration"):
        s3.get_public_access_block(Bucket=bucket)


def test_a_bucket_has_tags(s3, bucket):
    tags = [{"Key": "team", "Value": "Law"}, {"Key": "stage", "Value": "test"}]
    tagged = f"bucket-{uuid.uuid4()}"

    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": tags})
    s3.create_bucket(Bucket=tagged, CreateBucketConfiguration={"Tags": tags[:1]})

    assert s3.get_bucket_tagging(Bucket=bucket)["TagSet"] == tags
    assert s3.get_bucket_tagging(Bucket=tagged)["TagSet"] == tags[:1]
    s3.delete_bucket_tagging(Bucket=bucket)
    with pytest.raises(ClientError, match="NoSuchTagSet"):
        s3.get_bucket_tagging(Bucket=bucket)
    with pytest.raises(ClientError, match="multiple Tags with the same key"):
        s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [tags[0], tags[0]]})


@pytest.mark.parametrize(
    ("operation", "given", "words"),
    [
        (
            "put_bucket_versioning",
            {"VersioningConfiguration": {"Status": "Enabled"}},
            "newest version of each",
        ),
        ("put_bucket_acl", {"ACL": "public-read"}, "ACL 'public-read'"),
        ("put_bucket_acl", {"AccessControlPolicy": {}}, "Access lists are not implemented"),
        (
            "put_bucket_ownership_controls",
            {"OwnershipControls": {"Rules": [{"ObjectOwnership": "ObjectWriter"}]}},
            "ObjectOwnership 'ObjectWriter'",
        ),
        ("put_bucket_policy", {"Policy": "{}"}, "PutBucketPolicy is not an operation"),
        ("put_bucket_website", {"WebsiteConfiguration": {}}, "PutBucketWebsite is not an operation"),
        (
            "put_bucket_replication",
            {"ReplicationConfiguration": {"Role": "", "Rules": []}},
            "PutBucketReplication is not an operation",
        ),
    ],
)
def test_what_the_store_does_not_do_is_refused_by_name(s3, bucket, operation, given, words):
    with pytest.raises(ClientError, match=words) as failure:
        getattr(s3, operation)(Bucket=bucket, **given)

    assert (code(failure), status(failure)) == ("NotImplemented", 501)


def test_an_empty_header_says_nothing(s3, bucket):
    """s3fs of 2021 makes its buckets with one."""
    s3.put_bucket_acl(Bucket=bucket, ACL="")
    s3.put_object(Bucket=bucket, Key="k", Body=b"text", ACL="", ContentType="", StorageClass="", Tagging="")

    answered = s3.get_object(Bucket=bucket, Key="k")
    assert (answered["Body"].read(), answered["ContentType"]) == (b"text", "binary/octet-stream")


def test_what_the_store_does_anyway_may_be_asked_for(s3, bucket):
    owned = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")

    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="private")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=owned)
    for what in ("bucket_encryption", "bucket_policy", "bucket_website", "public_access_block"):
        getattr(s3, f"delete_{what}")(Bucket=bucket)

    assert s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"] == owned
