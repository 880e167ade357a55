"""Work that follows from an upload alone: a rule, an endpoint, and S3 event notifications on its results."""

import json
import urllib.request
import uuid

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from tests.deployments import deploy
from tests.receivers import next_message


def own(ebbtide, method, path, body=None):
    """One signed request to ebbtide's own API, and its JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = AWSRequest(
        method, f"{ebbtide.url}/_ebbtide/{path}", data=data, headers={"Content-Type": "application/json"}
    )
    SigV4Auth(ebbtide.session().get_credentials(), "ebbtide", ebbtide.region).add_auth(request)
    sent = urllib.request.Request(request.url, data, dict(request.headers), method=method)
    with urllib.request.urlopen(sent) as answer:
        return json.load(answer)


def test_an_upload_invokes_its_endpoint_and_the_result_is_told_of(ebbtide):
    endpoint = deploy(ebbtide, environment={"HF_MODEL_ID": "ebbtide/echo"})
    s3, sqs = ebbtide.client("s3"), ebbtide.client("sqs")
    queue_url = sqs.create_queue(QueueName=f"results-{uuid.uuid4()}")["QueueUrl"]
    asked = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    results = {
        "QueueArn": asked["Attributes"]["QueueArn"],
        "Events": ["s3:ObjectCreated:*"],
        "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "results/"}]}},
    }
    s3.put_bucket_notification_configuration(
        Bucket=endpoint.bucket, NotificationConfiguration={"QueueConfigurations": [results]}
    )
    rule = {"bucket": endpoint.bucket, "prefix": "in/", "endpoint": endpoint.name}
    made = own(ebbtide, "POST", "upload-rules", rule | {"parameters": {"ContentType": "text/plain"}})

    s3.put_object(Bucket=endpoint.bucket, Key="in/an article.txt", Body=b"What was uploaded.")

    trial, told = (json.loads(next_message(sqs, queue_url)) for _ in range(2))
    [record] = told["Records"]
    assert trial["Event"] == "s3:TestEvent"
    assert record["eventName"] == "ObjectCreated:Put"
    key = record["s3"]["object"]["key"]
    result = s3.get_object(Bucket=endpoint.bucket, Key=key)
    assert result["Body"].read() == b"What was uploaded."
    assert f'"{record["s3"]["object"]["eTag"]}"' == result["ETag"]
    [invocation] = own(ebbtide, "GET", f"invocations?tag=upload-rule%3A{made['id']}")["invocations"]
    assert invocation["state"] == "succeeded"
    standing = own(ebbtide, "GET", f"upload-rules/{made['id']}")
    assert (standing["waiting"], standing["given_up"], standing["last_error"]) == (0, 0, None)
