"""The AWS post's sequence in plain boto3: an asynchronous summarization endpoint, from create to clean-up.

"Improve high-value research with Hugging Face and Amazon SageMaker asynchronous inference endpoints", AWS
Machine Learning Blog, 7 February 2022. Nothing here knows ebbtide: with AWS_ENDPOINT_URL set it runs there,
without it on AWS.

    eval "$(ebbtide env)"
    python examples/post.py --bucket my-bucket --model google/pegasus-large
"""

import argparse
import json
import time
from datetime import UTC, datetime, timedelta

import boto3

ARTICLE = """\
A research group that reads the literature of its field meets more articles in a month than its members can
read. Most of them matter little to the question at hand, a few matter a great deal, and the abstract does
not always tell which is which. Summaries written by a model let the group look at all of them: somebody
puts the month's articles into storage, a queue takes them in, and machines that were switched off an hour
ago work through the pile and are switched off again. What remains is a table of short texts that can be
searched, compared with the last month's, and followed over the years as subjects rise and fade. The cost is
that of the hours worked and not of the month, which is why such work is done in bursts."""

VARIANT = "variant1"


def main() -> None:
    arguments = parse_arguments()
    name = f"pegasus-summarization-{int(time.time())}"
    bucket, prefix = arguments.bucket, "async-inference-demo"
    session = boto3.Session()
    region = session.region_name
    sagemaker, runtime = session.client("sagemaker"), session.client("sagemaker-runtime")
    s3, sns, sqs = session.client("s3"), session.client("sns"), session.client("sqs")
    autoscaling, cloudwatch = session.client("application-autoscaling"), session.client("cloudwatch")

    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    if bucket not in [known["Name"] for known in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=bucket, **place)

    print("Topics, and a queue that hears both")
    topics = {kind: sns.create_topic(Name=f"{name}-{kind}")["TopicArn"] for kind in ("success", "error")}
    queue_url = sqs.create_queue(QueueName=name)["QueueUrl"]
    queue_arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"][
        "QueueArn"
    ]
    sqs.set_queue_attributes(QueueUrl=queue_url, Attributes={"Policy": let_topics_send(queue_arn)})
    for topic in topics.values():
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=queue_arn)

    print("Model, endpoint configuration, endpoint")
    image = f"763104351884.dkr.ecr.{region}.amazonaws.com/huggingface-pytorch-inference"
    container = {
        "Image": f"{image}:1.13.1-transformers4.26.0-cpu-py39-ubuntu20.04",
        "Environment": {"HF_TASK": "summarization"},
    }
    if arguments.model.endswith(".tar.gz"):
        s3.upload_file(arguments.model, bucket, f"{prefix}/model.tar.gz")
        container["ModelDataUrl"] = f"s3://{bucket}/{prefix}/model.tar.gz"
    else:
        container["Environment"]["HF_MODEL_ID"] = arguments.model
    sagemaker.create_model(ModelName=name, ExecutionRoleArn=arguments.role, PrimaryContainer=container)
    sagemaker.create_endpoint_config(
        EndpointConfigName=name,
        ProductionVariants=[
            {
                "VariantName": VARIANT,
                "ModelName": name,
                "InstanceType": "ml.m5.xlarge",
                "InitialInstanceCount": 1,
            }
        ],
        AsyncInferenceConfig={
            "OutputConfig": {
                "S3OutputPath": f"s3://{bucket}/{prefix}/output",
                "S3FailurePath": f"s3://{bucket}/{prefix}/failure",
                "NotificationConfig": {"SuccessTopic": topics["success"], "ErrorTopic": topics["error"]},
            },
            "ClientConfig": {"MaxConcurrentInvocationsPerInstance": 2},
        },
    )
    sagemaker.create_endpoint(EndpointName=name, EndpointConfigName=name)
    sagemaker.get_waiter("endpoint_in_service").wait(EndpointName=name, WaiterConfig={"Delay": 2})

    print("One article")
    s3.put_object(Bucket=bucket, Key=f"{prefix}/input/input.json", Body=json.dumps({"inputs": [ARTICLE]}))
    article = {
        "EndpointName": name,
        "InputLocation": f"s3://{bucket}/{prefix}/input/input.json",
        "ContentType": "application/json",
    }
    answer = runtime.invoke_endpoint_async(**article)
    print(read_output(s3, answer["OutputLocation"]))
    print("Notified:", next_result(sqs, queue_url)["invocationStatus"])

    print("Scaling from 0 to 5 instances with the backlog")
    target = {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }
    autoscaling.register_scalable_target(MinCapacity=0, MaxCapacity=5, **target)
    autoscaling.put_scaling_policy(
        PolicyName="Invocations-ScalingPolicy",
        PolicyType="TargetTrackingScaling",
        TargetTrackingScalingPolicyConfiguration={
            "TargetValue": 5.0,
            "CustomizedMetricSpecification": {
                "MetricName": "ApproximateBacklogSizePerInstance",
                "Namespace": "AWS/SageMaker",
                "Dimensions": [{"Name": "EndpointName", "Value": name}],
                "Statistic": "Average",
            },
            "ScaleInCooldown": 120,
            "ScaleOutCooldown": 120,
        },
        **target,
    )

    print(f"A burst of {arguments.burst}")
    locations = [runtime.invoke_endpoint_async(**article)["OutputLocation"] for _ in range(arguments.burst)]
    for location in locations:
        read_output(s3, location)
    print(f"{len(locations)} summaries")

    print("Graphs")
    for metric, points in graphs(cloudwatch, name).items():
        print(f"{metric}: {len(points)} points, highest {max(points, default=0):g}")

    autoscaling.deregister_scalable_target(**target)
    sagemaker.delete_endpoint(EndpointName=name)
    sagemaker.get_waiter("endpoint_deleted").wait(EndpointName=name, WaiterConfig={"Delay": 2})
    sagemaker.delete_endpoint_config(EndpointConfigName=name)
    sagemaker.delete_model(ModelName=name)
    for topic in topics.values():
        sns.delete_topic(TopicArn=topic)
    sqs.delete_queue(QueueUrl=queue_url)
    print("Cleaned up")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bucket", required=True, help="for inputs and outputs; made if missing")
    parser.add_argument("--model", default="google/pegasus-large", help="a Hub id, or a model.tar.gz")
    parser.add_argument("--role", default="arn:aws:iam::123456789012:role/sagemaker", help="execution role")
    parser.add_argument("--burst", type=int, default=50, help="invocations in the burst")
    return parser.parse_args()


