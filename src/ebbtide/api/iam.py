"""IAM, 2010-05-08: as much as SDKs ask before they deploy. There are no permissions here: every role exists
and may do everything, since whoever holds the server's key may.
"""

import hashlib
import json
from urllib.parse import quote

from ebbtide.api.call import Call, Params, Result

__all__ = ["get_role", "simulate_principal_policy"]

TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "sagemaker.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


async def get_role(params: Params, call: Call) -> Result:
    """A role of any name, which SageMaker may assume. Source: GetRole."""
    name = params["RoleName"]
    digest = hashlib.sha256(f"{call.account}/{name}".encode()).hexdigest()
    return {
        "Role": {
            "Path": "/",
            "RoleName": name,
            "RoleId": f"AROA{digest[:17].upper()}",
            "Arn": f"arn:aws:iam::{call.account}:role/{name}",
            "CreateDate": 0.0,
            # IAM's documents are percent-encoded; botocore decodes them.
            "AssumeRolePolicyDocument": quote(json.dumps(TRUST)),
        }
    }


async def simulate_principal_policy(params: Params, _call: Call) -> Result:
    """Every action is allowed on every resource. Source: SimulatePrincipalPolicy."""
    resources = params.get("ResourceArns") or ["*"]
    return {
        "EvaluationResults": [
            {"EvalActionName": action, "EvalResourceName": resource, "EvalDecision": "allowed"}
            for action in params["ActionNames"]
            for resource in resources
        ],
        "IsTruncated": False,
    }
