"""STS, 2011-06-15: who the caller is."""

from ebbtide.api.call import Call, Params, Result

__all__ = ["get_caller_identity"]

ROLE = "ebbtide"
"""The role the access key is said to have assumed."""


async def get_caller_identity(_params: Params, call: Call) -> Result:
    """The account of the key that signed, as an assumed role: the sagemaker SDK's get_execution_role turns
    that ARN into the role's, and refuses any other form. Source: GetCallerIdentity, STS 2011-06-15.
    """
    return {
        "Account": call.submitter,
        "UserId": f"{call.access_key_id}:{ROLE}",
        "Arn": f"arn:aws:sts::{call.submitter}:assumed-role/{ROLE}/{ROLE}",
    }