def let_topics_send(queue_arn: str) -> str:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def read_output(s3, location: str) -> str:
    """Wait for an invocation's output object, and return its text."""
    bucket, key = location.removeprefix("s3://").split("/", 1)
    while True:
        try:
            return s3.get_object(Bucket=bucket, Key=key)["Body"].read().decode()
        except s3.exceptions.NoSuchKey:
            time.sleep(0.5)


def next_result(sqs, queue_url: str) -> dict:
    """Wait for the next inference result; endpoints also send test notifications, which are none."""
    while True:
        received = sqs.receive_message(QueueUrl=queue_url, WaitTimeSeconds=20).get("Messages", [])
        for message in received:
            sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=message["ReceiptHandle"])
            result = json.loads(json.loads(message["Body"])["Message"])
            if result["eventName"] == "InferenceResult":
                return result


def graphs(cloudwatch, endpoint: str) -> dict[str, list[float]]:
    """The last hour of the endpoint's metrics, by minute."""
    by_variant = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": VARIANT}]
    metrics = {
        "ApproximateBacklogSize": by_variant[:1],
        "ApproximateBacklogSizePerInstance": by_variant[:1],
        "ModelLatency": by_variant,
    }
    now = datetime.now(UTC)
    answer = cloudwatch.get_metric_data(
        MetricDataQueries=[
            {
                "Id": metric[0].lower() + metric[1:],
                "MetricStat": {
                    "Metric": {"Namespace": "AWS/SageMaker", "MetricName": metric, "Dimensions": dimensions},
                    "Period": 60,
                    "Stat": "Maximum",
                },
            }
            for metric, dimensions in metrics.items()
        ],
        StartTime=now - timedelta(hours=1),
        EndTime=now + timedelta(minutes=1),
    )
    return {result["Label"]: result["Values"] for result in answer["MetricDataResults"]}


if __name__ == "__main__":
    main()
