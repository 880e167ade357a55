"""The operator's file of outside stores, and what is said of a wrong one."""

import sys

import pytest

from ebbtide.objects.outside_file import OutsideBucket, read_file


def written(tmp_path, text):
    path = tmp_path / "outside.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "bucket"),
    [
        pytest.param(
            'url = "s3://real/a/b/"\nendpoint = "http://minio:9000/"\nregion = "eu-west-1"',
            OutsideBucket("p", "s3", "real", "a/b", "http://minio:9000", "eu-west-1"),
            id="S3 with an endpoint",
        ),
        pytest.param('url = "s3://real"', OutsideBucket("p", "s3", "real", ""), id="AWS"),
        pytest.param('url = "gs://real/x"', OutsideBucket("p", "gs", "real", "x"), id="Google"),
        pytest.param(
            'url = "az://container"\ncredentials = {account_name = "A", account_key = "K"}',
            OutsideBucket("p", "az", "container", "", credentials={"account_name": "A", "account_key": "K"}),
            id="Azure",
        ),
        pytest.param(
            'url = "file:///mnt/data"', OutsideBucket("p", "file", "", "mnt/data"), id="a directory"
        ),
        pytest.param(
            'url = "s3://open"\nanonymous = true',
            OutsideBucket("p", "s3", "open", "", anonymous=True),
            id="unsigned",
        ),
    ],
)
def test_a_bucket_is_read(tmp_path, text, bucket):
    assert read_file(written(tmp_path, f"[p]\n{text}")) == {"p": bucket}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("[p", "cannot be read", id="no TOML"),
        pytest.param("p = 1", "p is no table", id="no table"),
        pytest.param("[p]", "needs a url of the form", id="no url"),
        pytest.param('[p]\nurl = "ftp://x"', "needs a url of the form", id="another scheme"),
        pytest.param('[p]\nurl = "s3://k:s@x"', "needs a url of the form", id="a secret in the url"),
        pytest.param('[p]\nurl = "s3:///x"', "must name a bucket", id="no bucket"),
        pytest.param('[p]\nurl = "file://x/y"', "absolute path", id="a relative path"),
        pytest.param('[p]\nurl = "s3://x"\nsecret = "y"', "has secret, which is none of", id="unknown"),
        pytest.param('[p]\nurl = "s3://x"\nanonymous = "no"', "is no bool", id="another type"),
        pytest.param(
            '[p]\nurl = "s3://x"\ncredentials = {password = "V"}',
            "password is no credential",
            id="credential",
        ),
        pytest.param(
            '[p]\nurl = "s3://x"\ncredentials = {access_key_id = "V"}', "needs both", id="half a key"
        ),
    ],
)
def test_a_wrong_file_is_told_of_in_one_line(tmp_path, text, said):
    with pytest.raises(ValueError, match=said) as caught:
        read_file(written(tmp_path, text))

    assert str(tmp_path / "outside.toml") in str(caught.value)


def test_a_variable_that_is_not_set_is_named():
    bucket = OutsideBucket("p", "gs", "real", "", credentials={"service_account_key": "GCS_KEY"})

    with pytest.raises(ValueError, match="GCS_KEY is not set, which the bucket p needs"):
        bucket.connect({}, silence_s=1)


def test_a_directory_that_is_not_there_is_named():
    with pytest.raises(
        ValueError, match="the bucket p lies in file:///nowhere/at/all, which is no directory"
    ):
        OutsideBucket("p", "file", "", "nowhere/at/all").connect({}, silence_s=1)


def test_without_obstore_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)

    with pytest.raises(ValueError, match=r"pip install 'ebbtide\[outside\]'"):
        OutsideBucket("p", "s3", "real", "").connect({}, silence_s=1)


@pytest.mark.parametrize(
    ("bucket", "environment"),
    [
        pytest.param(
            OutsideBucket("p", "az", "c", "", credentials={"account_name": "A", "account_key": "K"}),
            {"A": "devstoreaccount1", "K": "a2V5"},
            id="Azure",
        ),
        pytest.param(OutsideBucket("p", "gs", "real", "x", anonymous=True), {}, id="Google"),
        pytest.param(OutsideBucket("p", "s3", "real", "", anonymous=True), {}, id="AWS"),
    ],
)
def test_every_cloud_has_a_client(bucket, environment):
    assert bucket.connect(environment, silence_s=1) is not None
