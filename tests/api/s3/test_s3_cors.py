"""CORS as a browser sees it."""

import pytest
import urllib3
from botocore.exceptions import ClientError

PAGE = "https://pages.example"
RULE = {"AllowedOrigins": [PAGE], "AllowedMethods": ["PUT", "POST"], "AllowedHeaders": ["*"]}


@pytest.fixture
def open_bucket(s3, bucket):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": [RULE]})
    return bucket


def ask(s3, bucket, origin, method="PUT"):
    headers = {"Origin": origin, "Access-Control-Request-Method": method} if origin else {}
    return urllib3.request("OPTIONS", f"{s3.meta.endpoint_url}/{bucket}/k", headers=headers, retries=False)


def test_a_buckets_rules_are_kept_and_taken_away(s3, open_bucket):
    assert s3.get_bucket_cors(Bucket=open_bucket)["CORSRules"] == [RULE]

    s3.delete_bucket_cors(Bucket=open_bucket)

    with pytest.raises(ClientError, match="NoSuchCORSConfiguration"):
        s3.get_bucket_cors(Bucket=open_bucket)
    assert b"CORS is not enabled" in ask(s3, open_bucket, PAGE).data


def test_a_browser_is_told_what_a_page_may_send(s3, open_bucket):
    allowed = ask(s3, open_bucket, PAGE)

    assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, PAGE)
    assert ask(s3, open_bucket, "https://others.example").status == 403
    assert ask(s3, open_bucket, PAGE, method="DELETE").status == 403
    assert ask(s3, open_bucket, PAGE, method="PATCH").status == 400
    assert ask(s3, open_bucket, None).status == 400
    assert ask(s3, "no-such-bucket", PAGE).status == 403
    assert b"<Method>DELETE</Method><ResourceType>OBJECT" in ask(s3, open_bucket, PAGE, "DELETE").data


def test_a_page_reads_the_answer_to_its_upload(s3, open_bucket):
    form = s3.generate_presigned_post(open_bucket, "k")
    fields = [*form["fields"].items(), ("file", ("f", b"x"))]

    def upload(origin):
        return urllib3.request("POST", form["url"], fields=fields, headers={"Origin": origin})

    ours, others = upload(PAGE), upload("https://others.example")

    assert (ours.status, ours.headers["access-control-allow-origin"]) == (204, PAGE)
    assert (others.status, others.headers.get("access-control-allow-origin")) == (204, None)
