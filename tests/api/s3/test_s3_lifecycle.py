"""S3's operations on buckets' lifecycles, as boto3 sees them."""

from datetime import UTC, datetime

import pytest
from botocore.exceptions import ClientError

EXPIRES = {"Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 3}}


def put(s3, bucket, *rules):
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)})


def code(caught) -> str:
    return str(caught.value.response["Error"]["Code"])


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param({"Filter": {"Prefix": ""}, "Expiration": {"Days": 3}}, id="all objects"),
        pytest.param({"Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 3}}, id="a prefix"),
        pytest.param({"Prefix": "logs/", "Expiration": {"Days": 3}}, id="a prefix without a filter"),
        pytest.param({"Filter": {"Tag": {"Key": "a", "Value": "1"}}, "Expiration": {"Days": 3}}, id="a tag"),
        pytest.param({"Filter": {"ObjectSizeGreaterThan": 5}, "Expiration": {"Days": 3}}, id="a size"),
        pytest.param(
            {"Filter": {"Prefix": ""}, "Expiration": {"Date": datetime(2030, 1, 2, tzinfo=UTC)}}, id="a date"
        ),
        pytest.param(
            {
                "Filter": {
                    "And": {"Prefix": "p", "Tags": [{"Key": "a", "Value": "1"}], "ObjectSizeLessThan": 9}
                },
                "Expiration": {"Days": 3},
            },
            id="all together",
        ),
        pytest.param(
            {"Filter": {"Prefix": ""}, "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7}},
            id="uploads left in parts",
        ),
    ],
)
def test_rules_are_shown_as_they_were_put(s3, bucket, rule):
    rule = {"ID": "one", "Status": "Enabled"} | rule

    put(s3, bucket, rule)

    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"] == [rule]


def test_rules_are_replaced_and_deleted(s3, bucket):
    put(s3, bucket, EXPIRES, EXPIRES | {"Status": "Disabled"})
    put(s3, bucket, EXPIRES | {"ID": "last"})
    shown = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]

    s3.delete_bucket_lifecycle(Bucket=bucket)
    s3.delete_bucket_lifecycle(Bucket=bucket)

    assert [rule["ID"] for rule in shown] == ["last"]
    with pytest.raises(ClientError) as caught:
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)
    assert code(caught) == "NoSuchLifecycleConfiguration"


def test_an_object_says_when_it_expires_and_by_which_rule(s3, bucket):
    put(
        s3,
        bucket,
        EXPIRES | {"ID": "later", "Expiration": {"Date": datetime(2130, 1, 2, tzinfo=UTC)}},
        EXPIRES | {"ID": "first ü", "Expiration": {"Date": datetime(2120, 1, 2, tzinfo=UTC)}},
        EXPIRES | {"ID": "others", "Filter": {"Prefix": "z"}},
    )
    expected = 'expiry-date="Tue, 02 Jan 2120 00:00:00 GMT", rule-id="first%20%C3%BC"'

    stored = s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    copied = s3.copy_object(Bucket=bucket, Key="c", CopySource=f"{bucket}/k")
    seen = s3.head_object(Bucket=bucket, Key="k")
    s3.delete_bucket_lifecycle(Bucket=bucket)

    assert stored["Expiration"] == copied["Expiration"] == seen["Expiration"] == expected
    assert "Expiration" not in s3.head_object(Bucket=bucket, Key="k")


def test_a_bucket_made_again_has_none_of_the_former_ones_rules(s3, bucket):
    put(s3, bucket, EXPIRES)

    s3.delete_bucket(Bucket=bucket)
    s3.create_bucket(Bucket=bucket)

    with pytest.raises(ClientError):
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param([], "MalformedXML", id="none"),
        pytest.param([{"Status": "Enabled", "Expiration": {"Days": 1}}], "MalformedXML", id="no filter"),
        pytest.param([{"Status": "Enabled", "Filter": {}}], "InvalidRequest", id="no action"),
        pytest.param([EXPIRES | {"Expiration": {}}], "MalformedXML", id="neither days nor date"),
        pytest.param([EXPIRES | {"Expiration": {"Days": 0}}], "InvalidArgument", id="no days"),
        pytest.param(
            [EXPIRES | {"Expiration": {"Date": datetime(2030, 1, 2, 3, tzinfo=UTC)}}],
            "InvalidArgument",
            id="no midnight",
        ),
        pytest.param([EXPIRES | {"ID": "a"}] * 2, "InvalidArgument", id="an id twice"),
        pytest.param([EXPIRES | {"ID": "a" * 256}], "InvalidArgument", id="a long id"),
        pytest.param(
            [EXPIRES | {"NoncurrentVersionExpiration": {"NoncurrentDays": 1}}],
            "NotImplemented",
            id="versions",
        ),
        pytest.param(
            [EXPIRES | {"Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}],
            "NotImplemented",
            id="storage classes",
        ),
        pytest.param(
            [EXPIRES | {"Expiration": {"ExpiredObjectDeleteMarker": True}}], "NotImplemented", id="markers"
        ),
        pytest.param(
            [
                {
                    "Status": "Enabled",
                    "Filter": {"Tag": {"Key": "a", "Value": "1"}},
                    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
                }
            ],
            "InvalidRequest",
            id="uploads by tag",
        ),
    ],
)
def test_rules_that_break_s3s_or_need_what_is_not_here_change_nothing(s3, bucket, rules, expected):
    with pytest.raises(ClientError) as caught:
        put(s3, bucket, *rules)

    assert code(caught) == expected
    with pytest.raises(ClientError):
        s3.get_bucket_lifecycle_configuration(Bucket=bucket)
