"""STS and IAM through boto3, as far as SDKs ask before they deploy."""


def test_the_caller_is_an_assumed_role_so_that_sdks_find_an_execution_role(ebbtide):
    identity = ebbtide.client("sts").get_caller_identity()

    assert identity["Account"] == "123456789012"
    assert identity["Arn"] == "arn:aws:sts::123456789012:assumed-role/ebbtide/ebbtide"


def test_any_role_exists_and_trusts_sagemaker(ebbtide):
    role = ebbtide.client("iam").get_role(RoleName="sagemaker_execution_role")["Role"]

    assert role["Arn"] == "arn:aws:iam::123456789012:role/sagemaker_execution_role"
    [statement] = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "sagemaker.amazonaws.com"}


def test_every_action_is_allowed(ebbtide):
    answer = ebbtide.client("iam").simulate_principal_policy(
        PolicySourceArn=ebbtide.role_arn, ActionNames=["s3:GetObject", "sns:Publish"]
    )

    assert [each["EvalDecision"] for each in answer["EvaluationResults"]] == ["allowed", "allowed"]
