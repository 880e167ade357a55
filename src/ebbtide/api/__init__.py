"""AWS's services, a module or a package each, and in it a function for each operation.

An operation is `async def create_topic(params: Params, call: Call) -> Result`, named as boto3 names it and
listed in its module's `__all__`; modules are imported at their first request.
"""

SERVICES = {
    "sagemaker": "ebbtide.api.sagemaker",
    "sagemaker-runtime": "ebbtide.api.sagemaker_runtime",
    "s3": "ebbtide.api.s3",
    "sns": "ebbtide.api.sns",
    "sqs": "ebbtide.api.sqs",
    "application-autoscaling": "ebbtide.api.application_autoscaling",
    "cloudwatch": "ebbtide.api.cloudwatch",
    "logs": "ebbtide.api.logs",
    "sts": "ebbtide.api.sts",
    "iam": "ebbtide.api.iam",
}
"""botocore's service name -> the module that serves it."""
